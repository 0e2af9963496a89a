"""Plan files that were written before there were levers, as plans of today."""

from __future__ import annotations

from collections.abc import Mapping

from hasten.core.errors import UserError
from hasten.core.files import JsonObject

VERSION = 2
EXECUTORS = {"settle": "early-exit"}  # renamed


def upgraded(fields: Mapping[str, object], filed: bool = True) -> JsonObject:
    """The fields of a plan of any version, as this version has them.

    Args:
        filed: whether they are from a file; the oldest ones held defaults that nobody chose.

    Raises:
        UserError: the plan is of a later version.
    """
    fields = dict(fields)
    version = fields.pop("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"plan version is {version!r}; it is a whole number from 1 to {VERSION}.")
    if version > VERSION:
        raise UserError(
            f"plan is of version {version!r}, and this hasten reads up to {VERSION}; install a "
            "newer one, or tune again."
        )
    if version == VERSION:
        return fields
    levers = fields.pop("levers", None)
    made: list[str] = []
    student, quantize = fields.pop("student", None), fields.pop("quantize", None)
    reuse, merge = fields.pop("reuse", None), fields.pop("merge", None)
    small, column = fields.pop("small", None), fields.pop("small_at", None)
    if student is not None:
        made.append(f"student(folder={student!r})")
    if merge is not None:
        made.append(f"merge(share={merge!r})")
    if quantize is not None:
        kind = str(quantize).removeprefix("torchao:")
        of_torchao = str(quantize).startswith("torchao:")
        made.append(f"torchao(kind={kind!r})" if of_torchao else f"quantize(file={quantize!r})")
    if reuse is not None:
        made.append(str(reuse))
    if small is not None or column is not None:
        digits = [int(digit) for digit in str(column) if digit in "01"]
        made.append(f"small(folder={small!r}, at={tuple(digits)!r})")
    name, bracket, rest = str(fields.get("executor", "")).partition("(")
    if name in EXECUTORS:
        fields["executor"] = EXECUTORS[name] + bracket + rest
    if made and levers:
        raise UserError("plan names levers in two ways; write all of them in the field 'levers'.")
    if filed and fields.get("program") is not None:
        standard = {"solver": "dpmpp(order=2)", "grid": "log-snr", "steps": 10, "clip": None}
        fields = {k: v for k, v in fields.items() if standard.get(k, ...) != v}
    chosen = levers or made
    return {**fields, "levers": chosen} if chosen else fields


def plans_of(plans: object) -> tuple[JsonObject, ...]:
    """The fields of plans of any version, in a list that a file holds.

    Raises:
        UserError: it is no such list.
    """
    if not isinstance(plans, list) or not all(isinstance(plan, dict) for plan in plans):
        raise UserError(f"plans is {plans!r}; it takes a list of plan fields.")
    return tuple(upgraded(plan) for plan in plans)

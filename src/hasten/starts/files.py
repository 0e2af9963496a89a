"""Files of what a start was learned as: safetensors, with the facts as JSON in the header."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hasten.core.artifact import located
from hasten.core.codec import Shape, codecs
from hasten.core.errors import UserError, require
from hasten.core.files import write_bytes
from hasten.core.model import Model

FORMAT = "hasten-start-1"
FIELD = "start option file"
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a start was learned for and from.

    Attributes:
        kind: the start's name.
        shape, codec, labels: of the model, see :class:`hasten.core.model.Model`.
        data: where the pictures came from, in words; n: how many there were.
        sha256: of the weights whose samples they were; None for real pictures.
        pictures_seen: in training, where a network was trained.
    """

    kind: str
    shape: Shape
    codec: str
    labels: int | None
    data: str
    n: int
    sha256: str | None = None
    pictures_seen: int | None = None

    @staticmethod
    def of(model: Model, *, kind: str, data: str, n: int, sha256: str | None = None) -> Facts:
        """The facts of what is learned for ``model``."""
        codec = codecs.text(model.codec)
        return Facts(
            shape=model.shape,
            codec=codec,
            labels=model.labels,
            kind=kind,
            data=data,
            n=n,
            sha256=sha256,
        )

    def check(self, model: Model) -> None:
        """Refuse a model of another shape, codec or number of labels."""
        mine = Facts.of(model, kind="", data="", n=0)
        for name in ("shape", "codec", "labels"):
            was, now = getattr(self, name), getattr(mine, name)
            require(
                was == now,
                f"{FIELD} was learned for a model whose {name} is {was}, but that of "
                f"{model.name!r} is {now}; learn it for this one with `hasten learn start`.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartFile:
    """A file as it was read: float32 tensors on the CPU, and its size in megabytes."""

    facts: Facts
    tensors: Tensors
    megabytes: float


def write(file: Path, facts: Facts, tensors: Tensors) -> None:
    """Write ``file``, whole or not at all."""
    body = {"hasten": json.dumps({"format": FORMAT, **dataclasses.asdict(facts)})}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(file, save(plain, body))


def read(name: str, kind: str, names: Sequence[str] = ()) -> StartFile:
    """The start of ``kind`` in the file that :func:`hasten.core.artifact.located` finds.

    Raises:
        UserError: no such file, no start's file, another kind, or without the tensors ``names``.
    """
    require(isinstance(name, str), f"{FIELD} is {name!r}; it takes a path in quotes.")
    file = located(FIELD, name)
    start = _read(file, file.stat().st_mtime_ns)
    require(
        start.facts.kind == kind,
        f"{FIELD} {name!r} holds a start of kind {start.facts.kind!r}; this one is {kind!r}.",
    )
    whole = all(bool(torch.isfinite(value).all()) for value in start.tensors.values())
    lacking = [tensor for tensor in names if tensor not in start.tensors]
    require(whole and not lacking, f"{FIELD} {name!r} is damaged; learn it again.")
    return start


@functools.lru_cache(maxsize=8)
def _read(file: Path, _: int) -> StartFile:
    try:
        with safe_open(str(file), "pt") as stored:
            facts = json.loads((stored.metadata() or {}).get("hasten", "{}"))
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
        require(facts.pop("format", None) == FORMAT, "")
        known = Facts(**{**facts, "shape": tuple(facts["shape"])})
    except (SafetensorError, UserError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{FIELD} {str(file)!r} was not written by `hasten learn start`; give one that was."
        ) from error
    return StartFile(facts=known, tensors=tensors, megabytes=file.stat().st_size / 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromFile:
    """Mixed into the starts that are learned: what their file says of them."""

    names: ClassVar[tuple[str, ...]] = ()  # of the tensors in the file
    part_name: ClassVar[str]
    file: str

    def weights_mb(self) -> float:
        return self.learned().megabytes

    def learned_for(self) -> str | None:
        return self.learned().facts.sha256

    def learned(self) -> StartFile:
        """The file, read once."""
        return read(self.file, self.part_name, self.names)

"""Frozen dataclasses to plain JSON data and back; the one place where the tuner does either."""

from __future__ import annotations

import functools
from typing import TypeVar

import pydantic

from hasten.core.errors import UserError
from hasten.core.files import JsonObject

RecordT = TypeVar("RecordT")
Json = JsonObject
"""What ``json.dumps`` takes; ``Infinity`` stands for an unbounded interval."""


def to_json(record: object) -> Json:
    """The fields of a dataclass as plain data; nested records and plans become objects."""
    return _adapter(type(record)).dump_python(record, mode="json")


def from_json(kind: type[RecordT], body: object) -> RecordT:
    """The record of type ``kind`` that ``body`` holds.

    Raises:
        UserError: a field is missing or has the wrong type.
    """
    try:
        return _adapter(kind).validate_python(body)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{kind.__name__} field {field!r}: {message}") from None


@functools.cache
def _adapter(kind: type[RecordT]) -> pydantic.TypeAdapter[RecordT]:
    return pydantic.TypeAdapter(kind)

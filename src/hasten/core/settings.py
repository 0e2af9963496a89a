"""Settings that come from a file or the shell: frozen, no unknown fields, one-line errors."""

from __future__ import annotations

from typing import Any

import pydantic

from hasten.core.errors import UserError, nearest


class Settings(pydantic.BaseModel):
    """A pydantic model whose errors are one :class:`UserError` line naming the field."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise UserError(_line(type(self), error)) from None


def _line(kind: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    what = f"{kind.__name__.lower()} field {field!r}" if field else kind.__name__.lower()
    if first["type"] == "extra_forbidden":
        return f"{what} is unknown. {nearest(field, kind.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("value_error", "missing"):
        return f"{what}: {message}" + "." * (message[-1] not in ".)")
    return f"{what} is {first['input']!r}: {message[0].lower()}{message[1:]}."

"""Multipart forms: fields of text that a pydantic model checks, and files beside them."""

from __future__ import annotations

from typing import TypeVar

import pydantic
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from hasten.core.files import JsonObject
from hasten.serving.errors import Refusal

MOST_FILES, MOST_FIELDS = 4, 40
Form = TypeVar("Form", bound=pydantic.BaseModel)


async def read_form(
    request: Request, kind: type[Form], files: tuple[str, ...]
) -> tuple[Form, dict[str, bytes]]:
    """The text fields of a form, checked, and the bytes of its ``files``, by field.

    Raises:
        Refusal: a field that is unknown, wrong, or there twice.
    """
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS)
    except HTTPException as error:
        raise Refusal(400, f"body: {error.detail}", param="body", code="invalid_value") from None
    texts: dict[str, str] = {}
    held: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if name in texts or name in held:
            raise _wrong(name, "it came twice; send it once.")
        if isinstance(value, UploadFile) != (name in files):
            what = "is a file; send one." if name in files else "takes text, and no file."
            raise _wrong(name, f"it {what}")
        if isinstance(value, UploadFile):
            held[name] = await value.read()
        else:
            texts[name] = value
    try:
        return kind.model_validate(texts), held
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise _wrong(field, first["msg"][:300]) from None


def _wrong(field: str, why: str) -> Refusal:
    return Refusal(400, f"{field[:80]}: {why}", param=field[:80], code="invalid_value")


def described(kind: type[pydantic.BaseModel], **files: bool) -> JsonObject:
    """The form for the OpenAPI schema; ``files`` says of each whether it has to come."""
    schema = kind.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    properties = {**schema["properties"], **dict.fromkeys(files, binary)}
    needed = [*schema.get("required", []), *(name for name, must in files.items() if must)]
    body = {**schema, "properties": properties, "required": needed}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": body}}}}

"""Errors as OpenAI's clients read them: always type, message, param and code."""

from __future__ import annotations

import logging
import math
import re

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hasten.core.errors import NonFiniteError, UserError
from hasten.serving.batcher import Busy, Closing, Late

LOG = logging.getLogger(__name__)
INVALID, SERVER, LIMIT = "invalid_request_error", "server_error", "rate_limit_error"
FIELD = re.compile(r"^(\w+)(?: is|:|\[)")  # how an error of ours begins that names a field


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, object]:
        error = {"type": self.kind, "message": self.message, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> JSONResponse:
        seconds = self.retry_after
        headers = {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}
        return JSONResponse(self.body, self.status, headers)


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of ``error``."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Busy):
        return Refusal(
            429, str(error), code="queue_full", kind=LIMIT, retry_after=error.retry_after
        )
    if isinstance(error, Late):
        return Refusal(503, str(error), code="deadline", kind=SERVER, retry_after=1)
    if isinstance(error, Closing):
        return Refusal(503, str(error), code="closing", kind=SERVER, retry_after=5)
    if isinstance(error, NonFiniteError):
        return Refusal(500, str(error), code="not_finite", kind=SERVER)
    if isinstance(error, UserError):
        field = FIELD.match(str(error))
        return Refusal(400, str(error), param=field and field[1], code="invalid_value")
    LOG.error("a request failed", exc_info=error)
    return Refusal(500, f"{type(error).__name__}; the server's log says more.", kind=SERVER)


async def answer_refusal(_: Request, error: Exception) -> JSONResponse:
    return refusal_of(error).response


async def answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """Of a body that does not fit, the first fault."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = ".".join(place) or "body"
    return Refusal(
        400, f"{field}: {first['msg'][:300]}", param=field, code="invalid_value"
    ).response


async def answer_http(_: Request, error: Exception) -> JSONResponse:
    """Of no such address, or another method."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    refusal = Refusal(error.status_code, str(error.detail), code=codes.get(error.status_code))
    response = refusal.response
    response.headers.update(error.headers or {})
    return response

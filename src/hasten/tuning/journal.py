"""Finished measurements on disk: one line of JSON each, appended whole, so a crash loses none."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

from hasten.core.errors import UserError
from hasten.core.files import require_writable
from hasten.tuning.requests import (
    AnswerT,
    Outcome,
    Request,
    outcome_from_json,
    outcome_to_json,
    request_to_json,
)
from hasten.tuning.serialization import Json

VERSION = 2


@dataclasses.dataclass(kw_only=True)
class Journal:
    """Outcomes of requests for one ``subject`` (weights, device, reference, samples' seed).

    Without a ``file`` it is kept in memory only.

    Raises:
        UserError: the file is damaged, or holds measurements of another subject or version.
    """

    file: Path | None
    subject: Json
    _outcomes: dict[str, Json] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = [""]
        if self.file is not None:
            require_writable(self.file)
        if self.file is not None and self.file.exists():
            lines = self.file.read_text(encoding="utf-8").split("\n")
        if len(lines) == 1:  # nothing yet, or killed over the first line
            if self.file is not None:
                self.file.unlink(missing_ok=True)
            self._append({"version": VERSION, "subject": self.subject})
            return
        assert self.file is not None
        try:
            rows = [json.loads(line) for line in lines[:-1]]  # one without its end was cut off
            version, subject = rows[0].get("version", 1), rows[0]["subject"]
            if version == VERSION:
                self._outcomes = {_key(row["request"]): row["outcome"] for row in rows[1:]}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{self.file} is damaged; choose another --out, or remove it."
            ) from error
        if version != VERSION:
            age = "an older" if version < VERSION else "a newer"
            raise UserError(
                f"{self.file} was written by {age} version of hasten; choose another --out."
            )
        now = self.subject.get("learned", {})
        learned = subject.pop("learned", {}) if isinstance(subject, dict) else {}
        changed = sorted(name for name in now if learned.get(name, now[name]) != now[name])
        if changed:
            raise UserError(
                f"{self.file} holds measurements made before {', '.join(changed)} changed; choose "
                "another --out, or remove it."
            )
        if subject != {name: value for name, value in self.subject.items() if name != "learned"}:
            raise UserError(
                f"{self.file} holds measurements of another model, device or setting; choose "
                "another --out, or remove it."
            )
        if lines[-1]:
            with self.file.open("r+b") as file:
                file.truncate(len("\n".join(lines[:-1]).encode()) + 1)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __contains__(self, request: Request[AnswerT]) -> bool:
        """Whether the outcome of ``request`` is known."""
        return _key(request_to_json(request)) in self._outcomes

    def outcome(
        self, request: Request[AnswerT], measure: Callable[[], Outcome[AnswerT]]
    ) -> Outcome[AnswerT]:
        """The recorded outcome of ``request``, or that of ``measure()``, recorded now; one that
        another run may bring to an end is not written down."""
        body = request_to_json(request)
        key = _key(body)
        if key not in self._outcomes:
            outcome = measure()
            self._outcomes[key] = outcome_to_json(outcome)
            if not outcome.timed_out and not outcome.killed:
                self._append({"request": body, "outcome": self._outcomes[key]})
        return outcome_from_json(request, self._outcomes[key])

    def _append(self, row: Json) -> None:
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.file} cannot be written: {error.strerror}.") from error


def _key(request: Json) -> str:
    return json.dumps(request, sort_keys=True)

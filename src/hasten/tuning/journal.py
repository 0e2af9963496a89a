"""Finished trials on disk: one line of JSON each, appended whole, so that a crash loses none."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasten.core.errors import UserError

Facts = dict[str, Any]


@dataclasses.dataclass
class Trials:
    """A journal of (question, answer) for one ``subject`` (weights, device, reference).

    Without a ``file`` it is kept in memory only.
    """

    file: Path | None
    subject: Facts
    known: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = [""]
        if self.file is not None and self.file.exists():
            lines = self.file.read_text(encoding="utf-8").split("\n")
        if len(lines) == 1:  # nothing yet, or killed over the first line
            if self.file is not None:
                self.file.unlink(missing_ok=True)
            self._append({"subject": self.subject})
            return
        assert self.file is not None
        try:
            rows = [json.loads(line) for line in lines[:-1]]  # one without its end was cut off
            known = {_key(row["question"]): row["answer"] for row in rows[1:]}
            mine = rows[0].get("subject") == self.subject
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{self.file} is damaged; name another folder with --out, or remove it."
            ) from error
        if not mine:
            raise UserError(
                f"{self.file} holds trials of another model, device or setting; name another "
                "folder with --out, or remove it."
            )
        self.known = known
        if lines[-1]:
            with self.file.open("r+b") as file:
                file.truncate(len("\n".join(lines[:-1]).encode()) + 1)

    def knows(self, question: Facts) -> bool:
        """Whether ``question`` has been answered."""
        return _key(question) in self.known

    def ask(self, question: Facts, answer: Callable[[], Any]) -> Any:
        """The recorded answer to ``question``, or ``answer()`` recorded now."""
        key = _key(question)
        if key not in self.known:
            self.known[key] = answer()
            self._append({"question": question, "answer": self.known[key]})
        return self.known[key]

    def _append(self, row: Facts) -> None:
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


def _key(question: Facts) -> str:
    return json.dumps(question, sort_keys=True)

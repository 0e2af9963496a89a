"""Finished trials on disk: one line of JSON each, appended whole, so that a crash loses none."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from hasten.core.errors import UserError


@dataclasses.dataclass
class Trials:
    """A journal of (question, answer) for one ``subject`` (weights, device, reference).

    Without a ``file`` it is kept in memory only.
    """

    file: Path | None
    subject: dict[str, Any]
    known: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is None or not self.file.exists():
            self._append({"subject": self.subject})
            return
        lines = self.file.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1]]  # a line without its end was cut off
        if not rows or rows[0].get("subject") != self.subject:
            raise UserError(
                f"{self.file} holds trials of another model, device or setting; name another "
                "folder with --out, or remove it."
            )
        self.known = {row["question"]: row["answer"] for row in rows[1:]}
        if lines[-1]:
            with self.file.open("r+b") as file:
                file.truncate(len("\n".join(lines[:-1]).encode()) + 1)

    def ask(self, question: str, answer: Any) -> Any:
        """The recorded answer to ``question``, or ``answer()`` recorded now."""
        if question not in self.known:
            self.known[question] = answer()
            self._append({"question": question, "answer": self.known[question]})
        return self.known[question]

    def _append(self, row: dict[str, Any]) -> None:
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

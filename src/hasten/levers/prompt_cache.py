"""What a text encoder made of a prompt, kept for the next request: the negative prompt, or one that
is drawn with many seeds, is encoded once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NoReturn

from hasten.core.errors import UserError, require_whole
from hasten.core.lever import Lever, levers

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved


@levers.add("prompt-cache")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptCache(Lever):
    """Keeps the embeddings of the last ``size`` calls of a pipeline's text encoders; the pictures
    stay the same."""

    size: int = 64

    target = "text"
    exports = False

    def __post_init__(self) -> None:
        require_whole("lever option size", self.size, 1, 1 << 20)

    @property
    def prompts_kept(self) -> int:
        return self.size

    def check(self, resolved: Resolved) -> None:
        refuse_outside_pipelines(self)

    def key(self, resolved: object) -> tuple[str, ...]:
        return ()  # the network is what it was


def refuse_outside_pipelines(lever: Lever) -> NoReturn:
    """A model was loaded for its prompts: they are encoded already."""
    raise UserError(
        f"lever {lever.part_name!r} is for a pipeline's own call: give the plan to hasten.apply. A "
        f"model has encoded its prompts when it was loaded; drop {lever.part_name} here."
    )

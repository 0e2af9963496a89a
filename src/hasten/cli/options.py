"""What several commands take, and the models and plans that they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.core.plan import Plan

Parameter = cyclopts.Parameter

ModelName = Annotated[
    str, Parameter(help="builtin:NAME, a diffusers folder, a hub id, or hub:owner/name.")
]
PlanText = Annotated[
    str | None,
    Parameter(
        name="--plan",
        help="a plan file, hub:owner/name, or key=value,...; the model's own by default.",
    ),
]
OwnPlan = Annotated[str | None, Parameter(name="--plan")]  # a verb's docstring says what it is
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")]
Minutes = Annotated[float | None, Parameter(help="a time budget.")]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON.")]
Quiet = Annotated[bool, Parameter(name="--quiet", negative="", help="no progress on stderr.")]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a pipeline is asked for; the verbs that load a model take these.

    Attributes:
        prompt: a prompt for a text-to-image or text-to-video pipeline; give it again for another.
        prompts: a text file with a prompt per line.
        negative: the negative prompt.
        size: width x height in pixels, as in 512x768.
        frames: how many frames a clip has.
        call: another argument of the pipeline's own call, as in guidance_scale=4 or image=cat.png;
            give it again for another.
    """

    prompt: Annotated[list[str] | None, Parameter(negative="")] = None
    prompts: Path | None = None
    negative: str | None = None
    size: str | None = None
    frames: int | None = None
    call: Annotated[list[str] | None, Parameter(negative="")] = None

    def texts(self) -> list[str] | None:
        """All prompts; None where there are none."""
        from hasten.core.files import read_lines

        lines = [] if self.prompts is None else read_lines("prompts", self.prompts)
        return [*(self.prompt or []), *lines] or None

    def arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline's call."""
        from hasten.core.errors import require, require_whole
        from hasten.media.arguments import argument

        out = dict(argument(text) for text in self.call or [])
        if self.size is not None:
            width, _, height = self.size.partition("x")
            fits = width.isdecimal() and height.isdecimal()
            require(fits, f"size is {self.size!r}; it takes width x height, as in 512x768.")
            out |= {"width": int(width), "height": int(height)}
        if self.frames is not None:
            require_whole("frames", self.frames, 1, 10_000)
            out["num_frames"] = self.frames
        return out


NOTHING = Request()


def model_of(name: str, request: Request = NOTHING, device: str = "cpu") -> Model:
    """The model that a command names.

    Raises:
        UserError: there is no such model, the file of prompts cannot be read, or an argument of the
            pipeline's call cannot be used.
    """
    from hasten.adapters.load import load

    texts, more = request.texts(), request.arguments()
    return load(name, prompts=texts, negative=request.negative, device=device, **more)


def plan_of(text: str | None) -> Plan | None:
    """The plan that a command names; None stands for the model's own."""
    from hasten.core.plan import Plan

    return None if text is None else Plan.read(text)

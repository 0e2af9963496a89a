"""From a request to its pictures: which plan, what the batcher is asked, and how it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import torch
from fastapi import Request
from PIL import Image

from hasten.core.errors import UserError
from hasten.core.files import JsonObject
from hasten.core.plan import Plan
from hasten.core.words import in_words
from hasten.media.pictures import encoded, open_picture
from hasten.serving.batcher import Batcher, Job
from hasten.serving.bodies import MOST_SIZE, QUALITIES, Common, EditForm, Generation
from hasten.serving.errors import Refusal, refusal_of
from hasten.serving.metrics import Metrics
from hasten.serving.served import Served, Wanted, editor_of

JPEG_BY_DEFAULT = 90  # OpenAI's 100 says "as good as it gets", which is twice as large

MOST_EVALUATIONS = 1000  # of a picture
Finish = Callable[[torch.Tensor], torch.Tensor]


class Answering:
    """What answers requests for pictures.

    Attributes:
        models: the first answers where none is named.
    """

    def __init__(
        self, models: list[Served], batcher: Batcher, metrics: Metrics, deadline: float
    ) -> None:
        self.models, self.batcher, self.metrics = models, batcher, metrics
        self.deadline, self.started = deadline, int(time.time())

    def served(self, name: str | None) -> Served:
        """The model of this name.

        Raises:
            Refusal: there is none.
        """
        for each in self.models:
            if name in (None, each.name):
                return each
        raise Refusal(
            404,
            f"model: {str(name)[:200]!r} is not served; there are "
            f"{', '.join(each.name for each in self.models)}.",
            param="model",
            code="model_not_found",
        )

    def told(self, each: Served) -> JsonObject:
        """A model as ``/v1/models`` tells of it."""
        _, height, width = each.model.picture_shape[-3:]
        plans = {
            name: {
                "plan": str(plan),
                "words": in_words(plan),
                "seconds": each.seconds.get(name),
            }
            for name, plan in each.plans.items()
        }
        return {
            "id": each.name,
            "object": "model",
            "created": self.started,
            "owned_by": "hasten",
            "size": f"{width}x{height}",
            "makes": "clips" if each.makes_clips else "pictures",
            "prompts": each.text is not None,
            "labels": None if each.text is not None else each.model.labels,
            "plans": plans,
            "default_plan": each.default,
            "report": each.report is not None,
        }

    def plan(self, each: Served, body: Common) -> tuple[str, Plan]:
        """The plan that a request names, with what it says otherwise.

        Raises:
            Refusal: there is none of this name.
            UserError: the plan cannot have these steps, or this guidance.
        """
        name = body.plan or QUALITIES.get(body.quality or "auto", each.default)
        if body.plan is None and name not in each.plans:
            name = each.default
        if name not in each.plans:
            raise Refusal(
                400,
                f"plan: {name!r} is none of {', '.join(each.plans)}.",
                param="plan",
                code="invalid_value",
            )
        changes: dict[str, object] = {}
        if body.num_inference_steps is not None:
            changes["steps"] = body.num_inference_steps
        if body.guidance_scale is not None:
            changes["guidance"] = body.guidance_scale
        plan = each.plans[name]
        return name, plan.model_copy(update=changes) if changes else plan

    async def generation(self, body: Generation) -> Told:
        """A request for new pictures, submitted."""
        each = self.served(body.model)
        if each.makes_clips:
            raise Refusal(400, f"model: {each.name} makes clips; use /v1/videos.", param="model")
        self._require(each, body)
        name, plan = self.plan(each, body)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        wanted = Wanted(
            sampler=await asyncio.to_thread(each.sampler, plan),
            prompts=(body.prompt,) * body.pictures,
            negative=body.negative_prompt or "",
            seed=seed,
        )
        if wanted.negative and plan.guidance == 1.0:
            raise Refusal(
                400,
                f"negative_prompt: plan {name!r} has no guidance, so it would have no effect; give "
                "guidance_scale, or drop it.",
                param="negative_prompt",
                code="invalid_value",
            )
        return self._submitted(each, name, body, wanted)

    async def edit(self, form: EditForm, picture: bytes, mask: bytes | None) -> Told:
        """A request for edited pictures, submitted."""
        each = self.served(form.model)
        if each.makes_clips:
            raise Refusal(400, f"model: {each.name} makes clips; use /v1/videos.", param="model")
        self._require(each, form)
        each.require_prompt(form.source_prompt or ("" if each.text else form.prompt))
        name, plan = self.plan(each, form)
        pixels = await asyncio.to_thread(_pixels, picture, each)
        region = None if mask is None else await asyncio.to_thread(_region, mask, picture, each)
        sampler = await asyncio.to_thread(each.sampler, plan)
        editor = await asyncio.to_thread(editor_of, sampler, form.method, region is not None)
        if form.pictures != 1:
            raise Refusal(400, "n: an edit makes one picture.", param="n", code="invalid_value")
        seed = secrets.randbelow(2**31) if form.seed is None else form.seed
        wanted = Wanted(
            sampler=sampler,
            prompts=(form.prompt,),
            negative=form.negative_prompt or "",
            seed=seed,
            editor=editor,
            picture=pixels,
            source_prompt=form.source_prompt or ("" if each.text else form.prompt),
            mask=region,
        )

        def finish(pictures: torch.Tensor) -> torch.Tensor:
            return pictures if region is None else region * pictures + (1 - region) * pixels

        return self._submitted(each, name, form, wanted, finish)

    def _require(self, each: Served, body: Common) -> None:
        each.require_prompt(body.prompt)
        _, height, width = each.model.picture_shape[-3:]
        size = body.wanted_size
        if size not in (None, (width, height)):
            raise Refusal(
                400,
                f"size: {each.name} makes {width}x{height}; leave size out.",
                param="size",
                code="invalid_value",
            )
        if body.negative_prompt and each.text is None:
            raise Refusal(400, f"negative_prompt: {each.name} takes none.", param="negative_prompt")

    def _submitted(
        self, each: Served, name: str, body: Common, wanted: Wanted, finish: Finish | None = None
    ) -> Told:
        editor = wanted.editor
        program = wanted.sampler.program if editor is None else editor.program
        assert program is not None
        require_affordable(program.evaluations)
        told = Told(
            answering=self,
            served=each,
            name=name,
            body=body,
            wanted=wanted,
            finish=finish or (lambda pictures: pictures),
            evaluations=program.evaluations,
        )
        shown = (body.partial_images or 0) if body.stream else 0
        steps = [program.evaluations * (k + 1) // (shown + 1) for k in range(shown)]
        told.job = self.batcher.submit(
            Job(
                lane=each.lane(wanted.sampler.plan),
                order=wanted,
                rows=len(wanted.prompts),
                evaluations=program.evaluations,
                deadline=self.deadline,
                previews=tuple(step for step in steps if step > 0),
                preview=told.preview,
            )
        )
        return told


@dataclasses.dataclass(eq=False, kw_only=True)
class Told:
    """An answer on its way."""

    answering: Answering
    served: Served
    name: str
    body: Common
    wanted: Wanted
    finish: Finish
    evaluations: int
    job: Job | None = None
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    begun: float = dataclasses.field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._shown: asyncio.Queue[torch.Tensor] = asyncio.Queue()

    @property
    def stream(self) -> bool:
        return bool(self.body.stream)

    def preview(self, pictures: torch.Tensor) -> None:
        """Called by the batcher's thread with pictures on their way."""
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._shown.put_nowait, pictures)

    async def whole(self, request: Request) -> JsonObject:
        """All pictures in one answer; a client that leaves cancels them."""
        assert self.job is not None
        pictures = asyncio.wrap_future(self.job.pictures)
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({pictures, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not pictures.done():
                raise Refusal(499, "the client has left.", code="left")
            texts = await self._texts(await pictures)
        finally:
            leaving.cancel()
            pictures.cancel()
        data = [{"b64_json": text} for text in texts]
        return {"created": self.created, "data": data, **self._facts()}

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: pictures on their way, then the whole ones."""
        assert self.job is not None
        what = "image_edit" if isinstance(self.body, EditForm) else "image_generation"
        pictures = asyncio.wrap_future(self.job.pictures)
        coming: asyncio.Future[torch.Tensor] | None = None
        try:
            number = 0
            while not pictures.done() or not self._shown.empty():
                coming = asyncio.ensure_future(self._shown.get())
                await asyncio.wait({pictures, coming}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    continue
                for text in await self._texts(coming.result()):
                    yield self._event(f"{what}.partial_image", text, partial_image_index=number)
                number += 1
            texts, facts = await self._texts(pictures.result()), self._facts()
            for text in texts:
                yield self._event(f"{what}.completed", text, **facts)
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(refusal_of(error).body)}\n\n"
        finally:
            pictures.cancel()
            if coming is not None:
                coming.cancel()

    def _event(self, kind: str, text: str, **facts: object) -> str:
        body = {"type": kind, "b64_json": text, "created_at": self.created, **facts}
        return f"event: {kind}\ndata: {json.dumps(body)}\n\n"

    async def _texts(self, pictures: torch.Tensor) -> list[str]:
        """Encoded, in base64."""
        return await asyncio.to_thread(self._encoded, self.finish(pictures))

    def _encoded(self, pictures: torch.Tensor) -> list[str]:
        kind, asked = self.body.output_format or "png", self.body.output_compression
        quality = JPEG_BY_DEFAULT if asked in (None, 100) else asked
        return [base64.b64encode(encoded(picture, kind, quality)).decode() for picture in pictures]

    def _facts(self) -> JsonObject:
        """What OpenAI's answers say beside the pictures, and what made these."""
        assert self.job is not None
        _, height, width = self.served.model.picture_shape[-3:]
        self.answering.metrics.pictures.labels(self.served.name, self.name).inc(self.job.rows)
        text = self.served.text
        cut = text.cut_off(self.wanted.prompts[:1]) if text is not None else ""
        return {
            "warnings": [cut] if cut else [],
            "output_format": self.body.output_format or "png",
            "size": f"{width}x{height}",
            "background": "opaque",
            "quality": "auto",
            "model": self.served.name,
            "plan": self.name,
            "plan_text": str(self.wanted.sampler.plan),
            "seed": self.wanted.seed,
            "evaluations": self.evaluations,
            "largest_batch": self.job.shared,
            "seconds": round(time.perf_counter() - self.begun, 4),
        }


def require_affordable(evaluations: int) -> None:
    """Refuse a request of more network evaluations a picture than a server has time for.

    Raises:
        Refusal: it is one.
    """
    if evaluations > MOST_EVALUATIONS:
        raise Refusal(
            400,
            f"num_inference_steps: with this plan and method it takes {evaluations} network "
            f"evaluations a picture; up to {MOST_EVALUATIONS} are allowed.",
            param="num_inference_steps",
            code="invalid_value",
        )


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


def _pixels(body: bytes, each: Served) -> torch.Tensor:
    """A picture that came, as the model takes it (c, h, w)."""
    picture = _opened(body, "image")
    channels, height, width = each.model.picture_shape
    small = picture.resize((width, height), Image.Resampling.BICUBIC)
    mode = "L" if channels == 1 else "RGB"
    pixels = torch.from_numpy(np.array(small.convert(mode), dtype=np.float32) / 255)
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _region(body: bytes, picture: bytes, each: Served) -> torch.Tensor:
    """A mask that came (h, w), 1 where the picture may change: where it is transparent, as
    OpenAI's are, or white where nothing in it is transparent."""
    size = _opened(picture, "image").size
    if _opened(body, "mask").size != size:
        raise Refusal(400, f"mask: it takes the size of image, {size[0]}x{size[1]}.", param="mask")
    with Image.open(io.BytesIO(body)) as image:
        alpha = image.convert("RGBA").getchannel("A")
        clear = int(np.asarray(alpha).min()) < 255
        shown = alpha if clear else _opened(body, "mask").convert("L")
    _, height, width = each.model.picture_shape
    small = shown.resize((width, height), Image.Resampling.BOX)
    white = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
    region = ((1 - white if clear else white) > 0.5).float()
    if not bool(region.any()):
        raise Refusal(
            400,
            "mask: nothing may change; make it transparent, or white, where the picture may.",
            param="mask",
            code="invalid_value",
        )
    return region


def _opened(body: bytes, what: str) -> Image.Image:
    try:
        picture = open_picture(io.BytesIO(body), what, MOST_SIZE * MOST_SIZE)
    except UserError as error:
        raise Refusal(400, str(error), param=what, code="invalid_value") from None
    return picture

"""The HTTP application: OpenAI's routes for pictures and videos, and what runs a server needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from hasten.core.errors import HastenError
from hasten.core.files import JsonObject
from hasten.serving.answers import Answering, Told
from hasten.serving.batcher import Batcher
from hasten.serving.bodies import EditForm, Generation, VideoForm
from hasten.serving.errors import Refusal, answer_http, answer_invalid, answer_refusal
from hasten.serving.forms import described, read_form
from hasten.serving.gate import Gate, Rules
from hasten.serving.metrics import Metrics
from hasten.serving.served import Served
from hasten.serving.videos import Videos

PAGE = Path(__file__).with_name("page")
SAFE = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
STOPPING = 30.0  # seconds for what is under way when the server stops
POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:"
REPORT_POLICY = (  # it carries its scripts and pictures with it
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)


def application(
    models: list[Served], *, rules: Rules | None = None, queue: int = 16, deadline: float = 120.0
) -> FastAPI:
    """The application that serves ``models``.

    Args:
        rules: who may ask.
        queue: requests that may be under way or wait; more are told to come back.
        deadline: seconds until a request is given up.
    """
    metrics = Metrics()
    batcher = Batcher(queue=queue, watch=metrics.evaluated)
    answering = Answering(models, batcher, metrics, deadline)
    videos = Videos(answering)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        videos.close()
        batcher.close(STOPPING)

    app = FastAPI(title="hasten", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Refusal, answer_refusal)
    app.add_exception_handler(HastenError, answer_refusal)
    app.add_exception_handler(Exception, answer_refusal)
    _picture_routes(app, answering)
    _video_routes(app, videos)
    _other_routes(app, answering, metrics)
    app.middleware("http")(_counted(metrics))
    app.add_middleware(Gate, rules=rules or Rules(), refused=metrics.refused)
    return app


def _counted(metrics: Metrics) -> Callable[..., Awaitable[Response]]:
    async def count(request: Request, go: Callable[[Request], Awaitable[Response]]) -> Response:
        begun = time.perf_counter()
        status = 500
        try:
            response = await go(request)
            status = response.status_code
        finally:
            route = getattr(request.scope.get("route"), "path", "other")
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - begun)
        response.headers.update(SAFE)
        return response

    return count


def _picture_routes(app: FastAPI, answering: Answering) -> None:
    async def told(request: Request, made: Told) -> Response:
        if made.stream:
            return StreamingResponse(made.events(), media_type="text/event-stream")
        return JSONResponse(await made.whole(request))

    @app.post("/v1/images/generations")
    async def generations(body: Generation, request: Request) -> Response:
        return await told(request, await answering.generation(body))

    @app.post("/v1/images/edits", openapi_extra=described(EditForm, image=True, mask=False))
    async def edits(request: Request) -> Response:
        form, files = await read_form(request, EditForm, ("image", "image[]", "mask"))
        picture = files.get("image") or files.get("image[]")
        if picture is None:
            raise Refusal(400, "image: no file came; send a picture.", param="image")
        return await told(request, await answering.edit(form, picture, files.get("mask")))


def _video_routes(app: FastAPI, videos: Videos) -> None:
    @app.post("/v1/videos", openapi_extra=described(VideoForm, input_reference=False))
    async def create(request: Request) -> JsonObject:
        form, files = await read_form(request, VideoForm, ("input_reference",))
        return videos.create(form, files.get("input_reference"))

    @app.get("/v1/videos")
    async def listed() -> JsonObject:
        return {"object": "list", "data": videos.listed()}

    @app.get("/v1/videos/{identity}")
    async def told(identity: str) -> JsonObject:
        return videos.job(identity).told()

    @app.get("/v1/videos/{identity}/content")
    async def content(identity: str) -> Response:
        return FileResponse(videos.job(identity).finished(), media_type="video/mp4")

    @app.delete("/v1/videos/{identity}")
    async def delete(identity: str) -> JsonObject:
        return videos.delete(identity)


def _other_routes(app: FastAPI, answering: Answering, metrics: Metrics) -> None:
    @app.get("/v1/models")
    async def models() -> JsonObject:
        return {"object": "list", "data": [answering.told(each) for each in answering.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JsonObject:
        return answering.told(answering.served(name))

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        alive = answering.batcher.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        metrics.waiting.set(answering.batcher.waiting)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/report/{name:path}", include_in_schema=False)
    async def report(name: str) -> Response:
        page = answering.served(name).report
        if page is None:
            raise Refusal(404, f"{name} has no report of a tuning run.", code="not_found")
        return FileResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})

    pages = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
    for address, name in pages.items():

        def page(name: str = name) -> Response:
            return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})

        app.api_route(address, methods=["GET", "HEAD"], include_in_schema=False)(page)

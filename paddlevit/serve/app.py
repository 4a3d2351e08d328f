"""The HTTP interface: which address answers what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Optional

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

import paddlevit
from paddlevit.errors import did_you_mean
from paddlevit.inference.predictor import Predictor
from paddlevit.serve.batcher import BusyError
from paddlevit.serve.gate import Gate, Places, busy
from paddlevit.serve.limits import Limits
from paddlevit.serve.reading import read_uploads
from paddlevit.serve.service import Answer, Service

ADDRESSES = "POST /predict, GET /health, GET /metrics, GET /docs, and the page at GET /"
NO_ATTENTION = "This export has no attention map; export again with tools/export.py --attention."
PICTURE = {"type": "string", "format": "binary"}
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"files": {"type": "array", "items": PICTURE}}}
        },
        "image/*": {"schema": PICTURE},
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}},
                "required": ["images"],
            }
        },
    },
}
# The page may show pictures that it was given and talk to this server; it can load nothing from elsewhere.
POLICY = (
    "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ClassAnswer(BaseModel):
    """A class and how likely it is."""

    index: int
    name: str
    probability: float


class ValueAnswer(BaseModel):
    """A number that a regression predicts."""

    name: str
    value: float


class PictureAnswer(BaseModel):
    """What is said of one picture: classes, or the values of a regression.

    `attention` and `region` (left, top, width, height) are there only if they were asked for.
    """

    name: str
    classes: Optional[list[ClassAnswer]] = None
    values: Optional[list[ValueAnswer]] = None
    attention: Optional[list[list[float]]] = None
    region: Optional[list[float]] = None


class PredictAnswer(BaseModel):
    """One answer for every picture, in order."""

    predictions: list[PictureAnswer]


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str


REFUSALS = {
    400: "A request that cannot be read.",
    408: "A request that took too long to arrive.",
    413: "Too many bytes, pixels or pictures.",
    415: "No picture, or not one of a supported kind.",
    422: "A damaged picture, or a wrong parameter.",
    503: "No room, or no answer in time; the header Retry-After says in how many seconds to try again.",
}


def create_app(predictor: Predictor, limits: Limits | None = None) -> FastAPI:
    """The server as an ASGI application; it owns threads, which end with its lifespan.

    Args:
        predictor: What answers.
        limits: What is accepted; None is `Limits()`.

    Returns:
        To be run by an ASGI server, in one process.

    Raises:
        ValueError: The export has nothing to predict.
    """
    limits = limits or Limits()
    service, places = Service(predictor, limits), Places(limits.max_queue)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title=f"paddlevit: {predictor.info.model_name}",
        version=paddlevit.__version__,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, places=places, metrics=service.metrics)
    _add_refusals(app)
    _add_information(app, service)
    _add_predict(app, service, places)
    return app


def _add_information(app: FastAPI, service: Service) -> None:
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the server can answer, and what runs in it")
    async def health() -> JSONResponse:
        return JSONResponse(service.describe())

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", summary="Figures in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_predict(app: FastAPI, service: Service, places: Places) -> None:
    refusals = {status: {"model": Refusal, "description": text} for status, text in REFUSALS.items()}

    @app.post(
        "/predict",
        summary="Predict for pictures",
        response_model=PredictAnswer,
        response_model_exclude_none=True,
        responses=refusals,
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        topk: int = Query(5, ge=1, description="Classes per picture, not of a regression."),
        attention: bool = Query(False, description="Whether to give the attention map, too."),
    ) -> Any:
        for name in request.query_params:
            if name not in ("topk", "attention"):
                near = did_you_mean(name, ("topk", "attention"))
                raise HTTPException(422, f"There is no parameter {name!r}; there are topk and attention.{near}")
        if attention and not service.has_attention:
            raise HTTPException(422, NO_ATTENTION)
        limits = service.limits
        try:
            uploads = await asyncio.wait_for(read_uploads(request, limits), limits.timeout)
        except asyncio.TimeoutError:
            return _refusal(408, f"The request did not arrive within {limits.timeout:g} s.", Connection="close")
        others = len(uploads) - 1  # the gate has taken the first one's place
        if not places.take(others):
            return busy(places.total, service.retry_after)
        try:
            answers = await asyncio.wait_for(service.answer(uploads), limits.timeout)
        except asyncio.TimeoutError:
            late = f"No answer within {limits.timeout:g} s; try again later."
            return _refusal(503, late, Retry_After=str(service.retry_after))
        except BusyError:
            return busy(places.total, service.retry_after)
        finally:
            places.give_back(others)
        return PredictAnswer(predictions=[_picture_answer(answer, topk, attention) for answer in answers])


def _picture_answer(answer: Answer, topk: int, attention: bool) -> PictureAnswer:
    prediction = answer.prediction
    result = PictureAnswer(name=answer.name)
    if prediction.values:
        result.values = [ValueAnswer(name=name, value=x) for name, x in zip(prediction.names, prediction.values)]
    else:
        best = zip(prediction.classes[:topk], prediction.names, prediction.probabilities)
        result.classes = [ClassAnswer(index=index, name=name, probability=share) for index, name, share in best]
    if attention and prediction.attention is not None:
        result.attention, result.region = prediction.attention.tolist(), answer.region
    return result


def _refusal(status: int, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, {name.replace("_", "-"): text for name, text in headers.items()})


def _add_refusals(app: FastAPI) -> None:
    """Every error as JSON of one form."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"There is no {request.method} {request.url.path}; there are {ADDRESSES}."
        return JSONResponse({"error": message}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1]
        return _refusal(422, f"{name} is {request.query_params.get(name)!r}: {first['msg']}.")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return _refusal(400, "The request ended early.")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _refusal(500, "The server failed; its log says why.")

"""Routes of the service, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Security
from fastapi import Request as HttpRequest
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskline import __version__
from maskline._files import ASSETS
from maskline.errors import ParameterError
from maskline.serve import kserve, protocol
from maskline.serve.coding import CODINGS
from maskline.serve.metrics import CONTENT_TYPE
from maskline.serve.refusal import RefusalError
from maskline.serve.service import Entry, Service
from maskline.serve.settings import is_loopback

PAGE = Path(__file__).parent / "page"
EXAMPLE = ASSETS / "nuclei.png"
DESCRIPTION = "Instance segmentation: an image in, instances with masks out."
UNLOGGED = ("/health", "/metrics", "/v2/health/live", "/v2/health/ready")
ACCEPTED = ", ".join(sorted(CODINGS))  # content codings of request bodies
ELEMENTS = 16  # maximum per tensor of the inference protocol
OF_THE_SERVICE = (429, 503, 504)  # statuses unrelated to the image
GONE = 499  # logged if the client did not wait for the response
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # files of different versions don't work together
}
#: Reason of a rejection by status, for the metrics.
REASONS = {
    400: "invalid",
    401: "unauthorised",
    408: "slow_request",
    413: "too_large",
    415: "invalid",
    421: "other_host",
    422: "invalid",
    429: "overload",
    500: "fault",
    503: "not_ready",
    504: "timeout",
}

Result = TypeVar("Result")

access = logging.getLogger("maskline.access")
logger = logging.getLogger("maskline")


def application(service: Service) -> ASGIApp:
    """Build the application: routes, error handlers, CORS, access log and metrics."""
    app = FastAPI(title="maskline", version=__version__, description=DESCRIPTION)
    app.state.service = service
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _gone_away)
    app.add_exception_handler(Exception, _fault)
    _add_routes(app, service)
    if service.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After"],
        )
    return RequestTracker(app, service)


class RequestTracker:
    """Outermost middleware: gives each request an `Entry`, and writes access log and metrics at its end."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry, started, status, size = Entry(), time.perf_counter(), GONE, 0
        scope["maskline"] = entry

        async def sent(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            size += len(message.get("body", b""))
            await send(message)

        try:
            if (refused := self._check_host(HttpRequest(scope))) is not None:
                await refused(scope, receive, sent)
            else:
                await self._app(scope, receive, sent)
        except Exception:
            logger.exception("internal error (logId %s)", entry.log_id)
        finally:
            self._end(scope, entry, time.perf_counter() - started, status, size)

    def _check_host(self, request: HttpRequest) -> Response | None:
        """Error response to a host name that is not this machine's (DNS rebinding by a web page); None if allowed."""
        settings, name = self._service.settings, (request.url.hostname or "").lower()
        safe = settings.api_key is not None or not settings.is_local or "*" in settings.trusted_hosts
        if safe or is_loopback(name) or name in settings.trusted_hosts:
            return None
        reason = f"unknown host name {name!r}: add it with --trusted-host, or require an API key"
        return _failed(request, 421, reason, {})

    def _end(self, scope: Scope, entry: Entry, seconds: float, status: int, size: int) -> None:
        if scope["method"] == "POST" and scope["path"].endswith(("/infer", "/instance-segmentation")):
            self._count(entry, seconds, status)
        if not self._service.settings.access_log or scope["path"] in UNLOGGED:
            return
        client = scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "logId": entry.log_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "bytes": size,
            "ms": round(seconds * 1000, 1),
            "stages": {stage: round(value * 1000, 1) for stage, value in entry.stages.items()},
            "instances": entry.instances,
            "reason": entry.reason,
        }
        access.info("%s", json.dumps({key: value for key, value in line.items() if value not in (None, {})}))

    def _count(self, entry: Entry, seconds: float, status: int) -> None:
        metrics = self._service.metrics
        metrics.requests.labels(status).inc()
        if status >= 400:
            metrics.rejections.labels("gone" if status == GONE else REASONS.get(status, "other")).inc()
        own = {stage: value for stage, value in entry.stages.items() if stage in ("receive", "parse", "fetch")}
        metrics.stage(own | {"total": seconds})
        metrics.instances.inc(entry.instances or 0)


def _entry(request: HttpRequest) -> Entry:
    entry: Entry = request.scope["maskline"]
    return entry


async def _refused(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    entry = _entry(request)
    entry.log_id, entry.reason = error.log_id or entry.log_id, str(error)
    return _failed(request, error.status, str(error), _headers(error))


def _headers(error: RefusalError) -> dict[str, str]:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 415:
        headers["Accept-Encoding"] = ACCEPTED
    if error.status in (408, 413):
        headers["Connection"] = "close"
    return headers


async def _no_route(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def _gone_away(request: HttpRequest, error: Exception) -> Response:
    return Response(status_code=GONE)  # for the log only


async def _fault(request: HttpRequest, error: Exception) -> Response:
    return _failed(request, 500, "Internal server error", {})


def _failed(request: HttpRequest, status: int, message: str, headers: dict[str, str]) -> Response:
    """Error response in the format of the route."""
    if request.url.path.startswith("/v2"):
        return _json(kserve.error(message), status, headers)
    return _json(protocol.failure(_entry(request).log_id, status, message), status, headers)


def _json(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, headers, "application/json")


def _failures(*statuses: int, model: type[BaseModel] = protocol.Failure) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model, "description": REASONS[status]} for status in statuses}


def _add_routes(app: FastAPI, service: Service) -> None:
    authorised = [Depends(_authorised)] if service.settings.api_key is not None else []

    @app.post(
        "/instance-segmentation",
        operation_id="infer",
        summary="Find instances in an image",
        dependencies=authorised,
        responses={200: {"model": protocol.Answer}, **_failures(400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504)},
        openapi_extra={"requestBody": _request_body()},
    )
    async def infer(request: HttpRequest) -> Response:
        entry = _entry(request)
        service.check_ready()
        with service.room_for(entry):
            asked = await service.parse(await _body(request, service), entry)
        return _json(await _while_connected(request, service.answer(asked, entry)))

    @app.head("/health", include_in_schema=False)
    @app.get(
        "/health",
        operation_id="checkHealth",
        summary="Whether the service is ready",
        responses={200: {"model": protocol.Health}, **_failures(421, 503)},
    )
    async def health(request: HttpRequest) -> Response:
        service.check_ready()
        return _json(protocol.health(_entry(request).log_id))

    @app.get("/metrics", summary="Metrics for Prometheus", dependencies=authorised, response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    _add_inference_protocol(app, service, authorised)
    _add_page(app)


async def _authorised(
    request: HttpRequest,
    header: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
) -> None:
    """Raise RefusalError (401) unless the request has the service's key, in either of two headers."""
    key: str = request.app.state.service.settings.api_key
    given = bearer.credentials.strip() if bearer is not None else header or ""
    if not secrets.compare_digest(given.encode(), key.encode()):
        raise RefusalError(401, "the API key is missing or wrong: send it as X-API-Key or as a Bearer token")


def _add_inference_protocol(app: FastAPI, service: Service, authorised: list[Any]) -> None:
    """Add the routes of `kserve`. Faults of an image are reported in its element of the output, with status 200.

    Routes with a version are equivalent; the OpenAPI description lists those without.
    """
    model = f"/v2/models/{kserve.MODEL}"
    version = f"{model}/versions/{kserve.VERSION}"
    shown: dict[str, Any] = {"tags": ["Open Inference Protocol (KServe v2)"]}
    failures = partial(_failures, model=kserve.Failure)

    @app.get("/v2", summary="About the service", response_model=kserve.ServerMetadata, responses=failures(421), **shown)
    async def server_metadata() -> dict[str, Any]:
        return kserve.server_metadata()

    @app.get(
        "/v2/health/live",
        summary="Whether the process is alive",
        response_model=kserve.Live,
        responses=failures(421),
        **shown,
    )
    async def live() -> dict[str, Any]:
        return {"live": True}

    @app.get(
        "/v2/health/ready",
        summary="Whether the service is ready",
        responses={200: {"model": kserve.Ready}, 503: {"model": kserve.Ready}, **failures(421)},
        **shown,
    )
    async def ready() -> Response:
        return _readiness(service, None)

    @app.get(version + "/ready", include_in_schema=False)
    @app.get(
        model + "/ready",
        summary="Whether the model is ready",
        responses={200: {"model": kserve.ModelReady}, 503: {"model": kserve.ModelReady}, **failures(421)},
        **shown,
    )
    async def model_ready() -> Response:
        return _readiness(service, kserve.MODEL)

    @app.get(version, include_in_schema=False)
    @app.get(
        model,
        summary="About the model",
        response_model=kserve.ModelMetadata,
        responses=failures(421, 503),
        **shown,
    )
    async def model_metadata() -> dict[str, Any]:
        service.check_ready()
        about = service.workers.about
        return kserve.model_metadata(about["model"], about["labels"])

    @app.post(version + "/infer", dependencies=authorised, include_in_schema=False)
    @app.post(
        model + "/infer",
        summary="Find instances in up to 16 images",
        dependencies=authorised,
        responses={200: kserve.ANSWER, **failures(400, 401, 408, 413, 415, 421, 429, 500, 503, 504)},
        openapi_extra={"requestBody": kserve.REQUEST_BODY},
        **shown,
    )
    async def infer_tensor(request: HttpRequest) -> Response:
        service.check_ready()
        entry = _entry(request)
        with service.room_for(entry):
            body = await _body(request, service)
            try:
                length = kserve.header_length(request.headers.get(kserve.HEADER))
                parse = partial(kserve.parse, header_length=length, limit=ELEMENTS)
                asked = await service.run_in_thread(parse, body, len(body))
            except ParameterError as error:
                raise RefusalError(400, str(error)) from None
            del body
            texts = await _while_connected(request, _elements(service, asked.texts, entry))
        answer, length = await service.run_in_thread(partial(kserve.compose, asked), texts, sum(map(len, texts)))
        if length is None:
            return _json(answer)
        return Response(answer, headers={kserve.HEADER: str(length)}, media_type="application/octet-stream")


def _readiness(service: Service, model: str | None) -> Response:
    """Readiness of the service or, if named, of the model."""
    try:
        service.check_ready()
    except RefusalError as error:
        return _json(kserve.readiness(model, str(error)), error.status, _headers(error))
    return _json(kserve.readiness(model, None))


async def _elements(service: Service, texts: Sequence[str], entry: Entry) -> list[str]:
    """Responses to several requests; the log has the entry of the first."""
    entries = [entry, *(Entry() for _ in texts[1:])]
    tasks = [asyncio.create_task(_element(service, *one)) for one in zip(texts, entries, strict=True)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _element(service: Service, text: str, entry: Entry) -> str:
    try:
        return (await service.answer(await service.parse(text, entry), entry)).decode()
    except RefusalError as error:
        if error.status in OF_THE_SERVICE:
            raise
        return protocol.failure(error.log_id or entry.log_id, error.status, str(error)).decode()


def _add_page(app: FastAPI) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    @app.get("/page/example.png", include_in_schema=False)
    async def example() -> Response:
        return FileResponse(EXAMPLE, headers=HEADERS)

    app.mount("/page", _Files(directory=PAGE))


class _Files(StaticFiles):
    """Files of the page, with the same headers as the page."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


def _request_body() -> dict[str, Any]:
    schema = protocol.Request.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "An image file."}
    texts = {"visualize": {"type": "string", "description": "`true` or `false`."}}  # other JSON literals are accepted
    form = schema | {"properties": schema["properties"] | {"image": file} | texts}
    kinds = {"application/json": schema, "multipart/form-data": form, "image/*": file}
    return {"required": True, "content": {kind: {"schema": value} for kind, value in kinds.items()}}


async def _body(request: HttpRequest, service: Service) -> bytes:
    """Body of a request, decompressed."""
    coding: str | None = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        coding = None
    elif coding not in CODINGS:
        raise RefusalError(415, f"Content-Encoding is {coding!r}: expected {ACCEPTED} or none")
    length = request.headers.get("content-length", "")
    known = int(length) if length.isdecimal() else None
    return await service.receive(request.stream(), known, _entry(request), coding)


async def _while_connected(request: HttpRequest, work: Awaitable[Result]) -> Result:
    """Await ``work``, but cancel it if the client disconnects. The request body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

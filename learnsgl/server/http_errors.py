"""Every error that a client can get, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The routes raise `RequestError`; the handlers here turn it, and what the web framework raises by itself, into answers.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from learnsgl.errors import RequestError
from learnsgl.message.types import ErrorInfo
from learnsgl.server.body import shown

CLIENT_GONE_STATUS = 499
"""Status in the trace of a request whose client went away; nobody is left to read it."""

UNKNOWN_ROUTE = "(unknown)"
"""What the trace names a path that doesn't exist: what the client asked for is its own affair."""

DEFECT = ErrorInfo("the server failed on this request; its log says why", 500, "internal_error")

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}
_MAX_COMPARED = 80
"""Characters of a path that is compared with those that there are."""
_CODES = {404: "route_not_found", 405: "method_not_allowed"}

Refused = Callable[[str, int, str], None]
"""Records that an HTTP request was refused: route, status, code."""


def error_body(info: ErrorInfo) -> bytes:
    """The JSON of an error, as an answer's body and as an event of a stream."""
    kind = "server_error" if info.status >= 500 else _TYPES.get(info.status, "invalid_request_error")
    return msgspec.json.encode(
        {"error": {"message": info.message, "type": kind, "param": info.param, "code": info.code}}
    )


def error_response(info: ErrorInfo, headers: dict[str, str] | None = None) -> Response:
    """The answer that carries an error."""
    headers = _HEADERS.get(info.status, {}) | (headers or {})
    return Response(error_body(info), info.status, headers, media_type="application/json")


def info_of(error: RequestError) -> ErrorInfo:
    """What the client is told of an error."""
    return ErrorInfo(str(error), error.status, error.code, error.param)


def route_of(request: Request) -> str:
    """The route of a request as the trace names it."""
    route = request.scope.get("route")
    return str(getattr(route, "path", UNKNOWN_ROUTE))


def _remedy(request: Request, error: HTTPException) -> str:
    """What to do about a path or a method that there isn't."""
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and error.headers:
        return f"it takes {', '.join(sorted(error.headers.get('Allow', '').split(', ')))}"
    known = [route.path for route in request.app.routes if isinstance(route, Route)]
    rest = request.url.path.rpartition("/v1")[2]  # a base URL without /v1, or with two of them, is the usual mistake
    likely = [path for path in (f"/v1{rest}", rest) if path in known]
    if not likely and len(request.url.path) <= _MAX_COMPARED:
        likely = difflib.get_close_matches(request.url.path, known, n=1)
    return f"did you mean {likely[0]}?" if likely else "GET /openapi.json lists the routes that there are"


def add_error_handlers(app: FastAPI, refused: Refused) -> None:
    """Answer every error of this app in OpenAI's shape, and tell `refused` of each that got no request id."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        refused(route_of(request), error.status, error.code)
        return error_response(info_of(error))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "invalid_request")
        refused(route_of(request), error.status_code, code)
        message = f"{request.method} {shown(request.url.path)}: {error.detail}; {_remedy(request, error)}"
        headers = dict(error.headers) if error.headers else None
        return error_response(ErrorInfo(message, error.status_code, code), headers)

    async def on_disconnect(request: Request, error: Exception) -> Response:
        refused(route_of(request), CLIENT_GONE_STATUS, "client_disconnected")
        return Response(status_code=CLIENT_GONE_STATUS)

    async def on_defect(request: Request, error: Exception) -> Response:  # the web framework logs it
        refused(route_of(request), 500, "internal_error")
        return error_response(DEFECT)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        RequestError: on_request_error,
        HTTPException: on_http_exception,
        ClientDisconnect: on_disconnect,
        Exception: on_defect,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)

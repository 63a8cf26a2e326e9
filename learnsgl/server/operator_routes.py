"""The routes for whoever keeps the server running: `/metrics`, and recordings while it runs.

`make_app` of `api_server.py` adds them, where it is given them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from learnsgl.config import TraceLevel
from learnsgl.errors import RequestError
from learnsgl.server.body import OtherFields, convert, read_object
from learnsgl.server.http import json_response
from learnsgl.server.limits import Limits
from learnsgl.server.metrics_page import MetricsPage
from learnsgl.server.tracing import TraceControl

_NO_OTHERS = OtherFields({})
LEVELS = (TraceLevel.STEPS.value, TraceLevel.FULL.value)


class TraceStartRequest(msgspec.Struct):
    """Body of `POST /trace/start`."""

    level: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class OperatorRoutes:
    """The routes' functions.

    Args:
        page: the server's metrics.
        limits: what one request may ask for.
        control: its recordings; `None`: these routes are missing.
    """

    def __init__(self, page: MetricsPage, limits: Limits, control: TraceControl | None = None) -> None:
        self._limits = limits
        self._page = page
        self.control = control

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, in the text format of Prometheus, or in OpenMetrics where that is asked for."""
        body, media_type = self._page.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    async def trace_start(self, request: Request) -> Response:
        """`POST /trace/start`: begin to record."""
        body = await self._limits.read_body(request)
        given = convert(read_object(body) if body else {}, TraceStartRequest, _NO_OTHERS)
        level = TraceLevel.FULL.value if given.level is None else given.level
        if level not in LEVELS:
            raise RequestError(
                f"level is {level!r}; choose steps or full. Texts are recorded only where the server's command line "
                "says so, with --trace-level tokens",
                param="level",
            )
        return json_response(await self._checked(request).start(TraceLevel(level)))

    async def trace_stop(self, request: Request) -> Response:
        """`POST /trace/stop`: end the recording."""
        return json_response(await self._checked(request).stop())

    async def trace_status(self, request: Request) -> Response:
        """`GET /trace/status`."""
        assert self.control is not None, "the route is there"
        return json_response(self.control.status())

    def _checked(self, request: Request) -> TraceControl:
        """What writes to the disk isn't for web pages, which may reach a server on the reader's own machine."""
        if "origin" in request.headers:
            raise RequestError("web pages may not start and stop recordings", status=403, code="cross_origin")
        assert self.control is not None, "the route is there"
        return self.control


def add_operator_routes(app: FastAPI, routes: OperatorRoutes) -> None:
    """Add them to the HTTP API."""
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    if routes.control is not None:
        app.add_api_route("/trace/start", routes.trace_start, methods=["POST"])
        app.add_api_route("/trace/stop", routes.trace_stop, methods=["POST"])
        app.add_api_route("/trace/status", routes.trace_status, methods=["GET"])

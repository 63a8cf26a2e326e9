"""The routes for whoever keeps the server running: `/metrics`.

`make_app` of `api_server.py` adds them, where it is given a page of metrics.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from learnsgl.server.metrics_page import MetricsPage


class OperatorRoutes:
    """The routes' functions.

    Args:
        page: the server's metrics.
    """

    def __init__(self, page: MetricsPage) -> None:
        self._page = page

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, in the text format of Prometheus, or in OpenMetrics where that is asked for."""
        body, media_type = self._page.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})


def add_operator_routes(app: FastAPI, routes: OperatorRoutes) -> None:
    """Add them to the HTTP API."""
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])

"""The HTTP API: OpenAI's routes, SGLang's `/generate`, and `/health`, over a hub of requests that is passed in.

`serving.py` makes the app with `make_app` and runs it; a test may give it a hub of its own. A route parses the body,
submits the request, and returns an answer that is written while the workers produce it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import Depends, FastAPI, Request
from starlette.responses import Response

from learnsgl.server.answers import ChatAnswer, CompletionAnswer
from learnsgl.server.cors import add_cors
from learnsgl.server.generate_answer import GenerateAnswer
from learnsgl.server.http import HEALTH, KeyCheck, ModelCard, json_response
from learnsgl.server.http_errors import CLIENT_GONE_STATUS, add_error_handlers, error_body, error_response, route_of
from learnsgl.server.limits import Limits
from learnsgl.server.live import LiveRequest, RequestFailed
from learnsgl.server.live_choice import Piece
from learnsgl.server.new_request import NewRequest
from learnsgl.server.openapi import PATH, openapi_document
from learnsgl.server.operator_routes import OperatorRoutes, add_operator_routes
from learnsgl.server.parse import check_model, parse_chat, parse_completion
from learnsgl.server.parse_generate import parse_generate
from learnsgl.server.request_ids import name_of
from learnsgl.server.requests import RequestHub
from learnsgl.server.sse import Chunk, ClientLeft, EventStream, WholeAnswer, unless_client_leaves
from learnsgl.server.streams import stream_chat_completions, stream_completions, stream_generate
from learnsgl.server.tool_routes import ToolRoutes, add_tool_routes
from learnsgl.server.turns import Turns

_log = logging.getLogger(__name__)


def make_app(
    hub: RequestHub, model: ModelCard, run_id: str, limits: Limits, *, api_key: str | None = None,
    origins: Sequence[str] = (), operator: OperatorRoutes | None = None,
) -> FastAPI:  # fmt: skip
    """The HTTP API.

    Args:
        hub: takes the requests and gives their answers.
        model: the model that is served.
        run_id: part of every answer's id, so that ids of two runs differ.
        limits: what one request may ask for.
        api_key: key that every request must bring, but those of `/health`; `None`: none is asked for.
        origins: web pages of these origins may use the API; see `cors.py`.
        operator: the routes for whoever keeps the server running; `None`: there are none.
    """
    guards = [] if api_key is None else [Depends(KeyCheck(api_key))]
    app = FastAPI(title="learnsgl", openapi_url=None, dependencies=guards)
    add_error_handlers(app, hub.trace.refused)
    add_cors(app, origins)
    routes = Routes(hub, model, run_id, limits)
    app.add_api_route("/v1/chat/completions", routes.chat_completions, methods=["POST"])
    app.add_api_route("/v1/completions", routes.completions, methods=["POST"])
    app.add_api_route("/generate", routes.generate, methods=["POST"])
    app.add_api_route("/v1/models", routes.models, methods=["GET", "HEAD"])
    app.add_api_route("/v1/models/{model_id:path}", routes.model, methods=["GET"])
    app.add_api_route(HEALTH, routes.health, methods=["GET", "HEAD"])
    add_tool_routes(app, ToolRoutes(hub, model, run_id, limits), hub.trace)
    if operator is not None:
        add_operator_routes(app, operator)
    app.add_api_route(PATH, routes.openapi, methods=["GET"])
    return app


class Routes:
    """The routes' functions; the arguments are those of `make_app`."""

    def __init__(self, hub: RequestHub, model: ModelCard, run_id: str, limits: Limits) -> None:
        self._limits = limits
        self._turns = Turns()
        self._hub = hub
        self._model = model
        self._run_id = run_id

    async def chat_completions(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        live = self._submit(request, parse_chat(await self._body(request), self._model.name))
        form = ChatAnswer(live, self._id(live.uid), _now_s(), self._model.name)
        return await self._answer(request, live, form.whole, stream_chat_completions(live, form))

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        live = self._submit(request, parse_completion(await self._body(request), self._model.name))
        form = CompletionAnswer(live, self._id(live.uid), _now_s(), self._model.name)
        return await self._answer(request, live, form.whole, stream_completions(live, form))

    async def generate(self, request: Request) -> Response:
        """`POST /generate`."""
        live = self._submit(request, parse_generate(await self._body(request)))
        options = live.request.generate
        assert options is not None, "parse_generate sets them"
        form = GenerateAnswer(live, options, options.ids or [self._id(uid) for uid in live.uids])
        return await self._answer(request, live, form.whole, stream_generate(live, form))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return json_response({"object": "list", "data": [self._model.to_json()]})

    async def model(self, request: Request, model_id: str) -> Response:
        """`GET /v1/models/{id}`; an id may hold slashes."""
        check_model(model_id, self._model.name)
        return json_response(self._model.to_json())

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: the routes and their bodies, for tools."""
        document = openapi_document(request.app.routes, self._model.name, self._limits)
        return Response(document, media_type="application/json")

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 while requests are taken."""
        if self._hub.refusal is not None:
            return error_response(self._hub.refusal)
        return json_response({"status": "ok", "model": self._model.name, "num_running": self._hub.num_running})

    async def _body(self, request: Request) -> bytes:
        """The body of a request whose turn has come."""
        body = await self._limits.read_body(request)
        await self._turns.wait()
        return body

    def _submit(self, request: Request, new: NewRequest) -> LiveRequest:
        self._limits.check(new)
        live = self._hub.submit(new, route_of(request))
        name = name_of(request.scope)
        name.uid = live.uid
        _log.info(
            "request %d received: %s, %s, %d prompts, %d answers, %d bytes, X-Request-Id %s", live.uid,
            route_of(request), "streamed" if new.stream else "whole", len(live.uids), len(live.choices),
            new.body_bytes, name.given or "none",
        )  # fmt: skip
        return live

    def _id(self, uid: int) -> str:
        return f"{self._run_id}-{uid}"

    async def _answer(
        self, request: Request, live: LiveRequest, whole: Callable[[Sequence[Piece]], bytes],
        chunks: AsyncIterator[Chunk],
    ) -> Response:  # fmt: skip
        """The answer to a submitted request. A stream begins only when the scheduler has accepted the request."""
        hub = self._hub
        try:
            if live.request.stream:
                await unless_client_leaves(live.wait_accepted(), request.receive, live, hub)
                return EventStream(chunks, live, hub)
            pieces = await unless_client_leaves(live.whole(), request.receive, live, hub)
        except RequestFailed as failure:
            return WholeAnswer(error_body(failure.info), live, hub, failure.info.status)
        except ClientLeft:
            return Response(status_code=CLIENT_GONE_STATUS)
        return WholeAnswer(whole(pieces), live, hub)


def _now_s() -> int:
    return int(time.time())

"""The routes beside those that answer prompts: SGLang's and vLLM's tools for whoever runs the server.

`make_app` of `api_server.py` adds them. They are `/tokenize`, `/detokenize`, `/version`, `/get_model_info`,
`/flush_cache` and `/abort_request`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from learnsgl import __version__
from learnsgl.errors import RequestError
from learnsgl.message.types import FlushCacheMsg, TextCallMsg
from learnsgl.server.body import OtherFields, convert, read_object
from learnsgl.server.chat_template import read_template, refuse_without_chat
from learnsgl.server.http import ModelCard, json_response
from learnsgl.server.http_trace import HttpTrace
from learnsgl.server.limits import Limits
from learnsgl.server.openai import ChatMessage, TokenId
from learnsgl.server.parse import check_model, plain_message
from learnsgl.server.requests import RequestHub

MAX_CALL_CHARS = 1 << 20
"""Longest text that is tokenized beside requests: its tokens, and each as text, must fit into one message."""
MAX_CALL_TOKENS = 1 << 18
"""Most token ids that become text likewise."""


class TokenizeRequest(msgspec.Struct):
    """Body of `POST /tokenize`; exactly one of `prompt` and `messages`."""

    model: str | None = None
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_CALL_CHARS)] | None = None
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(msgspec.Struct):
    """Body of `POST /detokenize`."""

    tokens: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_CALL_TOKENS)]
    model: str | None = None
    skip_special_tokens: bool | None = None


class AbortRequest(msgspec.Struct):
    """Body of `POST /abort_request`."""

    rid: str | None = None
    abort_all: bool | None = None


OTHERS = OtherFields({"tools": ([],)})
"""Fields of the tools' bodies that aren't supported, as `openai.NEUTRAL`."""

_ID_PREFIXES = ("chatcmpl-", "cmpl-", "")


class ToolRoutes:
    """The routes' functions.

    Args:
        hub: the running requests, and the way to the workers.
        model: the model that is served.
        run_id: part of every answer's id.
        limits: what one request may ask for.
    """

    def __init__(self, hub: RequestHub, model: ModelCard, run_id: str, limits: Limits) -> None:
        self._limits = limits
        self._hub = hub
        self._model = model
        self._run_id = run_id

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`: the token ids of a text or a chat."""
        given = convert(read_object(await self._limits.read_body(request)), TokenizeRequest, OTHERS)
        self._check_model(given.model)
        if (given.prompt is None) == (given.messages is None):
            which = "neither" if given.prompt is None else "both"
            raise RequestError(f"{which} of prompt and messages is given; give exactly one", param="prompt")
        chat, template = None, None
        if given.messages is not None:
            chat = [plain_message(message, f"messages[{index}]") for index, message in enumerate(given.messages)]
            template = read_template(given, chat)
        else:
            refuse_without_chat(given)
        add_special = given.add_special_tokens is None or given.add_special_tokens
        with_strings = bool(given.return_token_strs)
        reply = await self._hub.call(TextCallMsg(0, given.prompt, chat, None, add_special, with_strings, template))
        tokens = reply.token_ids or []
        return json_response(
            {
                "count": len(tokens), "max_model_len": self._model.max_model_len, "tokens": tokens,
                "token_strs": reply.token_strings,
            }
        )  # fmt: skip

    async def detokenize(self, request: Request) -> Response:
        """`POST /detokenize`: the text of token ids, under vLLM's name and under SGLang's."""
        given = convert(read_object(await self._limits.read_body(request)), DetokenizeRequest, OTHERS)
        self._check_model(given.model)
        call = TextCallMsg(0, token_ids=given.tokens, special_tokens=not given.skip_special_tokens)
        reply = await self._hub.call(call)
        return json_response({"prompt": reply.text, "text": reply.text})

    async def version(self, request: Request) -> Response:
        """`GET /version`."""
        return json_response({"version": __version__})

    async def model_info(self, request: Request) -> Response:
        """`GET /get_model_info`."""
        return json_response(
            {
                "model_path": self._model.root, "tokenizer_path": self._model.root, "is_generation": True,
                "preferred_sampling_params": None,
            }
        )  # fmt: skip

    async def flush_cache(self, request: Request) -> Response:
        """`POST /flush_cache`: forget every cached prefix; 400 while requests run."""
        reply = await self._hub.call(FlushCacheMsg(0))
        return json_response({"success": True, "num_pages": reply.num_pages})

    async def abort_request(self, request: Request) -> Response:
        """`POST /abort_request`: end a request by the name that its client gave it or by its answer's id, or all."""
        given = convert(read_object(await self._limits.read_body(request)), AbortRequest, OTHERS)
        if given.rid is None and not given.abort_all:
            raise RequestError("neither rid nor abort_all is given; give one of them", param="rid")
        if given.abort_all or given.rid is None:
            return json_response({"num_aborted": self._hub.abort_all()})
        return json_response({"num_aborted": self._abort(given.rid)})

    def _abort(self, rid: str) -> int:
        """By the client's own name, or by the id of an answer, which is the same for all its prompts."""
        for prefix in _ID_PREFIXES:
            number = rid.removeprefix(f"{prefix}{self._run_id}-")
            if number != rid and number.isascii() and number.isdigit() and len(number) < 20:
                return self._hub.abort_uid(int(number))
        return self._hub.abort_named(rid)

    def _check_model(self, model: str | None) -> None:
        if model is not None:
            check_model(model, self._model.name)


def add_tool_routes(app: FastAPI, routes: ToolRoutes, trace: HttpTrace) -> None:
    """Add them to the HTTP API, with a trace of every call."""

    def add(path: str, answer: Callable[[Request], Awaitable[Response]], *methods: str) -> None:
        @functools.wraps(answer)
        async def traced(request: Request) -> Response:
            received_ns = time.monotonic_ns()
            response = await answer(request)
            trace.called(path, received_ns, len(response.body))
            return response

        app.add_api_route(path, traced, methods=list(methods))

    add("/tokenize", routes.tokenize, "POST")
    add("/detokenize", routes.detokenize, "POST")
    add("/version", routes.version, "GET")
    add("/get_model_info", routes.model_info, "GET")
    add("/flush_cache", routes.flush_cache, "GET", "POST")  # SGLang's clients send either
    add("/abort_request", routes.abort_request, "POST")

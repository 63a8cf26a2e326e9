"""The server that gets the load: one at a URL or one of our own, its model, and the prompts that it understands.

`measure.py` calls `find_target` once. What isn't known of a server from elsewhere is asked of it, in three questions
at most, before anything is measured.
"""

from __future__ import annotations

import contextlib
import random
import shlex
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from learnsgl.bench.online.prompts import WORDS, Form, IdsForm, WordsForm, calibrated
from learnsgl.bench.online.settings import Endpoint, PromptForm, Settings
from learnsgl.chat.client import KEY_HINT, NO_ACCESS, ChatClient, refusal
from learnsgl.config import BUILT_IN_MODEL
from learnsgl.errors import OptionError, RequestError, ServingError, StartupError
from learnsgl.hub import resolve_model
from learnsgl.local_server import LocalServer

Tell = Callable[[str], None]
_VOCAB_SIZES = (30_000, 256)
"""Smaller than those of today's models, and than that of a byte tokenizer."""
_NUM_WORDS = (16, 80)
_ASK_S = 300.0


class Target(msgspec.Struct, frozen=True):
    """A server.

    Attributes:
        url: where it is, without `/v1`.
        api_key: sent along; `None` for none.
        model: the name of its model.
    """

    url: str
    api_key: str | None
    model: str

    def options(self) -> dict[str, Any]:
        """Arguments for an `httpx` client that speaks to it, directly: a proxy would be measured, too."""
        headers = {"Accept-Encoding": "identity"}  # the load's client reads streams as they are
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {"base_url": self.url, "headers": headers, "trust_env": False}

    def fields(self, settings: Settings) -> dict[str, Any]:
        """Fields of every request's body."""
        fields: dict[str, Any] = {"model": self.model}
        if settings.temperature is not None:
            fields["temperature"] = settings.temperature
        if settings.ignore_eos:
            fields["ignore_eos"] = True
        return fields | settings.extra_body


def find_target(
    url: str | None, api_key: str | None, model: str | None, serve_options: str, cleanup: contextlib.ExitStack,
    tell: Tell,
) -> Target:  # fmt: skip
    """The server at `url`, or one that is started here and ends with `cleanup`.

    Raises:
        StartupError: there is no server, or none could be started.
        OptionError: the server hasn't got the model.
    """
    if url is None:
        name = model or BUILT_IN_MODEL
        resolve_model(name, progress=True)  # here, where a download's progress is seen
        tell("no --url was given; starting a server")
        server = cleanup.enter_context(LocalServer(*shlex.split(serve_options), model=name))
        return Target(server.url, api_key, server.model)
    chat = ChatClient(url, api_key)
    try:
        models = chat.models()
    except ServingError as error:
        raise StartupError(f"{error}; start a server there, or leave --url out, and one is started") from error
    except RequestError as error:
        raise StartupError(f"{chat.url} refuses: {error}. {KEY_HINT}") from error
    if not models:
        raise StartupError(f"{chat.url} serves no model")
    if model is not None and model not in models:
        raise OptionError(f"--model is {model!r}, and the server at --url has: {', '.join(models)}")
    return Target(chat.url, api_key, model or models[0])


def find_form(target: Target, settings: Settings, *, transport: httpx.BaseTransport | None = None) -> Form:
    """How this server is sent prompts of a known number of tokens.

    Raises:
        OptionError: `--prompt-form ids`, and it takes none.
        RequestError: it refuses any prompt.
        ServingError: it went away.
    """
    with httpx.Client(**target.options(), timeout=_ASK_S, transport=transport) as http:
        try:
            return _find_form(_Question(http, target, settings), settings)
        except httpx.HTTPError as error:
            raise ServingError(f"{target.url} doesn't answer ({str(error) or type(error).__name__})") from error


def _find_form(question: _Question, settings: Settings) -> Form:
    if settings.prompt_form is not PromptForm.TEXT and settings.endpoint is Endpoint.COMPLETIONS:
        for size in _VOCAB_SIZES if settings.vocab_size is None else (settings.vocab_size,):
            ids = IdsForm(size).prompt([0, IdsForm(size).alphabet - 1], 2)
            counted = question.num_tokens(ids)
            if question.refused is None and counted in (None, len(ids)):
                return IdsForm(size)
    if settings.prompt_form is PromptForm.IDS:
        why = question.refused or "it counts other tokens than were sent"
        raise OptionError(f"--prompt-form ids: this server doesn't take them ({why}); leave the option out")
    rng = random.Random(0)
    few, many = (question.num_tokens("".join(f" {rng.choice(WORDS)}" for _ in range(n))) for n in _NUM_WORDS)
    if question.refused is not None:
        raise question.refused
    return WordsForm() if few is None or many is None else calibrated((few, many), _NUM_WORDS)


class _Question:
    """Asks for an answer of one token, to learn how many tokens a prompt has.

    Attributes:
        refused: the refusal of the last question; `None` where it was answered.
    """

    def __init__(self, http: httpx.Client, target: Target, settings: Settings) -> None:
        self._http = http
        self._endpoint = settings.endpoint
        self._fields = target.fields(settings) | {"max_tokens": 1}
        self.refused: RequestError | None = None

    def num_tokens(self, prompt: str | list[int]) -> int | None:
        """Tokens of a prompt as the server counts them; `None` where it refuses it, or doesn't tell.

        Raises:
            RequestError: it wants another key.
        """
        asked: dict[str, Any] = {"prompt": prompt}
        if self._endpoint is Endpoint.CHAT:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        self.refused = None
        response = self._http.post(self._endpoint.path, json=self._fields | asked)
        if response.is_error:
            self.refused = refusal(response)
            if response.status_code in NO_ACCESS:
                raise self.refused
            return None
        try:
            return int(response.json()["usage"]["prompt_tokens"])
        except (ValueError, LookupError, TypeError):
            return None

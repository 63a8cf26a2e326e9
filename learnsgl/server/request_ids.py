"""`X-Request-Id`: the name of an HTTP request, which a client may give and gets back with every answer.

`launch.py` wraps the API in `RequestIds`. Where the client gives no name, the name is the run's id and the number that
the request has in the trace and in the log; a request that never got one there is named by a number of its own.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_SCOPE_KEY = "learnsgl.request"
_NAME = re.compile(rb"[!-~]{1,128}")
"""Printable ASCII without spaces: a name must not be able to write a second line into the log."""


@dataclass(slots=True)
class RequestName:
    """What an HTTP request is called.

    Attributes:
        given: the client's own name for it.
        uid: the request's id in the trace, once it has one.
    """

    given: str | None = None
    uid: int | None = None


def name_of(scope: Scope) -> RequestName:
    """The name that a request has, or will have."""
    name = scope.setdefault(_SCOPE_KEY, RequestName())
    assert isinstance(name, RequestName)
    return name


class RequestIds:
    """Adds the header to every answer.

    Args:
        app: the API.
        run_id: part of the names that the server gives, so that those of two runs differ.
    """

    def __init__(self, app: ASGIApp, run_id: str) -> None:
        self._app = app
        self._run_id = run_id
        self._unnumbered = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = name_of(scope)
        name.given = _given(scope)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, self._told(name).encode())]
            await send(message)

        await self._app(scope, receive, send_named)

    def _told(self, name: RequestName) -> str:
        if name.given is not None:
            return name.given
        number = f"x{next(self._unnumbered)}" if name.uid is None else str(name.uid)
        return f"{self._run_id}-{number}"


def _given(scope: Scope) -> str | None:
    """The client's name for its request, unless it is too long or holds what doesn't belong into a log."""
    for header, value in scope["headers"]:
        if header == HEADER:
            return value.decode() if _NAME.fullmatch(value) else None
    return None

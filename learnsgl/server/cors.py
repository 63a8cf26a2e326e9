"""Which web pages may use the API from a browser: none but its own, unless `--cors-origin` names their origins.

`launch.py` reads the option, and `make_app` of `api_server.py` asks for the headers. Other programs than browsers
don't look at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from learnsgl.errors import OptionError

ANY_ORIGIN = "*"
_MAX_AGE_S = 600
_EXPOSED = ("X-Request-Id", "Retry-After")
"""Headers of answers that a page may read, beside those that it always may."""


def read_origins(given: str | None) -> list[str]:
    """The origins that the option names.

    Args:
        given: the option's value; `None` where it isn't given.

    Raises:
        OptionError: one isn't an origin: a scheme and a host, perhaps a port, and nothing after them.
    """
    origins = [word.strip() for word in given.split(",")] if given is not None else []
    for origin in origins:
        if origin != ANY_ORIGIN and not _is_origin(origin):
            raise OptionError(
                f"--cors-origin is {given!r}, and {origin!r} isn't an origin; give such as http://localhost:3000, "
                "without a path, or *"
            )
    return origins


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    plain = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    return parts.scheme in ("http", "https") and bool(host) and text == plain


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Have the API tell browsers that pages of these origins may use it; without any, tell them nothing."""
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=list(_EXPOSED), max_age=_MAX_AGE_S,
        )  # fmt: skip

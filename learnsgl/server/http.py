"""What all routes share: who may use them, answering with JSON, and what is told of the model.

`api_server.py` and `tool_routes.py` call it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from learnsgl.errors import RequestError

HEALTH = "/health"


@dataclass(frozen=True)
class ModelCard:
    """What `/v1/models` tells.

    Attributes:
        name: what clients call the model.
        root: what the server was told to load.
        max_model_len: most tokens of one request, prompt and output.
        created: when the server started, in seconds since 1970.
    """

    name: str
    root: str
    max_model_len: int
    created: int

    def to_json(self) -> dict[str, Any]:
        """OpenAI's model object, with vLLM's `root` and length of the context."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "learnsgl",
            "root": self.root,
            "parent": None,
            "max_model_len": self.max_model_len,
        }


class KeyCheck:
    """Whether a request brings the server's key; the time that it takes tells nothing about the key.

    Args:
        api_key: the key.
    """

    def __init__(self, api_key: str) -> None:
        self._digest = _digest(api_key)

    async def __call__(self, request: Request) -> None:
        """Let a request pass.

        Raises:
            RequestError: it brings no key, or another one.
        """
        if request.url.path == HEALTH:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._digest):
            what = "the API key isn't this server's" if given else "no API key was sent"
            raise RequestError(
                f"{what}; send it as the header Authorization: Bearer KEY", status=401, code="invalid_api_key"
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def json_response(body: dict[str, Any]) -> Response:
    """An answer with status 200."""
    return Response(msgspec.json.encode(body), media_type="application/json")

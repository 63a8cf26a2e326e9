"""Log-probabilities in the shapes of OpenAI's two routes and of SGLang's.

The forms of the answers call these functions, for the requests that ask for log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learnsgl.message.types import TokenLogprob


def text_of(token: bytes) -> str:
    """A token as text; U+FFFD in place of a part of a character."""
    return token.decode(errors="replace")


def named(token: bytes) -> str:
    """A token as text that no other token has: a part of a character is written as its bytes, as OpenAI does it."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The shape of `/v1/chat/completions`."""
    content = [
        _chat_token(entry.token, entry.logprob)
        | {"top_logprobs": [_chat_token(other.token, other.logprob) for other in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _chat_token(token: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": text_of(token), "logprob": logprob, "bytes": list(token)}


def completion_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The shape of `/v1/completions`. The token itself is always among the likeliest."""
    return {
        "tokens": [named(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [_likeliest(entry) for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }


def _likeliest(entry: TokenLogprob) -> dict[str, float] | None:
    if entry.logprob is None:
        return None
    others = {named(other.token): other.logprob for other in reversed(entry.top)}  # of two alike, the likelier
    return {name: others[name] for name in reversed(others)} | {named(entry.token): entry.logprob}


def generate_logprobs(entries: Sequence[TokenLogprob], prefix: str, *, with_text: bool) -> dict[str, Any]:
    """The shape of `/generate`: `[logprob, token id, text]` of each token, and of the likeliest at its place.

    Args:
        entries: the tokens.
        prefix: `input` or `output`.
        with_text: whether the text is given; `None` otherwise.
    """

    def told(logprob: float | None, token_id: int, token: bytes) -> list[Any]:
        return [logprob, token_id, text_of(token) if with_text else None]

    return {
        f"{prefix}_token_logprobs": [told(entry.logprob, entry.token_id, entry.token) for entry in entries],
        f"{prefix}_top_logprobs": [
            [told(other.logprob, other.token_id, other.token) for other in entry.top] or None for entry in entries
        ],
    }

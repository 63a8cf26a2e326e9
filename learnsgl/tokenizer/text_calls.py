"""Calls that only the tokenizer can answer: text or a chat to token ids, and token ids to text.

The tokenizer worker calls `reply_to` for each; `/tokenize` and `/detokenize` are made of them.
"""

from __future__ import annotations

import logging

from learnsgl.errors import RequestError
from learnsgl.message.types import CallReply, ErrorInfo, TextCallMsg
from learnsgl.tokenizer.tokenize import Tokenizer

_log = logging.getLogger(__name__)


def reply_to(message: TextCallMsg, tokenizer: Tokenizer) -> CallReply:
    """The reply to a call; its error where it can't be answered."""
    try:
        return _answer(message, tokenizer)
    except RequestError as error:
        return CallReply(message.call, error=ErrorInfo(str(error), error.status, error.code, error.param))
    except Exception:  # one call must not take the worker down with it
        _log.exception("call %d can't be answered", message.call)
        info = ErrorInfo("the server failed to tokenize the text", 500, "internal_error")
        return CallReply(message.call, error=info)


def _answer(message: TextCallMsg, tokenizer: Tokenizer) -> CallReply:
    if message.token_ids is not None:
        for token_id in message.token_ids:
            if not tokenizer.has_token(token_id):
                raise RequestError(f"token id {token_id} isn't in the vocabulary", param="tokens")
        text = tokenizer.decode(message.token_ids, skip_special_tokens=not message.special_tokens)
        return CallReply(message.call, text)
    if message.messages is not None:
        ids = tokenizer.encode_chat(message.messages, template=message.template)
    else:
        ids = tokenizer.encode_text(message.text or "", add_special_tokens=message.special_tokens)
    strings = [tokenizer.token_bytes(token_id).decode(errors="replace") for token_id in ids]
    return CallReply(message.call, token_ids=ids, token_strings=strings if message.with_strings else None)

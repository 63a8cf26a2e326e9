"""The tokenizer's job: prompts become token ids, in the order in which they come.

`worker.py` runs it, in a process of its own or beside the detokenizer.
"""

from __future__ import annotations

import logging

import numpy as np

from learnsgl.core import FinishReason, Int32Array
from learnsgl.errors import RequestError
from learnsgl.message.channel import Sender
from learnsgl.message.types import (
    AbortMsg,
    CallReply,
    Delta,
    Ending,
    ErrorInfo,
    FlushCacheMsg,
    Message,
    TextCallMsg,
    TokenizeMsg,
    UserMsg,
    UserReply,
)
from learnsgl.tokenizer.text_calls import reply_to
from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.tokenizer.tool_request import constrained
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

_log = logging.getLogger(__name__)


class TokenizerWorker:
    """Turns prompts into token ids.

    Args:
        tokenizer: the model's tokenizer.
        recorder: where `tok.*` events go.
        to_scheduler: takes the tokenized requests, and aborts.
        to_api: takes the errors of requests that can't be tokenized, and the replies to calls.
    """

    def __init__(self, tokenizer: Tokenizer, recorder: Recorder, to_scheduler: Sender, to_api: Sender) -> None:
        self._tokenizer = tokenizer
        self._recorder = recorder
        self._to_scheduler = to_scheduler
        self._to_api = to_api
        self._requests: list[Message] = []
        self._failures: list[Delta] = []
        self._call_replies: list[CallReply] = []

    def process_one_msg(self, message: TokenizeMsg | AbortMsg | TextCallMsg | FlushCacheMsg) -> None:
        """Tokenize one request, answer a call, or pass on what is the scheduler's."""
        if isinstance(message, (AbortMsg, FlushCacheMsg)):
            self._requests.append(message)
            return
        if isinstance(message, TextCallMsg):
            self._call_replies.append(reply_to(message, self._tokenizer))
            return
        start_ns = self._recorder.now()
        try:
            ids = self._encode(message)
            sampling = message.sampling
            if message.tools is not None:
                sampling = constrained(sampling, message.tools, self._tokenizer)
        except RequestError as error:
            self._fail(message, ErrorInfo(str(error), error.status, error.code, error.param))
            return
        except Exception:  # one request must not take the worker down with it
            _log.exception("request %d can't be tokenized", message.uid)
            self._fail(message, ErrorInfo("the server failed to tokenize the prompt", 500, "internal_error"))
            return
        if self._recorder.full:
            self._recorder.emit(events.TokTokenized(self._recorder.now(), message.uid, start_ns, len(ids)))
        if self._recorder.tokens:
            text = self._tokenizer.decode(ids.tolist())
            self._recorder.emit(events.TokText(self._recorder.now(), message.uid, text, ids.tobytes()))
        wants_prompt = message.echo and message.text is None  # of a text, the API server knows it
        self._requests.append(UserMsg(message.uid, ids.tobytes(), sampling, wants_prompt))

    def flush(self) -> None:
        """Send what has been tokenized, and the errors: one message each."""
        if self._requests:
            self._to_scheduler.send(self._requests)
        replies = [UserReply(self._failures)] if self._failures else []
        replies += [UserReply([], [reply]) for reply in self._call_replies]  # each may be as large as a message can be
        if replies:
            self._to_api.send(replies)
        self._requests, self._failures, self._call_replies = [], [], []

    def _encode(self, message: TokenizeMsg) -> Int32Array:
        if message.messages is not None:
            ids = self._tokenizer.encode_chat(message.messages, message.tools, message.template)
        elif message.text is not None:
            ids = self._tokenizer.encode_text(message.text)
        else:
            ids = message.input_ids or []
        if not ids:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        return np.array(ids, dtype=np.int32)

    def _fail(self, message: TokenizeMsg, info: ErrorInfo) -> None:
        if self._recorder.full:
            self._recorder.emit(events.TokFailed(self._recorder.now(), message.uid, info.code))
        for choice in range(message.sampling.n):
            ending = Ending(message.uid, choice, FinishReason.ERROR, error=info)
            self._failures.append(Delta(message.uid, choice, ending=ending))

"""The API server's events: what was received, refused, streamed and answered, and the one ending of each request.

`requests.py`, `sse.py` and the error handlers call it. Chunks of streams are gathered, and recorded in batches. The
server's metrics and its log are told of the same moments here, so that they say what the trace says.
"""

from __future__ import annotations

import logging

import numpy as np

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.types import Ending
from learnsgl.server.metrics import ServerMetrics
from learnsgl.trace import events
from learnsgl.trace.recorder import Recorder

_log = logging.getLogger(__name__)


def _severity(status: int) -> int:
    """What the server is to blame for is a warning."""
    return logging.WARNING if status >= 500 else logging.INFO


class HttpTrace:
    """Records the HTTP side of requests.

    Args:
        recorder: the API process's part of the trace.

    Attributes:
        metrics: counts and times of the same events.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.metrics = ServerMetrics()
        self._recorder = recorder
        self._keys: list[ReqKey] = []
        self._sent_ns: list[int] = []
        self._chunk_bytes: list[int] = []

    def received(
        self, uid: int, route: str, stream: bool, body_bytes: int, num_choices: int = 1, first_uid: int | None = None
    ) -> None:
        """A request was checked and got its id; `first_uid` is that of the first prompt, where it brought several."""
        now = self._recorder.now()
        self.metrics.on_received(now, uid, route, num_choices)
        if self._recorder.steps:
            self._recorder.emit(events.HttpReceived(now, uid, route, stream, body_bytes, num_choices, first_uid))

    def refused(self, route: str, status: int, code: str) -> None:
        """A request was answered with an error before it got an id."""
        self.metrics.refused[status, code] += 1
        _log.log(_severity(status), "request refused: %s, status %d, %s", route, status, code)
        if self._recorder.steps:
            self._recorder.emit(events.HttpRefused(self._recorder.now(), route, status, code))

    def called(self, route: str, received_ns: int, answer_bytes: int) -> None:
        """A call beside requests was answered."""
        _log.debug("call answered: %s, %d bytes", route, answer_bytes)
        if self._recorder.steps:
            self._recorder.emit(events.HttpCalled(self._recorder.now(), route, received_ns, answer_bytes))

    def streamed(self, key: ReqKey, chunk_bytes: int) -> None:
        """A chunk was handed to the socket; `flush` records it with others."""
        if self._recorder.full:
            self._keys.append(key)
            self._sent_ns.append(self._recorder.now())
            self._chunk_bytes.append(chunk_bytes)

    def answered(self, uid: int, status: int, body_bytes: int) -> None:
        """The last byte of an answer was handed to the socket."""
        self.flush()
        if self._recorder.steps:
            self._recorder.emit(events.HttpAnswered(self._recorder.now(), uid, status, body_bytes))

    def disconnected(self, uid: int) -> None:
        """The client went away before its answer was complete."""
        self.flush()
        if self._recorder.steps:
            self._recorder.emit(events.HttpDisconnected(self._recorder.now(), uid))

    def ended(self, ending: Ending, reason: FinishReason, status: int, code: str | None) -> None:
        """A request has ended, as its client sees it."""
        now = self._recorder.now()
        seconds = self.metrics.on_ended(now, ending, reason, status, code)
        _log.log(
            _severity(status),
            "request %d.%d ended: %s, status %d%s, %d prompt tokens (%d cached), %d generated, %.3f s",
            ending.uid, ending.choice, reason.value, status, f", {code}" if code else "", ending.num_prompt_tokens,
            ending.num_cached_tokens, ending.num_generated_tokens, seconds,
        )  # fmt: skip
        if self._recorder.steps:
            self._recorder.emit(
                events.ReqEnded(
                    now,
                    ending.uid,
                    ending.choice,
                    reason.value,
                    status,
                    code,
                    ending.num_prompt_tokens,
                    ending.num_cached_tokens,
                    ending.num_generated_tokens,
                )
            )

    def flush(self) -> None:
        """Record the chunks that were streamed since the last time."""
        if not self._keys:
            return
        uids, choices = zip(*self._keys, strict=True)
        self._recorder.emit(
            events.HttpStreamed(
                self._recorder.now(),
                np.array(uids, "<i8").tobytes(),
                np.array(choices, "<i4").tobytes(),
                np.array(self._sent_ns, "<i8").tobytes(),
                np.array(self._chunk_bytes, "<i4").tobytes(),
            )
        )
        self._keys, self._sent_ns, self._chunk_bytes = [], [], []

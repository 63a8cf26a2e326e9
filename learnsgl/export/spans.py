"""A trace as spans: one trace a request, its root with `gen_ai.*` attributes, its stages and messages below it.

`otlp.py` writes them. Ids are made from the run's id and the request's, so the same recording gives the same spans,
and a message can name its request's root before that has ended.

Source: OpenTelemetry's semantic conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from learnsgl.export.lives import LifeStream
from learnsgl.export.messages import Message, MessagePairs
from learnsgl.export.recording import Facts
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.life import RequestLife, Stage
from learnsgl.trace.lives import RequestRecord
from learnsgl.trace.reader import Entry, Trace

Attribute = str | int | float | bool | list[str]
_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
MAX_REASONS = 32
"""Reasons to wait that a span holds."""
_OTHER_OPERATION = "text_completion"
_ROLES = {
    "received": "api", "tokenized": "tokenizer", "queued": "scheduler", "prefilled": "scheduler",
    "decoded": "scheduler", "detokenized": "detokenizer", "replied": "api", "ended": "api",
}  # fmt: skip
"""Who does the work of a stage."""


class SpanKind(Enum):
    """What a span is to its neighbours."""

    INTERNAL = "internal"
    SERVER = "server"
    CONSUMER = "consumer"


class Link(NamedTuple):
    """A span that caused another one.

    Attributes:
        trace_id, span_id: which span.
    """

    trace_id: bytes
    span_id: bytes


class Happening(NamedTuple):
    """A moment within a span.

    Attributes:
        name, ns, attributes: what, when, and its numbers.
    """

    name: str
    ns: int
    attributes: dict[str, Attribute]


class Span(NamedTuple):
    """A span, on the trace's own clock.

    Attributes:
        process: who did it.
        trace_id, span_id: 16 and 8 bytes.
        parent_id: of the span around it; `None` for the root of a request.
        name, kind, start_ns, end_ns, attributes, links: of the span.
        error: the error code with which it ended, if any.
        happenings: moments within it.
    """

    process: str | None
    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute]
    links: tuple[Link, ...] = ()
    error: str | None = None
    happenings: tuple[Happening, ...] = ()


class _Wait:
    """Why the scheduler let a request wait: each reason when it became the reason.

    Attributes:
        reasons: the first few of them.
        other_uids: requests for whose prefix it waited.
    """

    def __init__(self) -> None:
        self.reasons: list[Happening] = []
        self.other_uids: list[int] = []
        self._last: tuple[str, int | None] | None = None

    def add(self, event: events.SchedBlocked) -> None:
        """It waits in a step for this reason; in the next for the same one, usually."""
        reason = event.reason, event.other_uid
        if reason == self._last or len(self.reasons) >= MAX_REASONS:
            return
        self._last = reason
        numbers = {name: getattr(event, name) for name in ("step", "needed", "free", "evictable", "promised")}
        attributes: dict[str, Attribute] = {f"learnsgl.{name}": number for name, number in numbers.items()}
        self.reasons.append(Happening(f"blocked: {event.reason}", event.ns, attributes))
        if event.other_uid is not None and event.other_uid not in self.other_uids:
            self.other_uids.append(event.other_uid)


class SpanStream:
    """Turns events into spans, each when it has ended.

    Args:
        trace: whose events will come.
        facts: what is known of it as a whole.
        with_text: give prompts and answers too.
    """

    def __init__(self, trace: Trace, facts: Facts, *, with_text: bool) -> None:
        self._facts = facts
        self._processes = {
            role: next((name for name in trace.processes if trace.process(name).does(role)), None)
            for role in ("api", "tokenizer", "scheduler", "detokenizer")
        }
        self._lives = LifeStream(trace)
        self._pairs = MessagePairs()
        self._arrived: dict[int, dict[str, bytes]] = {}
        """From a request to the last message about it that each process has received."""
        self._address: tuple[str, int] | None = None
        self._with_text = with_text
        self._blocked: dict[tuple[int, int], _Wait] = {}
        self._prompts: dict[int, str] = {}
        self._answers: dict[tuple[int, int], list[str]] = {}

    def take(self, entry: Entry) -> Iterator[Span]:
        """Take one event over; gives the spans that have ended with it."""
        match entry.event:
            case events.ProcessServing(host=host, port=port):
                self._address = host, port
            case events.MsgSent() as event:
                self._pairs.sent(entry, event)
            case events.MsgReceived() as event:
                yield from self._message_spans(self._pairs.received(entry, event))
            case events.SchedBlocked() as event if entry.process == self._processes["scheduler"]:
                self._blocked.setdefault((event.uid, event.choice), _Wait()).add(event)
            case events.TokText() as event if self._with_text:
                self._prompts[event.uid] = event.text
            case events.DetokText() as event if self._with_text:
                keys = zip(ints(event.uids, "i8").tolist(), ints(event.choices, "i4").tolist(), strict=True)
                for key, text in zip(keys, event.texts, strict=True):
                    self._answers.setdefault(key, []).append(text)
        for record in self._lives.take(entry):
            yield from self._request_spans(record)

    def rest(self) -> Iterator[Span]:
        """After the last event: requests whose end isn't in the trace."""
        for record in self._lives.rest():
            yield from self._request_spans(record)

    # ------------------------------------------------------------ ids

    def _trace_id(self, uid: int) -> bytes:
        return hashlib.blake2b(f"{self._facts.run_id}/{uid}".encode(), digest_size=16).digest()

    def _span_id(self, uid: int, name: str) -> bytes:
        return hashlib.blake2b(f"{self._facts.run_id}/{uid}/{name}".encode(), digest_size=8).digest()

    # ------------------------------------------------------------ messages

    def _message_spans(self, message: Message) -> Iterator[Span]:
        """A span for each request that a message is about, from its sending to its receiving.

        It links to the message that its sender had received before about the same request: that caused it.
        """
        receiver, received_ns = message.receiver, message.received_ns
        if receiver is None or received_ns is None:
            return
        attributes: dict[str, Attribute] = {
            "messaging.system": "zeromq", "messaging.operation.type": "receive",
            "messaging.destination.name": message.channel,
            "messaging.message.id": f"{message.sender}/{message.channel}/{message.number}",
            "messaging.message.body.size": message.num_bytes, "learnsgl.sender": message.sender,
        }  # fmt: skip
        for uid in dict.fromkeys(message.uids):
            trace_id, span_id = self._trace_id(uid), self._span_id(uid, "/".join(map(str, message[:3])))
            arrived = self._arrived.setdefault(uid, {})
            cause = arrived.get(message.sender)
            links = () if cause is None else (Link(trace_id, cause),)
            arrived[receiver] = span_id
            start_ns = min(message.sent_ns, received_ns)
            yield Span(
                receiver, trace_id, span_id, self._span_id(uid, "root"), message.name, SpanKind.CONSUMER, start_ns,
                received_ns, {**attributes, "learnsgl.uid": uid}, links,
            )  # fmt: skip

    # ------------------------------------------------------------ requests

    def _request_spans(self, record: RequestRecord) -> Iterator[Span]:
        uid, lives = record.uid, record.sorted_lives()
        self._arrived.pop(uid, None)
        known = [ns for life in lives for ns in (*life.moments, life.answered_ns, life.released_ns) if ns is not None]
        if known:
            stages = [(life, stage) for life in lives for stage in life.stages if stage is not None]
            end_ns = max([*known, *(stage.end_ns for _, stage in stages)])
            yield self._root_span(record, lives, min(known), end_ns)
            for life, stage in stages:
                yield self._stage_span(life, stage)
        self._prompts.pop(uid, None)
        for life in lives:
            self._answers.pop(life.key, None)
            self._blocked.pop(life.key, None)

    def _root_span(self, record: RequestRecord, lives: list[RequestLife], start_ns: int, end_ns: int) -> Span:
        attributes = self._root_attributes(record, lives)
        error = next((record.codes.get(life.key.choice, "error") for life in lives if life.reason == "error"), None)
        if error is not None:
            attributes["error.type"] = error
        uid = record.uid
        name = f"{attributes['gen_ai.operation.name']} {self._facts.model}".rstrip()
        return Span(
            self._processes["api"] or self._processes["scheduler"], self._trace_id(uid), self._span_id(uid, "root"),
            None, name, SpanKind.SERVER, start_ns, end_ns, attributes, (), error, _happenings(lives),
        )  # fmt: skip

    def _root_attributes(self, record: RequestRecord, lives: list[RequestLife]) -> dict[str, Attribute]:
        first = lives[0]
        generated = [life.generated_tokens for life in lives if life.generated_tokens is not None]
        host, port = self._address or (None, None)
        operation = _OPERATIONS.get(record.route or "", _OTHER_OPERATION)
        values: dict[str, Any] = {
            "gen_ai.operation.name": operation, "gen_ai.provider.name": "learnsgl",
            "gen_ai.request.model": self._facts.model or None, "gen_ai.response.model": self._facts.model or None,
            "gen_ai.request.stream": record.streamed if record.received_ns is not None else None,
            "gen_ai.request.choice.count": len(lives) if len(lives) > 1 else None,
            "gen_ai.usage.input_tokens": first.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": first.cached_tokens,
            "gen_ai.usage.output_tokens": sum(generated) if generated else None,
            "gen_ai.response.finish_reasons": [life.reason for life in lives if life.reason is not None] or None,
            "gen_ai.response.time_to_first_chunk": first.ttft_s if record.streamed else None,
            "gen_ai.output.type": "text", "server.address": host, "server.port": port, "http.route": record.route,
            "http.response.status_code": first.status, "learnsgl.uid": record.uid,
            "learnsgl.tpot_s": first.tpot_s, "learnsgl.prompt": self._prompts.get(record.uid),
            "learnsgl.answers": self._answers_of(lives) or None,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}

    def _answers_of(self, lives: list[RequestLife]) -> list[str]:
        return ["".join(self._answers[life.key]) for life in lives if life.key in self._answers]

    def _stage_span(self, life: RequestLife, stage: Stage) -> Span:
        uid, choice = life.key
        wait = self._blocked.get(life.key) if stage.name == "queued" else None
        others = wait.other_uids if wait is not None else ()
        links = tuple(Link(self._trace_id(other), self._span_id(other, "root")) for other in others)
        return Span(
            self._processes[_ROLES[stage.name]], self._trace_id(uid), self._span_id(uid, f"{choice}/{stage.name}"),
            self._span_id(uid, "root"), stage.name, SpanKind.INTERNAL, stage.start_ns, stage.end_ns,
            {"learnsgl.uid": uid, "learnsgl.choice": choice}, links, None, () if wait is None else tuple(wait.reasons),
        )  # fmt: skip


def _happenings(lives: list[RequestLife]) -> tuple[Happening, ...]:
    first_tokens = [life.committed_ns[0] for life in lives if life.committed_ns]
    return (Happening("first token", min(first_tokens), {}),) if first_tokens else ()

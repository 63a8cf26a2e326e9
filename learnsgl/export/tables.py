"""A trace as tables: the columns of each, with their types and meanings, and the rows as the events stream by.

`parquet.py` writes them down. The schema is here once; docs/exports.md shows it, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from learnsgl.config import TraceLevel
from learnsgl.export.counters import SchedulerCounters
from learnsgl.export.lives import LifeStream
from learnsgl.export.messages import Message, MessagePairs
from learnsgl.export.recording import fields_of
from learnsgl.export.steps import Span, StepRecord, StepStream
from learnsgl.trace import events
from learnsgl.trace.checks.base import ints
from learnsgl.trace.lives import RequestRecord
from learnsgl.trace.reader import Entry, Trace


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its name; `_ns` are moments on `time.monotonic_ns`.
        type: name, word (a text of which there are few), text, int, float, bool or ints.
        meaning: what it holds; empty values are unknown.
    """

    name: str
    type: str
    meaning: str


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


TABLES: dict[str, tuple[Column, ...]] = {
    "events": _columns(
        ("process", "word", "who recorded it"),
        ("number", "int", "its number in that process, from 1"),
        ("ns", "int", "its moment"),
        ("kind", "word", "its kind: docs/trace-events.md"),
        ("step", "int", "the step that it is about"),
        ("uid", "int", "the one request that it is about"),
        ("choice", "int", "its choice"),
        ("start_ns", "int", "when it began, where it took time"),
        ("fields", "text", "all other fields, as a JSON object"),
    ),
    "steps": _columns(
        ("process", "word", "the scheduler"),
        ("step", "int", "number of the step"),
        ("kind", "word", "prefill, decode or mixed"),
        ("num_requests", "int", "requests in it"),
        ("num_prefill", "int", "of these, chunks of prompts"),
        ("num_tokens", "int", "tokens that it computes"),
        ("num_prefill_tokens", "int", "of these, tokens of prompts"),
        ("num_waiting", "int", "requests left in the queue"),
        ("num_free_pages", "int", "pages that nobody holds"),
        ("num_kept", "int", "tokens that it gave and that count"),
        *(
            (f"{what}_{end}_ns", "int", f"{meaning} {word}")
            for what, meaning in (
                ("schedule", "putting it together"),
                ("submit", "queueing it for the device"),
                ("forward", "the forward pass"),
                ("sample", "sampling"),
                ("wait", "the scheduler's waiting for it"),
                ("commit", "taking its tokens over"),
            )
            for end, word in (("start", "begins"), ("end", "ends"))
        ),
    ),
    "runs": _columns(
        ("process", "word", "the scheduler"),
        ("step", "int", "number of the step"),
        ("uid", "int", "a request in it"),
        ("choice", "int", "its choice"),
        ("start", "int", "first position of its tokens in the step"),
        ("num_tokens", "int", "its tokens in the step"),
        ("is_prefill", "bool", "whether they are a chunk of its prompt"),
    ),
    "requests": _columns(
        ("uid", "int", "id of the request"),
        ("choice", "int", "which of its choices"),
        ("route", "word", "where it came in"),
        ("body_bytes", "int", "length of its body"),
        ("streamed", "bool", "whether its client asked for a stream"),
        ("reason", "word", "stop, length, abort or error; empty: no ending in the trace"),
        ("status", "int", "HTTP status of its answer"),
        ("code", "word", "error code in its answer"),
        ("prompt_tokens", "int", "tokens of its prompt"),
        ("cached_tokens", "int", "of these, tokens from the cache"),
        ("generated_tokens", "int", "tokens of its answer"),
        ("ttft_s", "float", "time to first token, in seconds"),
        ("tpot_s", "float", "time per output token after the first, in seconds"),
        ("received_ns", "int", "stage 1, received, begins"),
        ("tokenize_sent_ns", "int", "stage 2, tokenized, begins"),
        ("queued_ns", "int", "stage 3, queued, begins"),
        ("admitted_ns", "int", "stage 4, prefilled, begins"),
        ("first_token_ns", "int", "stage 5, decoded, begins"),
        ("last_token_ns", "int", "stage 6, detokenized, begins"),
        ("last_text_ns", "int", "stage 7, replied, begins"),
        ("replied_ns", "int", "stage 8, ended, begins"),
        ("over_ns", "int", "stage 8 ends"),
    ),
    "messages": _columns(
        ("sender", "word", "who sent it"),
        ("receiver", "word", "who received it; empty: nobody, in this trace"),
        ("channel", "word", "the receiving socket"),
        ("number", "int", "counts the sender's messages on the channel from 1"),
        ("kinds", "word", "what was in it"),
        ("num_bytes", "int", "length of its payload"),
        ("sent_ns", "int", "when it was handed to ZMQ"),
        ("received_ns", "int", "when it was taken from ZMQ"),
        ("uids", "ints", "requests that it is about"),
    ),
    "pages": _columns(
        ("process", "word", "the scheduler"),
        ("step", "int", "the step that was just put together"),
        ("ns", "int", "its moment"),
        ("num_free", "int", "pages that nobody holds"),
        ("num_evictable", "int", "pages that only the cache holds"),
        ("num_locked", "int", "pages of the cache that running requests hold"),
        ("num_own", "int", "pages that running requests hold and the cache doesn't"),
    ),
    "cache": _columns(
        ("process", "word", "the scheduler"),
        ("number", "int", "number of the event"),
        ("ns", "int", "its moment"),
        ("change", "word", "inserted, split, evicted, locked, unlocked, touched or moved"),
        ("node", "int", "node of the radix tree"),
        ("other_node", "int", "inserted: its parent; split: the new, upper node"),
        ("num_pages", "int", "inserted: its pages; split: pages that the new node takes; evicted: freed in all"),
        ("row", "int", "row of the request table, with inserted and moved"),
    ),
}

Row = tuple[Any, ...]
NamedRow = tuple[str, Row]


class TableRows:
    """Turns events into rows, each with the name of its table.

    Args:
        trace: whose events will come.
        with_text: keep prompts and answers in the events' fields.
    """

    def __init__(self, trace: Trace, *, with_text: bool) -> None:
        self._with_text = with_text
        self._encoder = msgspec.json.Encoder()
        self._lives = LifeStream(trace)
        self._steps = StepStream()
        self._pairs = MessagePairs()
        schedulers = [name for name in trace.processes if trace.process(name).does("scheduler")]
        has_cache = trace.level != TraceLevel.STEPS
        self._counters = {
            name: SchedulerCounters(from_start=not trace.begins_late(name), has_cache=has_cache) for name in schedulers
        }

    def take(self, entry: Entry) -> Iterator[NamedRow]:
        """Take one event over; gives the rows that are complete with it."""
        yield "events", self._event_row(entry)
        step = self._steps.take(entry)
        if step is not None:
            yield "steps", _step_row(step)
        for record in self._lives.take(entry):
            yield from _request_rows(record)
        match entry.event:
            case events.MsgSent() as event:
                self._pairs.sent(entry, event)
            case events.MsgReceived() as event:
                yield "messages", _message_row(self._pairs.received(entry, event))
        if entry.process in self._counters:
            yield from self._scheduler_rows(entry)

    def rest(self) -> Iterator[NamedRow]:
        """After the last event: what is still open."""
        yield from (("steps", _step_row(step)) for step in self._steps.rest())
        yield from (("messages", _message_row(message)) for message in self._pairs.rest())
        for record in self._lives.rest():
            yield from _request_rows(record)

    def _event_row(self, entry: Entry) -> Row:
        fields = fields_of(entry, with_text=self._with_text)
        place = [fields.pop(name) for name in ("process", "event", "ns", "kind")]
        common = [fields.pop(name, None) for name in ("step", "uid", "choice", "start_ns")]
        return (*place, *common, self._encoder.encode(fields).decode())

    def _scheduler_rows(self, entry: Entry) -> Iterator[NamedRow]:
        counters, event = self._counters[entry.process], entry.event
        counters.take(event)
        if isinstance(event, events.SchedStep):
            yield from (("runs", row) for row in _run_rows(entry.process, event))
            known = counters.has_pages
            evictable, locked = (counters.pages.num_evictable, counters.pages.num_locked) if known else (None, None)
            own = None
            if counters.num_pages is not None and evictable is not None and locked is not None:
                own = counters.num_pages - event.num_free_pages - evictable - locked
            yield "pages", (entry.process, event.step, event.ns, event.num_free_pages, evictable, locked, own)
            return
        for row in _cache_rows(event):
            yield "cache", (entry.process, entry.number, event.ns, *row)


def _step_row(step: StepRecord) -> Row:
    def pair(span: Span | None) -> tuple[int | None, int | None]:
        return (None, None) if span is None else span

    spans = (step.schedule_ns, step.submit_ns, step.forward_ns, step.sample_ns, step.wait_ns, step.commit_ns)
    return (
        step.process, step.number, step.kind, len(step.uids), step.num_prefill, step.num_tokens,
        step.num_prefill_tokens, step.num_waiting, step.num_free_pages, step.num_kept,
        *(ns for span in spans for ns in pair(span)),
    )  # fmt: skip


def _run_rows(process: str, event: events.SchedStep) -> Iterator[Row]:
    columns = ((event.uids, "i8"), (event.choices, "i4"), (event.starts, "i4"), (event.lens, "i4"))
    runs = zip(*(ints(data, dtype).tolist() for data, dtype in columns), strict=True)
    for place, run in enumerate(runs):
        yield (process, event.step, *run, place < event.num_prefill)


def _request_rows(record: RequestRecord) -> Iterator[NamedRow]:
    for life in record.sorted_lives():
        row = (
            record.uid, life.key.choice, record.route, record.body_bytes, life.streamed, life.reason, life.status,
            record.codes.get(life.key.choice), life.prompt_tokens, life.cached_tokens, life.generated_tokens,
            life.ttft_s, life.tpot_s, *life.moments,
        )  # fmt: skip
        yield "requests", row


def _message_row(message: Message) -> Row:
    return (
        message.sender, message.receiver, message.channel, message.number, message.kinds, message.num_bytes,
        message.sent_ns, message.received_ns, list(message.uids),
    )  # fmt: skip


def _cache_rows(event: events.Event) -> Iterator[Row]:
    match event:
        case events.CacheInserted():
            yield "inserted", event.node, event.parent, len(event.pages) // 4, event.row
        case events.CacheSplit():
            yield "split", event.node, event.new_node, event.num_pages, None
        case events.CacheEvicted():
            for place, node in enumerate(ints(event.nodes, "i8").tolist()):
                yield "evicted", node, None, len(event.pages) // 4 if place == 0 else 0, None
        case events.CacheLocked():
            yield "locked" if event.delta > 0 else "unlocked", event.node, None, None, None
        case events.CacheTouched():
            yield "touched", event.node, None, None, None
        case events.CacheMoved():
            yield "moved", event.node, None, None, event.row

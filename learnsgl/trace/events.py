"""The registry of event kinds: their fields, units and meanings. `docs/trace-events.md` is made from it.

An event is a msgspec struct, encoded as an array `[kind, ns, field, field, ...]`. Fields are only ever added at the
end and with a default, so old traces stay readable; a reader skips kinds that it doesn't know. An event of a step
holds arrays (as bytes, little-endian), so 256 requests cost one event. No field holds text or token ids, except at
level `tokens`. Absent rows, nodes and requests are `None` alone and -1 inside arrays.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from learnsgl.config import TraceLevel


def about(meaning: str, unit: str | None = None) -> msgspec.Meta:
    """What a field means, and its unit."""
    return msgspec.Meta(description=meaning, extra={"unit": unit})


def array(dtype: str, meaning: str, unit: str | None = None) -> msgspec.Meta:
    """What an array field means; `dtype` is numpy's name of its elements."""
    return msgspec.Meta(description=meaning, extra={"unit": unit, "dtype": dtype})


Ns = Annotated[int, about("moment on `time.monotonic_ns`, the one clock of a host", "ns")]
StartNs = Annotated[int, about("when it began; it ended at the event's own moment", "ns")]
Uid = Annotated[int, about("request, by the id that the API server gave it")]
Choice = Annotated[int, about("which of the request's `n` choices")]
StepNumber = Annotated[int, about("step of the scheduler, counted from 1")]
Uids = Annotated[bytes, array("int64", "requests, by id")]
Choices = Annotated[bytes, array("int32", "their choices")]
Digest = Annotated[int | None, about("rolling digest of the scheduler's state after this event")]


class Event(msgspec.Struct, array_like=True, gc=False, omit_defaults=False):
    """Base of all events."""

    ns: Ns

    LEVEL: ClassVar[TraceLevel] = TraceLevel.FULL


# ---------------------------------------------------------------- process.*: the life of the processes


class ProcessStarted(Event, tag="process.started"):
    """A process runs, and records from here on. The first event of every process."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    name: Annotated[str, about("unique name: api, tokenizer-0, scheduler-0, detokenizer, or llm")]
    role: Annotated[str, about("api, tokenizer, scheduler, detokenizer, or llm: one process with all these jobs")]
    pid: int
    parent_pid: int


class ProcessSpawned(Event, tag="process.spawned"):
    """The parent has started a child."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    name: str
    pid: int


class ProcessPhase(Event, tag="process.phase"):
    """A part of a process's start-up has ended, such as `imports`, `load_weights` or `warm_up`."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    phase: str
    start_ns: StartNs


class ProcessReady(Event, tag="process.ready"):
    """The parent has taken a child's acknowledgement from the start-up queue."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    name: str
    acked_ns: Annotated[int, about("when the child put it there", "ns")]


class ProcessServing(Event, tag="process.serving"):
    """The HTTP socket listens; start-up is over."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    host: str
    port: int


class ProcessLost(Event, tag="process.lost"):
    """A child died without being asked to. What it had not flushed is missing, and that is no violation."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    name: str
    pid: int
    exit_code: Annotated[int | None, about("its exit code; minus a signal's number where a signal ended it")]


class ProcessFailed(Event, tag="process.failed"):
    """This process ends with an error. The API process has the error with which the whole server ends."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    error: Annotated[str, about("class of the error, as in docs/troubleshooting.md")]
    message: Annotated[str, about("what it says; empty for a defect, whose message may hold anything")]


class ProcessStopping(Event, tag="process.stopping"):
    """The parent has begun to stop the server."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    reason: Annotated[str, about("signal, worker_lost, error, start_failed or a test's word")]
    num_running: Annotated[int, about("requests that have not ended yet", "requests")]


class ProcessExited(Event, tag="process.exited"):
    """A child has ended after being asked to."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    name: str
    pid: int
    exit_code: int | None


class ProcessEnded(Event, tag="process.ended"):
    """The last event of a process that ended in order. Without it the process was cut off."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS


# ---------------------------------------------------------------- http.*: at the API server's door


class HttpReceived(Event, tag="http.received"):
    """An HTTP request was read, checked and given an id."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    route: Annotated[str, about("path of the route; `LLM.generate` or `LLM.stream` in the offline API, without HTTP")]
    stream: Annotated[bool, about("whether the client asked for a stream")]
    body_bytes: Annotated[int, about("length of the request's body", "bytes")]
    num_choices: Annotated[int, about("answers that it asks for: its `n`")] = 1
    first_uid: Annotated[
        int | None, about("id of the first prompt of the same body, where that brought several; each has its own id")
    ] = None


class HttpRefused(Event, tag="http.refused"):
    """An HTTP request was answered with an error before it got an id."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    route: str
    status: int
    code: str


class HttpCalled(Event, tag="http.called"):
    """A call beside requests was answered, such as `/tokenize` or `/flush_cache`. A refused one is `http.refused`."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    route: str
    received_ns: Annotated[int, about("when its route was called", "ns")]
    answer_bytes: Annotated[int, about("length of the answer's body", "bytes")]


class HttpStreamed(Event, tag="http.streamed"):
    """Chunks of streams were handed to the socket; batched."""

    uids: Uids
    choices: Choices
    sent_ns: Annotated[bytes, array("int64", "when each was handed over", "ns")]
    chunk_bytes: Annotated[bytes, array("int32", "length of each", "bytes")]


class HttpDisconnected(Event, tag="http.disconnected"):
    """The client went away before its answer was complete."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid


class HttpAnswered(Event, tag="http.answered"):
    """The last byte of an answer was handed to the socket."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    status: int
    body_bytes: Annotated[int, about("length of the whole answer, which several prompts may share", "bytes")]


# ---------------------------------------------------------------- msg.*: ZMQ messages, in pairs


class MsgSent(Event, tag="msg.sent"):
    """A message was handed to ZMQ. Sender (the recording process), channel and number name it everywhere."""

    channel: Annotated[str, about("the receiving socket's name")]
    number: Annotated[int, about("counts this sender's messages on this channel from 1")]
    kinds: Annotated[str, about("kinds of the messages inside, with counts: `UserMsg`, `AbortMsg*3`")]
    uids: Annotated[bytes, array("int64", "requests that it is about")]
    num_bytes: Annotated[int, about("length of the payload", "bytes")]


class MsgReceived(Event, tag="msg.received"):
    """A message was taken from ZMQ and decoded."""

    sender: Annotated[str, about("name of the sending process")]
    channel: str
    number: int
    sent_ns: Annotated[int, about("when it was handed to ZMQ", "ns")]
    num_bytes: Annotated[int, about("length of the payload", "bytes")]


class MsgRejected(Event, tag="msg.rejected"):
    """A message was skipped: it could not be decoded, or was too large, or of an unknown kind."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    channel: str
    reason: str
    sender: Annotated[str | None, about("sending process, where the envelope could be read")]
    number: int | None
    num_bytes: Annotated[int, about("length of the payload", "bytes")]


# ---------------------------------------------------------------- tok.*, detok.*: text to tokens and back


class TokTokenized(Event, tag="tok.tokenized"):
    """A request's prompt became token ids."""

    uid: Uid
    start_ns: StartNs
    num_tokens: Annotated[int, about("length of the prompt", "tokens")]


class TokFailed(Event, tag="tok.failed"):
    """A prompt could not be tokenized; the client gets the error."""

    uid: Uid
    code: str


class TokText(Event, tag="tok.text"):
    """The prompt itself."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.TOKENS
    uid: Uid
    text: str
    token_ids: Annotated[bytes, array("int32", "the prompt's token ids")]


class DetokDecoded(Event, tag="detok.decoded"):
    """Tokens of one step became text."""

    start_ns: StartNs
    step: StepNumber
    uids: Uids
    choices: Choices
    num_chars: Annotated[bytes, array("int32", "characters ready for each; 0 while a character or stop string is open")]


class DetokStopped(Event, tag="detok.stopped"):
    """A stop string was met: the detokenizer ended the text and told the scheduler."""

    uid: Uid
    choice: Choice
    num_kept_tokens: Annotated[int, about("tokens up to the one that completed the stop string", "tokens")]


class DetokText(Event, tag="detok.text"):
    """The text of one step, and its tokens."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.TOKENS
    step: StepNumber
    uids: Uids
    choices: Choices
    token_ids: Annotated[bytes, array("int32", "one token each")]
    texts: list[str]


# ---------------------------------------------------------------- req.*: a request's life


class ReqQueued(Event, tag="req.queued"):
    """The scheduler has put a request at the end of its queue."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    choice: Choice
    order: Annotated[int, about("arrival number; the queue is in this order")]
    prompt_len: Annotated[int, about("length of the prompt", "tokens")]
    limit_len: Annotated[int, about("prompt and output never exceed this", "tokens")]
    prompt_digest: Annotated[int | None, about("digest of the prompt's tokens under a key that is never written")]


class ReqRefused(Event, tag="req.refused"):
    """The scheduler has refused a request that can never be served."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    choice: Choice
    code: str
    prompt_len: Annotated[int, about("length of the prompt", "tokens")]


class ReqConstrained(Event, tag="req.constrained"):
    """The scheduler took a request whose answer must follow a grammar, which was compiled before."""

    uid: Uid
    kind: Annotated[str, about("json_object, json_schema, regex or lark")]
    num_bytes: Annotated[int, about("length of the grammar's text", "bytes")]
    start_ns: Annotated[int, about("compiling it began; long ago where an earlier request had the same", "ns")]
    end_ns: Annotated[int, about("compiling it ended", "ns")]


class ReqAborting(Event, tag="req.aborting"):
    """An abort reached the scheduler: an input of this iteration."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    choice: Annotated[int | None, about("its choice; none means every choice")]
    reason: Annotated[str, about("abort (the client) or stop (a stop string)")]
    num_kept_tokens: Annotated[int | None, about("generated tokens that still count", "tokens")]
    found: Annotated[bool, about("whether the scheduler still knew the request")]


class ReqFinished(Event, tag="req.finished"):
    """The scheduler has ended requests; each ending goes to the detokenizer. Its row goes back later."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    uids: Uids
    choices: Choices
    reasons: list[str]
    num_tokens: Annotated[bytes, array("int32", "generated tokens that count", "tokens")]


class ReqReleased(Event, tag="req.released"):
    """Finished requests have given their rows and page references back."""

    step: StepNumber
    uids: Uids
    choices: Choices
    rows: Annotated[bytes, array("int32", "table rows that are free again")]
    freed: Annotated[bytes, array("int32", "pages that nobody holds any more, in the order they were freed")]


class ReqEnded(Event, tag="req.ended"):
    """The one ending of a request, as its client sees it. Recorded by the API server."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    uid: Uid
    choice: Choice
    reason: Annotated[str, about("stop, length, abort or error")]
    status: Annotated[int, about("HTTP status of the answer; 499 where the client had gone")]
    code: Annotated[str | None, about("error code in the answer")]
    prompt_tokens: Annotated[int, about("tokens of the prompt", "tokens")]
    cached_tokens: Annotated[int, about("of these, tokens whose KV came from the cache", "tokens")]
    completion_tokens: Annotated[int, about("tokens generated and kept", "tokens")]


# ---------------------------------------------------------------- sched.*, batch.*, table.*: decisions


class SchedAdmitted(Event, tag="sched.admitted"):
    """Requests left the queue: each has a row and the promise of all pages it can need."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    uids: Uids
    choices: Choices
    rows: Annotated[bytes, array("int32", "table row of each")]
    cached_lens: Annotated[bytes, array("int32", "tokens of the prompt found in the cache", "tokens")]
    nodes: Annotated[bytes, array("int64", "tree node where each match ended; 0, the root, where nothing matched")]
    promised: Annotated[bytes, array("int32", "pages that each may still need until its end", "pages")]


class SchedBlocked(Event, tag="sched.blocked"):
    """The first candidate that was not admitted, and why. Those behind it wait for their turn."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    uid: Uid
    choice: Choice
    reason: Annotated[str, about("budget, pages, rows, policy or prefix")]
    num_behind: Annotated[int, about("requests behind it in the queue", "requests")]
    needed: Annotated[int, about("pages (or with budget, tokens) that it needs", "pages")]
    free: Annotated[int, about("pages that nobody holds", "pages")]
    evictable: Annotated[int, about("pages that only the cache holds, unlocked", "pages")]
    promised: Annotated[int, about("pages promised to running requests and not yet given", "pages")]
    other_uid: Annotated[
        int | None, about("with prefix: the request that computes it; its own id where another of its choices does")
    ]


class SchedStep(Event, tag="sched.step"):
    """A step was put together and submitted to the engine."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    start_ns: Annotated[int, about("when scheduling it began", "ns")]
    uids: Uids
    choices: Choices
    starts: Annotated[bytes, array("int32", "first position of each run of tokens")]
    lens: Annotated[bytes, array("int32", "tokens in each run; a decode run has one", "tokens")]
    num_prefill: Annotated[int, about("the first so many runs are chunks of prompts; the rest decode", "requests")]
    num_waiting: Annotated[int, about("requests left in the queue", "requests")]
    num_free_pages: Annotated[int, about("pages that nobody holds", "pages")]
    digest: Digest = None


class SchedCommitted(Event, tag="sched.committed"):
    """A step's result was taken over: its tokens count now."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    start_ns: Annotated[int, about("when the result was there", "ns")]
    uids: Uids
    choices: Choices
    kept: Annotated[bytes, array("uint8", "1 where a token was kept; 0 for a chunk without one, or a finished request")]
    digest: Digest = None


class SchedIdle(Event, tag="sched.idle"):
    """The scheduler has nothing to run and nothing waiting."""

    digest: Digest = None


class BatchSubmitted(Event, tag="batch.submitted"):
    """Work for the device was queued."""

    step: StepNumber
    start_ns: StartNs


class BatchMasked(Event, tag="batch.masked"):
    """The masks of a step's constrained requests were computed. Its sampling is queued now, not before."""

    step: StepNumber
    start_ns: StartNs
    num_rows: Annotated[int, about("requests whose next token must follow a grammar", "requests")]


class BatchCollected(Event, tag="batch.collected"):
    """The scheduler has waited for a step's tokens."""

    step: StepNumber
    start_ns: Annotated[int, about("when it began to wait", "ns")]


# ---------------------------------------------------------------- page.*, cache.*: KV memory


class PageAllocated(Event, tag="page.allocated"):
    """Free pages were given to running requests, appended to their rows of the page table."""

    step: StepNumber
    rows: Annotated[bytes, array("int32", "rows that got pages")]
    counts: Annotated[bytes, array("int32", "how many each got", "pages")]
    pages: Annotated[bytes, array("int32", "the pages, row after row")]


class CacheTouched(Event, tag="cache.touched"):
    """A match walked from the root to this node; the whole path was used at this logical time."""

    node: int
    clock: Annotated[int, about("logical time")]


class CacheLocked(Event, tag="cache.locked"):
    """The path from the root to this node was locked (or unlocked) once more: locked nodes are not evicted."""

    node: int
    delta: Annotated[int, about("+1 or -1")]


class CacheSplit(Event, tag="cache.split"):
    """A node was cut in two: the new node takes its first pages and its place, and becomes its parent."""

    node: int
    new_node: int
    num_pages: Annotated[int, about("pages that the new node takes", "pages")]
    upper_digest: Annotated[int, about("keyed digest of the tokens of the new (upper) node")]
    lower_digest: Annotated[int, about("keyed digest of the tokens that the old (lower) node keeps")]


class CacheInserted(Event, tag="cache.inserted"):
    """A leaf was added; the tree holds one reference on each of its pages."""

    node: int
    parent: int
    pages: Annotated[bytes, array("int32", "its pages, in the order of their tokens")]
    clock: Annotated[int, about("logical time")]
    digest: Annotated[int, about("keyed digest of the node's tokens")]
    row: Annotated[int, about("table row of the request whose pages these are")]


class CacheEvicted(Event, tag="cache.evicted"):
    """Leaves were removed, least recently used first, and their pages are free."""

    nodes: Annotated[bytes, array("int64", "nodes, in this order")]
    pages: Annotated[bytes, array("int32", "their pages", "pages")]


class CacheMoved(Event, tag="cache.moved"):
    """A running request's lock moved down the tree, to the node that now holds its computed prefix."""

    row: Annotated[int, about("table row of the request")]
    node: Annotated[int, about("node that it holds from now on")]


# ---------------------------------------------------------------- engine.*: the device


class EngineReady(Event, tag="engine.ready"):
    """The model is loaded and the KV pages exist."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    model: str
    device: str
    dtype: str
    num_pages: Annotated[int, about("pages of KV cache", "pages")]
    page_size: Annotated[int, about("tokens a page", "tokens")]
    max_model_len: Annotated[int, about("most tokens of one request", "tokens")]
    num_rows: Annotated[int, about("table rows: most requests that run at once", "requests")]
    memory: Annotated[dict[str, int], about("memory by purpose", "bytes")]


class EngineMemory(Event, tag="engine.memory"):
    """Where the device's memory went: what the parts take, and what was free before and after.

    What the parts sum to and what is gone differ by what the allocator rounds up. On a CPU `workspace` is an estimate,
    and `dense_contexts` is the most that they may take.
    """

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    parts: Annotated[dict[str, int], about("memory by purpose", "bytes")]
    num_pages: Annotated[int, about("pages of KV cache", "pages")]
    page_bytes: Annotated[int, about("a page, over all layers", "bytes")]
    available_before: Annotated[int, about("free on the device before the weights were loaded", "bytes")]
    available_after: Annotated[int, about("free when the engine was ready", "bytes")]


class EngineForward(Event, tag="engine.forward"):
    """What the device did for one step, on the host's clock."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    step: StepNumber
    forward_start_ns: Annotated[int, about("forward pass begins", "ns")]
    forward_end_ns: Annotated[int, about("forward pass ends", "ns")]
    sample_start_ns: Annotated[int, about("sampling begins", "ns")]
    sample_end_ns: Annotated[int, about("sampling ends; the tokens are on the host, or on their way from a GPU", "ns")]
    launch_ns: Annotated[
        int | None, about("just before the host queued it, where the device has a clock of its own", "ns")
    ] = None
    uncertainty_ns: Annotated[int, about("how far off these four may be; 0 where the host's clock gave them", "ns")] = 0
    graph_size: Annotated[
        int | None, about("batch size of the CUDA graph that was replayed; what exceeds the runs is padded", "requests")
    ] = None


class GraphCaptured(Event, tag="graph.captured"):
    """A CUDA graph of a decode step exists, for one batch size. The largest is captured first."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    size: Annotated[int, about("its batch size", "requests")]
    num_bytes: Annotated[int, about("device memory that it added", "bytes")]
    start_ns: StartNs


class ClockAnchor(Event, tag="clock.anchor"):
    """A moment was seen on the host's clock and on the device's: later device times are told from it.

    An event was queued on an idle stream of its own and waited for, several times; the shortest wait counts.
    """

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    host_ns: Annotated[int, about("the moment: the middle between queueing and having waited", "ns")]
    uncertainty_ns: Annotated[int, about("half of that wait", "ns")]
    rate_ppb: Annotated[int, about("host time that goes by in 1e9 ns of the device's, less 1e9", "ns")]
    rate_uncertainty_ppb: Annotated[int, about("how far off the rate may be", "ns")]


# ---------------------------------------------------------------- trace.*: the recording itself


class TraceBegin(Event, tag="trace.begin"):
    """Recording begins in this process; what came before is not in the trace."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    level: str
    late: Annotated[bool, about("whether the process had state already, so that a keyframe follows")]


class TraceKeyframe(Event, tag="trace.keyframe"):
    """A slice of the scheduler's state, read from the live objects. The slices of one keyframe share its id."""

    keyframe: Annotated[int, about("counts keyframes from 1")]
    part: Annotated[str, about("scalars, queue, rows, tables, refs or nodes: see trace/state.py")]
    index: Annotated[int, about("slices before this one in the keyframe")]
    last: Annotated[bool, about("whether the keyframe is complete with this slice")]
    start: Annotated[int, about("first element of the part that this slice covers")]
    stop: Annotated[int, about("one past the last element that it covers")]
    columns: Annotated[dict[str, bytes], about("columns of the part, by name, int64")]


class TraceDropped(Event, tag="trace.dropped"):
    """Events are missing from here on: the limit on size, or a disk that takes no more."""

    LEVEL: ClassVar[TraceLevel] = TraceLevel.STEPS
    reason: str
    first: Annotated[int, about("number of the first event that is missing")]
    last: Annotated[int, about("number of the last event that is missing")]


def _subclasses(base: type[Event]) -> list[type[Event]]:
    return [kind for child in base.__subclasses__() for kind in [child, *_subclasses(child)]]


KINDS: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in _subclasses(Event)}
"""Every event kind by its name, in the order of this file."""

"""The workload of a recording: when requests came, how long they were, what they shared. A load generator replays it.

`learnsgl trace workload` writes it as JSON lines. The first line tells what it is:

    {"format": "learnsgl-workload", "version": 1, "num_requests": 9, "duration_s": 4.2, "prompt_tokens": 3205,
     "output_tokens": 410, "page_size": 1, "shares_known": true}

and each further line is a request, in the order in which they came, `index` counting from 0:

    {"index": 3, "uid": 4, "arrival_s": 0.52, "prompt_len": 512, "max_tokens": 64, "generated": 64, "stream": true,
     "ending": "length", "left_after_s": null, "shares": {"with": 1, "tokens": 488, "of_answer": 0}, "group": 0}

A recording holds no text. What prompts had in common shows in the prefix cache: the tokens that a request found there
or, when its own prompt was put there, that it met there; and the tree nodes know which earlier request brought them.
docs/trace-workload.md explains each field, and what can't be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO, TypeVar

import msgspec

from learnsgl.core import ReqKey
from learnsgl.errors import OptionError
from learnsgl.replay.history import Journey, ReqHistory, scan_history
from learnsgl.replay.workload_shares import read_shares
from learnsgl.trace.reader import Trace

FORMAT = "learnsgl-workload"
VERSION = 1
_Line = TypeVar("_Line", "Header", "Row")

__all__ = ["FORMAT", "VERSION", "Header", "Row", "Shares", "read_workload", "workload", "write_workload"]


class Shares(msgspec.Struct, frozen=True, rename={"with_index": "with"}):
    """Leading tokens that a prompt has in common with an earlier request.

    Attributes:
        with_index: the earlier request's index (`with` in JSON); `None` where it isn't known.
        tokens: how many.
        of_answer: of these, how many lie in the earlier request's answer, beyond its prompt.
    """

    with_index: int | None
    tokens: int
    of_answer: int


class Row(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        index: its place in the workload, from 0.
        uid: its id in the recording.
        arrival_s: seconds since the first request came.
        prompt_len: tokens of its prompt; `None` where it never got that far.
        max_tokens: most tokens of its answer, cut to the context; `None` likewise.
        generated: tokens that it got.
        stream: whether its client asked for a stream.
        ending: stop, length, abort or error; `None` where the recording has none.
        left_after_s: seconds after its arrival at which its client went away; `None` where it stayed.
        shares: what its prompt shares with an earlier one; `None` where nothing is known to be shared.
        group: index of the first request of its group; a request belongs to the group of the one with which it shares
            at least half of its prompt, and else begins a group of its own.
    """

    index: int
    uid: int
    arrival_s: float
    prompt_len: int | None
    max_tokens: int | None
    generated: int
    stream: bool
    ending: str | None
    left_after_s: float | None
    shares: Shares | None
    group: int


class Header(msgspec.Struct, frozen=True):
    """The first line of a file.

    Attributes:
        num_requests: rows that follow.
        duration_s: from the first arrival to the last.
        prompt_tokens, output_tokens: over all requests, as far as they are known.
        page_size: tokens a page; what is shared is counted in whole pages.
        shares_known: whether the recording holds the cache's events, so that `shares` can name requests.
    """

    format: str
    version: int
    num_requests: int
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    page_size: int | None
    shares_known: bool


def workload(trace: Trace) -> list[Row]:
    """The requests of a recording as a load generator needs them.

    Args:
        trace: the recording.

    Returns:
        A row for each request (each choice of it) that the recording names, in the order of their arrival. A request
        whose arrival was not recorded counts from the first event that names it.

    Raises:
        TraceFormatError: the trace is broken.
    """
    return _gather(trace)[1]


def write_workload(trace: Trace, out: TextIO) -> int:
    """Write the workload of a recording as JSON lines; returns the number of requests.

    Raises:
        TraceFormatError: the trace is broken.
    """
    head, rows = _gather(trace)
    for line in (head, *rows):
        out.write(msgspec.json.encode(line).decode() + "\n")
    return len(rows)


def read_workload(lines: Iterable[str], where: str = "the workload") -> tuple[Header, list[Row]]:
    """Read what `write_workload` wrote.

    Args:
        lines: of the file; empty ones are skipped, and fields that this version doesn't know are, too.
        where: what to call the file in errors.

    Raises:
        OptionError: it isn't a workload, is one of a newer version, or was cut off.
    """
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise OptionError(f"{where} is empty; write one with: learnsgl trace workload PATH --out FILE")
    head = _decode(filled[0], Header, where)
    if head.format != FORMAT or head.version > VERSION:
        raise OptionError(
            f"{where}: format {head.format!r}, version {head.version}; this program reads {FORMAT!r} up to {VERSION}"
        )
    rows = [_decode(line, Row, where) for line in filled[1:]]
    if len(rows) != head.num_requests:
        raise OptionError(f"{where} holds {len(rows)} requests, and its first line says {head.num_requests}")
    return head, rows


def _decode(line: tuple[int, str], kind: type[_Line], where: str) -> _Line:
    try:
        return msgspec.json.decode(line[1], type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise OptionError(f"{where}, line {line[0]}: not a {kind.__name__.lower()} of a workload: {error}") from error


def _gather(trace: Trace) -> tuple[Header, list[Row]]:
    history = scan_history(trace)
    found: list[tuple[int, Journey, ReqHistory]] = []
    for journey in history.journeys.values():
        first = journey.first
        reqs = [journey.choices[choice] for choice in sorted(journey.choices)] or [ReqHistory(ReqKey(journey.uid))]
        found += [(0 if first is None else first.ns, journey, req) for req in reqs]
    places = {req.key: place for place, (_, _, req) in enumerate(found)}
    shares = read_shares(trace, history)
    groups: list[int] = []
    rows = []
    for place, (first_ns, journey, req) in enumerate(found):
        share = shares.by_key.get(req.key)
        other = None if share is None or share.other is None else places[share.other]
        is_member = share is not None and 2 * share.tokens >= (req.prompt_len or 0)
        groups.append(groups[other] if other is not None and is_member else place)
        told = None if share is None else Shares(other, share.tokens, share.of_answer)
        rows.append(_row(place, (first_ns - found[0][0]) / 1e9, journey, req, told, groups[place]))
    head = Header(
        FORMAT, VERSION, len(rows), rows[-1].arrival_s if rows else 0.0,
        sum(row.prompt_len or 0 for row in rows), sum(row.generated for row in rows),
        None if history.engine is None else history.engine.page_size, shares.are_known,
    )  # fmt: skip
    return head, rows


def _row(index: int, arrival_s: float, journey: Journey, req: ReqHistory, shares: Shares | None, group: int) -> Row:
    left_s = None
    if journey.disconnected is not None and journey.first is not None:
        left_s = (journey.disconnected.ns - journey.first.ns) / 1e9
    max_tokens = None if req.limit_len is None or req.prompt_len is None else req.limit_len - req.prompt_len
    generated = req.num_generated if req.num_generated is not None else len(req.tokens)
    return Row(
        index, req.key.uid, arrival_s, req.prompt_len, max_tokens, generated, journey.is_stream, req.reason, left_s,
        shares, group,
    )  # fmt: skip

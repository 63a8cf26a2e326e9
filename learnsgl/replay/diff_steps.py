"""The first decision in which two recordings part: step beside step, until something differs.

`diff.py` calls `first_parting`. A step is compared by who was admitted with which cached prefix, who had to wait and
why, whose prompt tokens and whose answers it held, and how many pages were free. Requests are named as in A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any

from learnsgl.core import ReqKey
from learnsgl.replay.diff_match import Match
from learnsgl.replay.history_data import DeviceStep, History, ReqHistory
from learnsgl.replay.why_text import Sentence, listed, name_of, places_of, said, some


class Aspect(Enum):
    """What two steps can differ in, in the order in which a scheduler decides it.

    Attributes:
        label: in words.
        options: options that decide it.
    """

    ADMISSION = ("who was admitted", ("max_running_requests", "num_pages", "page_size", "max_prefill_length", "policy"))
    CACHED = ("tokens found in the cache", ("cache_type", "page_size", "prefix_wait_tokens", "num_pages"))
    BLOCKED = (
        "who had to wait, and why",
        (
            "max_running_requests", "num_pages", "page_size", "max_prefill_length", "policy", "max_decode_wait_steps",
            "prefix_wait_tokens", "cache_type",
        ),
    )  # fmt: skip
    DECODES = ("whose answers went on", ("policy", "max_decode_wait_steps", "overlap", "max_running_requests"))
    CHUNKS = (
        "prompt tokens in the step",
        ("max_prefill_length", "policy", "max_decode_wait_steps", "cache_type", "prefix_wait_tokens"),
    )
    PAGES = ("free pages", ("num_pages", "page_size", "cache_type"))
    END = ("whether there is such a step", ("overlap",))

    def __init__(self, label: str, options: tuple[str, ...]) -> None:
        self.label = label
        self.options = options

    def __repr__(self) -> str:
        return f"Aspect.{self.name}"


@dataclass(frozen=True)
class Parting:
    """The first decision that differs.

    Attributes:
        step: the step's number, in both.
        aspect: in what it differs.
        a, b: what was decided, in words, with the events that say so.
        reasons: differing facts that led to it.
        others: what else differs in the same step.
        is_timing: whether a request that is concerned had not arrived in one of the two: the moments of arrival
            differ, so the decisions say nothing of options.
    """

    step: int
    aspect: Aspect
    a: Sentence
    b: Sentence
    reasons: tuple[Sentence, ...]
    others: tuple[Aspect, ...] = ()
    is_timing: bool = False


Decided = dict[Aspect, Any]


class Side:
    """The steps of one recording, with requests named as in A.

    Args:
        history: the recording.
        names: from its requests to the names of their counterparts in A.
    """

    def __init__(self, history: History, names: dict[ReqKey, ReqKey]) -> None:
        self.history = history
        self._names = names
        self.reqs = {
            self.name(req.key): req for journey in history.journeys.values() for req in journey.choices.values()
        }
        self._admitted: dict[int, list[ReqHistory]] = {}
        self._blocked: dict[int, list[tuple[ReqKey, str]]] = {}
        for name, req in self.reqs.items():
            if req.admitted_step is not None:
                self._admitted.setdefault(req.admitted_step, []).append(req)
            for block in req.blocks:
                self._blocked.setdefault(block.step, []).append((name, block.reason))

    def name(self, key: ReqKey) -> ReqKey:
        """A request's name in A; one without a counterpart keeps its own, with a choice that none has."""
        return self._names.get(key, ReqKey(key.uid, -1 - key.choice))

    def free_before(self, step: DeviceStep) -> int:
        """Pages that nobody held after the step before; with the first one, all that there are."""
        place = step.number - self.history.steps[0].number
        if place:
            return self.history.steps[place - 1].num_free_pages
        return 0 if self.history.engine is None else self.history.engine.num_pages

    def has(self, name: ReqKey, step: DeviceStep) -> bool:
        """Whether a request was in the queue, or beyond it, when a step was put together."""
        queued = self.reqs[name].queued
        return queued is not None and step.schedule_ns is not None and queued.ns <= step.schedule_ns[0]

    def decided(self, step: DeviceStep) -> Decided:
        """What was decided in a step, comparable between recordings."""
        runs = [(self.name(key), run, start) for key, run, start in zip(step.keys, step.runs, step.starts, strict=True)]
        admitted = sorted((self.name(req.key), req.cached_len) for req in self._admitted.get(step.number, []))
        return {
            Aspect.ADMISSION: tuple(name for name, _ in admitted),
            Aspect.CACHED: tuple(admitted),
            Aspect.BLOCKED: tuple(sorted(self._blocked.get(step.number, []))),
            Aspect.DECODES: tuple(sorted(name for name, run, _ in runs if not run.is_prefill)),
            Aspect.CHUNKS: tuple((name, start, run.num_tokens) for name, run, start in runs if run.is_prefill),
            Aspect.PAGES: step.num_free_pages,
        }


def first_parting(a: History, b: History, match: Match) -> Parting | None:
    """The first step that differs.

    The number of free pages is a fact and no decision: it counts only where no decision ever differs.

    Returns:
        Where and why; `None` where all steps are the same.
    """
    side_a = Side(a, {req.key: req.key for journey in a.journeys.values() for req in journey.choices.values()})
    side_b = Side(b, {pair.b.key: pair.a.key for pair in match.pairs})
    only_pages: Parting | None = None
    for step_a, step_b in zip_longest(a.steps, b.steps):
        if step_a is None or step_b is None:
            return only_pages or _one_ends(step_a, step_b)
        decided_a, decided_b = side_a.decided(step_a), side_b.decided(step_b)
        differing = [aspect for aspect, value in decided_a.items() if value != decided_b[aspect]]
        if differing and (differing[0] is not Aspect.PAGES or only_pages is None):
            found = _parting(differing, (side_a, step_a), (side_b, step_b), decided_a, decided_b)
            if found.aspect is not Aspect.PAGES:
                return found
            only_pages = found
    return only_pages


def _parting(
    differing: Sequence[Aspect], a: tuple[Side, DeviceStep], b: tuple[Side, DeviceStep], decided_a: Decided,
    decided_b: Decided,
) -> Parting:  # fmt: skip
    aspect, step_a, step_b = differing[0], a[1], b[1]
    names = _concerned(aspect, decided_a[aspect], decided_b[aspect])
    reasons = _reasons(names, a, b)
    free_a, free_b = a[0].free_before(step_a), b[0].free_before(step_b)
    if aspect in (Aspect.ADMISSION, Aspect.BLOCKED) and free_a != free_b:
        reasons.append(said(f"{free_a:,} pages were free in A and {free_b:,} in B before this step"))
    both = [name for name in names if name in a[0].reqs and name in b[0].reqs]
    is_timing = any(not side.has(name, step) for name in both for side, step in (a, b))
    told_a, told_b = _told(aspect, decided_a[aspect], step_a), _told(aspect, decided_b[aspect], step_b)
    others = tuple(other for other in differing[1:] if other is not Aspect.PAGES)
    return Parting(step_a.number, aspect, told_a, told_b, tuple(reasons), others, is_timing)


def _one_ends(step_a: DeviceStep | None, step_b: DeviceStep | None) -> Parting:
    step = step_a or step_b
    assert step is not None, "one of two unequal lists is longer"
    there = said(f"step {step.number} ran", places_of(step, "schedule"))
    gone = said(f"there is no step {step.number}")
    return Parting(step.number, Aspect.END, there if step_a else gone, gone if step_a else there, ())


# ---------------------------------------------------------------- in words


def _told(aspect: Aspect, value: Any, step: DeviceStep) -> Sentence:
    words: dict[Aspect, Callable[[Any], str]] = {
        Aspect.ADMISSION: lambda names: f"admitted: {listed([_called(name) for name in names])}",
        Aspect.CACHED: lambda items: (
            "found in the cache: " + listed([f"{count:,} tokens of {_called(name)}" for name, count in items])
        ),
        Aspect.BLOCKED: lambda items: (
            "had to wait: " + listed([f"{_called(name)} ({reason})" for name, reason in items])
        ),
        Aspect.CHUNKS: lambda items: (
            "prompt tokens: "
            + listed([f"{start:,} to {start + length - 1:,} of {_called(name)}" for name, start, length in items])
        ),
        Aspect.DECODES: lambda names: f"decoded: {listed([_called(name) for name in names])}",
        Aspect.PAGES: lambda count: f"{count:,} pages were free",
    }
    return said(words[aspect](value), places_of(step, "schedule"))


def _called(name: ReqKey) -> str:
    if name.choice < 0:
        return f"request {name.uid} of B (which A hasn't)"
    return name_of(name)


def _concerned(aspect: Aspect, a: Any, b: Any) -> list[ReqKey]:
    """The requests in which two decisions differ, in their order."""
    if aspect is Aspect.PAGES:
        return []
    both = [item for item in (*a, *b) if (item in a) != (item in b)]
    return list(dict.fromkeys(item if isinstance(item, ReqKey) else item[0] for item in both))


MAX_REASONS = 3


def _reasons(names: Sequence[ReqKey], a: tuple[Side, DeviceStep], b: tuple[Side, DeviceStep]) -> list[Sentence]:
    """What each request that is concerned was doing in both recordings when the step was put together."""
    found = []
    for name in names[:MAX_REASONS]:
        for letter, (side, step) in (("A", a), ("B", b)):
            req = side.reqs.get(name)
            text, places = ("isn't there", ()) if req is None else doing(req, step)
            found.append(said(f"in {letter} {_called(name)} {text}", places))
    if len(names) > MAX_REASONS:
        found.append(said(f"{len(names) - MAX_REASONS:,} more of the requests differ, too"))
    return found


def doing(req: ReqHistory, step: DeviceStep) -> tuple[str, tuple[Any, ...]]:
    """What a request was doing when a step was put together: words, and events."""
    begin_ns, end_ns = step.schedule_ns or (0, 0)
    for ended in (req.refused, req.finished):
        if ended is not None and ended.ns <= begin_ns:
            after = "" if req.num_generated is None else f" after {req.num_generated:,} tokens"
            aborted = f" (an abort came: {req.aborts[0][1]})" if req.aborts and req.aborts[0][0].ns <= begin_ns else ""
            return f"had ended by {req.reason or 'error'}{after}{aborted}", (ended,)
    if req.queued is None or req.queued.ns > begin_ns:
        late = "" if req.queued is None else f", but {(req.queued.ns - begin_ns) / 1e6:,.3f} ms later"
        return f"wasn't in the queue yet{late}", some(req.queued)
    if step.number in req.steps:
        place = step.keys.index(req.key)
        run = step.runs[place]
        tokens = "1 prompt token" if run.num_tokens == 1 else f"{run.num_tokens:,} prompt tokens"
        what = f"ran with {tokens}" if run.is_prefill else "decoded"
        cached = f", after {req.cached_len:,} from the cache" if req.admitted_step == step.number else ""
        return what + cached, places_of(step, "schedule")
    blocks = [block for block in req.blocks if block.place.ns <= end_ns]
    if req.admitted_step is None or req.admitted_step > step.number:
        if not blocks:
            return "waited behind others", some(req.queued)
        block = blocks[-1]
        numbers = f" ({block.needed:,} pages needed, {block.free:,} free)" if block.reason == "pages" else ""
        return f"waited: {block.reason}{numbers}", (block.place,)
    return "had been admitted, and was not in the step", some(req.admitted)

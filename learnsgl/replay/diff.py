"""Two recordings of one workload, side by side: the first decision in which they part and why, and what they come to.

`learnsgl trace diff` and the lessons call `diff`. Requests are matched by what they asked and in which order they came
(`diff_match.py`), steps by their numbers (`diff_steps.py`). Where only the moments of arrival differ, steps part early
for that reason alone; what was decided for each request is therefore compared without regard to steps, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from learnsgl.replay.diff_match import Match, match_requests
from learnsgl.replay.diff_steps import Aspect, Parting, first_parting
from learnsgl.replay.diff_totals import Totals, totals_of_run
from learnsgl.replay.history import DeviceStep, History, ReqHistory, scan_history
from learnsgl.replay.ledger import Ledgers
from learnsgl.replay.why_text import Sentence, listed, said, some
from learnsgl.trace.reader import Trace

__all__ = ["Aspect", "Match", "OptionDiff", "Parting", "RequestDiff", "Totals", "TraceDiff", "diff"]


class OptionDiff(NamedTuple):
    """An option that differs: its name, its value in A and in B."""

    name: str
    a: Any
    b: Any


class RequestDiff(NamedTuple):
    """A decision about requests that differs, whatever the step in which it fell.

    Attributes:
        what: which decision.
        num_requests: requests in which it differs.
        example: the first of them, in words.
    """

    what: str
    num_requests: int
    example: Sentence


@dataclass(frozen=True)
class TraceDiff:
    """What differs between two recordings.

    Attributes:
        match: which request is which, and those without a counterpart.
        options: options that differ.
        parting: the first step that differs; `None` where none does, or where steps can't be compared.
        notes: why steps can't be compared, or only in part.
        requests: decisions about requests that differ, without regard to steps.
        a, b: what each recording comes to.
    """

    match: Match
    options: tuple[OptionDiff, ...]
    parting: Parting | None
    notes: tuple[str, ...]
    requests: tuple[RequestDiff, ...]
    a: Totals
    b: Totals

    @property
    def is_same(self) -> bool:
        """Whether no decision differs; moments always do."""
        return self.parting is None and not self.requests and self.match.is_same_workload


def diff(a: Trace, b: Trace) -> TraceDiff:
    """Compare two recordings.

    Args:
        a, b: the recordings; what is said of requests names them as A does.

    Raises:
        TraceFormatError: one of them is broken.
    """
    history_a, history_b = scan_history(a), scan_history(b)
    match = match_requests(history_a, history_b)
    options = tuple(option_diffs(a.manifest, b.manifest))
    notes = _notes({"A": history_a, "B": history_b})
    parting = None if notes else first_parting(history_a, history_b, match)
    if parting is not None and not parting.is_timing:
        parting = replace(parting, reasons=(*_options_behind(parting.aspect, options), *parting.reasons))
    return TraceDiff(
        match, options, parting, tuple(notes), tuple(request_diffs(match, history_a, history_b)),
        totals_of_run(Ledgers(history_a)), totals_of_run(Ledgers(history_b)),
    )  # fmt: skip


def option_diffs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[OptionDiff]:
    """Options of the engine and the scheduler that differ between two manifests, and what else the engine became.

    An option that only one of the two versions of learnsgl has says nothing, and is left out.
    """
    named = set()
    for area in ("engine", "scheduler"):
        values_a, values_b = ((manifest.get("config") or {}).get(area) or {} for manifest in (a, b))
        for name, value_a in values_a.items():
            if name in values_b and value_a != values_b[name]:
                named.add(name)
                yield OptionDiff(name, value_a, values_b[name])
    for name in ("model", "device", "dtype", "num_pages", "max_model_len"):
        found_a, found_b = ((manifest.get("engine") or {}).get(name) for manifest in (a, b))
        if found_a != found_b and name not in named:
            yield OptionDiff(f"engine's {name}", found_a, found_b)


def _options_behind(aspect: Aspect, options: tuple[OptionDiff, ...]) -> list[Sentence]:
    """The options that differ and decide this."""
    behind = [option for option in options if option.name.removeprefix("engine's ") in aspect.options]
    return [
        said(f"--{option.name.replace('_', '-')} is {option.a} in A and {option.b} in B")
        if "'" not in option.name
        else said(f"the {option.name} is {option.a} in A and {option.b} in B")
        for option in behind
    ]


def _notes(sides: Mapping[str, History]) -> list[str]:
    """Why steps can't be compared."""
    found = []
    for name, history in sides.items():
        if not history.steps:
            found.append(f"no step ran in {name}, so there are no decisions to compare")
        elif history.steps[0].number != 1:
            first = history.steps[0].number
            found.append(
                f"{name} begins with step {first}: what was decided before is not recorded, so steps can't be compared"
            )
    return found


def request_diffs(match: Match, a: History, b: History) -> Iterator[RequestDiff]:
    """Decisions about each request that differ, in the order in which they are taken."""
    steps = {"a": {step.number: step for step in a.steps}, "b": {step.number: step for step in b.steps}}
    aspects: dict[str, Callable[[ReqHistory, Mapping[int, DeviceStep]], Any]] = {
        "tokens found in the cache": lambda req, _: req.cached_len if req.admitted is not None else "not admitted",
        "reasons to wait": lambda req, _: ", then ".join(block.reason for block in req.blocks) or "none",
        "chunks of its prompt": _chunks,
        "steps that it sat out while it ran": lambda req, _: _num_sat_out(req),
        "generated tokens": lambda req, _: req.num_generated,
        "ending": lambda req, _: req.reason,
    }
    for what, value_of in aspects.items():
        values = [(pair, value_of(pair.a, steps["a"]), value_of(pair.b, steps["b"])) for pair in match.pairs]
        differing = [item for item in values if item[1] != item[2]]
        if differing:
            first, of_a, of_b = differing[0]
            name = f"request {first.a.key.uid}" + (f" (in B {first.b.key.uid})" if first.a.key != first.b.key else "")
            places = some(first.a.admitted or first.a.queued) + some(first.b.admitted or first.b.queued)
            yield RequestDiff(what, len(differing), said(f"{name}: {of_a} in A, {of_b} in B", places))


def _chunks(req: ReqHistory, steps: Mapping[int, DeviceStep]) -> str:
    """How its prompt was cut: `512 + 512 + 20 tokens`."""
    lens = []
    for number in req.steps:
        step = steps[number]
        run = step.runs[step.keys.index(req.key)]
        if not run.is_prefill:
            break
        lens.append(str(run.num_tokens))
    return f"{listed(lens)} tokens" if lens else "none"


def _num_sat_out(req: ReqHistory) -> int:
    """Steps between its first and its last in which it wasn't."""
    return req.steps[-1] - req.steps[0] + 1 - len(req.steps) if req.steps else 0

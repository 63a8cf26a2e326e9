"""`learnsgl trace diff A B`: two recordings of one workload, side by side, as text or as JSON.

`trace/commands.py` opens both and calls `print_diff`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from learnsgl.replay.diff import Parting, Totals, TraceDiff, diff
from learnsgl.replay.why_command import events
from learnsgl.replay.why_text import Sentence
from learnsgl.terminal import utf8_output
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import table

Row = tuple[str, ...]


def print_diff(a: Trace, b: Trace, *, as_json: bool = False) -> int:
    """Compare two recordings and print what differs.

    Returns:
        The exit code: 0, whether they differ or not.
    """
    found = diff(a, b)
    out = utf8_output()
    out.write((json.dumps(to_json(found), indent=2) if as_json else described(found, a, b)) + "\n")
    return 0


def described(found: TraceDiff, a: Trace, b: Trace) -> str:
    """The comparison as text."""
    lines = [f"A  {a.path}", f"B  {b.path}", "", *_workload_lines(found), *_option_lines(found), ""]
    lines += _parting_lines(found)
    if found.requests:
        lines += ["", "decisions about requests, whatever the step:"]
        for item in found.requests:
            counted = f"{item.num_requests:,} of {len(found.match.pairs):,}"
            lines.append(f"  {item.what} differ in {counted}; {item.example.text}{events(item.example)}")
    return "\n".join([*lines, "", table([("", "A", "B", "B to A"), *_total_rows(found.a, found.b)])])


def _workload_lines(found: TraceDiff) -> list[str]:
    match = found.match
    head = f"workload: {len(match.pairs):,} requests in both, by their lengths and order of arrival"
    if match.is_same_workload and match.first_swap is None:
        return [head]
    kind = "the same, but for the order" if match.is_same_workload else "NOT the same; totals can't be compared fairly"
    return [f"{head}: {kind}", *(f"  {text}" for text in match.differences())]


def _option_lines(found: TraceDiff) -> list[str]:
    if not found.options:
        return ["options: the same"]
    return ["options that differ:", *(f"  {item.name}: {item.a} in A, {item.b} in B" for item in found.options)]


def _parting_lines(found: TraceDiff) -> list[str]:
    if found.notes:
        return list(found.notes)
    parting = found.parting
    if parting is None:
        return ["no step differs: every decision is the same"]
    lines = [
        f"they part at step {parting.step}, in {parting.aspect.label}:",
        f"  in A {_line(parting.a)}",
        f"  in B {_line(parting.b)}",
    ]
    lines += [f"  because {_line(reason)}" for reason in parting.reasons]
    if parting.others:
        lines.append(f"  in the same step differ, too: {'; '.join(other.label for other in parting.others)}")
    if parting.is_timing:
        lines.append(
            "  So requests came at other moments, and from here on steps can't be compared one by one; what the "
            "options changed shows in the decisions below."
        )
    return lines


def _line(sentence: Sentence) -> str:
    return f"{sentence.text}{events(sentence)}"


# ---------------------------------------------------------------- totals


def _total_rows(a: Totals, b: Totals) -> Iterator[Row]:
    yield _row("requests", a.num_requests, b.num_requests, digits=0)
    for name in dict.fromkeys((*a.endings, *b.endings)):
        yield _row(f"  ended by {name}", a.endings.get(name, 0), b.endings.get(name, 0), digits=0)
    yield _row("duration, s", a.duration_s, b.duration_s)
    for name, mine, other in (("time to first token", a.ttft, b.ttft), ("time per later token", a.tpot, b.tpot)):
        for place, share in enumerate(("median", "p90", "p99")):
            values = (None if times is None else times[place] * 1e3 for times in (mine, other))
            yield _row(f"{name}, {share}, ms", *values)
    yield _row("output tokens", a.output_tokens, b.output_tokens, digits=0)
    yield _row("output tokens a second", a.output_tokens_per_s, b.output_tokens_per_s)
    yield _row("requests a second", a.requests_per_s, b.requests_per_s)
    yield _row("steps", a.num_steps, b.num_steps, digits=0)
    yield _row("tokens a step", a.tokens_per_step, b.tokens_per_step)
    yield _row("cache hit rate, %", _percent(a.cache_hit_rate), _percent(b.cache_hit_rate))
    for name in dict.fromkeys((*a.waits_s, *b.waits_s)):
        yield _row(f"{name}, s in all", a.waits_s.get(name, 0.0), b.waits_s.get(name, 0.0))
    yield _row("device idle, %", _percent(a.device_idle_share), _percent(b.device_idle_share))
    yield _row("pages in use, peak", a.pages_peak, b.pages_peak, digits=0)


def _row(name: str, a: float | None, b: float | None, *, digits: int = 2) -> Row:
    cells = ("-" if value is None else f"{value:,.{digits}f}" for value in (a, b))
    ratio = f"{b / a:.2f}" if a and b is not None else "-"
    return (name, *cells, ratio)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


# ---------------------------------------------------------------- JSON


def to_json(found: TraceDiff) -> dict[str, Any]:
    """The comparison as JSON-ready values."""
    return {
        "is_same": found.is_same,
        "workload": {
            "is_same": found.match.is_same_workload,
            "num_matched": len(found.match.pairs),
            "differences": found.match.differences(),
        },
        "options": [item._asdict() for item in found.options],
        "notes": list(found.notes),
        "parting": None if found.parting is None else _parting_json(found.parting),
        "requests": [
            {"what": item.what, "num_requests": item.num_requests, "example": _sentence_json(item.example)}
            for item in found.requests
        ],
        "totals": {name: _totals_json(side) for name, side in (("a", found.a), ("b", found.b))},
    }


def _parting_json(parting: Parting) -> dict[str, Any]:
    return {
        "step": parting.step,
        "aspect": parting.aspect.name.lower(),
        "others": [other.name.lower() for other in parting.others],
        "is_timing": parting.is_timing,
        "a": _sentence_json(parting.a),
        "b": _sentence_json(parting.b),
        "reasons": [_sentence_json(reason) for reason in parting.reasons],
    }


def _sentence_json(sentence: Sentence) -> dict[str, Any]:
    return {"text": sentence.text, "events": [f"{place.process}:{place.number}" for place in sentence.places]}


def _totals_json(side: Totals) -> dict[str, Any]:
    values = {field.name: getattr(side, field.name) for field in dataclasses.fields(side)}
    for name in ("ttft", "tpot"):
        values[f"{name}_s"] = values[name]._asdict() if values[name] is not None else None
        del values[name]
    return values

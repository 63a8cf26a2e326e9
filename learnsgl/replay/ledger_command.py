"""`learnsgl trace ledger PATH [UID]`: where the time of one request went, or the medians over all of them.

`trace/commands.py` opens the trace and calls `print_ledger`. Bars are text, so that they can be pasted anywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from learnsgl.replay.ledger import Cause, Ledger, Ledgers, Measure, Part, totals_of
from learnsgl.terminal import utf8_output
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import table

BAR_WIDTH = 16
_EIGHTHS = " ▏▎▍▌▋▊▉"

Amounts = Mapping[Cause, float]


def print_ledger(trace: Trace, uid: int | None, *, as_json: bool = False) -> int:
    """Print one request's ledger, or the medians over all requests.

    Args:
        trace: the recording.
        uid: the request; `None` for all.
        as_json: print JSON, a list of requests with all their parts, in place of tables.

    Returns:
        The exit code.

    Raises:
        OptionError: the recording has no such request.
    """
    ledgers = Ledgers(trace)
    chosen = [key for key in ledgers.keys if uid is None or key[0] == uid]
    if uid is not None and not chosen:
        ledgers.find(uid)  # raises, and lists those that there are
    found = [ledgers.of(*key) for key in chosen]
    out = utf8_output()
    if as_json:
        out.write(json.dumps([to_json(item) for item in found], indent=2) + "\n")
    elif uid is None:
        out.write(summary(found) + "\n")
    else:
        out.write("\n\n".join(described(item) for item in found) + "\n")
    return 0


def described(item: Ledger) -> str:
    """One request's ledger as a table with bars."""
    gaps_ns = [_sum(gap) for gap in item.gaps]
    name = f"request {item.uid}" + (f", choice {item.choice}" if item.choice else "")
    lines = [
        f"{name}: {_count(item.num_tokens, 'token')}, {_ending(item.ending)}, {_ms(item.total_ns)} ms in all, "
        f"{item.unexplained_share:.1%} unexplained",
        f"a token counts {item.measured.value}",
    ]
    if item.ttft_ns is None:
        lines.append("time to first token: " + ("not recorded" if item.num_tokens else "it never got one"))
    else:
        lines.append(f"time to first token: {_ms(item.ttft_ns)} ms")
    if gaps_ns:
        lines.append(
            f"{_count(len(gaps_ns), 'later gap')}: median {_ms(median(gaps_ns))} ms, longest {_ms(max(gaps_ns))} ms"
        )
    columns: dict[str, Amounts] = {
        "first token": totals_of(item.ttft), "mean gap": _means(item.gaps), "to its end": totals_of(item.end),
    }  # fmt: skip
    return "\n".join([*lines, "", _table(columns)])


def summary(found: Sequence[Ledger]) -> str:
    """The medians over requests, cause by cause."""
    if not found:
        return "no request is in this recording"
    first = [totals_of(item.ttft) for item in found if item.ttft]
    gaps = [_means(item.gaps) for item in found if item.gaps]
    endings = Counter(item.ending or "no ending in the recording" for item in found)
    ttfts = [item.ttft_ns for item in found if item.ttft_ns is not None]
    lines = [
        f"{_count(len(found), 'request')}: " + ", ".join(f"{count} {name}" for name, count in sorted(endings.items()))
    ]
    if ttfts:
        lines.append(f"time to first token: median {_ms(median(ttfts))} ms over {_count(len(ttfts), 'request')}")
    if gaps:
        means = [sum(amounts.values()) for amounts in gaps]
        lines.append(
            f"gaps: median {_ms(median(means))} ms (of each request's mean) over {_count(len(gaps), 'request')}"
        )
    at_commits = sum(item.measured is Measure.COMMITS for item in found)
    if at_commits:
        lines.append(
            f"{at_commits} of them without chunks in the recording: their tokens count {Measure.COMMITS.value}"
        )
    shares = [item.unexplained_share for item in found]
    lines.append(f"unexplained: median {median(shares):.2%} of a request's time, at most {max(shares):.2%}")
    columns = {"first token": _medians(first), "mean gap": _medians(gaps)}
    return "\n".join(
        [*lines, "", "medians of each cause by itself, so they don't sum to the medians above:", _table(columns)]
    )


def to_json(item: Ledger) -> dict[str, Any]:
    """A ledger as JSON-ready values; every part is `[cause, start_ns, end_ns]`."""
    return {
        "uid": item.uid, "choice": item.choice, "ending": item.ending, "num_tokens": item.num_tokens,
        "measured": item.measured.name.lower(), "ttft_ns": item.ttft_ns, "total_ns": item.total_ns,
        "unexplained_share": round(item.unexplained_share, 6),
        "totals_ns": {cause.name.lower(): ns for cause, ns in item.totals.items()},
        "ttft": _parts_json(item.ttft), "gaps": [_parts_json(gap) for gap in item.gaps], "end": _parts_json(item.end),
    }  # fmt: skip


def _parts_json(parts: Iterable[Part]) -> list[list[str | int]]:
    return [[part.cause.name.lower(), part.start_ns, part.end_ns] for part in parts]


def _table(columns: Mapping[str, Amounts]) -> str:
    """Causes as rows; for each column its milliseconds, its share and a bar."""
    filled = {head: amounts for head, amounts in columns.items() if any(amounts.values())}
    causes = [cause for cause in Cause if any(amounts.get(cause) for amounts in filled.values())]
    heads = ["cause"]
    for head in filled:
        heads += [f"{head}, ms", "%", ""]
    rows = [tuple(heads)]
    for cause in causes:
        cells = [cause.label]
        for amounts in filled.values():
            amount, total = amounts.get(cause, 0.0), sum(amounts.values())
            cells += [_ms(amount), f"{100 * amount / total:.1f}", bar(amount / total)] if amount else ["-", "-", ""]
        rows.append(tuple(cells))
    sums = ["sum"]
    for amounts in filled.values():
        sums += [_ms(sum(amounts.values())), "100.0", ""]
    return table([*rows, tuple(sums)])


def bar(share: float) -> str:
    """A bar for a share from 0 to 1, `BAR_WIDTH` characters long for all of it."""
    whole, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


def _means(gaps: Sequence[Sequence[Part]]) -> Amounts:
    return {cause: ns / len(gaps) for cause, ns in totals_of([part for gap in gaps for part in gap]).items()}


def _medians(each: Sequence[Mapping[Cause, Any]]) -> Amounts:
    causes = [cause for cause in Cause if any(cause in amounts for amounts in each)]
    return {cause: float(median(amounts.get(cause, 0) for amounts in each)) for cause in causes}


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.duration_ns for part in parts)


def _ms(ns: float) -> str:
    return f"{ns / 1e6:,.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _ending(reason: str | None) -> str:
    return f"ended by {reason}" if reason else "no ending in the recording"

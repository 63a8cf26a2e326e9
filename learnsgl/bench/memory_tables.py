"""The tables of `learnsgl bench memory`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.memory import Start
from learnsgl.bench.stats import spread
from learnsgl.bench.tables import Table, verdict

AIM_BYTES = 150_000_000
TORCH_FREE_ROLES = ("api", "tokenizer", "detokenizer")


def memory_tables(starts: list[Start]) -> list[Table]:
    """Memory by process, and the start-up by phase."""
    note = f"The command took {spread([one.ready_s for one in starts]).text(2)} s from its first moment to `ready`. "
    note += "Processes start beside each other, so the parts overlap and don't add up."
    return [
        Table("memory", ("process", "RSS, MB", "PSS, MB", "USS, MB", "RSS after a request, MB", "threads", "torch",
              "aim, MB", ""), _memory_rows(starts),
              "Idle. Medians of the starts. RSS counts shared pages in full, PSS by its share, USS not at all."),
        Table("start-up", ("process", "part", "begins at, s", "takes, s"), _phase_rows(starts), note),
    ]  # fmt: skip


def _memory_rows(starts: list[Start]) -> list[list[str]]:
    rows = []
    for place, process in enumerate(starts[0].idle):
        idle = [start.idle[place] for start in starts]
        after = [start.after_request[place] for start in starts]
        rss = spread([one.rss_bytes for one in idle]).median
        is_aimed = process.role in TORCH_FREE_ROLES
        aim = [f"{AIM_BYTES / 1e6:.0f}", verdict(rss, at_most=AIM_BYTES)] if is_aimed else ["", ""]
        rows.append([
            process.name, _mb(rss), _mb_or_dash([one.pss_bytes for one in idle]),
            _mb_or_dash([one.uss_bytes for one in idle]), _mb(spread([one.rss_bytes for one in after]).median),
            str(process.num_threads), "loaded" if process.has_torch else "no", *aim,
        ])  # fmt: skip
    return rows


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f}"


def _mb_or_dash(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return _mb(spread(known).median) if known else "-"


def _phase_rows(starts: list[Start]) -> list[list[str]]:
    rows = []
    for phase in starts[0].phases:
        same = [
            one for start in starts for one in start.phases if (one.process, one.phase) == (phase.process, phase.phase)
        ]
        begins, takes = spread([one.start_s for one in same]).median, spread([one.duration_s for one in same])
        rows.append([phase.process, phase.phase.replace("_", " "), f"{begins:.2f}", takes.text(2)])
    return rows

"""The tables of `learnsgl bench scheduler`, made from its raw results alone."""

from __future__ import annotations

from learnsgl.bench.scheduler import CaseTimes
from learnsgl.bench.stats import spread
from learnsgl.bench.tables import Table, verdict

AIM_US = 100.0
AIM_RUNNING = 256


def scheduler_tables(found: list[CaseTimes]) -> list[Table]:
    """A table for each kind of case."""
    note = "All requests decode. Median step, and the least and greatest median of the repeats."
    tree_note = f"{_num_running(found, 'tree')} requests decode beside a tree of so many nodes."
    churn_note = (
        f"{_num_running(found, 'churn')} requests run; in nearly every step one ends, and one arrives, finds its "
        "prefix in the tree and takes its pages from the least recently used leaf."
    )
    heads = ("nodes of the tree", *_HEADS)
    return [
        Table(
            "scheduler-batch",
            ("running requests", *_HEADS, "aim", ""),
            [_batch_row(one) for one in _of(found, "batch")],
            note,
        ),
        Table("scheduler-tree", heads, [_tree_row(one) for one in _of(found, "tree")], tree_note),
        Table("scheduler-churn", heads, [_tree_row(one) for one in _of(found, "churn")], churn_note),
    ]


_HEADS = ("page size", "step, µs", "p99, µs")


def _of(found: list[CaseTimes], kind: str) -> list[CaseTimes]:
    return [one for one in found if one.case.kind == kind]


def _num_running(found: list[CaseTimes], kind: str) -> int:
    return next(one.case.num_running for one in _of(found, kind))


def _times(one: CaseTimes) -> list[str]:
    return [str(one.case.page_size), spread(one.median_us).text(), f"{spread(one.p99_us).median:,.1f}"]


def _batch_row(one: CaseTimes) -> list[str]:
    median_us = spread(one.median_us).median
    is_aim = one.case.num_running == AIM_RUNNING
    aim = [f"{AIM_US:.0f}", verdict(median_us, at_most=AIM_US)] if is_aim else ["", ""]
    return [str(one.case.num_running), *_times(one), *aim]


def _tree_row(one: CaseTimes) -> list[str]:
    nodes = f"{one.num_nodes_before:,}"
    if one.num_nodes_after != one.num_nodes_before:
        nodes += f" (then {one.num_nodes_after:,})"
    return [nodes, *_times(one)]

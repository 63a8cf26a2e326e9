"""Figures of pages and of the tree show the state of the scheduler: compared with a fold of the same events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learnsgl.errors import TraceError
from learnsgl.trace import events as ev
from learnsgl.trace.fold import Fold
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from learnsgl.trace.state import SchedulerState
from learnsgl.viz.owners import Owner, colours_of, key_of, num_held, owners_of
from learnsgl.viz.page_map import MAX_COLUMNS, Axis, page_map, read_page_map
from learnsgl.viz.radix_growth import radix_growth
from learnsgl.viz.radix_tree import MAX_NODES, radix_tree
from learnsgl.viz.theme import LIGHT
from learnsgl.viz.tree_data import nodes_in_order
from tests.viz.runs import scheduled, story_of, trace_of, words_of


def states(trace: Trace) -> dict[int, SchedulerState]:
    """The state at each step, by another way than the figures take."""
    fold, found = Fold(), {}
    for entry in trace.events("scheduler-0"):
        fold.apply(entry.event)
        if isinstance(entry.event, ev.SchedStep):
            found[entry.event.step] = fold.state.copy()
    return found


def test_each_page_has_the_holder_that_tables_and_tree_say(shared_prefix: Trace) -> None:
    data = read_page_map(shared_prefix)
    for step, state in list(states(shared_prefix).items())[::20]:
        holders: dict[int, set[int]] = {}
        for row in state.used_rows():
            for page in state.pages_of(row).tolist():
                holders.setdefault(page, set()).add(int(state.rows[1, row]))
        in_tree = {page for node in state.nodes.values() for page in node.pages.tolist()}
        column = data.steps.tolist().index(step)
        for line, page in enumerate(data.pages.tolist()):
            uids = holders.get(page, set())
            kind = Owner.SHARED if len(uids) > 1 else Owner.REQUEST if uids else Owner.CACHED if page in in_tree else 0
            assert data.kinds[line, column] == kind
            assert data.uids[line, column] == (next(iter(uids)) if len(uids) == 1 else 0)


def test_the_fullest_step_is_of_all_steps(shared_prefix: Trace) -> None:
    held = {step: int(np.count_nonzero(state.refs)) for step, state in states(shared_prefix).items()}
    step, most = read_page_map(shared_prefix).fullest
    assert most == max(held.values()) == held[step]


def test_pages_that_were_never_used_are_left_out_with_a_note(first_request: Trace) -> None:
    figure, data = page_map(first_request)
    (life,) = requests(first_request)
    assert life.prompt_tokens is not None
    assert life.generated_tokens is not None
    most = life.prompt_tokens + life.generated_tokens
    assert data.num_pages == first_request.manifest["engine"]["num_pages"] > most
    assert most - 1 <= data.num_used == len(data.pages) <= most
    assert f"Pages from number {data.num_used} on were never used" in words_of(figure)
    assert data.requests == (1,)


def test_a_map_in_time_ends_with_the_recording(first_request: Trace) -> None:
    figure, data = page_map(first_request, axis=Axis.TIME)
    last = list(first_request.events("scheduler-0"))[-1].event.ns
    assert figure.axes[0].get_xlim() == pytest.approx((0, (last - data.times_ns[0]) / 1e9))


def test_more_steps_than_columns_are_thinned_evenly(long: Trace) -> None:
    data = read_page_map(long)
    strides = set(np.diff(data.steps).tolist())
    assert len(data.steps) <= MAX_COLUMNS
    assert len(strides) == 1
    assert f"One step in {strides.pop()} is shown." in data.notes


def test_free_cached_and_shared_pages_have_colours_of_their_own(shared_prefix: Trace) -> None:
    state = list(states(shared_prefix).values())[-1]
    owners = owners_of(state)
    colours = colours_of(owners.kinds, owners.uids, LIGHT)
    assert colours.shape == (state.num_pages, 3)
    by_kind = {kind: {tuple(colour) for colour in colours[owners.kinds == kind].tolist()} for kind in Owner}
    for one in (Owner.FREE, Owner.CACHED, Owner.SHARED):
        assert len(by_kind[one]) <= 1
    assert not by_kind[Owner.REQUEST] & (by_kind[Owner.FREE] | by_kind[Owner.CACHED] | by_kind[Owner.SHARED])
    assert num_held(owners) == int(np.count_nonzero(state.refs))


def test_few_requests_are_named_in_the_key_and_many_are_not() -> None:
    assert [name for _, name in key_of([3, 5], LIGHT)][:2] == ["request 3", "5"]
    assert [name for _, name in key_of(list(range(1, 9)), LIGHT)][:3] == ["", "", "a request"]


def test_growth_adds_up_to_all_pages(shared_prefix: Trace) -> None:
    _, data = radix_growth(shared_prefix)
    assert (data.locked + data.evictable + data.private + data.free == data.num_pages).all()
    told = [entry.event for entry in shared_prefix.events("scheduler-0")]
    last_step = max(place for place, event in enumerate(told) if isinstance(event, ev.SchedStep))
    before = told[: last_step + 1]
    assert data.inserted.sum() == sum(isinstance(event, ev.CacheInserted) for event in before)
    assert data.split.sum() == sum(isinstance(event, ev.CacheSplit) for event in before)
    assert data.evicted.sum() == sum(len(event.nodes) // 8 for event in before if isinstance(event, ev.CacheEvicted))
    assert data.evicted.sum() > 0
    assert (data.inserted + data.split - data.evicted).cumsum().tolist() == data.nodes.tolist()


def test_the_tree_is_that_of_its_step(shared_prefix: Trace) -> None:
    for step, state in list(states(shared_prefix).items())[5::30]:
        _, data = radix_tree(shared_prefix, step=step)
        assert {one.node for one in data.nodes} == set(state.nodes)
        assert data.clock == state.clock
        for one in data.nodes:
            path = state.path(one.node)
            assert one.start == sum(len(node.pages) for node in path[:-1])
            assert one.depth == len(path) - 1
            assert len(one.uids) == one.lock


def test_by_default_the_tree_is_shown_where_most_is_shared(shared_prefix: Trace) -> None:
    _, data = radix_tree(shared_prefix)
    shared = {
        step: sum(max(node.lock - 1, 0) for node in state.nodes.values())
        for step, state in states(shared_prefix).items()
    }
    assert shared[data.step] == max(shared.values()) > 0


def test_each_node_is_followed_by_what_hangs_below_it(many: Trace) -> None:
    state = max(states(many).values(), key=lambda state: len(state.nodes))
    path: list[int] = []
    for one in nodes_in_order(state):
        del path[one.depth :]
        assert (path[-1] if path else 0) == one.parent
        path.append(one.node)


def test_a_large_tree_is_cut_but_never_between_a_node_and_the_root(many: Trace) -> None:
    figure, data = radix_tree(many)
    shown = data.shown
    there = {0, *(one.node for one in shown)}
    assert len(data.nodes) > MAX_NODES >= len(shown) > MAX_NODES - 5
    assert all(one.parent in there for one in shown)
    assert f"{len(data.nodes) - len(shown):,} of {len(data.nodes):,} nodes have no line" in words_of(figure)


def test_a_step_that_is_not_there_is_said_with_those_that_are(shared_prefix: Trace) -> None:
    last = max(states(shared_prefix))
    with pytest.raises(TraceError, match=rf"the tree after step 9999 is not known; give a step from 1 to {last}"):
        radix_tree(shared_prefix, step=9999)


def test_without_a_prefix_cache_there_is_no_tree(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, story_of(scheduled(3, cache_type="naive")))
    with pytest.raises(TraceError, match="the prefix cache is empty"):
        radix_tree(trace)
    _, data = radix_growth(trace)
    assert data.nodes.max() == 0
    assert data.private.max() > 0

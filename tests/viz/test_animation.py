"""The animation: its frames rebuild the state, and its page is small, complete and safe."""

from __future__ import annotations

import html
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from learnsgl.errors import FolderError, TraceError
from learnsgl.trace import events as ev
from learnsgl.trace.manifest import update_manifest
from learnsgl.trace.reader import Trace
from learnsgl.viz.animation import animation
from learnsgl.viz.animation_data import FIRST_UID, MAX_CELLS, MAX_FRAMES, NodeChange, read_animation
from learnsgl.viz.owners import Owner
from learnsgl.viz.page_map import read_page_map
from learnsgl.viz.radix_tree import read_radix_tree
from learnsgl.viz.theme import DARK, LIGHT
from tests.viz.runs import scheduled, story_of, trace_of


def test_differences_add_up_to_the_map_of_pages(shared_prefix: Trace) -> None:
    data, expected = read_animation(shared_prefix), read_page_map(shared_prefix)
    assert data.pages_per_cell == 1
    codes = np.zeros(data.num_cells, dtype=np.int64)
    for place, frame in enumerate(data.frames):
        for start, length, code in frame.cells:
            codes[start : start + length] = code
        kinds, uids = expected.kinds[:, place], expected.uids[:, place]
        wanted = np.where(kinds == Owner.REQUEST, uids + FIRST_UID, kinds)
        assert codes[expected.pages].tolist() == wanted.tolist()


def test_differences_add_up_to_the_tree(shared_prefix: Trace) -> None:
    data = read_animation(shared_prefix)
    nodes: dict[int, NodeChange] = {}
    for frame in data.frames:
        for node in frame.removed:
            del nodes[node]
        nodes |= {node.node: node for node in frame.nodes}
        if frame.step % 30 == 10:
            tree = read_radix_tree(shared_prefix, step=frame.step).nodes
            assert {one.node: (one.parent, one.num_pages, one.lock, one.last_use, one.uids) for one in tree} == {
                key: node[1:] for key, node in nodes.items()
            }


def test_a_page_of_a_hundred_steps_is_small_and_needs_nothing_else(shared_prefix: Trace) -> None:
    shown, data = animation(shared_prefix)
    assert len(data.frames) >= 100
    assert len(shown.html) < 100_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<link|@import|url\(|import\s*\(|fetch\(|src=", shown.html)


def test_long_recordings_and_many_pages_are_thinned(long: Trace, many: Trace, tmp_path: Path) -> None:
    data = read_animation(long)
    assert MAX_FRAMES // 2 < len(data.frames) <= MAX_FRAMES
    assert any(note.startswith("One step in") for note in data.notes)
    assert max(len(animation(trace)[0].html) for trace in (long, many)) < 300_000
    pages = scheduled(60, num_pages=4000, num_rows=60, max_tokens=40, max_prefill_length=4096)
    data = read_animation(trace_of(tmp_path, story_of(pages)))
    assert data.num_cells <= MAX_CELLS
    assert any(note.startswith("One page in") for note in data.notes)


def test_evictions_of_steps_without_a_frame_are_not_forgotten(long: Trace) -> None:
    data = read_animation(long)
    last = data.frames[-1].step
    told = itertools.takewhile(
        lambda event: not (isinstance(event, ev.SchedStep) and event.step > last),
        (entry.event for entry in long.events("scheduler-0")),
    )
    evicted = [event for event in told if isinstance(event, (ev.CacheEvicted, ev.SchedStep))]
    while isinstance(evicted[-1], ev.CacheEvicted):  # after the last frame's step
        evicted.pop()
    num_evicted = sum(len(event.nodes) // 8 for event in evicted if isinstance(event, ev.CacheEvicted))
    assert sum(frame.num_evicted for frame in data.frames) == num_evicted > 0


def test_every_control_has_a_name_and_changes_are_announced(first_request: Trace) -> None:
    page = animation(first_request)[0].html
    for button in re.findall(r"<button.*?</button>", page):
        assert re.search(r"[A-Za-z]", re.sub(r"<[^>]*>", "", button)), "more than a symbol"
    assert re.search(r"<label[^>]*>Step <input type=\"range\"", page)
    assert 'id="caption" aria-live="polite"' in page
    assert page.count('role="img" aria-label=') == 2
    assert '<html lang="en">' in page


def test_what_a_manifest_says_cannot_break_out(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, story_of(scheduled(2)))
    evil = "</script><script>alert(1)</script>"
    update_manifest(trace.path, engine={"model": evil, "device": "<b>", "dtype": "&"})
    page = animation(Trace.open(trace.path))[0].html
    assert evil not in page
    assert html.escape(evil) in page
    assert page.count("</script>") == 2


def test_the_data_in_the_page_are_the_frames(first_request: Trace) -> None:
    shown, data = animation(first_request)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown.html, re.DOTALL)
    assert found is not None
    content = json.loads(found[1])
    assert [frame["step"] for frame in content["frames"]] == [frame.step for frame in data.frames]
    assert [frame.get("prefill", []) for frame in content["frames"]] == [
        [list(chunk) for chunk in frame.prefill] for frame in data.frames
    ]
    assert content["frames"][-1]["decode"] == [1]


def test_a_theme_can_be_chosen_or_left_to_the_reader(first_request: Trace) -> None:
    light, dark, both = (animation(first_request, theme=theme)[0].html for theme in (LIGHT, DARK, None))
    assert LIGHT.background in light
    assert DARK.background not in light
    assert DARK.background in dark
    assert "prefers-color-scheme: dark) { :root" in both
    assert "prefers-color-scheme: dark) { :root" not in dark


def test_notebooks_show_it_in_a_frame_of_its_own(first_request: Trace) -> None:
    shown, _ = animation(first_request)
    frame = shown._repr_html_()
    assert frame.startswith("<iframe title=")
    assert 'sandbox="allow-scripts"' in frame
    found = re.search(r'srcdoc="([^"]*)"', frame)
    assert found is not None
    assert html.unescape(found[1]) == shown.html


def test_it_can_be_saved(first_request: Trace, tmp_path: Path) -> None:
    shown, _ = animation(first_request)
    file = shown.save(tmp_path / "pages.html")
    assert file.read_text(encoding="utf-8") == shown.html
    with pytest.raises(FolderError, match="the animation can't be written there"):
        shown.save(tmp_path / "missing" / "pages.html")


def test_steps_can_be_chosen(shared_prefix: Trace) -> None:
    _, data = animation(shared_prefix, steps=(40, 50))
    assert [frame.step for frame in data.frames] == list(range(40, 51))
    assert data.frames[0].nodes, "the first frame holds the whole tree"
    with pytest.raises(TraceError, match=r"none of the steps \(9000, 9001\)"):
        animation(shared_prefix, steps=(9000, 9001))

"""What holds for every figure: both themes, titles, nothing cut off at the edge, and traces with little in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from learnsgl.config import TraceLevel
from learnsgl.errors import TraceError, TraceFormatError
from learnsgl.trace import events as ev
from learnsgl.trace.reader import Trace
from learnsgl.viz.animation import animation
from learnsgl.viz.batch_composition import batch_composition
from learnsgl.viz.latency import latency_distributions
from learnsgl.viz.ledger_bars import ledger_bars
from learnsgl.viz.life import life
from learnsgl.viz.memory_budget import memory_budget
from learnsgl.viz.message_sequence import message_sequence
from learnsgl.viz.overlap_lanes import overlap_lanes
from learnsgl.viz.page_map import page_map
from learnsgl.viz.radix_growth import radix_growth
from learnsgl.viz.radix_tree import radix_tree
from learnsgl.viz.startup import startup_gantt
from learnsgl.viz.theme import DARK, LIGHT
from learnsgl.viz.timeline import timeline
from tests.trace.story import tell, write
from tests.viz.runs import scheduled, story_of, texts_outside, told, trace_of, words_of

Draw = Callable[..., tuple[Any, Any]]
FIGURES: list[Draw] = [
    batch_composition, latency_distributions, ledger_bars, life, memory_budget, message_sequence, overlap_lanes,
    page_map, radix_growth, radix_tree, startup_gantt, timeline,
]  # fmt: skip
NEEDS_STATE: list[Draw] = [page_map, radix_growth, radix_tree, animation]
every_figure = pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
every_view = pytest.mark.parametrize("draw", [*FIGURES, animation], ids=lambda draw: draw.__name__)


class Holder:
    """Something that holds a trace, as a replay does."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace


def title_of(figure: Figure) -> str:
    return figure.texts[0].get_text()


@every_figure
def test_a_real_recording_is_drawn_whole_in_both_themes(draw: Draw, shared_prefix: Trace) -> None:
    backgrounds = set()
    for theme in (LIGHT, DARK):
        figure, _ = draw(shared_prefix, theme=theme)
        backgrounds.add(figure.get_facecolor())
        assert len(title_of(figure)) > 20
        assert any(text.get_text().startswith("smollm2-135m · ") for text in figure.texts[1:3])
        assert not texts_outside(figure)
    assert len(backgrounds) == 2


@pytest.mark.parametrize(
    "draw", [draw for draw in FIGURES if draw is not startup_gantt], ids=lambda draw: draw.__name__
)  # a made-up run has no start-up
def test_many_requests_are_drawn_within_the_sheet(draw: Draw, many: Trace) -> None:
    figure, _ = draw(many)
    assert figure.get_figheight() <= 12
    assert not texts_outside(figure)


@pytest.mark.parametrize(
    "draw",
    [draw for draw in [*FIGURES, animation] if draw not in (startup_gantt, memory_budget)],
    ids=lambda draw: draw.__name__,
)  # what these two show lies at the beginning
def test_a_cut_off_recording_is_drawn_and_says_so(draw: Draw, cut: Trace) -> None:
    figure, _ = draw(cut)
    words = figure.html if draw is animation else words_of(figure)
    assert "The recording of scheduler-0 has no end" in words


@every_view
def test_an_empty_recording_is_an_error_that_says_what_is_missing(draw: Draw, tmp_path: Path) -> None:
    trace = trace_of(tmp_path, {"scheduler-0": [ev.ProcessStarted(5, "scheduler-0", "scheduler", 102, 1)]})
    with pytest.raises(TraceError, match=r"no |not "):
        draw(trace)


@every_view
def test_a_folder_without_a_single_process_is_an_error(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        draw(Trace.open(write(tmp_path, {})))


@every_view
def test_level_steps_is_drawn_or_refused_with_the_reason(draw: Draw, tmp_path: Path) -> None:
    trace = told(tmp_path, TraceLevel.STEPS)
    if draw in NEEDS_STATE:
        with pytest.raises(TraceError, match=r"recorded at level full, and this recording has level steps"):
            draw(trace)
    else:
        figure, _ = draw(trace)
        assert title_of(figure)


@every_view
def test_what_holds_a_trace_is_drawn_like_the_trace(draw: Draw, first_request: Trace) -> None:
    _, data = draw(first_request)
    _, same = draw(Holder(first_request))
    assert repr(data) == repr(same)


@pytest.mark.parametrize("draw", [page_map, radix_growth, animation], ids=lambda draw: draw.__name__)
def test_without_a_known_state_nothing_is_guessed(draw: Draw, tmp_path: Path) -> None:
    recorded = scheduled(3)
    late = [recorded[0], ev.TraceBegin(0, "full", True), *recorded[2:]]
    late = [event for event in late if not isinstance(event, ev.TraceKeyframe)]
    with pytest.raises(TraceError, match="no keyframe says what the state was"):
        draw(trace_of(tmp_path, story_of(late)))


def test_a_recording_that_begins_late_is_drawn_from_its_first_keyframe(tmp_path: Path) -> None:
    recorded = scheduled(20, num_pages=200, max_tokens=40)
    keyframe = next(place for place, event in enumerate(recorded) if isinstance(event, ev.TraceKeyframe))
    before = list(itertools.takewhile(lambda event: not isinstance(event, ev.TraceKeyframe), recorded))
    late = [recorded[0], ev.TraceBegin(0, "full", True), *before[-20:], *recorded[keyframe:]]
    _, data = page_map(trace_of(tmp_path, story_of(late)))
    numbers = [event.step for event in recorded[keyframe:] if isinstance(event, ev.SchedStep)]
    assert data.steps.tolist() == numbers
    assert any("since earlier events are missing; they are not shown." in note for note in data.notes)


def test_after_a_hole_the_state_is_known_again_from_the_next_keyframe(tmp_path: Path) -> None:
    recorded = scheduled(20, num_pages=200, max_tokens=40)
    keyframes = [place for place, event in enumerate(recorded) if isinstance(event, ev.TraceKeyframe) and event.last]
    hole = keyframes[0] + 60
    dropped = ev.TraceDropped(recorded[hole].ns, "the disk is full", hole, hole + 9)
    _, data = page_map(trace_of(tmp_path, story_of([*recorded[:hole], dropped, *recorded[hole + 10 :]])))
    shown = set(data.steps.tolist())
    steps = [(place, event.step) for place, event in enumerate(recorded) if isinstance(event, ev.SchedStep)]
    assert {step for place, step in steps if place < hole or place > keyframes[1]} <= shown
    assert not {step for place, step in steps if hole + 10 <= place < keyframes[1] - 6} & shown
    assert any("Events are missing after step" in note and "the disk is full" in note for note in data.notes)


def test_a_broken_frame_is_an_error_with_its_place(tmp_path: Path) -> None:
    folder = write(tmp_path, tell())
    file = next(folder.glob("scheduler-0*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises((TraceFormatError, TraceError), match="scheduler-0"):
        batch_composition(Trace.open(folder))


def test_of_two_ranks_the_first_one_speaks(tmp_path: Path) -> None:
    story = story_of(scheduled(6))
    story["scheduler-1"] = [
        ev.ProcessStarted(0, "scheduler-1", "scheduler", 104, 1) if isinstance(event, ev.ProcessStarted) else event
        for event in story["scheduler-0"]
    ]
    trace, alone = trace_of(tmp_path / "two", story), trace_of(tmp_path / "one", story_of(scheduled(6)))
    for draw in (page_map, radix_growth, batch_composition):
        assert repr(draw(trace)[1]) == repr(draw(alone)[1])

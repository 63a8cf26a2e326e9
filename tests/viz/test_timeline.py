"""The timeline shows what the trace holds: numbers behind the figure, its panels, and traces with less in them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from learnsgl.config import TraceLevel
from learnsgl.errors import TraceError
from learnsgl.replay.history import Message, Run, Work, read_history
from learnsgl.trace import events as ev
from learnsgl.trace.reader import Trace
from learnsgl.viz.lanes import DECODE_LANE, PREFILL_LANE, Lanes
from learnsgl.viz.theme import DARK, LIGHT
from learnsgl.viz.timeline import arrivals_window, handover_window, timeline
from tests.trace.story import UID, Story, at_level, i4, i8, tell, write

RECORDING = Path(__file__).parents[2] / "traces" / "first_request.trace.zip"


def trace_of(tmp_path: Path, story: Story, level: TraceLevel = TraceLevel.FULL) -> Trace:
    return Trace.open(write(tmp_path, story, level))


def draw(trace: Trace, **options: object) -> Figure:
    """Draw it to the end, small, and give the figure."""
    figure, _ = timeline(trace, **options)  # type: ignore[arg-type]
    figure.savefig(io.BytesIO(), dpi=40)
    return figure


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_data_are_the_moments_of_the_trace(tmp_path: Path) -> None:
    data = read_history(trace_of(tmp_path, tell()))
    assert data.processes == ("api", "tokenizer-0", "scheduler-0", "detokenizer")
    assert (data.origin_ns, data.end_ns) == (100, 401)
    prompt, decode = data.steps
    assert (prompt.chunks, prompt.decodes) == ((Run(UID, 3, True),), ())
    assert (decode.chunks, decode.decodes) == ((), (Run(UID, 1, False),))
    assert (prompt.forward_ns, prompt.sample_ns) == ((195, 220), (221, 235))
    (visit,) = data.visits
    assert (visit.uid, visit.received_ns, visit.answered_ns, visit.chunks_ns) == (UID, 100, 401, [275, 375])
    assert data.uids == (UID,)


def test_work_is_told_by_kind_and_process(tmp_path: Path) -> None:
    work = read_history(trace_of(tmp_path, tell())).work
    assert Work("tokenizer-0", "tokenize", 121, 130, (UID,)) in work
    assert Work("detokenizer", "detokenize", 356, 360, (UID,)) in work
    scheduler = [(item.kind, item.start_ns, item.end_ns) for item in work if item.process == "scheduler-0"]
    assert scheduler[:4] == [("schedule", 165, 180), ("submit", 181, 190), ("wait", 191, 240), ("commit", 241, 250)]


def test_each_message_is_paired_once(tmp_path: Path) -> None:
    messages = read_history(trace_of(tmp_path, tell())).messages
    assert messages[0] == Message("TokenizeMsg", "api", "tokenizer-0", 110, 120, (UID,))
    assert [(message.kinds, message.sent_ns, message.received_ns) for message in messages] == [
        ("TokenizeMsg", 110, 120),
        ("UserMsg", 140, 150),
        ("DetokenizeMsg", 252, 255),
        ("UserReply", 262, 270),
        ("DetokenizeMsg", 353, 355),
        ("UserReply", 362, 370),
    ]


def test_a_mixed_step_has_both_kinds_of_run(tmp_path: Path) -> None:
    story = tell()
    story["scheduler-0"] = [
        ev.SchedStep(180, 1, 165, i8(9, UID), i4(0, 0), i4(0, 5), i4(30, 1), 1, 0, 13)
        if isinstance(event, ev.SchedStep) and event.step == 1
        else event
        for event in story["scheduler-0"]
    ]
    trace = trace_of(tmp_path, story)
    step = read_history(trace).steps[0]
    assert (step.chunks, step.decodes) == ((Run(9, 30, True),), (Run(UID, 1, False),))
    draw(trace)


def test_the_first_window_holds_the_arrivals_and_the_first_forward(tmp_path: Path) -> None:
    data = read_history(trace_of(tmp_path, tell()))
    start, end = arrivals_window(data)
    assert start < 100
    assert 195 < end < 250


def test_the_handover_lies_between_two_decode_steps() -> None:
    data = read_history(Trace.open(RECORDING))
    window = handover_window(data)
    assert window is not None
    ends = [step.sample_ns[0] for step in data.steps if not step.chunks and step.sample_ns]
    assert sum(window[0] < end < window[1] for end in ends) == 1
    inside = {message.kinds for message in data.messages if window[0] < message.sent_ns < window[1]}
    assert inside == {"DetokenizeMsg", "UserReply"}


def test_without_two_decode_steps_there_is_no_handover(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, tell())
    assert handover_window(read_history(trace)) is None
    assert titles(draw(trace)) == ["", "A  the requests arrive"]


def test_a_real_recording_has_all_panels_in_both_themes() -> None:
    trace = Trace.open(RECORDING)
    for theme in (LIGHT, DARK):
        figure = draw(trace, theme=theme, names={1: "France"}, title="One request")
        assert titles(figure) == ["", "A  the requests arrive", "B  from one decode step to the next"]
        assert [axes.get_xlabel() for axes in figure.axes] == [
            "seconds since the first request",
            *["milliseconds since the first request"] * 2,
        ]
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend[0] == "request France"
        assert figure.get_facecolor()[:3] == pytest.approx(
            [int(theme.background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        )


def test_what_ran_stands_above_the_figure() -> None:
    figure = draw(Trace.open(RECORDING), title="One request")
    assert [text.get_text() for text in figure.texts[:2]] == [
        "One request",
        "smollm2-135m · cpu (2 threads) · float32 · prefill-first · overlap",
    ]


def test_one_request_can_be_highlighted(many: Trace) -> None:
    figure, data = timeline(many, highlight=9)
    assert titles(figure)[1] == "A  request 9 arrives"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["request 9", "other requests"]
    faces = {to_hex(face) for axes in figure.axes for bars in axes.collections for face in bars.get_facecolor()}
    assert LIGHT.request(9).lower() in faces
    assert not {LIGHT.request(uid).lower() for uid in data.uids if uid % 7 != 9 % 7} & faces


def test_a_request_that_did_not_run_cannot_be_highlighted(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"request 9 did not run in this recording; these did: 7"):
        timeline(trace_of(tmp_path, tell()), highlight=9)


def test_the_device_has_two_lanes_below_its_scheduler(tmp_path: Path) -> None:
    lanes = Lanes(read_history(trace_of(tmp_path, tell())))
    assert list(lanes.by_key) == ["api", "tokenizer-0", "scheduler-0", PREFILL_LANE, DECODE_LANE, "detokenizer"]
    edges = [(lane.top, lane.bottom) for lane in lanes.by_key.values()]
    assert all(upper[1] == lower[0] for upper, lower in itertools.pairwise(edges))


def test_many_requests_leave_room_for_the_other_lanes(tmp_path: Path) -> None:
    story = tell()
    story["api"] += [ev.HttpReceived(101 + uid, uid, "/v1/completions", False, 9) for uid in range(1000, 1200)]
    trace = trace_of(tmp_path, story)
    lanes = Lanes(read_history(trace))
    assert len(lanes.visits) == 201
    assert lanes.by_key["api"].height < lanes.bottom / 2
    draw(trace)


def test_level_steps_is_drawn_without_messages(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS)
    data = read_history(trace)
    assert not data.messages
    assert [visit.chunks_ns for visit in data.visits] == [[]]
    assert {item.kind for item in data.work} == {"schedule", "commit"}
    draw(trace)


def test_a_recording_that_begins_late_counts_from_its_first_step(tmp_path: Path) -> None:
    story = tell()
    story["api"] = [event for event in story["api"] if not isinstance(event, ev.HttpReceived)]
    trace = trace_of(tmp_path, story)
    data = read_history(trace)
    assert not data.visits
    assert data.origin_ns == 165
    draw(trace)


def test_a_run_without_requests_is_an_error(tmp_path: Path) -> None:
    story = tell()
    story["scheduler-0"] = [event for event in story["scheduler-0"] if not isinstance(event, ev.SchedStep)]
    with pytest.raises(TraceError, match="no request ran in this recording"):
        timeline(trace_of(tmp_path, story))

"""The figure of a request's life: its bars are the stages, and what can't be drawn is said."""

import pytest

from learnsgl.errors import TraceError
from learnsgl.trace.life import STAGES
from learnsgl.trace.lives import requests
from learnsgl.viz.life import PROCESSES, life
from learnsgl.viz.theme import DARK


def test_the_bars_are_the_stages(recorded):
    figure, shown = life(recorded)
    (axes,) = figure.axes
    assert shown == requests(recorded)[0]
    bars = [patch for patch in axes.patches if abs(patch.get_height() - 0.56) < 1e-9]
    assert [bar.get_width() for bar in bars] == pytest.approx([stage.seconds * 1e3 for stage in shown.stages])
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert [bar.get_x() for bar in bars[1:]] == pytest.approx(ends[:-1])
    assert [label.get_text().split()[1] for label in axes.get_yticklabels()] == list(STAGES)


def test_every_stage_belongs_to_one_process():
    assert [place for _, first, stop in PROCESSES for place in range(first, stop)] == list(range(len(STAGES)))


def test_a_request_can_be_named_and_the_dark_theme_drawn(recorded):
    figure, shown = life(recorded, uid=1, theme=DARK)
    assert shown.key.uid == 1
    assert figure.get_facecolor()[:3] == pytest.approx((0x0D / 255, 0x11 / 255, 0x17 / 255))


def test_a_request_that_is_not_there_is_said_with_those_that_are(recorded):
    with pytest.raises(TraceError, match=r"not request 7 has a stage to draw; requests in the trace: 1"):
        life(recorded, uid=7)

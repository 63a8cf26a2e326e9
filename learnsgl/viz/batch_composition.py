"""What each step of the scheduler was made of: chunks of prompts above, answers that get a token below, by request.

Lessons on continuous batching and chunked prefill draw it. Every level records what it needs. A long recording is put
together into columns of several steps, whose heights are then means.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from learnsgl.errors import TraceError
from learnsgl.replay.history import History, read_history
from learnsgl.trace.reader import Trace
from learnsgl.viz.recording import Recording, missing_notes, trace_of
from learnsgl.viz.sheet import SMALL_SIZE, TEXT_SIZE, finish, grid, new_figure, panel_title, subtitle, whole_numbers
from learnsgl.viz.theme import LIGHT, Theme, ink_on
from learnsgl.viz.words import count

HEIGHT_INCHES = 5.0
MAX_COLUMNS = 240
MAX_TOLD_APART = 48
MIN_LABEL_SHARE = 0.09
MAX_BUDGET_RATIO = 3
_CHAR_SHARE = 0.01
"""Requests in one column; with more of them the column has one colour."""


@dataclass(frozen=True)
class Column:
    """One column: a step, or several.

    Attributes:
        first, last: numbers of its first and last step.
        prompt_tokens: tokens of prompts by request, in the order of the batch; the mean of its steps.
        answer_tokens: likewise tokens of answers.
    """

    first: int
    last: int
    prompt_tokens: dict[int, float]
    answer_tokens: dict[int, float]


@dataclass(frozen=True)
class BatchComposition:
    """What the figure shows.

    Attributes:
        columns: in the order of their steps.
        steps_per_column: steps in each column; the last one may have fewer.
        num_steps: steps that are shown.
        budget: most prompt tokens of a step; `None` where the manifest doesn't tell.
        fullest: (step, requests) where the most requests were in one step.
        notes: what isn't shown.
    """

    columns: tuple[Column, ...]
    steps_per_column: int
    num_steps: int
    budget: int | None
    fullest: tuple[int, int]
    notes: tuple[str, ...]


def batch_composition(
    trace: Recording, *, steps: tuple[int, int] | None = None, theme: Theme = LIGHT
) -> tuple[Figure, BatchComposition]:
    """Draw what each step was made of.

    Args:
        trace: the recording, of any level.
        steps: first and last step to show; by default all.
        theme: `theme.LIGHT` or `theme.DARK`.

    Returns:
        The figure, and the numbers that it shows.

    Raises:
        TraceError: no step ran, or none of those asked for.
    """
    trace = trace_of(trace)
    data = read_batch_composition(trace, steps=steps)
    figure = new_figure(theme, HEIGHT_INCHES)
    prompts, answers = figure.subplots(2, 1, sharex=True)
    _draw_prompts(prompts, data, theme)
    _draw_answers(answers, data, theme)
    step, most = data.fullest
    title = (
        f"What {count(data.num_steps, 'step')} computed, by request: at the fullest, "
        f"step {step:,} serves {count(most, 'request')} at once"
    )
    finish(figure, theme, title, subtitle=subtitle(trace), notes=data.notes)
    return figure, data


def read_batch_composition(trace: Trace, *, steps: tuple[int, int] | None = None) -> BatchComposition:
    """Read the steps of a recording.

    Raises:
        TraceError: no step ran, or none of those asked for.
    """
    history = read_history(trace)
    chosen = [step for step in history.steps if steps is None or steps[0] <= step.number <= steps[1]]
    if not chosen:
        known = f"{history.steps[0].number} to {history.steps[-1].number}"
        raise TraceError(f"{trace.path}: none of the steps {steps} is in the recording, which has {known}")
    stride = -(-len(chosen) // MAX_COLUMNS)
    columns = []
    for start in range(0, len(chosen), stride):
        group = chosen[start : start + stride]
        prompt: Counter[int] = Counter()
        answer: Counter[int] = Counter()
        for step in group:
            for run in step.runs:
                (prompt if run.is_prefill else answer)[run.uid] += run.num_tokens
        columns.append(
            Column(
                group[0].number, group[-1].number, {uid: tokens / len(group) for uid, tokens in prompt.items()},
                {uid: tokens / len(group) for uid, tokens in answer.items()},
            )
        )  # fmt: skip
    fullest = max(chosen, key=lambda step: len(step.runs))
    budget = ((trace.manifest.get("config") or {}).get("scheduler") or {}).get("max_prefill_length")
    budget = budget or (trace.manifest.get("engine") or {}).get("max_prefill_length")
    return BatchComposition(
        tuple(columns), stride, len(chosen), int(budget) if budget else None, (fullest.number, len(fullest.runs)),
        tuple(_notes(history, len(chosen), stride, columns) + missing_notes(trace)),
    )  # fmt: skip


def _notes(history: History, num_chosen: int, stride: int, columns: list[Column]) -> list[str]:
    notes = []
    if num_chosen < len(history.steps):
        notes.append(f"{num_chosen:,} of the recording's {count(len(history.steps), 'step')} are shown.")
    if stride > 1:
        notes.append(f"Each column is the mean of {stride} steps.")
    if any(max(len(column.prompt_tokens), len(column.answer_tokens)) > MAX_TOLD_APART for column in columns):
        notes.append(f"Columns with more than {MAX_TOLD_APART} requests have one colour for all of them.")
    return notes


def _draw_prompts(axes: Axes, data: BatchComposition, theme: Theme) -> None:
    theme.style_axes(axes)
    grid(axes, theme)
    tops = _draw_stacks(axes, data, [column.prompt_tokens for column in data.columns], theme)
    top = max(tops, default=0)
    if data.budget is not None and data.budget > MAX_BUDGET_RATIO * top:
        _write_budget(axes, 0.93 * top, f"the budget, {data.budget:,} prompt tokens a step, is far above", theme)
    elif data.budget is not None:
        axes.axhline(data.budget, color=theme.mark, lw=1.1, ls=(0, (4, 3)))
        _write_budget(axes, data.budget, f"budget: at most {data.budget:,} prompt tokens a step", theme)
        top = max(top, data.budget)
    axes.set_ylim(0, 1.12 * top or 1)
    axes.set_ylabel("prompt tokens")
    whole_numbers(axes, y=True, most=6)
    panel_title(axes, theme, "Prefill: chunks of prompts")
    axes.tick_params(axis="x", labelbottom=False)
    if not any(tops):
        axes.text(
            0.5, 0.5, "no prompt was computed in these steps", transform=axes.transAxes, ha="center",
            color=theme.muted, fontsize=TEXT_SIZE,
        )  # fmt: skip


def _write_budget(axes: Axes, y: float, text: str, theme: Theme) -> None:
    axes.annotate(
        text, (1, y), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha="right", va="bottom",
        fontsize=SMALL_SIZE, color=theme.ink,
    )  # fmt: skip


def _draw_answers(axes: Axes, data: BatchComposition, theme: Theme) -> None:
    theme.style_axes(axes)
    grid(axes, theme)
    tops = _draw_stacks(axes, data, [column.answer_tokens for column in data.columns], theme)
    axes.set_ylim(0, 1.12 * max(tops, default=0) or 1)
    axes.set_ylabel("answer tokens")
    axes.set_xlabel("step of the scheduler")
    whole_numbers(axes, x=True, most=12)
    whole_numbers(axes, y=True, most=6)
    axes.set_xlim(data.columns[0].first - 0.7, data.columns[-1].last + 0.7)
    panel_title(axes, theme, "Decode: a token for each answer that is being written")


def _draw_stacks(axes: Axes, data: BatchComposition, stacks: list[dict[int, float]], theme: Theme) -> list[float]:
    """A stack of requests for each column; gives the heights."""
    corners, colours, tops = [], [], []
    is_wide = len(data.columns) <= 120
    margin = 0.44 if is_wide else 0.5
    for column, stack in zip(data.columns, stacks, strict=True):
        left, right = column.first - margin, column.last + margin
        told = stack if len(stack) <= MAX_TOLD_APART else {None: sum(stack.values())}
        at = 0.0
        for uid, tokens in told.items():
            corners.append([(left, at), (right, at), (right, at + tokens), (left, at + tokens)])
            colours.append(theme.cached if uid is None else theme.request(uid))
            at += tokens
        tops.append(at)
    width = 0.6 if is_wide else 0.0
    axes.add_collection(
        PolyCollection(corners, facecolors=colours, edgecolors=theme.background, linewidths=width, zorder=2),
        autolim=False,
    )  # fmt: skip
    _name_requests(axes, data, stacks, max(tops, default=0), theme)
    return tops


def _name_requests(
    axes: Axes, data: BatchComposition, stacks: list[dict[int, float]], top: float, theme: Theme
) -> None:
    """Write each request's number into the middle of its longest run of columns, where it is high and wide enough."""
    homes: dict[int, list[tuple[int, float]]] = {}
    for place, stack in enumerate(stacks):
        below = 0.0
        for uid, tokens in stack.items() if len(stack) <= MAX_TOLD_APART else ():
            if tokens >= MIN_LABEL_SHARE * top:
                homes.setdefault(uid, []).append((place, below + tokens / 2))
            below += tokens
    for uid, found in homes.items():
        run = max(_runs(found), key=len)
        if len(run) < len(str(uid)) * _CHAR_SHARE * len(stacks):
            continue
        column, y = data.columns[run[len(run) // 2][0]], run[len(run) // 2][1]
        axes.text(
            (column.first + column.last) / 2, y, str(uid), ha="center", va="center", fontsize=SMALL_SIZE,
            color=ink_on(theme.request(uid)), zorder=3,
        )  # fmt: skip


def _runs(found: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Places in neighbouring columns at about the same height."""
    runs = [[found[0]]]
    for before, one in itertools.pairwise(found):
        if one[0] == before[0] + 1 and one[1] == before[1]:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs

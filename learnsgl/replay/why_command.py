"""`learnsgl trace why PATH UID [--at TIME]`: what a request waited for at a moment, or its whole story.

`trace/commands.py` opens the trace and calls `print_why`. Beside each sentence stand the events that it comes from;
`learnsgl trace cat PATH --process NAME` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.replay.why import Reasons, Sentence, Span
from learnsgl.terminal import utf8_output
from learnsgl.trace.reader import Trace

MAX_PLACES = 4
"""Events that a line names; the others are counted."""


def print_why(trace: Trace, uid: int, at: str | None, choice: int = 0) -> int:
    """Print what a request waited for.

    Args:
        trace: the recording.
        uid: the request.
        at: the moment, as `moments.find_moment` reads it; `None` for all of its life.
        choice: which of its choices.

    Returns:
        The exit code.

    Raises:
        OptionError: the recording has no such request or choice, or no such moment.
    """
    reasons = Reasons(trace)
    out = utf8_output()
    if at is None:
        out.write("\n".join(told(reasons.story(uid, choice), (trace.span_ns() or (0, 0))[0], uid)) + "\n")
        return 0
    answer = reasons.why(uid, at, choice)
    label = "" if answer.cause is None else f" ({answer.cause.label})"
    lines = [f"request {uid} at {at}{label}:"]
    lines += [f"  {sentence.text}{events(sentence)}" for sentence in answer.sentences]
    out.write("\n".join(lines) + "\n")
    return 0


def told(spans: Sequence[Span], origin_ns: int, uid: int) -> list[str]:
    """A request's life, a line for each span: when it began, how long it took, and what happened."""
    if not spans:
        return [f"request {uid}: the recording holds no two moments of it"]
    lines = [f"request {uid}, in seconds since the trace's first event:"]
    for span in spans:
        start, took = (span.part.start_ns - origin_ns) / 1e9, span.part.duration_ns / 1e6
        first, *others = span.sentences
        lines.append(f"{start:12.6f} {took:11,.3f} ms  {first.text}{events(first)}")
        lines += [f"{'':30}{sentence.text}{events(sentence)}" for sentence in others]
    return lines


def events(sentence: Sentence) -> str:
    """The events that a sentence comes from: `  [scheduler-0:12, api:3]`."""
    shown = sentence.places[:MAX_PLACES]
    if not shown:
        return ""
    names = [f"{place.process}:{place.number}" for place in shown]
    more = len(sentence.places) - len(shown)
    return f"  [{', '.join(names)}{f' and {more} more' if more else ''}]"

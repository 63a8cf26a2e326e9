"""What lesson 1.6, "Configuration experiments", gives its readers and asks of them. Its notebook calls what is in here.

`side_by_side` and `factor` put two recordings into numbers, `type_into_chat` talks with the interactive shell, and the
two checks hold the reader's comparison of two recordings to that of `learnsgl trace diff`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from learnsgl.lessons.checks import NotYet, attempt, check
from learnsgl.replay.diff import OptionDiff, TraceDiff, diff, option_diffs
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import table, to_json

JsonEvent = dict[str, Any]
Pairs = Mapping[str, tuple[Trace, Trace]]
ChangedOption = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[str, Any, Any]]
FirstDifference = Callable[[Sequence[JsonEvent], Sequence[JsonEvent]], int]

CHAT_TIMEOUT_S = 120
STEP_FIELDS = ("uids", "starts", "lens")
"""Fields of `sched.step` that say what was decided: whose tokens, and which."""


# ---------------------------------------------------------------- two recordings in numbers


def factor(a: float, b: float) -> float:
    """How many times as large the larger of two numbers is; which of them that is doesn't matter.

    Raises:
        ValueError: one of them isn't above 0.
    """
    if a <= 0 or b <= 0:
        raise ValueError(f"a factor lies between two numbers above 0, and these are {a} and {b}")
    return max(a, b) / min(a, b)


def side_by_side(found: TraceDiff, names: tuple[str, str]) -> str:
    """The totals that matter most in this lesson, as a table.

    Args:
        found: the comparison.
        names: what to call its two recordings.
    """
    sides = (found.a, found.b)
    rows: dict[str, list[float | None]] = {
        "median time to first token, ms": [None if side.ttft is None else side.ttft.p50 * 1e3 for side in sides],
        "median time per later token, ms": [None if side.tpot is None else side.tpot.p50 * 1e3 for side in sides],
        "tokens of answers a second": [side.output_tokens_per_s for side in sides],
        "steps": [side.num_steps for side in sides],
    }
    lines: list[tuple[str, ...]] = [("", *names, "factor")]
    for what, values in rows.items():
        known = [value for value in values if value]
        times = f"{factor(*known):.2f}" if len(known) == len(values) else "-"
        lines.append((what, *("-" if value is None else f"{value:,.0f}" for value in values), times))
    return table(lines)


# ---------------------------------------------------------------- the interactive shell


def type_into_chat(command: str, lines: Sequence[str]) -> str:
    """Run `learnsgl chat`, type lines into it, and leave it.

    Args:
        command: `learnsgl chat` with its options, as in a terminal.
        lines: what is typed.

    Returns:
        What it wrote to its standard output.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
        subprocess.TimeoutExpired: it took more than `CHAT_TIMEOUT_S`.
    """
    words = [sys.executable, "-m", *shlex.split(command)]
    typed = "".join(f"{line}\n" for line in lines).encode()
    ran = subprocess.run(words, input=typed, capture_output=True, check=True, timeout=CHAT_TIMEOUT_S)
    return ran.stdout.decode(errors="replace")


# ---------------------------------------------------------------- the exercise


@check
def check_changed_option(function: ChangedOption, pairs: Pairs) -> str:
    """Whether a function finds the one option in which the manifests of two recordings differ.

    The function takes two manifests, and returns the option's name, its value in the first and in the second. Dashes
    in the name are taken as underscores.
    """
    said = []
    for pair, (a, b) in pairs.items():
        truth = changed_option(a, b)
        answer = attempt(function, a.manifest, b.manifest)
        if not isinstance(answer, (tuple, list)) or len(answer) != 3 or not isinstance(answer[0], str):
            raise NotYet(f"(name, value in A, value in B) is expected, and your function gave {answer!r:.80}")
        name = answer[0].removeprefix("--").replace("-", "_")
        if hint := _option_hint(OptionDiff(name, *answer[1:]), truth, a.manifest):
            raise NotYet(f"{pair}: {hint}")
        said.append(f"{pair}: {truth.name}, {truth.a} in A and {truth.b} in B")
    return "; ".join(said)


def changed_option(a: Trace, b: Trace) -> OptionDiff:
    """The one option that differs between two recordings, as `learnsgl trace diff` has it.

    Raises:
        ValueError: none differs, or more than one.
    """
    found = [option for option in option_diffs(a.manifest, b.manifest) if not option.name.startswith("engine's ")]
    if len(found) != 1:
        raise ValueError(f"one option is to differ, and these do: {', '.join(one.name for one in found) or 'none'}")
    return found[0]


def _option_hint(answer: OptionDiff, truth: OptionDiff, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer; `None` for a right one."""
    if answer == truth:
        return None
    if answer.name == truth.name:
        if (answer.a, answer.b) == (truth.b, truth.a):
            return "the right option; the value of the first manifest comes first"
        return f"the right option, and these are not its values: {answer.a!r}, {answer.b!r}"
    config: Mapping[str, Mapping[str, Any]] = manifest["config"]
    if answer.name in config:
        return f"{answer.name!r} is an area; the options are inside of it"
    if not any(answer.name in area for area in config.values()):
        return f'{answer.name!r} is no option: they stand in manifest["config"], area by area'
    default = manifest["engine"].get(answer.name)
    if default == answer.a != config["engine"].get(answer.name):
        return f'{answer.name!r} is what the engine became; what was asked for stands in manifest["config"]'
    return f"{answer.name!r} doesn't differ between the two configurations: compare the two values of each option"


@check
def check_first_difference(function: FirstDifference, pairs: Pairs) -> str:
    """Whether a function finds the first step in which two recordings decided differently.

    The function takes the events of both, as dicts, and returns the number of the step.
    """
    said = []
    for pair, (a, b) in pairs.items():
        parting = diff(a, b).parting
        if parting is None or parting.is_timing:
            raise ValueError(f"{pair}: these recordings don't part by a decision")
        events = [[to_json(entry) for entry in trace.events()] for trace in (a, b)]
        answer = attempt(function, *events)
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise NotYet(f"the number of a step is expected, and your function gave {answer!r:.80}")
        if hint := _step_hint(answer, parting.step, *events):
            raise NotYet(f"{pair}: {hint}")
        said.append(f"{pair}: step {parting.step}, in {parting.aspect.label}")
    return "as learnsgl trace diff has it. " + "; ".join(said)


def _step_hint(answer: int, truth: int, a: Sequence[JsonEvent], b: Sequence[JsonEvent]) -> str | None:
    """What is wrong with an answer; `None` for a right one."""
    if answer == truth:
        return None
    if answer == truth - 1:
        return "one too small: steps are counted from 1, and each event says in `step` which it is"
    sides = (_steps(a), _steps(b))
    if answer in (sides[0][0]["step"], first_where(("ns",), *sides)):
        return "both decided the same there: moments and digests always differ, so compare only what was decided"
    if answer in [step["event"] for side in sides for step in side if step["step"] == truth]:
        return "that is the number of an event; the step's own number is in its field `step`"
    for field in (*STEP_FIELDS, "num_prefill", "num_waiting", "num_free_pages"):
        if answer == first_where((field,), *sides):
            return f"that is where `{field}` alone first differs; whose tokens, from where and how many all count"
    return f"step {answer} is too {'early' if answer < truth else 'late'}: print both events of the steps around it"


def first_where(fields: Sequence[str], a: Sequence[JsonEvent], b: Sequence[JsonEvent]) -> int | None:
    """Number of the first step in which one of the fields differs; `None` where none does."""
    for of_a, of_b in zip(a, b, strict=False):
        if any(of_a[field] != of_b[field] for field in fields):
            return int(of_a["step"])
    return None


def _steps(events: Sequence[JsonEvent]) -> list[JsonEvent]:
    return [event for event in events if event["kind"] == "sched.step"]

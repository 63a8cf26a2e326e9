"""One option of a config dataclass: what is said of it once, its flag, and the check of a value against both.

`config.py` declares every option with `option`, and `options.py` makes the command line from what stands there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from enum import Enum
from typing import Any

from learnsgl.errors import OptionError


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    metavar: str | None = None,
    secret: bool = False,
) -> Any:
    """One option of a config dataclass.

    Args:
        default: value when the option isn't given.
        help: one or two sentences for `--help`, with the unit.
        flag: name on the command line, where it isn't the field's own; `None` makes it from the field's name.
        choices: allowed values of a text option.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        above: the number must be greater than this.
        metavar: placeholder in `--help`.
        secret: its value is never written into a recording.
    """
    metadata = {
        "help": help, "flag": flag, "choices": choices, "minimum": minimum, "maximum": maximum, "above": above,
        "metavar": metavar, "secret": secret,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def flag_of(f: dataclasses.Field[Any]) -> str:
    """The option's name on the command line, with its dashes."""
    return f.metadata["flag"] or "--" + f.name.replace("_", "-")


def check_value(f: dataclasses.Field[Any], value: Any) -> None:
    """Check a value against its option's range and choices.

    Raises:
        OptionError: naming the option, the value and what is allowed.
    """
    meta = f.metadata
    if value is None:
        return
    if meta["choices"] is not None and (value.value if isinstance(value, Enum) else value) not in meta["choices"]:
        raise OptionError(f"{flag_of(f)} is {value!r}; choose one of: {', '.join(meta['choices'])}")
    bounds = {"at least": meta["minimum"], "at most": meta["maximum"], "above": meta["above"]}
    given = {words: bound for words, bound in bounds.items() if bound is not None}
    if not given:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionError(f"{flag_of(f)} is {value!r}; it must be a number")
    holds = (
        value >= given.get("at least", value)
        and value <= given.get("at most", value)
        and ("above" not in given or value > given["above"])
    )
    if not holds:  # also for NaN, which compares false with everything
        raise OptionError(f"{flag_of(f)} is {value}; it must be {' and '.join(f'{k} {v:g}' for k, v in given.items())}")

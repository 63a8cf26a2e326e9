"""Keeps the work on a client's grammar within bounds: its stack, and what is known to take minutes.

`scheduler/grammar.py` calls it around llguidance's compiler, `tokenizer/tool_request.py` around its check of schemas.
The library follows references of any depth on the stack of the thread that calls it, where an overflow ends the whole
process; and nothing can stop it once it has begun.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from learnsgl.errors import RequestError

STACK_BYTES = 256 << 20
"""Address space for one call; memory only as far as it is used. 128 KiB of references, each to the next, use 50 MB."""
MAX_MULTIPLE = 10_000
"""Largest common multiple of all `multipleOf` of a schema, since a number is followed with as many states. This takes
0.1 s and 2 MB, a million 40 s and 400 MB."""
MAX_RULES = 1_000
"""Most rules of a grammar. A chain of so many, each repeating the next, takes a few seconds, and the time grows faster
than its square."""

_MULTIPLE_OF = re.compile(r'"multipleOf"\s*:\s*([-+.0-9eE]+)')
_ESCAPED_ASCII = re.compile(r"\\u00([0-7][0-9a-fA-F])")
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][^\n:\"/]*:", re.MULTILINE)
_MAX_DIGITS = 9

_Result = TypeVar("_Result")
_starting = threading.Lock()
"""The size of new threads' stacks is the process's, so one thread at a time is started with another."""


def on_deep_stack(function: Callable[[], _Result]) -> _Result:
    """Call a function on a thread with `STACK_BYTES` of stack, and wait for it.

    Raises:
        RequestError: the machine has no room for such a thread. Whatever the function raises comes through.
    """
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # also the panics of a library in Rust: whoever waits is told
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="grammar-stack", daemon=True)
    with _starting:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        except RuntimeError:
            raise RequestError(
                "the server has no memory for compiling a grammar at this moment; try again later",
                status=503, code="overloaded", param="grammar",
            ) from None  # fmt: skip
        finally:
            threading.stack_size(before)
    return outcome.result()


def endless_work(text: str) -> str | None:
    """Why compiling a grammar or a schema would take minutes, in words for the client; `None` where it doesn't."""
    num_rules = len(_RULE.findall(text))
    if num_rules > MAX_RULES:
        return f"it has {num_rules} rules, and at most {MAX_RULES} are allowed"
    plain = _ESCAPED_ASCII.sub(lambda match: chr(int(match[1], 16)), text)  # a key may be written with escapes
    digits = {found for value in _MULTIPLE_OF.findall(plain) if (found := _digits(value))}
    if any(len(value) > _MAX_DIGITS for value in digits) or math.lcm(*map(int, digits)) > MAX_MULTIPLE:
        return f"its multipleOf, the least common multiple of all of them, may be at most {MAX_MULTIPLE}"
    return None


def _digits(number: str) -> str:
    """The digits of a JSON number without zeros at its ends; empty where it is zero, or no number."""
    try:
        return "".join(map(str, Decimal(number).as_tuple().digits)).strip("0")
    except InvalidOperation:
        return ""

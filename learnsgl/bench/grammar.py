"""`learnsgl bench grammar`: what grammars cost the scheduler, and xgrammar beside it where that is installed.

One thread, no model: a tokenizer's tree of tokens, the compilation of schemas, and the masks along an answer that each
schema allows. xgrammar brings torch; our half is measured without it.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil  # type: ignore[import-untyped]

from learnsgl.bench.stats import quantile
from learnsgl.bench.tables import Table
from learnsgl.core import Grammar, GrammarKind, SamplingParams
from learnsgl.hub.model_files import read_json
from learnsgl.hub.resolve import resolve_model
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.scheduler.grammar import grammars_of_model

PERSON: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
_PERSON_ANSWER = {
    "name": "Ada Lovelace of London", "age": 36, "tags": ["poet", "mathematician", "fond of machines"],
    "address": {"street": "12 St James's Square", "zip": "12345"},
}  # fmt: skip


def _flat(num: int) -> Any:
    names = [f"field_{index}" for index in range(num)]
    return {
        "type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names,
        "additionalProperties": False,
    }  # fmt: skip


CASES: dict[str, tuple[Any, Any]] = {
    "any object": ({"type": "object"}, _PERSON_ANSWER),
    "a person": (PERSON, _PERSON_ANSWER),
    "a choice of 1,000": ({"enum": [f"value {index}" for index in range(1000)]}, "value 777"),
    "100 fields": (_flat(100), {f"field_{index}": "a text" for index in range(100)}),
    "1,000 fields": (_flat(1000), {f"field_{index}": "a" for index in range(1000)}),
}
"""Name: a schema, and a value that it allows."""


class Follower(Protocol):
    """One answer under a grammar."""

    def mask(self) -> None:
        """Compute the mask of the next token."""
        ...

    def take(self, token: int) -> bool:
        """Go on by a token; whether it was allowed."""
        ...


Compile = Callable[[str], Callable[[], Follower]]
"""A schema as text -> what starts an answer under it."""


@dataclass(slots=True)
class Times:
    """What one library took for one schema, in microseconds; `masks` and `takes` token by token."""

    compile_us: list[float] = field(default_factory=list)
    first_mask_us: float = 0.0
    masks_us: list[float] = field(default_factory=list)
    takes_us: list[float] = field(default_factory=list)


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    start = time.perf_counter_ns()
    yield
    into.append((time.perf_counter_ns() - start) / 1e3)


def measure(compile_schema: Compile, schema: str, tokens: list[int], repeats: int) -> Times:
    """Compile a schema and follow an answer's tokens through it, `repeats` times.

    Raises:
        ValueError: a token isn't allowed.
    """
    times = Times()
    for repeat in range(repeats):
        with _timed(times.compile_us):
            start = compile_schema(schema)
        follower = start()
        for place, token in enumerate(tokens):
            taken: list[float] = []
            with _timed(taken):
                follower.mask()
            if repeat == 0 and place == 0:
                times.first_mask_us = taken[0]
            times.masks_us += taken
            with _timed(times.takes_us):
                is_allowed = follower.take(token)
            if not is_allowed:
                raise ValueError(f"token {token} at place {place} isn't allowed")
    return times


class Ours:
    """The scheduler's own classes (`Follower`)."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._bits = np.zeros(matcher.num_filled_bytes, dtype=np.uint8)
        self._sampling = SamplingParams()

    def mask(self) -> None:
        """See `Follower.mask`."""
        self._matcher.fill(self._bits, self._sampling, 0)

    def take(self, token: int) -> bool:
        """See `Follower.take`."""
        self._matcher.take(token)
        return self._matcher.error is None


class XGrammar:
    """The peer (`Follower`)."""

    def __init__(self, xgrammar: Any, compiled: Any, vocab_size: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)

    def mask(self) -> None:
        """See `Follower.mask`."""
        self._matcher.fill_next_token_bitmask(self._bitmask)

    def take(self, token: int) -> bool:
        """See `Follower.take`."""
        return bool(self._matcher.accept_token(token))


def load_ours(folder: Path, vocab_size: int, eos_ids: tuple[int, ...]) -> Compile:
    """Build the tree of tokens. Each call of what is returned compiles anew."""
    info = ExecutorInfo("bench", "none", "none", 1, 1, 1, vocab_size, eos_ids)
    grammars = grammars_of_model(folder, info)
    grammars.load()
    numbers = itertools.count()

    def compile_schema(schema: str) -> Callable[[], Follower]:
        unknown = schema + " " * next(numbers)  # what is known wouldn't be compiled
        compiled = grammars.compile(Grammar(GrammarKind.JSON_SCHEMA, unknown))
        return lambda: Ours(grammars.start(compiled))

    return compile_schema


def load_xgrammar(folder: Path, vocab_size: int, eos_ids: tuple[int, ...]) -> Compile:
    """The same for xgrammar, with one thread and without its cache.

    Raises:
        ImportError: it isn't installed.
    """
    from tokenizers import Tokenizer

    xgrammar: Any = importlib.import_module("xgrammar")  # where it isn't installed it has no types

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
    info = xgrammar.TokenizerInfo(
        vocabulary, xgrammar.VocabType.BYTE_LEVEL, vocab_size=vocab_size, stop_token_ids=list(eos_ids)
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_schema(schema: str) -> Callable[[], Follower]:
        compiled = compiler.compile_json_schema(schema)
        return lambda: XGrammar(xgrammar, compiled, vocab_size)

    return compile_schema


LIBRARIES: dict[str, Callable[[Path, int, tuple[int, ...]], Compile]] = {
    "llguidance": load_ours, "xgrammar": load_xgrammar,
}  # fmt: skip


def run_grammar(folder: Path, vocab_size: int, eos_ids: tuple[int, ...], repeats: int) -> list[Table]:
    """Measure everything.

    Args:
        folder: model folder with a byte-level `tokenizer.json`.
        vocab_size: tokens of the model.
        eos_ids: tokens that end a sequence.
        repeats: how often each schema is compiled and followed.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    process, loaded, rows = psutil.Process(), [], []
    for library, load in LIBRARIES.items():
        before, start = process.memory_info().rss, time.perf_counter()
        try:
            compile_schema = load(folder, vocab_size, eos_ids)
        except ImportError:
            loaded.append([library, "isn't installed", ""])
            continue
        took, grown = time.perf_counter() - start, (process.memory_info().rss - before) / 1e6
        loaded.append([library, f"{took:.2f}", f"{grown:.0f}"])
        for name, (schema, value) in CASES.items():
            tokens = tokenizer.encode(json.dumps(value), add_special_tokens=False).ids
            times = measure(compile_schema, json.dumps(schema), tokens, repeats)
            rows.append(
                [
                    library, name, str(len(tokens)), f"{quantile(times.compile_us, 0.5) / 1e3:.1f}",
                    f"{times.first_mask_us / 1e3:.2f}", f"{quantile(times.masks_us, 0.5):.0f}",
                    f"{quantile(times.masks_us, 0.99):.0f}", f"{quantile(times.takes_us, 0.5):.1f}",
                ]
            )  # fmt: skip
    heads = ["library", "schema", "tokens", "compile, ms", "first mask, ms", "mask, µs", "99%", "take a token, µs"]
    return [Table("tokenizer", ["library", "to load, s", "memory, MB"], loaded), Table("grammars", heads, rows)]


def run_command(args: argparse.Namespace) -> int:
    """`learnsgl bench grammar`: print the tables; returns the exit code."""
    model = resolve_model(args.model)
    config = read_json(model.folder / "config.json")
    for table in run_grammar(model.folder, int(config["vocab_size"]), model.eos_ids, args.repeats):
        print(f"\n{table.name}\n{table.text()}")
    return 0

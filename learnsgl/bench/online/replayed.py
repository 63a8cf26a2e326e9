"""The workload of a recording, sent again: arrivals, lengths, shared prefixes and clients that went away.

`learnsgl trace workload` wrote the file (docs/trace-workload.md explains it). It holds no text, so prompts are made up
that share as many leading tokens as the recorded ones did.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from learnsgl.bench.online.plan import Planned
from learnsgl.bench.online.prompts import Form
from learnsgl.bench.online.results import Load
from learnsgl.errors import FolderError, OptionError
from learnsgl.replay.workload import Row, read_workload

_UNKNOWN_MAX_TOKENS = 16


class Replayed:
    """A recorded workload; each run has prompts of its own, which share as much among each other.

    Args:
        rows: of the file.
        name: of the file.
        form: how prompts are sent.
        seed: of the prompts.

    Raises:
        OptionError: no row has a prompt.
    """

    def __init__(self, rows: list[Row], name: str, form: Form, seed: int) -> None:
        self._rows = [row for row in rows if row.prompt_len]
        self._name = name
        self._form = form
        self._seed = seed
        if not self._rows:
            raise OptionError(f"--workload {name} holds no request that had a prompt, so there is nothing to send")
        self.notes = self._make_notes(len(rows))

    def text(self) -> str:
        """The file's name."""
        return f"{len(self._rows)} requests of {self._name}"

    def _make_notes(self, num_rows: int) -> list[str]:
        notes = []
        if left_out := num_rows - len(self._rows):
            notes.append(f"{left_out} of {num_rows} recorded requests never had a prompt and aren't sent.")
        if of_answers := sum(row.shares.of_answer for row in self._rows if row.shares is not None):
            notes.append(
                f"{of_answers:,} recorded prompt tokens repeated earlier answers. Answers can't be known before they "
                "come, so these tokens are made up and shared with nothing but each other."
            )
        if unknown := sum(row.shares is not None and row.shares.with_index is None for row in self._rows):
            notes.append(f"{unknown} requests shared a prefix with one that isn't known; theirs are made up alone.")
        return notes

    def plan(self, load: Load, number: int) -> list[Planned]:
        """The requests of a run, at the load's speed. A client's patience is its own, and isn't scaled."""
        speed = load.speed or 1.0
        symbols = self._symbols(number)
        first_s = self._rows[0].arrival_s
        planned = []
        for index, row in enumerate(self._rows):
            num_tokens = row.prompt_len or 0
            planned.append(
                Planned(
                    index=index, arrival_s=(row.arrival_s - first_s) / speed,
                    prompt=self._form.prompt(symbols[row.index][: self._form.num_symbols(num_tokens)], num_tokens),
                    num_tokens=num_tokens, max_tokens=_max_tokens(row), stream=row.stream,
                    leaves_after_s=row.left_after_s,
                )
            )  # fmt: skip
        return planned

    def _symbols(self, number: int) -> dict[int, list[int]]:
        """By a row's index, the symbols of its prompt and behind them those that stand for its answer."""
        rng = np.random.default_rng([self._seed, number + 1])
        made: dict[int, list[int]] = {}
        for row in self._rows:
            length = self._form.num_symbols(row.prompt_len or 0)
            own: list[int] = rng.integers(self._form.alphabet, size=length + row.generated).tolist()
            other = None if row.shares is None or row.shares.with_index is None else made.get(row.shares.with_index)
            if row.shares is not None and other is not None:
                shared = min(self._form.num_shared(row.shares.tokens), length, len(other))
                own[:shared] = other[:shared]
                if shared < min(len(own), len(other)) and own[shared] == other[shared]:  # or more would be shared
                    own[shared] = (own[shared] + 1) % self._form.alphabet
            made[row.index] = own
        return made


def _max_tokens(row: Row) -> int:
    """As many as it got; a client that went away had asked for more."""
    if row.left_after_s is not None or not row.generated:
        return row.max_tokens or max(row.generated, _UNKNOWN_MAX_TOKENS)
    return row.generated


def read_rows(path: Path) -> list[Row]:
    """Read a workload's file.

    Raises:
        FolderError: it can't be read.
        OptionError: it isn't a workload, or an empty one.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"--workload {path.name} can't be read: {error}") from error
    _, rows = read_workload(lines, f"--workload {path.name}")
    return sorted(rows, key=lambda row: (row.arrival_s, row.index))

"""Which requests a run sends, and when: made-up prompts with or without common prefixes, or those of a file.

`measure.py` asks a workload for the plan of each run. Every run has prompts of its own, so that no run finds those of
the one before it in the server's prefix cache; only a file that is too short comes round again.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from learnsgl.bench.online.arrivals import arrival_times
from learnsgl.bench.online.prompts import Form
from learnsgl.bench.online.results import Load
from learnsgl.bench.online.settings import Endpoint, Settings
from learnsgl.errors import FolderError, OptionError

WARM_UP = -1
"""In the place of a run's number."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        index: its place in the run, from 0.
        arrival_s: when it is to be sent, since the run began; a closed loop doesn't look at it.
        prompt: text or token ids, or the messages of a chat.
        num_tokens: tokens of the prompt; `None` where it isn't known.
        max_tokens: most tokens of the answer; `None` leaves it to the server.
        stream: whether a stream is asked for.
        leaves_after_s: seconds after its arrival at which its client goes away; `None` where it stays.
    """

    index: int
    arrival_s: float
    prompt: str | list[int] | list[dict[str, Any]]
    num_tokens: int | None = None
    max_tokens: int | None = None
    stream: bool = True
    leaves_after_s: float | None = None


class Workload(Protocol):
    """Where requests come from."""

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""

    def text(self) -> str:
        """In words."""

    def plan(self, load: Load, number: int) -> list[Planned]:
        """The requests of a run, in the order of their arrival.

        Args:
            load: how fast they come.
            number: of the run, from 0, or `WARM_UP`; each has other prompts.
        """


def times_of(load: Load, num_requests: int, settings: Settings) -> list[float]:
    """Times of arrival for a load; zeros for a closed loop.

    The gaps come from a generator of their own: whatever the prompts, arrivals of one seed are the same, and in every
    run of a sweep they are the same gaps at another scale.
    """
    rng = np.random.default_rng([settings.seed, 0xA221])
    times = arrival_times(settings.arrivals, load.rate, num_requests, burstiness=settings.burstiness, rng=rng)
    return [round(float(time_s), 6) for time_s in times]


class MadeUp:
    """Random prompts of wanted lengths, behind prefixes that they share where that is asked for.

    Args:
        settings: lengths, prefixes, seed.
        form: how prompts are sent.
        num_requests: of each run.
    """

    def __init__(self, settings: Settings, form: Form, num_requests: int) -> None:
        self._settings = settings
        self._form = form
        self._num_requests = num_requests
        self.notes: list[str] = []

    def text(self) -> str:
        """Lengths and prefixes."""
        made = self._settings
        lens = [str(one).replace(":", " to ") for one in (made.input_len, made.output_len)]
        text = f"{self._num_requests} random prompts of {lens[0]} tokens, answers of {lens[1]}"
        if not made.prefix_len:
            return text
        count = "one prefix" if made.num_prefixes == 1 else f"one of {made.num_prefixes} prefixes"
        return f"{text}, behind {count} of {made.prefix_len} tokens"

    def plan(self, load: Load, number: int) -> list[Planned]:
        """The requests of a run; which prefix one gets is drawn at random."""
        made, form = self._settings, self._form
        rng = np.random.default_rng([made.seed, number + 1])
        prefix_symbols = form.num_symbols(made.prefix_len) if made.prefix_len else 0
        prefixes = rng.integers(form.alphabet, size=(made.num_prefixes, prefix_symbols)).tolist()
        streams = streams_of(self._num_requests, made, number)
        planned = []
        for index, time_s in enumerate(times_of(load, self._num_requests, made)):
            own_len, output_len = (
                int(rng.integers(lens.low, lens.high + 1)) for lens in (made.input_len, made.output_len)
            )
            num_tokens = made.prefix_len + own_len
            prefix = prefixes[int(rng.integers(made.num_prefixes))]
            own = rng.integers(form.alphabet, size=max(0, form.num_symbols(num_tokens) - prefix_symbols)).tolist()
            prompt = form.prompt([*prefix, *own], num_tokens)
            planned.append(
                Planned(
                    index=index, arrival_s=time_s, prompt=prompt, num_tokens=num_tokens, max_tokens=output_len,
                    stream=streams[index],
                )
            )  # fmt: skip
        return planned


def streams_of(num_requests: int, settings: Settings, number: int) -> list[bool]:
    """Which requests of a run ask for a stream, drawn by a generator of their own."""
    rng = np.random.default_rng([settings.seed, 0x51E, number + 1])
    return [bool(share >= settings.plain_share) for share in rng.random(num_requests)]


class Prompt(msgspec.Struct, frozen=True):
    """One line of a file of prompts.

    Attributes:
        prompt: text, or token ids.
        messages: of a chat; exactly one of the two is given.
        max_tokens: most tokens of the answer; `None`: `--output-len` says it.
    """

    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None


class FromFile:
    """The prompts of a file, in its order, again and again; each run goes on where the one before it stopped.

    Args:
        settings: arrivals, and `output_len` for lines that say nothing.
        prompts: at least one.
        num_requests: of each run.
    """

    def __init__(self, settings: Settings, prompts: list[Prompt], num_requests: int) -> None:
        self._settings = settings
        self._prompts = prompts
        self._num_requests = num_requests
        self.notes: list[str] = []
        needed = num_requests * len(settings.loads)
        if needed > len(prompts):
            self.notes.append(
                f"{settings.prompts} holds {len(prompts)} prompts for {needed} requests, so prompts come again, and a "
                "prefix cache knows them then."
            )

    def text(self) -> str:
        """The file's name."""
        return f"{self._num_requests} prompts of {self._settings.prompts}"

    def plan(self, load: Load, number: int) -> list[Planned]:
        """The requests of a run."""
        first = number * self._num_requests
        lines = itertools.islice(itertools.cycle(self._prompts), first, first + self._num_requests)
        rng = np.random.default_rng([self._settings.seed, number + 1])
        lens = self._settings.output_len
        streams = streams_of(self._num_requests, self._settings, number)
        planned = []
        times = times_of(load, self._num_requests, self._settings)
        for index, (time_s, line) in enumerate(zip(times, lines, strict=True)):
            prompt = line.messages if line.prompt is None else line.prompt
            assert prompt is not None, "read_prompts checks it"
            max_tokens = line.max_tokens or int(rng.integers(lens.low, lens.high + 1))
            num_tokens = len(prompt) if isinstance(line.prompt, list) else None
            planned.append(
                Planned(
                    index=index, arrival_s=time_s, prompt=prompt, num_tokens=num_tokens, max_tokens=max_tokens,
                    stream=streams[index],
                )
            )  # fmt: skip
        return planned


def read_prompts(path: Path, endpoint: Endpoint) -> list[Prompt]:
    """Read a file of prompts: on each line a JSON string, or an object with `prompt` or `messages`, and `max_tokens`.

    Raises:
        FolderError: it can't be read.
        OptionError: it is empty, or a line is something else, or asks what the endpoint doesn't understand.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"--prompts {path.name} can't be read: {error}") from error
    prompts = [_read_line(line, f"--prompts {path.name}, line {number}", endpoint)
               for number, line in enumerate(lines, start=1) if line.strip()]  # fmt: skip
    if not prompts:
        raise OptionError(f'--prompts {path.name} is empty; give a JSON string on each line, or {{"prompt": "..."}}')
    return prompts


def _read_line(line: str, where: str, endpoint: Endpoint) -> Prompt:
    try:
        given = msgspec.json.decode(line, type=str | Prompt)
    except (msgspec.MsgspecError, ValueError) as error:
        raise OptionError(f"{where}: not a prompt: {error}") from error
    prompt = Prompt(prompt=given) if isinstance(given, str) else given
    if (prompt.prompt is None) == (prompt.messages is None) or not (prompt.prompt or prompt.messages):
        raise OptionError(f"{where}: give exactly one of prompt and messages, and not an empty one")
    if prompt.max_tokens is not None and prompt.max_tokens < 1:
        raise OptionError(f"{where}: max_tokens is {prompt.max_tokens}; it must be at least 1")
    if endpoint is Endpoint.CHAT and isinstance(prompt.prompt, list):
        raise OptionError(f"{where}: a chat takes no token ids; add --endpoint completions")
    if endpoint is Endpoint.COMPLETIONS and prompt.messages is not None:
        raise OptionError(f"{where}: only a chat takes messages; add --endpoint chat")
    return prompt

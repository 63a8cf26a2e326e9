"""`learnsgl bench offline`: the engine beside transformers' `generate` and llama.cpp, on the same prompts.

Every engine runs in a process of its own, all of them loaded at once, and they take turns round by round, so that a
machine that slows down slows all of them. Prefill and decode are told apart by the moments at which tokens came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from learnsgl.bench.peers.base import Peer, PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.peers.process import PeerProcess
from learnsgl.bench.report import load
from learnsgl.bench.stats import quantile
from learnsgl.bench.workload import Lengths, Request, make_requests

Tell = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        model: as `--model` takes it.
        dtype: float32 or bfloat16.
        quantizations: learnsgl is measured once with each: none, int8.
        peers: transformers, llama.cpp.
        input_len: tokens of a prompt.
        output_len: tokens generated for it.
        batches: requests at once.
        num_requests: requests of a round; `None`: as many as run at once.
        repeats: rounds that count, after one that doesn't.
        num_threads: threads of each engine.
        seed: of the prompts.
    """

    model: str
    dtype: str
    quantizations: list[str]
    peers: list[str]
    input_len: Lengths
    output_len: Lengths
    batches: list[int]
    num_requests: int | None
    repeats: int
    num_threads: int
    seed: int


class Round(msgspec.Struct, frozen=True):
    """One engine's part of one round.

    Attributes:
        peer: the engine.
        batch: requests at once.
        number: of the round; engines with the same number had the same prompts.
        load: processes that wanted a core in the minute before.
        num_prompt_tokens, num_output_tokens: in all.
        num_decoded_tokens: of the output, what came after every request had its first token.
        prefill_s: until every request had its first token.
        decode_s: from there to the end.
        gap_p50_s, gap_p99_s: from one decode step to the next.
        num_same: requests whose tokens are all those of the first engine of the round.
        num_requests: requests of the round.
    """

    peer: str
    batch: int
    number: int
    load: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_decoded_tokens: int
    prefill_s: float
    decode_s: float
    gap_p50_s: float
    gap_p99_s: float
    num_same: int
    num_requests: int

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second, up to the first token of all."""
        return self.num_prompt_tokens / self.prefill_s

    @property
    def decode_rate(self) -> float:
        """Generated tokens a second, after the first token of all."""
        return self.num_decoded_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def output_rate(self) -> float:
        """Generated tokens a second over the whole round, prefill and all."""
        return self.num_output_tokens / (self.prefill_s + self.decode_s)


class OfflineResults(msgspec.Struct):
    """Everything that was measured.

    Attributes:
        peers: the engines, in the order in which they began.
        absent: engines that could not be measured, and why.
        rounds: in the order in which they ran.
    """

    peers: list[PeerFacts]
    absent: dict[str, str]
    rounds: list[Round]


def measure(
    settings: Settings, specs: list[PeerSpec], tell: Tell, *, start: Callable[[PeerSpec], Peer] = PeerProcess
) -> OfflineResults:
    """Run all engines in turns.

    Args:
        settings: what to measure.
        specs: the engines; the first is the one that the others' tokens are compared with.
        tell: told in a few words how far it is.
        start: starts an engine; a test names a fake.

    Raises:
        StartupError, ServingError: an engine that can be measured here failed.
    """
    results = OfflineResults([], {}, [])
    with contextlib.ExitStack() as cleanup:
        running: list[Peer] = []
        for spec in specs:
            tell(f"starting {spec.name}")
            try:
                peer = start(spec)
            except PeerUnavailableError as error:
                results.absent[spec.name] = str(error)
                continue
            cleanup.callback(peer.close)
            running.append(peer)
            results.peers.append(peer.facts)
        vocab_size = min(peer.facts.vocab_size for peer in running)
        for batch in settings.batches:
            for number in range(settings.repeats + 1):
                tell(f"batch {batch}, round {number} of {settings.repeats}" + (" (warm-up)" if number == 0 else ""))
                requests = _requests(settings, batch, number, vocab_size)
                rounds = _play_round(running, requests, batch, number)
                results.rounds += rounds if number else []
    return results


def _requests(settings: Settings, batch: int, number: int, vocab_size: int) -> list[Request]:
    return make_requests(
        settings.num_requests or batch, settings.input_len, settings.output_len, vocab_size=vocab_size,
        seed=settings.seed, round_number=1000 * batch + number,
    )  # fmt: skip


def _play_round(running: list[Peer], requests: list[Request], batch: int, number: int) -> list[Round]:
    """One round of every engine, each round begun by another one."""
    turn = number % len(running)
    waves = {}
    loads = {}
    for peer in [*running[turn:], *running[:turn]]:
        loads[peer.facts.name] = load()
        waves[peer.facts.name] = [peer.run(requests[i : i + batch]) for i in range(0, len(requests), batch)]
    names = [peer.facts.name for peer in running]
    expected = [tokens for wave in waves[names[0]] for tokens in wave.tokens]
    return [summary(name, batch, number, loads[name], requests, waves[name], expected) for name in names]


def summary(
    peer: str, batch: int, number: int, load_now: float, requests: list[Request], waves: list[Wave],
    expected: list[list[int]],
) -> Round:  # fmt: skip
    """The numbers of one engine's waves, with its tokens compared with `expected`."""
    gaps = [gap for wave in waves for gap in wave.gaps_s] or [0.0]
    given = [tokens for wave in waves for tokens in wave.tokens]
    prefill_s = sum(wave.prefill_s for wave in waves)
    return Round(
        peer=peer,
        batch=batch,
        number=number,
        load=load_now,
        num_prompt_tokens=sum(len(request.prompt_ids) for request in requests),
        num_output_tokens=sum(wave.num_tokens for wave in waves),
        num_decoded_tokens=sum(wave.num_decoded for wave in waves),
        prefill_s=prefill_s,
        decode_s=sum(wave.total_s for wave in waves) - prefill_s,
        gap_p50_s=quantile(gaps, 0.5),
        gap_p99_s=quantile(gaps, 0.99),
        num_same=sum(mine == theirs for mine, theirs in zip(given, expected, strict=True)),
        num_requests=len(requests),
    )

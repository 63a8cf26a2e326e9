"""`learnsgl bench offline`: the engine beside other people's, on the same prompts.

Every engine runs in a process of its own. By default all of them are loaded at once and take turns round by round, so
that a machine that slows down slows all of them; with `--alone` each has the device for itself, one after the other,
and one that fails costs no other's figures. Prefill and decode are told apart by the moments at which tokens came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from learnsgl.bench.peers.base import Peer, PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.peers.process import PeerProcess
from learnsgl.bench.report import load
from learnsgl.bench.sizes import Ceilings, ModelSizes, WorkloadFloor, workload_floor
from learnsgl.bench.stats import quantile
from learnsgl.bench.workload import Lengths, Request, make_requests, nano_vllm_requests
from learnsgl.errors import ServingError, StartupError
from learnsgl.models.config import load_model_config

Tell = Callable[[str], None]
Start = Callable[[PeerSpec], Peer]
Limits = tuple[ModelSizes, Ceilings] | None
Keep = Callable[["OfflineResults"], object]
NANO_VLLM = "nano-vllm"
WARM_UP_LEN = 32
"""Tokens of an answer of the warm-up of nano-vLLM's workload."""


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        model: as `--model` takes it.
        dtype: float32 or bfloat16.
        quantizations: learnsgl is measured once with each: none, int8.
        peers: some of `command.PEERS`.
        input_len: tokens of a prompt.
        output_len: tokens generated for it.
        batches: requests at once.
        num_requests: requests of a round; `None`: as many as run at once.
        repeats: rounds that count, after one that doesn't.
        num_threads: threads of each engine.
        seed: of the prompts.
        workload: random, or nano-vllm: the 256 requests of `nano_vllm_requests`, all at once, in place of the lengths,
            batches and numbers above.
        alone: whether each engine has the device for itself.
        floor: whether the least time is told, from bandwidth and rate of the device.
        device: auto, cpu or cuda.
        temperature: 0 is greedy.
        max_prefill_length: most tokens of one step; `None` leaves it to each engine.
        limit_s: seconds that an engine may take to start, and to answer a wave; `None` for any.
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
    workload: str = "random"
    alone: bool = False
    floor: bool = False
    device: str = "auto"
    temperature: float = 0.0
    max_prefill_length: int | None = None
    limit_s: float | None = None


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
        failed: engines that began and failed, and how; their rounds until then are there.
        comparable: whether all engines are to give the same tokens: they are greedy, on the same weights.
        ceilings: of the device, where floors were asked for.
        floors: of one round of each batch, by its number of requests at once.
    """

    peers: list[PeerFacts]
    absent: dict[str, str]
    rounds: list[Round]
    failed: dict[str, str] = {}
    comparable: bool = True
    ceilings: Ceilings | None = None
    floors: dict[int, WorkloadFloor] = {}


def measure(
    settings: Settings, specs: list[PeerSpec], tell: Tell, *, start: Start = PeerProcess, limits: Limits = None,
    keep: Keep = lambda results: None,
) -> OfflineResults:  # fmt: skip
    """Run all engines, in turns or each alone.

    Args:
        settings: what to measure.
        specs: the engines; the first is the one that the others' tokens are compared with.
        tell: told in a few words how far it is.
        start: starts an engine; a test names a fake.
        limits: the model's sizes and what the device reaches, for the floors.
        keep: given what there is so far after each engine that ran alone, in case a later one takes all the time.

    Raises:
        StartupError, ServingError: an engine that can be measured here failed, where they take turns; or no engine
            gave any figure.
    """
    has_same_weights = all(spec.has_weights for spec in specs)
    results = OfflineResults([], {}, [], comparable=settings.temperature == 0 and has_same_weights)
    if limits is not None:
        _add_floors(settings, specs, limits, results)
    if settings.alone:
        _measure_alone(settings, specs, tell, start, results, keep)
        if not results.rounds:
            raise ServingError("no engine gave a figure: " + _told({**results.absent, **results.failed}))
    else:
        _measure_in_turns(settings, specs, tell, start, results)
    return results


def _add_floors(
    settings: Settings, specs: list[PeerSpec], limits: tuple[ModelSizes, Ceilings], results: OfflineResults
) -> None:
    sizes, results.ceilings = limits
    vocab_size = load_model_config(specs[0].model_folder).vocab_size
    for batch in settings.batches:
        requests = make_round(settings, batch, 1, vocab_size)
        results.floors[batch] = workload_floor(requests, sizes, results.ceilings)


def _told(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _measure_in_turns(
    settings: Settings, specs: list[PeerSpec], tell: Tell, start: Start, results: OfflineResults
) -> None:
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
                requests = make_round(settings, batch, number, vocab_size)
                rounds = _play_round(running, requests, batch, number)
                results.rounds += rounds if number else []


def _measure_alone(
    settings: Settings, specs: list[PeerSpec], tell: Tell, start: Start, results: OfflineResults, keep: Keep
) -> None:
    """All rounds of one engine, then of the next. The first one's answers are what the others' are compared with."""
    vocab_size = load_model_config(specs[0].model_folder).vocab_size
    expected: dict[tuple[int, int], list[list[int]]] = {}
    for spec in specs:
        tell(f"starting {spec.name}")
        try:
            with contextlib.closing(start(spec)) as peer:
                results.peers.append(peer.facts)
                for batch in settings.batches:
                    for number in range(settings.repeats + 1):
                        tell(f"{spec.name}, batch {batch}, round {number} of {settings.repeats}")
                        requests = make_round(settings, batch, number, vocab_size)
                        found = _play_alone(peer, requests, batch, number, expected)
                        results.rounds += found if number else []
        except PeerUnavailableError as error:
            tell(f"{spec.name} is left out: {error}")
            results.absent[spec.name] = str(error)
        except (StartupError, ServingError) as error:
            tell(f"{spec.name} failed: {error}")
            results.failed[spec.name] = str(error)
        keep(results)


def _play_alone(
    peer: Peer, requests: list[Request], batch: int, number: int, expected: dict[tuple[int, int], list[list[int]]]
) -> list[Round]:
    now = load()
    waves = [peer.run(requests[i : i + batch]) for i in range(0, len(requests), batch)]
    tokens = expected.setdefault((batch, number), [tokens for wave in waves for tokens in wave.tokens])
    return [summary(peer.facts.name, batch, number, now, requests, waves, tokens)]


def make_round(settings: Settings, batch: int, number: int, vocab_size: int) -> list[Request]:
    """The requests of a round; round 0 is the warm-up.

    nano-vLLM's workload is warmed up by a shifted one with short answers, and round 1 has its own token ids.
    """
    if settings.workload == NANO_VLLM:
        requests = nano_vllm_requests(vocab_size, number - 1 if number else settings.repeats)
        if number == 0:
            return [Request(request.prompt_ids, min(request.output_len, WARM_UP_LEN)) for request in requests]
        return requests
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

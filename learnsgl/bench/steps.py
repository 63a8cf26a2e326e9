"""`learnsgl bench steps`: the engine's steps on a device, from its own recording, beside what the device could do.

Decode steps at fixed batches and a fixed context, with overlap and CUDA graphs on and off; and the prefill of one long
prompt in one step. What a step took and how long the device waited before it come from `engine.forward`.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from learnsgl.bench.peers.base import Peer, PeerSpec, longest_context
from learnsgl.bench.peers.process import PeerProcess
from learnsgl.bench.sizes import CPU, Ceilings, ModelSizes, sizes_of
from learnsgl.bench.steps_read import StepTimes, read_steps
from learnsgl.bench.workload import Lengths, Request, make_requests
from learnsgl.errors import ServingError, StartupError
from learnsgl.hub import resolve_model
from learnsgl.models.config import ModelConfig, load_model_config

Tell = Callable[[str], None]
Start = Callable[[PeerSpec], Peer]
WARM_UP_STEPS = 4
"""Decode steps of a round at whose beginning the device still catches up; they don't count."""


class Variant(msgspec.Struct, frozen=True):
    """One way to run the engine.

    Attributes:
        overlap: whether a step is scheduled while the one ahead of it runs.
        graphs: whether decode steps replay CUDA graphs; without a GPU they don't.
    """

    overlap: bool
    graphs: bool

    def options(self) -> dict[str, bool | int | float | str]:
        """As learnsgl takes them."""
        return {"overlap": self.overlap, **({} if self.graphs else {"cuda_graph_max_bs": 0})}

    def text(self) -> str:
        """For tables and progress."""
        return f"overlap {'on' if self.overlap else 'off'}, graphs {'on' if self.graphs else 'off'}"


DEFAULT = Variant(overlap=True, graphs=True)
VARIANTS = (DEFAULT, Variant(False, True), Variant(True, False), Variant(False, False))


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        models: as `--model` takes them. The first one is run in all variants, the others as the server runs them.
        dtype: of weights and KV.
        device: auto, cpu or cuda.
        batches: requests that decode at once.
        context: tokens that each of them attends to, in the middle of its steps.
        steps: decode steps of each batch.
        prefill_len: tokens of the long prompt.
        prefill_repeats: how often one is computed.
        variants: whether overlap and graphs are switched off, too.
        num_threads: of a CPU.
        seed: of the prompts.
        attention_backend: as `--attention-backend` takes it; `None` for the engine's own choice.
    """

    models: list[str]
    dtype: str
    device: str
    batches: list[int]
    context: int
    steps: int
    prefill_len: int
    prefill_repeats: int
    variants: bool
    num_threads: int
    seed: int
    attention_backend: str | None = None


class DecodeSteps(msgspec.Struct, frozen=True):
    """The decode steps of one batch in one variant."""

    model: str
    variant: Variant
    batch: int
    times: StepTimes


class Prefills(msgspec.Struct, frozen=True):
    """Prefills of a long prompt, each in one step.

    Attributes:
        num_tokens: of the prompt.
        device_us: of each: forward pass and sampling.
    """

    model: str
    num_tokens: int
    device_us: list[float]


class StepsResults(msgspec.Struct):
    """Everything that was measured.

    Attributes:
        ceilings: what the device reaches.
        sizes: of each model.
        decodes, prefills: in the order in which they ran.
        failed: what could not be measured, and why.
    """

    ceilings: Ceilings
    sizes: dict[str, ModelSizes]
    decodes: list[DecodeSteps]
    prefills: list[Prefills]
    failed: dict[str, str] = {}


def measure(
    settings: Settings, ceilings: Ceilings, tell: Tell, *, start: Start = PeerProcess,
    keep: Callable[[StepsResults], object] = lambda results: None,
) -> StepsResults:  # fmt: skip
    """Run every model in its variants, each in a process of its own.

    Args:
        settings: what to measure.
        ceilings: what the device reaches, measured in this run.
        tell: told in a few words how far it is.
        start: starts an engine; a test names a fake.
        keep: given what there is so far after each variant, in case a later one takes all the time.

    Raises:
        ServingError: nothing could be measured.
    """
    results = StepsResults(ceilings, {}, [], [])
    for place, model in enumerate(settings.models):
        config = load_model_config(resolve_model(model).folder)
        results.sizes[model] = sizes_of(config, settings.dtype)
        for variant in variants_of(settings, place, ceilings):
            name = f"{model}, {variant.text()}"
            tell(f"starting {name}")
            try:
                _measure_variant(settings, model, config, variant, results, tell, start)
            except (StartupError, ServingError) as error:
                tell(f"{name} failed: {error}")
                results.failed[name] = str(error)
            keep(results)
    if not results.decodes:
        raise ServingError("; ".join(f"{name}: {reason}" for name, reason in results.failed.items()))
    return results


def variants_of(settings: Settings, place: int, ceilings: Ceilings) -> list[Variant]:
    """How the model at a place is run; without a GPU there are no graphs to switch off."""
    if not settings.variants or place > 0:
        return [DEFAULT]
    return [variant for variant in VARIANTS if variant.graphs or ceilings.device != CPU]


def _measure_variant(
    settings: Settings, model: str, config: ModelConfig, variant: Variant, results: StepsResults, tell: Tell,
    start: Start,
) -> None:  # fmt: skip
    """Run one engine, end it so that its recording is whole, and read the steps."""
    spans: dict[int, tuple[int, int]] = {}
    prefill_span = None
    with tempfile.TemporaryDirectory(prefix="learnsgl-bench-") as temp:
        folder = Path(temp)
        with contextlib.closing(start(_spec(settings, model, config, variant, folder))) as peer:
            for batch in settings.batches:
                tell(f"{model}, {variant.text()}: batch {batch}")
                for number in range(2):  # the first one warms up
                    spans[batch] = _span(peer, decode_round(settings, batch, number, peer.facts.vocab_size))
            if variant == DEFAULT:
                tell(f"{model}: a prompt of {settings.prefill_len:,} tokens")
                prefill_span = _prefill(settings, peer)
        (run,) = (path for path in folder.iterdir() if path.is_dir())
        for batch, span in spans.items():
            times = read_steps(run, span, batch=batch, skip=WARM_UP_STEPS)
            results.decodes.append(DecodeSteps(model, variant, batch, times))
        if prefill_span is not None:
            times = read_steps(run, prefill_span, batch=1, prompt_len=settings.prefill_len)
            results.prefills.append(Prefills(model, settings.prefill_len, times.device_us))


def _spec(settings: Settings, model: str, config: ModelConfig, variant: Variant, folder: Path) -> PeerSpec:
    longest = max(settings.context + settings.steps, settings.prefill_len)
    options = {**variant.options(), "max_model_len": longest_context(config, longest + 1)}
    if settings.attention_backend is not None:
        options["attention_backend"] = settings.attention_backend
    return PeerSpec(
        name=f"learnsgl, {variant.text()}", kind="learnsgl", model=model, model_folder=Path(), gguf=None,
        dtype=settings.dtype, quantization="none", num_threads=settings.num_threads, max_batch=max(settings.batches),
        max_len=longest + 1, trace=folder, device=settings.device, alone=True,
        max_prefill_length=settings.prefill_len, options=options,
    )  # fmt: skip


def decode_round(settings: Settings, batch: int, number: int, vocab_size: int) -> list[Request]:
    """Prompts whose contexts, after half of the steps, have `settings.context` tokens."""
    prompt_len = max(1, settings.context - settings.steps // 2)
    # the first token of an answer comes from its prompt's step
    lens = Lengths(prompt_len, prompt_len), Lengths(settings.steps + 1, settings.steps + 1)
    return make_requests(batch, *lens, vocab_size=vocab_size, seed=settings.seed, round_number=1000 * batch + number)


def _prefill(settings: Settings, peer: Peer) -> tuple[int, int]:
    """Prompts of the wanted length, one after the other; the first one warms up."""
    lens = Lengths(settings.prefill_len, settings.prefill_len), Lengths(1, 1)
    rounds = [
        make_requests(1, *lens, vocab_size=peer.facts.vocab_size, seed=settings.seed, round_number=-number % 2**31)
        for number in range(1, settings.prefill_repeats + 2)
    ]
    peer.run(rounds[0])
    spans = [_span(peer, requests) for requests in rounds[1:]]
    return spans[0][0], spans[-1][1]


def _span(peer: Peer, requests: list[Request]) -> tuple[int, int]:
    """Answer requests; when that began and ended, on the clock of recordings."""
    start_ns = time.monotonic_ns()
    peer.run(requests)
    return start_ns, time.monotonic_ns()

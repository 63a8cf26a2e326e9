"""The one seam between the scheduler and whatever runs the model.

`Step` is plain data; an executor takes steps in order and gives their sampled tokens back. The engine on a CPU or
GPU, the simulator on its virtual clock and the fake in the tests all look like `Executor`; the scheduler can't tell
them apart. Everything on the device (weights, KV pool, page table, token pool) belongs to the executor.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from learnsgl.config import SchedulerConfig
from learnsgl.core import Float32Array, Int32Array, ReqKey, SamplingParams

ENGINE_FACTORY = "learnsgl.engine.engine:create_engine"
"""Makes the real executor (`module:function`): a name, so that who starts a server need not import torch."""


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """A moment that was seen on both clocks, the host's and the device's: how device times get onto the host's clock.

    Attributes:
        host_ns: the moment on `time.monotonic_ns`, the middle of the interval in which it was seen.
        uncertainty_ns: half of that interval.
        rate_ppb: how many host nanoseconds more than 1e9 go by in 1e9 of the device's, measured between two anchors.
        rate_uncertainty_ppb: how far off that may be.
    """

    host_ns: int
    uncertainty_ns: int
    rate_ppb: int
    rate_uncertainty_ppb: int


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """What the capture of a CUDA graph took.

    Attributes:
        size: its batch size.
        num_bytes: device memory that it added.
        start_ns, end_ns: when it was captured, on `time.monotonic_ns`.
    """

    size: int
    num_bytes: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """What the scheduler and the start-up message need to know of an executor once it is ready."""

    model: str
    """Name that clients use for the model."""
    device: str
    """For people: `cpu (2 threads)`, `cuda:0 NVIDIA H100`."""
    dtype: str
    num_pages: int
    """Pages of KV cache; pages are numbered from 0."""
    page_size: int
    """Tokens a page."""
    max_model_len: int
    """Most tokens of one request, prompt and output: the model's context, or less where the pages end first."""
    vocab_size: int
    eos_ids: tuple[int, ...]
    """Tokens that end a sequence."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes by purpose: `weights`, `kv_pages`, `workspace`, `available_before`, `available_after`, `page`."""
    phases: list[tuple[str, int, int]] = field(default_factory=list)
    """Start-up phases (name, start_ns, end_ns) on `time.monotonic_ns`."""
    graphs: tuple[CapturedGraph, ...] = ()
    """CUDA graphs, in the order of their capture."""
    max_running_requests: int = 64
    """Table rows: most requests that run at once."""
    max_prefill_length: int = 512
    """Most prompt tokens of one step."""

    def under(self, config: SchedulerConfig) -> ExecutorInfo:
        """The same with what the options ask for; what they leave open is the executor's to choose, by its device."""
        return replace(
            self,
            max_running_requests=config.max_running_requests or self.max_running_requests,
            max_prefill_length=config.max_prefill_length or self.max_prefill_length,
        )


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that gets its table row with this step.

    Attributes:
        key: the request's id and choice (with the seed, what its random numbers depend on when it gives none).
        row: table row, free until now.
        prompt_ids: int32 [prompt_len]; the executor writes them to its token pool at positions 0 to prompt_len.
        sampling: how to choose its tokens.
        cached_pages: int32 [n]; pages found in the cache, which hold the KV of the first n * page_size tokens.
    """

    key: ReqKey
    row: int
    prompt_ids: Int32Array
    sampling: SamplingParams
    cached_pages: Int32Array


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: for each row, a run of consecutive positions whose tokens go through the model.

    The input token at a position is read from the executor's token pool [row, position]: prompt tokens were written
    there at admission, generated ones by the sampling of an earlier step, so step N+1 can be submitted before the
    host has seen what step N sampled. When the row's `wants_token` is set, a token is sampled from the logits of
    the run's last position, and written to the token pool one position after it.

    Attributes:
        number: counts from 1 without gaps; executors run steps in this order.
        admitted: requests that get a row now, before anything else of the step.
        rows: int32 [n]; no row twice.
        starts: int32 [n]; first position of each run.
        lens: int32 [n]; tokens in each run, at least 1. A decode run has length 1.
        wants_token: bool-like int32 [n]; 1 where a token is to be sampled.
        page_counts: int32 [n]; how many pages each row is given, appended to its page table.
        new_pages: int32 [sum(page_counts)]; those pages, row after row.
        released_rows: int32 [m]; rows given back since the last step. They are free before `admitted` applies.
        num_prompt_logits: int32 [n]; of how many of each run's first positions the log-probability of the prompt's
            next token is wanted. `None`: of none, in the whole step.
    """

    number: int
    admitted: tuple[Admission, ...]
    rows: Int32Array
    starts: Int32Array
    lens: Int32Array
    wants_token: Int32Array
    page_counts: Int32Array
    new_pages: Int32Array
    released_rows: Int32Array
    num_prompt_logits: Int32Array | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model in this step."""
        return int(self.lens.sum())


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the probabilities of m tokens, and the likeliest tokens at their places.

    Attributes:
        logprobs: float32 [m].
        top_ids: int32 [m, k]; the likeliest first. At least as many as any of their requests asks for.
        top_logprobs: float32 [m, k].
    """

    logprobs: Float32Array
    top_ids: Int32Array
    top_logprobs: Float32Array


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probabilities of a run of a prompt's tokens.

    Attributes:
        row: the request's table row.
        start: position of the first of these tokens, at least 1.
        values: one for each token.
    """

    row: int
    start: int
    values: TokenLogprobs


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave.

    Attributes:
        number: the step's number.
        tokens: int32 [number of rows with wants_token]; in the order of the step's rows.
        logprobs: of those of these tokens whose requests ask for it.
        logprob_places: int32 [m]; which of `tokens` these are, ascending.
        prompt_logprobs: what `num_prompt_logits` asked for, one for each run with any.
        forward_start_ns, forward_end_ns: when the device worked on the forward pass, on the host's clock.
        sample_start_ns, sample_end_ns: likewise for the sampling.
        launch_ns: where the device has a clock of its own, the host's time just before the forward pass was queued.
        uncertainty_ns: how far off the device's times may be; 0 where they were read from the host's clock.
        graph_size: batch size of the CUDA graph that the forward pass replayed; the step was padded to it.
        anchors: the clock anchors made since the step before.
    """

    number: int
    tokens: Int32Array
    forward_start_ns: int
    forward_end_ns: int
    sample_start_ns: int
    sample_end_ns: int
    logprobs: TokenLogprobs | None = None
    logprob_places: Int32Array | None = None
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    launch_ns: int | None = None
    uncertainty_ns: int = 0
    graph_size: int | None = None
    anchors: tuple[ClockAnchor, ...] = ()


@dataclass(frozen=True, slots=True)
class Masks:
    """Tokens that constrained requests may take: for row `rows[i]` the token ids set in `allowed[i]`.

    Attributes:
        rows: int32 [m]; each is one of the step's rows that want a token.
        allowed: packed bits, uint8 [m, ceil(vocab_size / 8)], as bytes row after row. Token t is bit t % 8 of byte
            t // 8, where bit 0 is the lowest. At least one is set in each row; tokens that the model's vocabulary has
            beyond the tokenizer's are never.
    """

    rows: Int32Array
    allowed: bytes


class Ticket(Protocol):
    """A step that was submitted and not yet collected."""

    @property
    def number(self) -> int:
        """The step's number."""
        ...


class Executor(Protocol):
    """Runs steps in the order they are submitted."""

    @property
    def info(self) -> ExecutorInfo:
        """Sizes and names, fixed once the executor exists."""
        ...

    def submit(self, step: Step) -> Ticket:
        """Queue the forward pass of `step` and return at once."""
        ...

    def sample(self, ticket: Ticket, masks: Masks | None) -> None:
        """Queue the sampling of a submitted step and return at once; `masks` only for constrained requests."""
        ...

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait until the step's sampled tokens are on the host. Tickets are collected in the order of submission.

        Raises:
            EngineError: the forward pass or the sampling failed.
        """
        ...

    def close(self) -> None:
        """Stop the device's threads and give memory back; safe to call twice."""
        ...

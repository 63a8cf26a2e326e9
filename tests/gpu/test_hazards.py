"""What only streams and real time can break: memory given on too early, a stream that doesn't wait, late compiling."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import triton

from learnsgl.core import SamplingParams
from learnsgl.engine.cuda_engine import CudaEngine
from tests.engine.driver import GREEDY, StepBuilder, generate
from tests.gpu.conftest import MakeModel
from tests.gpu.test_engine import PROMPTS, running

SAMPLING = [
    GREEDY, SamplingParams(temperature=0.8, seed=1), SamplingParams(top_p=0.9, top_k=30, seed=2),
    SamplingParams(min_p=0.1, frequency_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 2.0}, min_tokens=9, seed=3),
    SamplingParams(temperature=0.0, logprobs=3), SamplingParams(temperature=0.7, seed=4, presence_penalty=1.0),
]  # fmt: skip


KERNEL_BYTES = 32 << 20
"""What libraries may load while steps run."""


def play(
    engine: CudaEngine, *, overlap: bool, disturb: random.Random | None = None, seed: int = 0
) -> list[list[int]]:  # fmt: skip
    """Requests that come and go at random; the tokens of every step. What disturbs the device changes none of them."""
    chance, builder, tokens = random.Random(seed), StepBuilder(engine.info), []
    left: dict[int, list[int]] = {}  # prompt tokens and answer tokens to come
    in_flight: list[object] = []
    for _ in range(150):
        for row in range(8):
            if row not in left and chance.random() < 0.3:
                length = chance.choice([1, 3, 20, 90])
                builder.admit(row, [chance.randint(3, 200) for _ in range(length)], chance.choice(SAMPLING))
                left[row] = [length, chance.randint(1, 40)]
        runs = [(row, min(prompt, chance.randint(1, 12)) if prompt else 1) for row, (prompt, _) in left.items()]
        if not runs:
            continue
        wants = [left[row][0] <= length for row, length in runs]
        if disturb:
            torch.cuda._sleep(disturb.choice([0, 100_000, 3_000_000]))  # default stream
            with torch.cuda.stream(engine._device.stream):
                torch.cuda._sleep(disturb.choice([0, 0, 2_000_000]))  # up to a millisecond
        ticket = engine.submit(builder.build(runs, wants=wants))
        engine.sample(ticket, None)
        if disturb:
            spoil()
        in_flight.append(ticket)
        while len(in_flight) > (1 if overlap else 0):
            tokens.append(engine.collect(in_flight.pop(0)).tokens.tolist())  # type: ignore[arg-type]
        for row, length in runs:
            left[row][0 if left[row][0] else 1] -= length
            if left[row][1] <= 0:
                del left[row]
                builder.release(row)
    return tokens + [engine.collect(ticket).tokens.tolist() for ticket in in_flight]  # type: ignore[arg-type]


def spoil() -> None:
    """Take memory that the allocators believe is free, on both sides, and fill it with nonsense."""
    for size in (64, 512, 4096, 1 << 16):
        torch.empty(size, dtype=torch.uint8, pin_memory=True).fill_(255)
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
            with torch.cuda.stream(stream):
                torch.empty(size, dtype=torch.uint8, device="cuda").fill_(255)


@pytest.mark.parametrize("max_bs", [None, 0])
def test_no_delay_and_no_reuse_of_memory_changes_a_token(max_bs: int | None, random_model: MakeModel) -> None:
    """Without overlap each step is over before the next is launched, so nothing can come too early."""
    folder = random_model("qwen3_tied", torch.float32)[0]
    with running(folder, torch.float32, cuda_graph_max_bs=max_bs) as engine:
        expected = play(engine, overlap=False)
    for seed in range(3):
        with running(folder, torch.float32, cuda_graph_max_bs=max_bs) as engine:
            assert play(engine, overlap=True, disturb=random.Random(seed)) == expected


def test_device_times_lie_between_launch_and_news(random_model: MakeModel) -> None:
    with running(random_model("gqa", torch.float32)[0]) as engine:
        builder = StepBuilder(engine.info)
        for row in range(3):
            builder.admit(row, [4] * 40)
        last_ns, sizes, in_flight = 0, [], []
        for length in (40, *[1] * 200):
            before_ns = time.monotonic_ns()
            ticket = engine.submit(builder.build([(row, length) for row in range(3)]))
            engine.sample(ticket, None)
            in_flight.append((ticket, before_ns))
            if len(in_flight) < 2:
                continue
            ticket, before_ns = in_flight.pop(0)
            result = engine.collect(ticket)
            assert result.launch_ns is not None
            assert before_ns <= result.launch_ns <= result.forward_start_ns <= result.forward_end_ns
            assert result.forward_end_ns <= result.sample_start_ns <= result.sample_end_ns <= time.monotonic_ns()
            assert last_ns - result.uncertainty_ns <= result.forward_start_ns
            assert result.uncertainty_ns < 1_000_000
            last_ns = result.forward_start_ns
            sizes.append(result.graph_size)
    assert sizes[0] is None
    assert set(sizes[1:]) == {4}  # three rows take the graph of four


def test_the_same_steps_give_the_same_tokens_twice(random_model: MakeModel) -> None:
    folder = random_model("gqa", torch.float32)[0]
    with running(folder) as engine:
        first = play(engine, overlap=True, seed=5)
    with running(folder) as engine:
        assert play(engine, overlap=True, seed=5) == first


@contextmanager
def compiled_kernels() -> Iterator[list[str]]:
    """Names of the kernels that Triton compiles, or loads from its cache, within."""
    names: list[str] = []
    before = triton.knobs.runtime.jit_post_compile_hook

    def note(*_: object, **facts: object) -> None:
        names.append(str(facts.get("repr")))

    triton.knobs.runtime.jit_post_compile_hook = note
    try:
        yield names
    finally:
        triton.knobs.runtime.jit_post_compile_hook = before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_step_compiles_a_kernel(dtype: torch.dtype, random_model: MakeModel) -> None:
    folder = random_model("llama3_wide_heads", torch.float32)[0]
    with running(folder, dtype) as engine, compiled_kernels() as names:
        play(engine, overlap=True)
        play_mask(engine)
    assert names == []


def play_mask(engine: CudaEngine) -> None:
    """A step whose tokens a grammar limits to one."""
    from learnsgl.scheduler.executor import Masks
    from tests.engine.driver import int32

    number = engine._num_collected
    builder = StepBuilder(engine.info)
    builder.number = number
    for row in range(8):
        builder._released.append(row)
    builder.admit(0, [5, 6, 7])
    num_bytes = -(-engine.info.vocab_size // 8)
    allowed = bytearray(num_bytes)
    allowed[2] = 1 << 3
    ticket = engine.submit(builder.build([(0, 3)]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.sample(ticket, Masks(int32([0]), bytes(allowed)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.collect(ticket).tokens.tolist() == [19]


def test_steps_take_no_more_memory(random_model: MakeModel) -> None:
    with running(random_model("gqa", torch.float32)[0]) as engine:
        play(engine, overlap=True)
        torch.cuda.synchronize()
        before = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
        builder = StepBuilder(engine.info)
        builder.number = engine._num_collected
        builder._released += list(range(8))
        generate(engine, PROMPTS, 200, builder=builder)
        torch.cuda.synchronize()
        assert torch.cuda.memory_reserved() <= before[0]
        # a product of another size may load another kernel of cuBLAS
        assert torch.cuda.mem_get_info()[0] >= before[1] - KERNEL_BYTES


def test_a_closed_engine_gives_its_memory_back(random_model: MakeModel) -> None:
    """PyTorch keeps some MiB of cuBLAS's for every stream that there ever was; the pages here are 800 MiB."""
    folder = random_model("gqa", torch.float32)[0]
    with running(folder):
        pass
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        with running(folder, num_pages=1 << 22) as engine:
            generate(engine, PROMPTS, 4)
    assert torch.cuda.memory_allocated() - before < 400 << 20

"""The engine as an executor: order, the compute thread, faults, and what it says of itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.core import SamplingParams
from learnsgl.engine.engine import Engine, create_engine
from learnsgl.errors import EngineError
from learnsgl.scheduler.executor import Executor, Masks, Step
from tests.engine.conftest import MakeModel
from tests.engine.driver import GREEDY, StepBuilder, generate, int32, run_step
from tests.engine.reference import reference_logits

PROMPT = [5, 6, 7, 8]


def start(folder: Path, **changes: Any) -> Engine:
    settings = {"device": "cpu", "num_threads": 1, "num_pages": 256, **changes}
    return create_engine(folder, "small", EngineConfig(**settings), SchedulerConfig(max_running_requests=8))


@pytest.fixture
def engine(small_model: MakeModel) -> Iterator[Engine]:
    engine = start(small_model("gqa")[0])
    yield engine
    engine.close()


def first_step(engine: Engine) -> Step:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    return builder.build([(0, len(PROMPT))])


def test_it_is_an_executor_and_describes_itself(small_model: MakeModel) -> None:
    executor: Executor = start(small_model("gqa")[0], page_size=4, num_pages=64)
    info = executor.info
    executor.close()
    assert (info.model, info.device, info.dtype) == ("small", "cpu (1 thread)", "float32")
    assert (info.num_pages, info.page_size, info.max_model_len) == (64, 4, 256)
    assert (info.vocab_size, info.eos_ids) == (203, (2,))
    assert info.memory["page"] == 4 * 2 * 2 * 8 * 3 * 4  # tokens, K and V, heads, head_dim, layers, bytes
    assert info.memory["kv_pages"] == 64 * info.memory["page"]
    model = small_model("gqa")[1]
    assert info.memory["weights"] == sum(parameter.numel() * 4 for parameter in model.parameters())
    names = [name for name, _, _ in info.phases if name != "pack_weights"]  # where the processor gains by it
    assert names == ["load_weights", "allocate_kv", "warm_up"]
    times = [time for _, start_ns, end_ns in info.phases for time in (start_ns, end_ns)]
    assert times == sorted(times)


def test_steps_run_on_one_other_thread_in_order(engine: Engine) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    tickets = []
    for length in (4, 1, 1, 1):
        ticket = engine.submit(builder.build([(0, length)]))
        engine.sample(ticket, None)
        tickets.append(ticket)
    results = [engine.collect(ticket) for ticket in tickets]
    assert [result.number for result in results] == [1, 2, 3, 4]
    times = [
        time for r in results for time in (r.forward_start_ns, r.forward_end_ns, r.sample_start_ns, r.sample_end_ns)
    ]
    assert times == sorted(times)
    assert all(result.tokens.dtype == np.int32 for result in results)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("compute")] == ["compute_0"]


def test_steps_ahead_of_the_host_give_the_same_tokens(engine: Engine, small_model: MakeModel) -> None:
    prompts = [[9, 10, 11], [12] * 20]
    ahead = generate(engine, prompts, 12)
    other = start(small_model("gqa")[0])
    assert generate(other, prompts, 12, overlap=False) == ahead
    other.close()


def test_a_seed_gives_the_same_tokens_in_any_company(engine: Engine, small_model: MakeModel) -> None:
    prompts = [[20, 21, 22], [30] * 9, [40, 41]]
    seeded = SamplingParams(temperature=0.9, seed=11, top_p=0.95)
    params = [seeded, GREEDY, SamplingParams(temperature=1.5, top_k=30)]
    together = generate(engine, prompts, 16, params, uids=[1, 2, 3])

    def alone(index: int, uid: int, **changes: Any) -> list[int]:
        other = start(small_model("gqa")[0], **changes)
        (tokens,) = generate(other, [prompts[index]], 16, [params[index]], uids=[uid])
        other.close()
        return tokens

    assert alone(0, uid=77, seed=5) == together[0]
    assert alone(2, uid=3) == together[2]  # without a seed of its own, the request's id decides
    assert alone(2, uid=4) != together[2]
    assert alone(2, uid=3, seed=5) != together[2]  # and the engine's seed


def test_a_row_is_used_again_without_a_trace_of_its_last_request(engine: Engine, small_model: MakeModel) -> None:
    model = small_model("gqa")[1]
    builder = StepBuilder(engine.info)
    for prompt, sampling in (([7] * 30, SamplingParams(seed=3)), ([8, 9], GREEDY), ([10] * 12, GREEDY)):
        builder.admit(0, prompt, sampling)
        (token,) = run_step(engine, builder.build([(0, len(prompt))]))
        if sampling is GREEDY:
            assert token == int(reference_logits(model, prompt)[-1].argmax())
        builder.release(0)


def test_a_step_may_want_no_token_or_hold_no_rows(engine: Engine) -> None:
    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    assert run_step(engine, builder.build([(0, 3)], wants=[False])) == []
    assert len(run_step(engine, builder.build([(0, 1)]))) == 1
    builder.release(0)
    assert run_step(engine, builder.build([])) == []


def test_masks_leave_only_allowed_tokens(engine: Engine) -> None:
    builder = StepBuilder(engine.info)
    for row in range(3):
        builder.admit(row, PROMPT)
    ticket = engine.submit(builder.build([(0, 4), (1, 4), (2, 4)]))
    bits = np.zeros((2, 203), dtype=np.uint8)
    bits[0, 202] = bits[1, 77] = 1
    packed = np.packbits(bits, axis=1, bitorder="little")
    engine.sample(ticket, Masks(rows=int32([2, 0]), allowed=packed.tobytes()))
    tokens = engine.collect(ticket).tokens.tolist()
    assert tokens[0] == 77
    assert tokens[2] == 202
    builder.admit(5, PROMPT)
    assert run_step(engine, builder.build([(5, 4)])) == [tokens[1]]  # as without masks


def test_order_is_enforced(engine: Engine) -> None:
    step = first_step(engine)
    with pytest.raises(EngineError, match="step 3 was submitted after step 0"):
        engine.submit(Step(3, *[getattr(step, name) for name in list(Step.__slots__)[1:]]))
    ticket = engine.submit(step)
    with pytest.raises(EngineError, match="step 1 was collected before its sampling was queued"):
        engine.collect(ticket)
    with pytest.raises(EngineError, match="step 2 was submitted before the sampling of step 1 was queued"):
        engine.submit(Step(2, *[getattr(step, name) for name in list(Step.__slots__)[1:]]))
    engine.sample(ticket, None)
    with pytest.raises(EngineError, match="sampling of step 1 was queued already"):
        engine.sample(ticket, None)
    engine.collect(ticket)
    with pytest.raises(EngineError, match="step 1 was collected after step 1"):
        engine.collect(ticket)


def test_a_fault_on_the_compute_thread_surfaces_and_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling_queued = threading.Event()

    def broken(*_: object) -> torch.Tensor:
        sampling_queued.wait(30)
        raise ArithmeticError("the device is on fire")

    builder = StepBuilder(engine.info)
    builder.admit(0, PROMPT)
    assert run_step(engine, builder.build([(0, 4)]))
    monkeypatch.setattr(engine, "forward_batch", broken)
    ticket = engine.submit(builder.build([(0, 1)]))
    engine.sample(ticket, None)
    sampling_queued.set()
    with pytest.raises(EngineError, match=r"step 2 failed on the device: ArithmeticError: .* on fire") as caught:
        engine.collect(ticket)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    monkeypatch.undo()
    with pytest.raises(EngineError, match="has failed and can't go on"):
        engine.submit(builder.build([(0, 1)]))


def test_too_few_pages_are_named(engine: Engine) -> None:
    step = first_step(engine)
    short = Step(
        1, step.admitted, step.rows, step.starts, step.lens, step.wants_token,
        step.page_counts - 1, step.new_pages[:-1], step.released_rows,
    )  # fmt: skip
    with pytest.raises(EngineError, match="row 0 computes up to position 4 and needs 4 pages; it was given 3"):
        run_step(engine, short)


def test_closing_twice_is_safe_and_ends_the_thread(small_model: MakeModel) -> None:
    engine = start(small_model("gqa")[0])
    step = first_step(engine)
    ticket = engine.submit(step)
    engine.sample(ticket, None)
    engine.close()
    engine.close()
    assert len(engine.collect(ticket).tokens) == 1  # what was queued is finished
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compute")]
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(StepBuilder(engine.info, number=1).build([]))

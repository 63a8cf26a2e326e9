"""How many pages there are, how long a request may be, which device and dtype run it, and what stops a start."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine import device as devices
from learnsgl.engine import parts
from learnsgl.engine.engine import create_engine
from learnsgl.engine.memory import MemoryPlan, plan_memory, workspace_bytes
from learnsgl.errors import ModelNotFoundError, OptionError, OutOfMemoryError, StartupError, UnsupportedModelError
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.server.launch import ServerInfo
from tests.engine.conftest import MakeModel
from tests.models.small_config import small_config

MODEL = small_config()
PAGE_BYTES = 2 * 1 * 4 * 2 * 4  # K and V, KV heads, head_dim, layers, bytes of a float32; of one token
SCHEDULER = SchedulerConfig(max_running_requests=4, max_prefill_length=16)
WORKSPACE = workspace_bytes(MODEL, SCHEDULER, dtype=torch.float32)


def plan(available_bytes: int, **changes: Any) -> MemoryPlan:
    return plan_memory(MODEL, EngineConfig(**changes), SCHEDULER, dtype=torch.float32, available_bytes=available_bytes)


@pytest.mark.parametrize(("device", "rows", "prompt_tokens"), [("cpu", 64, 512), ("cuda:0", 256, 2048)])
def test_a_step_holds_what_suits_the_device_or_what_the_options_say(device: str, rows: int, prompt_tokens: int) -> None:
    def size(**options: int) -> tuple[int | None, int | None]:
        chosen = devices.choose_step_size(SchedulerConfig(**options), torch.device(device))
        return chosen.max_running_requests, chosen.max_prefill_length

    assert size() == (rows, prompt_tokens)
    assert size(max_running_requests=3) == (3, prompt_tokens)
    assert size(max_prefill_length=9) == (rows, 9)


def test_the_engine_tells_how_much_a_step_holds(small_model: MakeModel) -> None:
    engine = create_engine(
        small_model("gqa")[0], "small", EngineConfig(device="cpu"), SchedulerConfig(max_running_requests=3)
    )
    with contextlib.closing(engine):
        assert (engine.info.max_running_requests, engine.info.max_prefill_length) == (3, 512)


def test_pages_take_their_share_of_what_is_free() -> None:
    assert plan(400 * PAGE_BYTES + WORKSPACE, memory_ratio=0.1).num_pages == (40 * PAGE_BYTES + WORKSPACE // 10) // (
        PAGE_BYTES
    )
    assert plan(100 * PAGE_BYTES + WORKSPACE, memory_ratio=1.0).num_pages == 100  # the workspace stays free
    assert plan(100 * PAGE_BYTES + WORKSPACE, memory_ratio=1.0, page_size=8).num_pages == 12
    half = plan_memory(
        MODEL, EngineConfig(memory_ratio=1.0), SCHEDULER, dtype=torch.bfloat16,
        available_bytes=100 * PAGE_BYTES + workspace_bytes(MODEL, SCHEDULER, dtype=torch.bfloat16),
    )  # fmt: skip
    assert half.num_pages == 200


def test_there_are_never_more_pages_than_requests_can_fill() -> None:
    assert plan(1 << 40).num_pages == 4 * 64
    assert plan(1 << 40, page_size=10).num_pages == 4 * 7
    assert plan(1 << 40, max_model_len=20).num_pages == 4 * 20
    assert plan(1 << 40, num_pages=1000).num_pages == 1000  # unless they are asked for: the cache can use them


def test_the_context_ends_where_the_model_the_option_or_the_pages_do() -> None:
    assert plan(1 << 40).max_model_len == 64
    assert plan(1 << 40, max_model_len=20).max_model_len == 20
    assert plan(1 << 40, num_pages=30).max_model_len == 30
    assert plan(1 << 40, num_pages=5, page_size=4).max_model_len == 20
    with pytest.raises(OptionError, match="--max-model-len is 65, and the model's context is 64"):
        plan(1 << 40, max_model_len=65)


def test_the_ready_line_says_that_the_pages_cut_the_context() -> None:
    info = ExecutorInfo("m", "cpu", "float32", num_pages=64, page_size=1, max_model_len=64, vocab_size=9, eos_ids=())
    line = str(ServerInfo("http://127.0.0.1:1", "m", info, None))
    assert "64 pages (64 tokens) · context of 64, as many as the pages hold · no trace" in line
    longer = dataclasses.replace(info, num_pages=4096)
    assert " · context of 64 · " in str(ServerInfo("http://127.0.0.1:1", "m", longer, None))


def test_too_little_memory_for_one_request() -> None:
    with pytest.raises(OutOfMemoryError, match=r"15 pages of KV cache hold 15 tokens, and .* needs 16"):
        plan(15 * PAGE_BYTES + WORKSPACE, memory_ratio=1.0)
    assert plan(16 * PAGE_BYTES + WORKSPACE, memory_ratio=1.0).max_model_len == 16
    assert plan(9 * PAGE_BYTES + WORKSPACE, memory_ratio=1.0, max_model_len=9).max_model_len == 9
    with pytest.raises(OutOfMemoryError, match="hold 0 tokens"):
        plan(0)
    with pytest.raises(OutOfMemoryError, match=r"--num-pages 101 of 64 bytes need .* give at most 100"):
        plan(100 * PAGE_BYTES + WORKSPACE, num_pages=101)


def test_weights_that_do_not_fit_are_not_read(small_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_bytes", lambda device: 100_000)
    with pytest.raises(
        OutOfMemoryError, match=r"the weights need \d+\.\d KiB in float32, and 97.7 KiB of memory are free"
    ):
        create_engine(small_model("gqa")[0], "small", EngineConfig(device="cpu", num_threads=1), SCHEDULER)


def test_a_failed_allocation_is_named(small_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(parts, "KVPool", fails)
    with pytest.raises(OutOfMemoryError, match="the KV pages don't fit into memory"):
        create_engine(small_model("gqa")[0], "small", EngineConfig(device="cpu", num_threads=1), SCHEDULER)


@pytest.mark.parametrize(
    "said",
    ["CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more", "Triton Error [CUDA]: out of memory",
     "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDA error: out of memory"],
)  # fmt: skip
def test_memory_that_runs_out_is_known_whoever_says_it(said: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, parts.out_of_memory("the graphs", "capture fewer"):
        raise RuntimeError(said)
    assert str(caught.value) == f"the graphs don't fit into memory: {said.splitlines()[0]}; capture fewer"


def test_a_capture_does_not_hide_what_ended_it() -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    said = "the graphs don't fit into memory: CUDA out of memory"
    with pytest.raises(OutOfMemoryError, match=said), parts.out_of_memory("the graphs"):
        capture()
    with pytest.raises(RuntimeError, match="device-side assert"), parts.out_of_memory("the graphs"):
        raise RuntimeError("device-side assert")


def test_options_are_checked_before_weights_are_read(small_model: MakeModel, tmp_path: Path) -> None:
    text = (small_model("gqa")[0] / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    too_long = EngineConfig(device="cpu", num_threads=1, max_model_len=513)
    with pytest.raises(OptionError, match="--max-model-len is 513"):
        create_engine(tmp_path, "small", too_long, SCHEDULER)
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        create_engine(tmp_path, "small", EngineConfig(device="cpu", num_threads=1), SCHEDULER)
    (tmp_path / "config.json").write_text(text.replace("LlamaForCausalLM", "OtherModel"), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="'OtherModel' isn't built"):
        create_engine(tmp_path, "small", EngineConfig(device="cpu", num_threads=1), SCHEDULER)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device(EngineConfig(device="auto")).type == "cpu"
    with pytest.raises(StartupError, match=r"--device cuda can't be used: .*; use --device cpu or auto"):
        devices.choose_device(EngineConfig(device="cuda"))


def test_a_gpu_that_runs_no_kernel_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fails)
    with caplog.at_level("WARNING"):
        assert devices.choose_device(EngineConfig(device="auto")).type == "cpu"
    assert "the GPU can't be used, so the CPU is: a first kernel failed (no kernel image is available)" in caplog.text
    with pytest.raises(StartupError, match=r"a first kernel failed \(no kernel image is available\)"):
        devices.choose_device(EngineConfig(device="cuda"))


def test_dtype_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert devices.choose_dtype(EngineConfig(), cpu) == torch.float32
    assert devices.choose_dtype(EngineConfig(), gpu) == torch.bfloat16
    assert devices.choose_dtype(EngineConfig(dtype="bfloat16"), cpu) == torch.bfloat16
    assert devices.choose_num_threads(EngineConfig(num_threads=5)) == 5
    assert devices.choose_num_threads(EngineConfig()) == 1  # what the tests have set


def test_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu = torch.device("cuda")
    assert devices.choose_dtype(EngineConfig(), gpu) == torch.float16
    assert devices.choose_dtype(EngineConfig(dtype="float32"), gpu) == torch.float32
    with pytest.raises(OptionError, match=r"--dtype bfloat16 needs .* 8\.0, and Tesla T4 has 7\.5; take"):
        devices.choose_dtype(EngineConfig(dtype="bfloat16"), gpu)


def test_triton_that_can_not_build_a_kernel_is_told_before_weights_are_read() -> None:
    from learnsgl.engine.triton_check import check_triton

    with pytest.raises(StartupError, match=r"Triton can't build its kernels for cpu \(.*\)\. It needs a C compiler"):
        check_triton(torch.device("cpu"))  # it has no driver for that


def test_a_containers_limits_are_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    whole = devices.available_bytes(torch.device("cpu"))
    assert whole > 1 << 20
    (tmp_path / "memory.max").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{2 << 20}\n")
    assert devices.available_bytes(torch.device("cpu")) == 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.available_bytes(torch.device("cpu")) > 1 << 20
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(64), raising=False)
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert devices.choose_num_threads(EngineConfig()) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.choose_num_threads(EngineConfig()) == 64

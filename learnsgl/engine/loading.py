"""Gets a model ready to run: device, weights, KV pages, a warm-up; each phase timed, each fault named.

`create_engine` calls it once. The order matters: options are checked before gigabytes are read, and the KV pages get
their share of what is left when the weights are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from learnsgl.attention.registry import BackendLimits, BackendNames, choose_backends, make_backends, why_unavailable
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine import device as devices
from learnsgl.engine.kv_pool import KVPool
from learnsgl.engine.memory import MemoryPlan, check_weights_fit, plan_memory, wanted_model_len
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.row_tables import RowTables
from learnsgl.errors import OutOfMemoryError
from learnsgl.models.config import ModelConfig, load_model_config
from learnsgl.models.dummy import fill_with_dummy_weights
from learnsgl.models.registry import CausalLM, model_class
from learnsgl.models.weights import load_weights
from learnsgl.scheduler.executor import ExecutorInfo


@dataclass(frozen=True, slots=True)
class Loaded:
    """A runner that is ready, and what there is to say of it."""

    runner: ModelRunner
    info: ExecutorInfo
    device: torch.device


def load_model_runner(folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig) -> Loaded:
    """Load the model and warm it up; arguments and errors are those of `create_engine`."""
    device = devices.choose_device(engine)
    dtype = devices.choose_dtype(engine, device)
    num_threads = devices.choose_num_threads(engine)
    torch.set_num_threads(num_threads)
    conversion = devices.choose_conversion(engine, device, dtype)
    config = load_model_config(folder)
    architecture = model_class(config.architecture)
    num_positions = wanted_model_len(config, engine)
    backends = choose_backends(engine.attention_backend, device, head_dim=config.head_dim)
    phases: list[tuple[str, int, int]] = []
    available_before = devices.available_bytes(device)

    with _phase("load_weights", phases), _out_of_memory("the weights"):
        check_weights_fit(architecture, config, dtype=dtype, available_bytes=available_before)
        model = architecture(config, num_positions=num_positions, dtype=dtype, device=device)
        if engine.has_dummy_weights:
            fill_with_dummy_weights(model.checkpoint_tensors(), seed=engine.seed)
        else:
            load_weights(folder, model.checkpoint_tensors(), ignored=model.ignored_tensors)
    _use_fused_ops(model, device, head_dim=config.head_dim)
    if conversion is not None:
        with _phase(conversion.phase, phases), _out_of_memory("the weights"), torch.inference_mode():
            model.convert_linears(conversion.convert)
    with _phase("allocate_kv", phases), _out_of_memory("the KV pages"):
        plan = plan_memory(config, engine, scheduler, dtype=dtype, available_bytes=devices.available_bytes(device))
        runner = _make_runner(model, config, plan, engine, scheduler, backends, dtype=dtype, device=device)
    with _phase("warm_up", phases), torch.inference_mode():
        runner.warm_up()
        devices.wait_for(device)

    info = ExecutorInfo(
        model=name,
        device=devices.describe(device, num_threads),
        dtype=_describe_numbers(engine, dtype),
        num_pages=plan.num_pages,
        page_size=engine.page_size,
        max_model_len=plan.max_model_len,
        vocab_size=config.vocab_size,
        eos_ids=config.eos_ids,
        memory={
            "weights": model.weight_bytes(),
            "kv_pages": plan.num_pages * plan.page_bytes,
            "dense_contexts": plan.dense_bytes if device.type == "cpu" else 0,
            "workspace": plan.workspace_bytes,
            "available_before": available_before,
            "available_after": devices.available_bytes(device),
            "page": plan.page_bytes,
        },
        phases=phases,
    )
    return Loaded(runner, info, device)


def _describe_numbers(engine: EngineConfig, dtype: torch.dtype) -> str:
    """`bfloat16`, and what weights are beside that: `float32 + int8 weights`, `bfloat16 + dummy weights`."""
    kinds = [engine.quantization] if engine.quantization != "none" else []
    kinds += ["dummy"] if engine.has_dummy_weights else []
    return devices.dtype_name(dtype) + (f" + {' '.join(kinds)} weights" if kinds else "")


def _make_runner(
    model: CausalLM,
    config: ModelConfig,
    plan: MemoryPlan,
    engine: EngineConfig,
    scheduler: SchedulerConfig,
    backends: BackendNames,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> ModelRunner:
    pool = KVPool(config, num_pages=plan.num_pages, page_size=engine.page_size, dtype=dtype, device=device)
    tables = RowTables(
        num_rows=scheduler.max_running_requests,
        max_model_len=plan.max_model_len,
        page_size=engine.page_size,
        vocab_size=config.vocab_size,
        eos_ids=config.eos_ids,
        seed=engine.seed,
        device=device,
    )
    limits = BackendLimits(
        num_heads=config.num_heads,
        max_tokens=scheduler.max_prefill_length + scheduler.max_running_requests,
        max_context_len=plan.max_model_len,
        max_dense_bytes=plan.dense_bytes
        if device.type == "cpu"
        else 0,  # on a GPU gathering is fast, and memory dearer
    )
    attention = make_backends(backends, pool, tables.page_table, limits)
    return ModelRunner(model, attention, tables, plan.max_model_len)


def _use_fused_ops(model: CausalLM, device: torch.device, *, head_dim: int) -> None:
    """On a GPU for which Triton compiles, layers are computed with its kernels whatever attention is."""
    if why_unavailable("triton", device, head_dim=head_dim) is None:
        from learnsgl.models.triton_ops import TritonOps  # triton takes a second to import

        model.use_ops(TritonOps())


@contextmanager
def _phase(name: str, phases: list[tuple[str, int, int]]) -> Iterator[None]:
    start_ns = time.monotonic_ns()
    yield
    phases.append((name, start_ns, time.monotonic_ns()))


@contextmanager
def _out_of_memory(what: str) -> Iterator[None]:
    """Turn an allocation that fails into our error. PyTorch's CPU allocator has no exception class of its own."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"{what} don't fit into memory: {error}; free memory, or lower --memory-ratio or --max-model-len"
        ) from error

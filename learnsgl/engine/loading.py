"""Gets a model ready to run: device, weights, KV pages, a warm-up; each phase timed, each fault named.

`create_engine` calls it once. The order matters: options are checked before gigabytes are read, and the KV pages get
their share of what is left when everything else is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from learnsgl.attention.registry import choose_backends, why_unavailable
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine import device as devices
from learnsgl.engine.cuda_device import CudaDevice
from learnsgl.engine.gpu_loading import finish_on_gpu
from learnsgl.engine.memory import check_weights_fit, describe_memory, plan_memory, wanted_model_len
from learnsgl.engine.model_runner import ModelRunner
from learnsgl.engine.parts import Parts, Phases, out_of_memory
from learnsgl.engine.triton_check import check_triton
from learnsgl.models.config import load_model_config
from learnsgl.models.dummy import fill_with_dummy_weights
from learnsgl.models.registry import model_class
from learnsgl.models.weights import load_weights
from learnsgl.scheduler.executor import CapturedGraph, ExecutorInfo


@dataclass(frozen=True, slots=True)
class Loaded:
    """A runner that is ready, and what there is to say of it; `cuda` is there on a GPU."""

    runner: ModelRunner
    info: ExecutorInfo
    device: torch.device
    cuda: CudaDevice | None = None


def load_model_runner(
    folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig, tell: Callable[[str], None] | None = None
) -> Loaded:
    """Load the model and warm it up; arguments and errors are those of `create_engine`."""
    device = devices.choose_device(engine)
    cuda = CudaDevice(device) if device.type == "cuda" else None
    with nullcontext() if cuda is None else cuda.current():
        return _load(folder, name, engine, scheduler, device, cuda, tell or _say_nothing)


def _load(
    folder: Path,
    name: str,
    engine: EngineConfig,
    scheduler: SchedulerConfig,
    device: torch.device,
    cuda: CudaDevice | None,
    tell: Callable[[str], None],
) -> Loaded:
    scheduler = devices.choose_step_size(scheduler, device)
    dtype = devices.choose_dtype(engine, device)
    num_threads = devices.choose_num_threads(engine)
    torch.set_num_threads(num_threads)
    conversion = devices.choose_conversion(engine, device, dtype)
    config = load_model_config(folder)
    architecture = model_class(config.architecture)
    num_positions = wanted_model_len(config, engine)
    backends = choose_backends(engine.attention_backend, device, head_dim=config.head_dim, dtype=dtype)
    phases = Phases()
    if why_unavailable("triton", device, head_dim=1) is None:
        with phases.timed("check_triton"):
            check_triton(device)
    available_before = devices.available_bytes(device)

    with phases.timed("load_weights"), out_of_memory("the weights"):
        check_weights_fit(architecture, config, dtype=dtype, available_bytes=available_before)
        model = architecture(config, num_positions=num_positions, dtype=dtype, device=device)
        if engine.has_dummy_weights:
            fill_with_dummy_weights(model.checkpoint_tensors(), seed=engine.seed)
        else:
            load_weights(folder, model.checkpoint_tensors(), ignored=model.ignored_tensors)
    if why_unavailable("triton", device, head_dim=config.head_dim) is None:  # whatever attention is
        from learnsgl.models.triton_ops import TritonOps  # triton takes a second to import

        model.use_ops(TritonOps(device))
    if conversion is not None:
        with phases.timed(conversion.phase), out_of_memory("the weights"), torch.inference_mode():
            model.convert_linears(conversion.convert)
    parts = Parts(model, config, engine, scheduler, backends, dtype, device, cuda)
    graphs: tuple[CapturedGraph, ...] = ()
    if cuda is None:
        runner, plan_memory_use = _finish_on_cpu(parts, phases)
    else:
        runner, plan_memory_use, graphs = finish_on_gpu(parts, cuda, phases, tell)
    memory = {
        "weights": model.weight_bytes(),
        "rotary": model.table_bytes(),
        **plan_memory_use,
        "available_before": available_before,
        "available_after": devices.available_bytes(device),
        "page": runner.pool.token_bytes * engine.page_size,
    }
    tell(describe_memory(memory))
    info = ExecutorInfo(
        model=name,
        device=devices.describe(device, num_threads),
        dtype=_describe_numbers(engine, dtype),
        num_pages=runner.pool.num_pages,
        page_size=engine.page_size,
        max_model_len=runner.max_model_len,
        vocab_size=config.vocab_size,
        eos_ids=config.eos_ids,
        memory=memory,
        phases=phases.done,
        graphs=graphs,
        max_running_requests=scheduler.max_running_requests,
        max_prefill_length=scheduler.max_prefill_length,
    )
    return Loaded(runner, info, device, cuda)


def _finish_on_cpu(parts: Parts, phases: Phases) -> tuple[ModelRunner, dict[str, int]]:
    """KV pages and the warm-up; the runner, and what they take."""
    with phases.timed("allocate_kv"), out_of_memory("the KV pages"):
        plan = plan_memory(
            parts.config, parts.engine, parts.scheduler, dtype=parts.dtype,
            available_bytes=devices.available_bytes(parts.device),
        )  # fmt: skip
        runner = parts.make_runner(plan.num_pages, plan.max_model_len, max_dense_bytes=plan.dense_bytes)
    with phases.timed("warm_up"), torch.inference_mode():
        runner.warm_up()
    return runner, {
        "kv_pages": plan.num_pages * plan.page_bytes,
        "dense_contexts": plan.dense_bytes,
        "workspace": plan.workspace_bytes,
    }


def _describe_numbers(engine: EngineConfig, dtype: torch.dtype) -> str:
    """`bfloat16`, and what weights are beside that: `float32 + int8 weights`, `bfloat16 + dummy weights`."""
    kinds = [engine.quantization] if engine.quantization != "none" else []
    kinds += ["dummy"] if engine.has_dummy_weights else []
    return devices.dtype_name(dtype) + (f" + {' '.join(kinds)} weights" if kinds else "")


def _say_nothing(text: str) -> None:
    """Nobody listens."""

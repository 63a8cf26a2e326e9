"""`--attention-backend flashinfer`: what it needs, what is said where that is missing, and who imports it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from learnsgl.attention import registry
from learnsgl.attention.flashinfer_backend import FlashInferAttention
from learnsgl.attention.registry import BackendLimits, BackendNames, choose_backends, make_backends
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.gpu_loading import graph_sizes
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import OptionError

GPU = torch.device("cuda", 0)


class Machine:
    """What is installed, and on which GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.version: str | None = "0.5.3"
        self.capability = (8, 6)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: self.capability)
        monkeypatch.setattr(registry.importlib.util, "find_spec", self.find_spec)
        monkeypatch.setattr(registry.importlib.metadata, "version", lambda _: self.version)

    def find_spec(self, name: str) -> object | None:
        return object() if name == "triton" or self.version is not None else None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, fake: ModuleType) -> Machine:
    return Machine(monkeypatch)


def choose(
    text: str, *, device: torch.device = GPU, head_dim: int = 128, dtype: torch.dtype = torch.bfloat16
) -> BackendNames:
    return choose_backends(text, device, head_dim=head_dim, dtype=dtype)


def test_it_is_chosen_by_name_alone(machine: Machine) -> None:
    assert choose("flashinfer") == BackendNames("flashinfer", "flashinfer")
    assert choose("triton,flashinfer") == BackendNames("triton", "flashinfer")
    assert choose("flashinfer, torch", dtype=torch.float16) == BackendNames("flashinfer", "torch")
    assert choose_backends(None, GPU, head_dim=128, dtype=torch.bfloat16) == BackendNames("triton", "triton")


@pytest.mark.parametrize("version", ["0.5.3", "0.5.3.post1", "0.6", "0.6.18.post1"])
def test_versions_that_do(machine: Machine, version: str) -> None:
    machine.version = version
    assert choose("flashinfer").decode == "flashinfer"


@pytest.mark.parametrize("version", ["0.2.5", "0.5.2", "0.7.0", "1.0", "unknown", "0.5.3rc1"])
def test_versions_that_do_not(machine: Machine, version: str) -> None:
    machine.version = version
    if version == "0.5.3rc1":  # a release candidate counts as its release
        assert choose("flashinfer").decode == "flashinfer"
        return
    with pytest.raises(OptionError, match=rf"from 0\.5\.3 on, before 0\.7 .*, and {version} is installed"):
        choose("flashinfer")


def test_what_is_missing_is_told(machine: Machine) -> None:
    start = r"--attention-backend is 'flashinfer', and flashinfer can't run here\. Available here: torch"
    with pytest.raises(OptionError, match=start + ", triton; .* heads have 96 features, and its kernels .* 64, 128"):
        choose("flashinfer", head_dim=96)
    with pytest.raises(OptionError, match=start + ", triton; .* in float16 and bfloat16, and --dtype is float32"):
        choose("flashinfer", dtype=torch.float32)
    with pytest.raises(OptionError, match=start + ";.* flashinfer isn't: it needs an NVIDIA GPU, and the device is c"):
        choose("flashinfer", device=torch.device("cpu"))
    machine.capability = (7, 5)
    with pytest.raises(OptionError, match=start + r";.* flashinfer isn't: .* capability is 7\.5, and it needs 8\.0"):
        choose("flashinfer")
    machine.capability, machine.version = (9, 0), None
    with pytest.raises(OptionError, match=start + r", triton; .* needs the package .*pip install 'learnsgl\[flashinf"):
        choose("flashinfer")


def test_a_package_that_cannot_be_imported_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)  # so that `import` fails
    with pytest.raises(
        OptionError, match=r"is 'torch,flashinfer', and the package .* can't be imported: .*, or take tr"
    ):
        choose("torch,flashinfer")
    assert choose("triton").prefill == "triton"


@pytest.mark.parametrize(("names", "sizes"), [("flashinfer", [1, 2, 4]), ("flashinfer,torch", [])])
def test_it_decodes_in_graphs(names: str, sizes: list[int]) -> None:
    prefill, _, decode = names.partition(",")
    parts = SimpleNamespace(
        engine=EngineConfig(), backends=BackendNames(prefill, decode or prefill),
        scheduler=SchedulerConfig(max_running_requests=4),
    )  # fmt: skip
    assert graph_sizes(parts) == sizes  # type: ignore[arg-type]


def test_it_is_made_once_for_both_or_for_one(fake: ModuleType) -> None:
    config = SimpleNamespace(num_kv_heads=2, head_dim=64, num_layers=1)
    pool = KVPool(config, num_pages=8, page_size=4, dtype=torch.float32, device=torch.device("cpu"))  # type: ignore[arg-type]
    limits = BackendLimits(num_heads=4, max_tokens=16, max_context_len=16, max_dense_bytes=0)
    page_table = torch.zeros(2, 4, dtype=torch.int32)
    both = make_backends(BackendNames("flashinfer", "flashinfer"), pool, page_table, limits)
    assert both.prefill is both.decode
    assert isinstance(both.decode, FlashInferAttention)
    mixed = make_backends(BackendNames("torch", "flashinfer"), pool, page_table, limits)
    assert isinstance(mixed.prefill, TorchAttention)
    assert isinstance(mixed.decode, FlashInferAttention)


def test_nobody_else_imports_it() -> None:
    code = (
        "import sys, learnsgl.attention.flashinfer_backend, learnsgl.engine.loading, learnsgl.models.triton_ops\n"
        "assert 'flashinfer' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

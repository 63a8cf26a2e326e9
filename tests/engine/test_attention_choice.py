"""`--attention-backend`: what is taken by default, and how the option is answered where it can't be met."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learnsgl.attention import registry
from learnsgl.attention.registry import BackendNames, Backends, choose_backends
from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.engine import create_engine
from learnsgl.errors import OptionError
from tests.engine.conftest import MakeModel
from tests.engine.driver import int32

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def choose(text: str | None, device: torch.device, *, head_dim: int = 64) -> BackendNames:
    return choose_backends(text, device, head_dim=head_dim, dtype=torch.bfloat16)


@pytest.fixture
def _ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with Triton, and without FlashInfer: `tests/attention/` has that."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: object() if name == "triton" else None)


@pytest.mark.usefixtures("_ampere")
def test_the_default_hangs_on_the_device() -> None:
    assert choose(None, CPU) == BackendNames("torch", "torch")
    assert choose(None, GPU) == BackendNames("triton", "triton")
    assert choose(None, GPU, head_dim=512) == BackendNames("torch", "torch")


@pytest.mark.usefixtures("_ampere")
def test_one_name_or_two() -> None:
    assert choose("torch", GPU) == BackendNames("torch", "torch")
    assert choose("triton, torch", GPU) == BackendNames("triton", "torch")
    assert [str(choose(text, GPU)) for text in ("torch,triton", "triton,triton")] == [
        "torch,triton", "triton",
    ]  # fmt: skip


@pytest.mark.usefixtures("_ampere")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "fa3",
            "'fa3' is none. Available here: torch, triton; flashinfer isn't: it needs the package flashinfer-python",
        ),
        ("", "'' is none"),
        ("torch,", "'' is none"),
        ("torch,triton,torch", "give one name, or two: prefill,decode"),
    ],
)
def test_what_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(OptionError, match="--attention-backend is ") as caught:
        choose(text, GPU)
    assert words in str(caught.value)


def test_why_triton_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"triton can't run here. Available here: torch; triton isn't: it needs an"):
        choose("torch,triton", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(OptionError, match=r"compute capability is 7\.5, and it needs 8\.0"):
        choose("triton", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(OptionError, match="heads have 320 features, and it goes up to 256"):
        choose("triton", GPU, head_dim=320)
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match="the package triton isn't installed"):
        choose("triton", GPU)


def test_steps_with_prompts_take_the_first() -> None:
    backends = Backends(prefill="one", decode="other")  # type: ignore[arg-type]
    assert [backends.choose(int32(lens)) for lens in ([1, 1], [1], [1, 5], [2])] == ["other", "other", "one", "one"]


def test_it_is_refused_before_weights_are_read(small_model: MakeModel, tmp_path: Path) -> None:
    text = (small_model("gqa")[0] / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")  # and no weights
    config = EngineConfig(device="cpu", num_threads=1, attention_backend="triton")
    with pytest.raises(OptionError, match="triton can't run here"):
        create_engine(tmp_path, "small", config, SchedulerConfig(max_running_requests=4))

"""The other engines of `bench offline`: where they aren't, what is said; where they are, that they are called rightly.

Those that need a GPU are stood in for by packages with the same signatures; transformers is the real one.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from learnsgl.bench.offline_options import PEERS
from learnsgl.bench.peers import process
from learnsgl.bench.peers.base import PeerSpec, PeerUnavailableError
from learnsgl.bench.peers.process import make_peer
from learnsgl.bench.peers.transformers_paged_peer import moments_of
from learnsgl.bench.peers.whole import check_lengths
from learnsgl.bench.workload import Request
from learnsgl.errors import ServingError
from learnsgl.hub import resolve_model

SOURCES = {
    "minisgl": {
        "minisgl/__init__.py": "",
        "minisgl/core.py": """
            from dataclasses import dataclass

            @dataclass
            class SamplingParams:
                temperature: float = 0.0
                top_k: int = -1
                top_p: float = 1.0
                ignore_eos: bool = False
                max_tokens: int = 1024
            """,
        "minisgl/llm.py": """
            MADE = []

            class LLM:
                def __init__(self, model_path, dtype=None, *, max_running_req=256, attention_backend="auto",
                             cuda_graph_max_bs=None, page_size=1, memory_ratio=0.9, use_dummy_weight=False,
                             max_seq_len_override=None, num_page_override=None, max_extend_tokens=8192):
                    self.options = {name: value for name, value in locals().items() if name != "self"}
                    self.is_down = False
                    MADE.append(self)

                def generate(self, prompts, sampling_params):
                    return [{"text": "", "token_ids": [p[0]] * s.max_tokens}
                            for p, s in zip(prompts, sampling_params, strict=True)]

                def shutdown(self):
                    self.is_down = True
            """,
        "flashinfer/__init__.py": "",
        "tvm_ffi/__init__.py": "",
    },
    "nanovllm": {
        "nanovllm/__init__.py": """
            from dataclasses import dataclass

            MADE = []

            @dataclass(slots=True)
            class SamplingParams:
                temperature: float = 1.0
                max_tokens: int = 64
                ignore_eos: bool = False

                def __post_init__(self):
                    assert self.temperature > 1e-10, "greedy sampling is not permitted"

            class LLM:
                def __init__(self, model, *, max_num_batched_tokens=16384, max_num_seqs=512, max_model_len=4096,
                             gpu_memory_utilization=0.9, tensor_parallel_size=1, enforce_eager=False):
                    self.options = {name: value for name, value in locals().items() if name != "self"}
                    MADE.append(self)

                def generate(self, prompts, sampling_params, use_tqdm=True):
                    return [{"text": "", "token_ids": [p[0]] * s.max_tokens}
                            for p, s in zip(prompts, sampling_params, strict=True)]
            """,
        "flash_attn/__init__.py": "",
    },
    "vllm": {
        "vllm/__init__.py": """
            from dataclasses import dataclass
            from types import SimpleNamespace

            MADE = []

            @dataclass
            class SamplingParams:
                temperature: float = 1.0
                ignore_eos: bool = False
                max_tokens: int = 16
                detokenize: bool = True

            class LLM:
                def __init__(self, model, *, dtype="auto", load_format="auto", max_model_len=None, max_num_seqs=None,
                             max_num_batched_tokens=None):
                    self.options = {name: value for name, value in locals().items() if name != "self"}
                    MADE.append(self)

                def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
                    answers = [(p["prompt_token_ids"][0],) * s.max_tokens
                               for p, s in zip(prompts, sampling_params, strict=True)]
                    return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=answer)]) for answer in answers]
            """,
    },
    "sglang": {
        "sglang/__init__.py": """
            MADE = []

            class Engine:
                def __init__(self, *, model_path, load_format, dtype, context_length, max_running_requests,
                             cuda_graph_max_bs, skip_tokenizer_init, chunked_prefill_size=None):
                    self.options = {name: value for name, value in locals().items() if name != "self"}
                    self.is_down = False
                    MADE.append(self)

                def generate(self, prompt=None, sampling_params=None, input_ids=None):
                    return [{"output_ids": [p[0]] * s["max_new_tokens"]}
                            for p, s in zip(input_ids, sampling_params, strict=True)]

                def shutdown(self):
                    self.is_down = True
            """,
    },
}  # fmt: skip
KINDS = {"mini-sglang": "minisgl", "nano-vllm": "nanovllm", "vllm": "vllm", "sglang": "sglang"}
REQUESTS = [Request([3, 4], 2), Request([5], 3)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model("tiny-random", progress=False).folder


def spec(kind: str, folder: Path, **changes: Any) -> PeerSpec:
    return PeerSpec(
        **{
            "name": kind, "kind": kind, "model": "tiny-random", "model_folder": folder, "gguf": None,
            "dtype": "float32", "quantization": "none", "num_threads": 1, "max_batch": 4, "max_len": 32, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the files of a made-up package, and forget its modules afterwards."""
    names: set[str] = set()

    def write(package: str, leave_out: str = "") -> None:
        for path, text in SOURCES[package].items():
            name = path.partition("/")[0]
            if name == leave_out:
                continue
            file = tmp_path / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(text), encoding="utf-8")
            names.add(name)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] in names]:
        del sys.modules[module]


def made(package: str) -> Any:
    module = importlib.import_module("minisgl.llm" if package == "minisgl" else package)
    (one,) = module.MADE
    return one


def test_every_peer_of_the_command_line_can_be_started() -> None:
    assert set(process._MAKERS) == {"learnsgl", *PEERS}
    for module, name in process._MAKERS.values():
        assert callable(getattr(importlib.import_module(f"learnsgl.bench.peers.{module}"), name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_answers_as_it_is_asked(kind: str, folder: Path, install: Any) -> None:
    install(KINDS[kind])
    peer = make_peer(spec(kind, folder, device="cuda", temperature=0.6, has_weights=False, max_prefill_length=8192))
    wave = peer.run(REQUESTS)
    assert wave.tokens == [[3, 3], [5, 5, 5]]
    assert [count for count, _ in wave.moments] == [5]
    assert wave.num_decoded == 0
    assert wave.prefill_s == wave.total_s
    assert peer.facts.vocab_size == 260
    assert peer.facts.weights.startswith("float32, random")
    options = made(KINDS[kind]).options
    assert 8192 in options.values()
    assert 4096 in options.values()
    assert str(folder) in options.values()
    peer.close()
    peer.close()
    assert getattr(made(KINDS[kind]), "is_down", True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_is_not_here_says_so(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(PeerUnavailableError, match=f"the package {KINDS[kind]} can't be imported here"):
        make_peer(spec(kind, folder, device="cuda"))


@pytest.mark.parametrize(("kind", "needs"), [("mini-sglang", "flashinfer"), ("nano-vllm", "flash_attn")])
def test_what_a_peer_needs_is_named(kind: str, needs: str, folder: Path, install: Any) -> None:
    install(KINDS[kind], leave_out=needs)
    with pytest.raises(PeerUnavailableError, match=f"the package {needs} can't be imported here \\(pip install"):
        make_peer(spec(kind, folder, device="cuda", temperature=0.6))


def test_what_a_peer_cannot_do_is_told(folder: Path, install: Any) -> None:
    install("minisgl")
    with pytest.raises(PeerUnavailableError, match="it runs on GPUs only"):
        make_peer(spec("mini-sglang", folder, device="cpu"))
    install("nanovllm")
    with pytest.raises(PeerUnavailableError, match="it samples only; give a --temperature above 0"):
        make_peer(spec("nano-vllm", folder, device="cuda"))


def test_answers_of_a_wrong_length_are_refused() -> None:
    check_lengths("x", REQUESTS, [[1], [1, 2, 3]])  # the last token alone may be missing
    with pytest.raises(ServingError, match="x gave 1 answers to 2 requests"):
        check_lengths("x", REQUESTS, [[1, 2]])
    for wrong in ([], [1, 2, 3]):
        with pytest.raises(ServingError, match=f"x gave {len(wrong)} tokens to request 0, which was to get 2"):
            check_lengths("x", REQUESTS, [wrong, [1, 2, 3]])


# ---------------------------------------------------------------- transformers' continuous batching


def test_transformers_paged_gives_the_same_tokens_as_its_generate(folder: Path) -> None:
    waves = {}
    for kind in ("transformers", "transformers-paged"):
        peer = make_peer(spec(kind, folder))
        waves[kind] = [peer.run(REQUESTS), peer.run(REQUESTS)]
        peer.close()
        peer.close()
    paged = waves["transformers-paged"]
    assert [wave.tokens for wave in paged] == [wave.tokens for wave in waves["transformers"]]
    assert [count for count, _ in paged[0].moments] == [2, 4, 5]
    assert peer.facts.weights == "float32, paged sdpa"


def test_transformers_paged_needs_no_checkpoint(folder: Path) -> None:
    peer = make_peer(spec("transformers-paged", folder, has_weights=False, temperature=0.6))
    assert [len(tokens) for tokens in peer.run(REQUESTS).tokens] == [2, 3]
    peer.close()


def test_stamps_of_tokens_become_steps() -> None:
    stamps = [[1.0, 2.0, 3.0], [1.1, 2.1], [2.2]]
    assert moments_of(stamps, 6, 0.5, 4.0) == [(2, 0.6000000000000001), (5, 1.7000000000000002), (6, 2.5)]
    end_only = [(6, 3.5)]
    assert moments_of(stamps, 6, 1.05, 4.55) == end_only  # begins before the requests were there
    assert moments_of(stamps, 6, -0.8, 2.7) == end_only
    assert moments_of([[1.0]], 6, 0.5, 4.0) == end_only
    assert moments_of([[]], 6, 0.5, 4.0) == end_only

"""`--quantization int8` through the engine: what it says of itself, what it takes, and how near it stays to float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine import device as devices
from learnsgl.engine.engine import create_engine
from learnsgl.engine.loading import Loaded, load_model_runner
from learnsgl.errors import OptionError
from learnsgl.hub import resolve_model
from learnsgl.models.int8 import Int8Quantizer
from learnsgl.models.layers import Linear, LinearLayer
from tests.engine.conftest import MakeModel
from tests.engine.driver import StepBuilder, generate
from tests.engine.reference import SHAPES

TEXT = """\
A request reaches the server as text and leaves it as text, and in between it is only numbers. The tokenizer cuts the
prompt into tokens, pieces of words that the model knows by their number. The scheduler looks for room: every token
that the model has read leaves keys and values behind, and they lie in pages of memory, of which there are only so
many. When another request has begun with the same words, its pages are used again, and that part of the prompt
need not be computed. The rest is computed in chunks, so that the answers which are already running don't have to wait
for a long prompt. After the last chunk the model gives the first word of the answer, and from then on one more with
each step. All answers that run take part in the same step, since the weights of the model must be read from memory
anyway, and reading them is what takes the time. Once the model says that it is done, or the answer has become as long
as was allowed, the pages go back to the cache, and the next request in the queue takes its place. If we keep only
eight bits of each weight, there are four times fewer bytes to read. The answers change a little, and it is fair to
ask how much: so we measure how well the model predicts a text such as this one, before and after.
"""


def load(folder: Path, **changes: Any) -> Loaded:
    settings = {"device": "cpu", "num_threads": 1, "num_pages": 640, **changes}
    return load_model_runner(folder, "small", EngineConfig(**settings), SchedulerConfig(max_running_requests=8))


@torch.inference_mode()
def all_logits(loaded: Loaded, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), V], in one prefill."""
    builder = StepBuilder(loaded.info)
    builder.admit(0, tokens)
    step, runner = builder.build([(0, len(tokens))]), loaded.runner
    batch = dataclasses.replace(runner.tables.batch(step, runner.tables.prepare(step)), logit_indices=None)
    runner.attention.prefill.plan(batch)
    return runner.model.forward(batch, runner.attention.prefill)


def test_it_says_what_it_is_and_takes_less_memory(small_model: MakeModel) -> None:
    for shape in ("mha_biases", "mqa_tied"):
        folder = small_model(shape)[0]
        plain, int8 = load(folder).info, load(folder, quantization="int8").info
        assert (plain.dtype, int8.dtype) == ("float32", "float32 + int8 weights")
        assert [name for name, _, _ in int8.phases] == ["load_weights", "quantize_weights", "allocate_kv", "warm_up"]
        embedding = 203 * 48 * 4
        assert int8.memory["weights"] - embedding < 0.5 * (plain.memory["weights"] - embedding) + 203 * 48
        assert int8.memory["kv_pages"] == plain.memory["kv_pages"]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_rounded_weights(
    small_model: MakeModel, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = small_model(shape)
    tokens = torch.randint(3, 203, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    levels = Int8Quantizer().levels

    def with_rounded_weights(linear: LinearLayer) -> Linear:
        assert isinstance(linear, Linear)
        scales = linear.weight.abs().amax(dim=1, keepdim=True) / levels
        return Linear((linear.weight / scales).round() * scales, linear.bias)

    exact = all_logits(load(folder), tokens)
    got = all_logits(load(folder, quantization="int8"), tokens)
    rounding = devices.Conversion("round_weights", with_rounded_weights)
    monkeypatch.setattr(devices, "choose_conversion", lambda *_: rounding)
    expected = all_logits(load(folder), tokens)
    assert float((got - expected).norm()) < 0.1 * float((exact - expected).norm()) < 0.01 * float(exact.norm())


def test_tokens_are_the_same_in_any_company(small_model: MakeModel) -> None:
    folder, _ = small_model("gqa")
    prompts = [[20, 21, 22], [30] * 9, [40, 41], [50]]
    engine = create_engine(
        folder, "small", EngineConfig(device="cpu", num_threads=1, num_pages=256, quantization="int8"),
        SchedulerConfig(max_running_requests=8),
    )  # fmt: skip
    builder = StepBuilder(engine.info)
    together = generate(engine, prompts, 12, builder=builder)
    for row in range(4):
        builder.release(row)
    assert [generate(engine, [prompt], 12, builder=builder)[0] for prompt in prompts[:1]] == together[:1]
    engine.close()


def test_what_it_does_not_go_with(small_model: MakeModel) -> None:
    with pytest.raises(OptionError, match="goes with --dtype float32"):
        load(small_model("gqa")[0], quantization="int8", dtype="bfloat16")
    with pytest.raises(OptionError, match="is built for the CPU, and the device is cuda"):
        devices.choose_conversion(EngineConfig(quantization="int8"), torch.device("cuda"), torch.bfloat16)


@pytest.mark.model
def test_the_built_in_model_predicts_a_text_nearly_as_well() -> None:
    """Measured over longer texts (2,048 tokens): perplexity +1.1%, the same best token at 93.4% of the positions."""
    folder = resolve_model("smollm2-135m", progress=False).folder
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    assert len(tokens) > 250
    expected, got = (all_logits(load(folder, quantization=kind), tokens) for kind in ("none", "int8"))
    perplexities = [float(F.cross_entropy(logits[:-1], torch.tensor(tokens[1:])).exp()) for logits in (expected, got)]
    same = float((expected.argmax(dim=1) == got.argmax(dim=1)).float().mean())
    divergence = float(
        F.kl_div(got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="none").sum(1).mean()
    )
    print(f"{len(tokens)} tokens, perplexities {perplexities}, same best token {same}, divergence {divergence}")
    assert perplexities[1] < 1.03 * perplexities[0]
    assert same > 0.9
    assert divergence < 0.02

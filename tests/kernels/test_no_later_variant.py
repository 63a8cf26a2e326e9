"""After the trial no step needs a kernel that wasn't compiled: told from the launches, which compute nothing here."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from learnsgl.core import SamplingParams
from learnsgl.engine.trial import KINDS, Trial, run_trial
from tests.engine.driver import StepBuilder
from tests.engine.reference import SHAPES, make_model
from tests.kernels.test_engine_interpreted import SCHEDULER, load, make_gpu_like
from tests.kernels.variants import Variants, gathered

SAMPLING = (
    *KINDS, SamplingParams(top_k=3), SamplingParams(min_p=0.2), SamplingParams(temperature=0.0, logprobs=2),
    SamplingParams(logit_bias={3: 1.0}), SamplingParams(temperature=0.0, min_tokens=3),
    SamplingParams(presence_penalty=1.0),
)  # fmt: skip


def play(builder: StepBuilder, runner: object, seed: int) -> None:
    """Requests come and go; steps are chunks, answers and both."""
    chance = random.Random(seed)
    left: dict[int, list[int]] = {}  # prompt tokens and answer tokens to come
    for _ in range(30):
        for row in range(4):
            if row not in left and chance.random() < 0.5:
                length = chance.choice([1, 2, 9, 30])
                builder.admit(row, [1] * length, chance.choice(SAMPLING))
                left[row] = [length, chance.randint(1, 30)]
        runs = []
        for row, (prompt, _) in left.items():
            if chance.random() < 0.8:
                runs.append((row, chance.randint(1, min(prompt, 8)) if prompt else 1))
        if not runs:
            continue
        step = builder.build(runs, wants=[left[row][0] <= length for row, length in runs])
        runner.sample_batch(step, runner.forward_batch(step), None)  # type: ignore[attr-defined]
        for row, length in runs:
            left[row][0 if left[row][0] else 1] -= length
            if left[row][1] <= 0:
                del left[row]
                builder.release(row)
    for row in left:
        builder.release(row)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", ["gqa", "qwen3_mqa_biases", "llama3_wide_heads"])
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
def test_the_trial_meets_every_variant(shape: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnsgl.engine.device.can_pack", lambda *_: False)  # layers are plain on a GPU
    monkeypatch.setattr("learnsgl.kernels.configs.MIN_SPLIT_TOKENS", 16)  # contexts are short, and some are split
    make_model(tmp_path, **{**SHAPES[shape], "num_hidden_layers": 2})
    with gathered(monkeypatch) as known, torch.inference_mode():
        runner, builder = load(tmp_path, dtype=dtype)
        make_gpu_like(runner, [1, 2], dtype=getattr(torch, dtype))
        graphs, runner.graphs = runner.graphs, None
        known.clear()
        run_trial(runner, Trial.of(SCHEDULER, max_model_len=runner.max_model_len, page_size=4))
        of_trial: Variants = set(known)
        for limited in (None, graphs):
            runner.graphs = limited
            for seed in range(4):
                play(builder, runner, seed)
    assert {str(variant)[2:20] for variant in known - of_trial} == set()
    names = {str(variant[0]) for variant in of_trial}  # type: ignore[index]
    assert {"_split_kernel", "_combine_kernel", "_prefill_attention_kernel", "_choose_kernel"} <= names
    assert ("_few_tokens_kernel" in names) == (dtype == "bfloat16")

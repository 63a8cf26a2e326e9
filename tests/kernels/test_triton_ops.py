"""A whole small decoder with the fused operators beside the same decoder in plain torch, step by step."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.models.dummy import fill_with_dummy_weights
from learnsgl.models.layers import Linear, RMSNorm
from learnsgl.models.ops import TorchOps
from learnsgl.models.qwen2 import Qwen2ForCausalLM
from learnsgl.models.qwen3 import Qwen3ForCausalLM
from learnsgl.models.triton_ops import TritonOps
from tests.kernels.cases import assert_close
from tests.kernels.test_triton_backend import HEAD_DIM, NUM_HEADS, NUM_KV_HEADS, STEPS, Pair
from tests.models.small_config import small_config


@pytest.mark.parametrize("architecture", [Qwen2ForCausalLM, Qwen3ForCausalLM])
def test_a_decoder_computes_the_same(architecture: type, device: torch.device) -> None:
    config = small_config(
        num_hidden_layers=2, num_attention_heads=NUM_HEADS, num_key_value_heads=NUM_KV_HEADS, head_dim=HEAD_DIM,
        architectures=[architecture.__name__],
    )  # fmt: skip
    model = architecture(config, num_positions=96, dtype=torch.float32, device=device)
    fill_with_dummy_weights(model.checkpoint_tensors(), seed=1)
    pair = Pair(device, 4)
    # the torch backend under the fused operators rotates in a launch of its own
    third = TorchAttention(Pair(device, 4).pools[0], pair.page_table, num_heads=NUM_HEADS, max_dense_bytes=0)
    for runs in STEPS:
        batch = pair.batch(runs)
        generator = torch.Generator().manual_seed(len(batch.positions))
        ids = torch.randint(config.vocab_size, (len(batch.positions),), generator=generator).int().to(device)
        wanted = torch.tensor([0, len(ids) - 1], device=device) if len(ids) > 2 else None
        batch = dataclasses.replace(batch, input_ids=ids, logit_indices=wanted)
        into = torch.empty(2 if wanted is not None else len(ids), config.vocab_size, device=device)
        logits = []
        for ops, backend, out in (
            (TorchOps(), pair.torch, None), (TritonOps(device), pair.triton, None), (TritonOps(device), third, into),
        ):  # fmt: skip
            model.use_ops(ops)
            backend.plan(batch)
            logits.append(model.forward(batch, backend, out=out))
        assert logits[0].shape == into.shape
        assert_close(logits[1], logits[0])
        assert logits[2] is into
        assert_close(into, logits[0])


@pytest.mark.parametrize("num_tokens", [1, 16, 17])
def test_products_of_few_tokens_and_of_many(num_tokens: int, device: torch.device) -> None:
    """Up to 16 tokens norm, activation and sum are in the launch of the product, and no sum is left over."""
    random = torch.Generator().manual_seed(num_tokens)

    def numbers(*shape: int) -> torch.Tensor:
        return (0.3 * torch.randn(shape, generator=random)).to(device, torch.bfloat16)

    norm = RMSNorm(48, 1e-5, dtype=torch.bfloat16, device=device)
    norm.weight = 1 + numbers(48)
    gate_up, down = Linear(numbers(2 * 40, 48), numbers(2 * 40)), Linear(numbers(48, 40))
    start = numbers(num_tokens, 48)
    results = []
    for ops in (TorchOps(), TritonOps(device)):
        residual = start.clone()
        x = ops.add_projection(start[:, :40].contiguous(), residual, down)
        activated = ops.project_gated(x, residual, norm, gate_up)
        projected = ops.project(ops.add_projection(activated, residual, down), residual, norm, gate_up)
        results.append((activated, projected, residual))
        assert (x is None) == (isinstance(ops, TritonOps) and num_tokens <= 16)
    for ours, expected in zip(results[1], results[0], strict=True):
        # Each rounds in other places, and the interpreter cuts off where a GPU rounds. What is near 0 may be the
        # difference of two that were rounded, so the errors are held to the size of the whole.
        error, size = (ours.float() - expected.float()).abs(), expected.float().abs().mean()
        assert float(error.mean()) < 0.02 * float(size)
        assert float(error.max()) < 0.5 * float(size)

"""Every kernel becomes machine code for four generations of GPUs, fits their shared memory, and spills no registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from learnsgl.kernels.configs import GpuTraits, decode_tiles, prefill_tiles
from learnsgl.kernels.decode_attention import DecodeTokens, SplitBuffers, decode_attention_launches
from learnsgl.kernels.few_tokens import Around, few_tokens_launch
from learnsgl.kernels.find_slots import find_slots_launch
from learnsgl.kernels.launch import Launch
from learnsgl.kernels.own_tokens import OwnTokens
from learnsgl.kernels.prefill_attention import prefill_attention_launch, prefill_tile_list
from learnsgl.kernels.rms_norm import qk_norm_launch, rms_norm_launch
from learnsgl.kernels.rotary_store import QKNorm, rotate_and_store_launch, store_kv_launch
from learnsgl.kernels.sampling import SamplingTensors, sample_tokens_launches
from learnsgl.kernels.silu_mul import silu_and_mul_launch
from tests.kernels.compiling import ARCHITECTURES, SHARED_MEMORY_LIMITS, Compiled, compile_launch

NUM_TOKENS, NUM_SLOTS = 8, 64
BF16 = torch.bfloat16
Make = Callable[[GpuTraits], list[Launch]]


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def norms(size: int, dtype: torch.dtype) -> Make:
    x, weight, out = empty(NUM_TOKENS, size, dtype=dtype), empty(size, dtype=dtype), empty(NUM_TOKENS, size)
    return lambda _: [rms_norm_launch(x, weight, 1e-5, x if dtype == BF16 else None, out)]


def heads(num_heads: int, num_kv_heads: int, head_dim: int, *, has_norm: bool, dtype: torch.dtype = BF16) -> Make:
    """What happens to heads between the projection and attention."""
    qkv = empty(NUM_TOKENS, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    kv_layer = empty(2, num_kv_heads, NUM_SLOTS, head_dim, dtype=dtype)
    slots, weight = ints(NUM_TOKENS, dtype=torch.int64), empty(head_dim, dtype=dtype)
    cos = empty(64, head_dim, dtype=dtype)[:, head_dim // 2 :]
    norm = QKNorm(weight, weight, 1e-6) if has_norm else None

    def make(_: GpuTraits) -> list[Launch]:
        return [
            rotate_and_store_launch(qkv, cos, cos, slots, slots, kv_layer, num_heads=num_heads, norm=norm),
            store_kv_launch(qkv[:, num_heads:], slots, kv_layer),
            *([qk_norm_launch(qkv, weight, weight, 1e-6, num_heads=num_heads, num_kv_heads=num_kv_heads)]
              if has_norm else []),
        ]  # fmt: skip

    return make


def attention(
    num_heads: int, num_kv_heads: int, head_dim: int, *, page_size: int, num_splits: int, dtype: torch.dtype = BF16
) -> Make:
    group_size = num_heads // num_kv_heads
    query = empty(NUM_TOKENS, num_heads, head_dim, dtype=dtype)
    kv_layer = empty(2, num_kv_heads, NUM_SLOTS, head_dim, dtype=dtype)
    page_table, per_token = ints(4, 64), ints(NUM_TOKENS)
    lens, none = np.array([NUM_TOKENS], dtype=np.int32), np.zeros(1, dtype=np.int32)
    tokens = DecodeTokens(per_token, per_token, per_token if num_splits == 1 else None, NUM_TOKENS)
    buffers = SplitBuffers(empty(1, dtype=torch.float32), empty(1, dtype=torch.float32))
    shared = {"page_size": page_size, "scale": head_dim**-0.5}
    qkv = empty(NUM_TOKENS, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    cos, weight = empty(64, head_dim, dtype=dtype)[:, head_dim // 2 :], empty(head_dim, dtype=dtype)
    own = OwnTokens(per_token.long(), cos, cos, QKNorm(weight, weight, 1e-6) if num_splits > 1 else None)

    def make(traits: GpuTraits) -> list[Launch]:
        tiles = prefill_tiles(head_dim, dtype.itemsize, traits)
        tile_list = prefill_tile_list(none, none, lens, none, group_size=group_size, block_m=tiles.block_m)
        return [
            prefill_attention_launch(
                query, kv_layer, page_table, torch.from_numpy(tile_list), query, **shared, tiles=tiles
            ),
            *decode_attention_launches(
                query, kv_layer, page_table, tokens, query, **shared, num_splits=num_splits, buffers=buffers,
                tiles=decode_tiles(head_dim, group_size, dtype.itemsize, traits),
            ),
            decode_attention_launches(
                qkv, kv_layer, page_table, DecodeTokens(per_token, per_token, None, NUM_TOKENS), query, **shared,
                num_splits=num_splits, buffers=buffers, own=own,
                tiles=decode_tiles(head_dim, group_size, dtype.itemsize, traits),
            )[0],
        ]  # fmt: skip

    return make


def products(hidden: int, intermediate: int, dims: int, num_sms: int = 132) -> Make:
    """A layer's products of a few tokens."""
    shapes = (
        (2 * dims, hidden, Around(empty(hidden), 1e-6)), (hidden, dims, Around(is_added=True)),
        (intermediate, hidden, Around(empty(hidden), 1e-6, is_gated=True)),
        (hidden, intermediate, Around(is_added=True)),
    )  # fmt: skip
    return lambda _: [
        few_tokens_launch(
            empty(4, k), empty(2 * n if around.is_gated else n, k), None, around, empty(4, n), num_sms=num_sms
        )
        for n, k, around in shapes
    ]


def sampling(vocab_size: int, dtype: torch.dtype, *, any_filtered: bool) -> Make:
    logits, floats = empty(2, vocab_size, dtype=dtype), empty(2, dtype=torch.float32)
    params = SamplingTensors(
        floats, ints(2), floats, floats, ints(2, dtype=torch.int64), ints(2, dtype=torch.int64)
    )  # fmt: skip
    tokens, failed = ints(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)
    return lambda _: sample_tokens_launches(logits, params, tokens, failed, any_filtered=any_filtered)


def planning(page_size: int) -> Make:
    wide, narrow = ints(NUM_TOKENS, dtype=torch.int64), ints(NUM_TOKENS)
    return lambda _: [
        find_slots_launch(wide, wide, ints(4, 64), wide, narrow, narrow, wide, page_size=page_size, num_padded=8)
    ]


CASES: dict[str, Make] = {
    "norm 1024 bf16": norms(1024, BF16),
    "silu 3072": lambda _: [silu_and_mul_launch(empty(NUM_TOKENS, 6144), empty(NUM_TOKENS, 3072))],
    "Qwen3's heads": heads(16, 8, 128, has_norm=True),
    "Qwen3's attention": attention(16, 8, 128, page_size=1, num_splits=8),
    "Llama-3's attention fp16": attention(32, 8, 128, page_size=16, num_splits=1, dtype=torch.float16),
    "SmolLM2's attention": attention(9, 3, 64, page_size=1, num_splits=4),
    "sampling": sampling(151_936, BF16, any_filtered=True),
    "sampling without filters": sampling(49_152, torch.float16, any_filtered=False),
    "planning": planning(16),
    "Qwen3's products": products(1024, 3072, 2048),
}
VARIANTS: dict[str, Make] = {
    "norm 4096 fp16": norms(4096, torch.float16),
    "SmolLM2's heads fp16": heads(9, 3, 64, has_norm=False, dtype=torch.float16),
    "heads of 80": heads(7, 1, 80, has_norm=True),
    "attention of 96, one KV head": attention(20, 1, 96, page_size=16, num_splits=2),
    "attention of 256": attention(8, 4, 256, page_size=16, num_splits=2),
    "attention in fp32": attention(9, 3, 64, page_size=1, num_splits=2, dtype=torch.float32),
    "SmolLM2's products on a small GPU": products(576, 1536, 576, num_sms=28),
    "sampling fp32": sampling(128_256, torch.float32, any_filtered=True),
}
"""Other sizes and dtypes of the same kernels, for the least shared memory and for the newest instructions."""

ALL = [(case, architecture) for case in CASES for architecture in ARCHITECTURES]
ALL += [(case, architecture) for case in VARIANTS for architecture in (86, 90)]


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Launch, int], Compiled]:
    return lambda launch, architecture: compile_launch(launch, architecture, tmp_path)


@pytest.mark.parametrize(("case", "architecture"), ALL)
def test_it_compiles(case: str, architecture: int, compiled: Callable[[Launch, int], Compiled]) -> None:
    for launch in (CASES | VARIANTS)[case](GpuTraits(divmod(architecture, 10), 100)):
        result = compiled(launch, architecture)
        name = launch.kernel.__name__
        assert f"sm_{architecture}" in result.ptx
        assert result.shared_bytes <= SHARED_MEMORY_LIMITS[architecture], f"{name}: too much shared memory"
        assert result.stack_bytes == 0, f"{name}: {result.stack_bytes} bytes a thread are spilled"
        if launch.num_stages > 1 or launch.args.get("FILTER"):
            assert "cp.async" in result.ptx, f"{name}: loads aren't asynchronous"
        if "PARTS" in launch.args:
            chain = result.ptx.count("mma.sync") // (2 if launch.args["GATED"] else 1)
            longest = launch.args["BLOCK_K"] * launch.args["BLOCK_N"] // (16 * 8 * launch.num_warps)
            assert chain <= longest, f"{name}: warps don't share the inputs of a tile"
        if launch.num_stages > 1 and "key_ptr" in launch.args:
            block_n, head_dim = launch.args["BLOCK_N"], launch.args["BLOCK_D"]
            two_buffers = 2 * 2 * block_n * head_dim * launch.args["key_ptr"].itemsize
            assert result.shared_bytes >= two_buffers, f"{name}: keys and values haven't two buffers each"

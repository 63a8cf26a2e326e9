"""What `learnsgl bench kernels` runs: each kernel on a size that a model meets, and the same by torch's own operators.

A case is made, measured and dropped before the next one is made, since contexts take gigabytes. The tests run small
ones under Triton's interpreter, where both ways must give the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from learnsgl.bench.kernels_data import Case, Compute, Shape, Sizes
from learnsgl.bench.kernels_products import product_cases
from learnsgl.kernels.configs import choose_num_splits, decode_tiles, prefill_tiles, read_traits
from learnsgl.kernels.decode_attention import DecodeTokens, SplitBuffers, decode_attention, decode_attention_bytes
from learnsgl.kernels.prefill_attention import (
    prefill_attention,
    prefill_attention_bytes,
    prefill_attention_flops,
    prefill_tile_list,
)
from learnsgl.kernels.rms_norm import rms_norm, rms_norm_bytes
from learnsgl.kernels.rotary_store import (
    QKNorm,
    rotate_and_store,
    rotate_and_store_bytes,
    rotate_and_store_reference,
)
from learnsgl.kernels.sampling import SamplingTensors, sample_tokens, sample_tokens_bytes
from learnsgl.kernels.silu_mul import silu_and_mul, silu_and_mul_bytes


def make_cases(shape: Shape, sizes: Sizes, page_size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """All cases of a shape, one after the other."""
    for num_tokens in sizes.num_tokens:
        yield _norm(shape, num_tokens, dtype, device)
        yield _activation(shape, num_tokens, dtype, device)
        yield _rotation(shape, num_tokens, dtype, device)
    for batch, context_len in sizes.decodes:
        yield _decode(shape, batch, context_len, page_size, dtype, device)
    for num_runs, length, start in sizes.prefills:
        yield _prefill(shape, num_runs, length, start, page_size, dtype, device)
    for num_few in sizes.num_few:
        yield from product_cases(shape, num_few, dtype, device)
    for num_rows in sizes.num_sampled:
        yield from _sampling(shape, num_rows, dtype, device)


def _norm(shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device) -> Case:
    x = torch.randn(num_tokens, shape.hidden_size, dtype=dtype, device=device)
    # It becomes a multiple of x, which the norm doesn't tell apart, however often it is called. In a dtype of few bits
    # it ends growing once x is nothing beside it.
    residual = x.clone()
    weight = torch.ones(shape.hidden_size, dtype=dtype, device=device)

    def by_torch() -> torch.Tensor:
        return F.rms_norm(residual.add_(x), weight.shape, weight, 1e-6)

    ways = {"learnsgl": lambda: rms_norm(x, weight, 1e-6, residual=residual), "torch": by_torch}
    num_bytes = rms_norm_bytes(num_tokens, shape.hidden_size, dtype.itemsize, has_residual=True)
    return Case("rms-norm", f"{num_tokens} tokens", num_bytes, 0, ways, compiles=True)


def _activation(shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device) -> Case:
    gate_up = torch.randn(num_tokens, 2 * shape.intermediate_size, dtype=dtype, device=device)

    def by_torch() -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    ways: dict[str, Compute] = {"learnsgl": lambda: silu_and_mul(gate_up), "torch": by_torch}
    num_bytes = silu_and_mul_bytes(num_tokens, shape.intermediate_size, dtype.itemsize)
    return Case("silu-mul", f"{num_tokens} tokens", num_bytes, 0, ways, compiles=True)


def _rotation(shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device) -> Case:
    num_all = shape.num_heads + 2 * shape.num_kv_heads
    qkv = torch.randn(num_tokens, num_all, shape.head_dim, dtype=dtype, device=device)
    angles = torch.rand(num_tokens, shape.head_dim // 2, device=device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    positions = torch.arange(num_tokens, device=device)
    slots = torch.randperm(num_tokens, device=device)
    weight = torch.ones(shape.head_dim, dtype=dtype, device=device)
    norm = QKNorm(weight, weight, 1e-6) if shape.has_qk_norm else None
    layers = torch.zeros(2, 2, shape.num_kv_heads, num_tokens, shape.head_dim, dtype=dtype, device=device)

    def by_learnsgl() -> torch.Tensor:
        rotate_and_store(qkv, cos, sin, positions, slots, layers[0], num_heads=shape.num_heads, norm=norm)
        return layers[0]

    def by_torch() -> torch.Tensor:
        rotate_and_store_reference(
            qkv, cos, sin, positions, slots, layers[1], num_heads=shape.num_heads, norm=norm, has_padding=False
        )
        return layers[1]

    ways = {"learnsgl": by_learnsgl, "torch": by_torch}
    num_bytes = rotate_and_store_bytes(num_tokens, shape.num_heads, shape.num_kv_heads, shape.head_dim, dtype.itemsize)
    return Case("rotary-store", f"{num_tokens} tokens", num_bytes, 0, ways, compiles=True)


@dataclass(frozen=True, slots=True)
class _Contexts:
    """Contexts of one length, in pages dealt out at random, and densely for torch: keys and values [B, KV, L, D]."""

    kv_layer: torch.Tensor
    page_table: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


def _contexts(
    shape: Shape, batch: int, length: int, page_size: int, dtype: torch.dtype, device: torch.device
) -> _Contexts:
    num_pages = -(-length // page_size)
    page_table = torch.randperm(batch * num_pages, device=device).int().view(batch, num_pages)
    size = (2, shape.num_kv_heads, batch * num_pages * page_size, shape.head_dim)
    kv_layer = torch.randn(size, dtype=dtype, device=device)
    positions = torch.arange(length, device=device)
    slots = page_table[:, positions // page_size].long() * page_size + positions % page_size  # [B, L]
    keys, values = kv_layer[:, :, slots].transpose(1, 2)
    return _Contexts(kv_layer, page_table, keys.contiguous(), values.contiguous())


def _decode(
    shape: Shape, batch: int, context_len: int, page_size: int, dtype: torch.dtype, device: torch.device
) -> Case:
    held = _contexts(shape, batch, context_len, page_size, dtype, device)
    query = torch.randn(batch, shape.num_heads, shape.head_dim, dtype=dtype, device=device)
    traits, group_size = read_traits(device), shape.num_heads // shape.num_kv_heads
    num_splits = choose_num_splits(batch, shape.num_kv_heads, context_len, traits.num_sms)
    num_parts = batch * shape.num_heads * num_splits
    buffers = SplitBuffers(
        torch.empty(num_parts * shape.head_dim, device=device), torch.empty(num_parts, device=device)
    )
    lens = torch.full((batch,), context_len, dtype=torch.int32, device=device)
    tokens = DecodeTokens(torch.arange(batch, dtype=torch.int32, device=device), lens, None, batch)
    tiles, out = decode_tiles(shape.head_dim, group_size, dtype.itemsize, traits), torch.empty_like(query)

    def by_learnsgl() -> torch.Tensor:
        decode_attention(
            query, held.kv_layer, held.page_table, tokens, out, page_size=page_size, scale=shape.head_dim**-0.5,
            tiles=tiles, num_splits=num_splits, buffers=buffers,
        )  # fmt: skip
        return out

    def by_torch() -> torch.Tensor:
        grouped = query.view(batch, shape.num_kv_heads, group_size, shape.head_dim)
        return F.scaled_dot_product_attention(grouped, held.keys, held.values).view_as(query)

    num_bytes = decode_attention_bytes(
        batch, batch * context_len, shape.num_heads, shape.num_kv_heads, shape.head_dim, dtype.itemsize
    )
    size = f"batch {batch}, context {context_len:,}, {num_splits} splits"
    return Case("decode-attention", size, num_bytes, 0, {"learnsgl": by_learnsgl, "torch, dense SDPA": by_torch})


def _prefill(
    shape: Shape, num_runs: int, length: int, start: int, page_size: int, dtype: torch.dtype, device: torch.device
) -> Case:
    held = _contexts(shape, num_runs, start + length, page_size, dtype, device)
    query = torch.randn(num_runs * length, shape.num_heads, shape.head_dim, dtype=dtype, device=device)
    tiles, out = prefill_tiles(shape.head_dim, dtype.itemsize, read_traits(device)), torch.empty_like(query)
    starts, lens = (np.full(num_runs, number, dtype=np.int32) for number in (start, length))
    tile_list = prefill_tile_list(
        np.cumsum(lens) - lens, starts, lens, np.arange(num_runs, dtype=np.int32),
        group_size=shape.num_heads // shape.num_kv_heads, block_m=tiles.block_m,
    )  # fmt: skip
    on_device = torch.from_numpy(tile_list).to(device)

    def by_learnsgl() -> torch.Tensor:
        prefill_attention(
            query, held.kv_layer, held.page_table, on_device, out, page_size=page_size, scale=shape.head_dim**-0.5,
            tiles=tiles,
        )  # fmt: skip
        return out

    def by_torch() -> torch.Tensor:
        by_run = query.view(num_runs, length, shape.num_heads, shape.head_dim).transpose(1, 2)
        attended = F.scaled_dot_product_attention(by_run, held.keys, held.values, is_causal=True, enable_gqa=True)
        return attended.transpose(1, 2).reshape_as(query)

    num_bytes = prefill_attention_bytes(
        starts, lens, shape.num_heads, shape.num_kv_heads, shape.head_dim, dtype.itemsize
    )
    num_flops = prefill_attention_flops(starts, lens, shape.num_heads, shape.head_dim)
    ways = {"learnsgl": by_learnsgl}
    if start == 0:  # torch has no causal mask that begins further on, but a dense one of ours to read
        ways["torch, dense SDPA"] = by_torch
    return Case("prefill-attention", f"{num_runs} x {length:,} tokens after {start:,}", num_bytes, num_flops, ways)


def _sampling(shape: Shape, num_rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    logits = torch.randn(num_rows, shape.vocab_size, dtype=dtype, device=device) * 3
    num_bytes = sample_tokens_bytes(num_rows, shape.vocab_size, dtype.itemsize)

    def drawn(scores: torch.Tensor) -> torch.Tensor:
        return (scores.float() - torch.empty_like(scores, dtype=torch.float32).exponential_().log()).argmax(dim=-1)

    def by_sorting() -> torch.Tensor:
        values, ids = logits.float().sort(dim=-1, descending=True)
        weights = values.softmax(dim=-1)
        before = weights.cumsum(dim=-1) - weights
        values[:, 50:] = -torch.inf
        return ids.gather(1, drawn(values.masked_fill(before >= 0.9, -torch.inf)).unsqueeze(1)).squeeze(1)

    for kind, (temperature, top_k, top_p, by_torch) in {
        "greedy": (0.0, shape.vocab_size, 1.0, lambda: logits.argmax(dim=-1)),
        "temperature": (1.0, shape.vocab_size, 1.0, lambda: drawn(logits)),
        "top-k 50, top-p 0.9": (1.0, 50, 0.9, by_sorting),
    }.items():
        wide = torch.arange(num_rows, device=device)
        params = SamplingTensors(
            temperature=torch.full((num_rows,), temperature, device=device),
            top_k=torch.full((num_rows,), top_k, dtype=torch.int32, device=device),
            top_p=torch.full((num_rows,), top_p, device=device),
            min_p=torch.zeros(num_rows, device=device), seeds=wide, positions=wide,
        )  # fmt: skip
        filtered = top_p < 1.0

        def by_learnsgl(params: SamplingTensors = params, filtered: bool = filtered) -> torch.Tensor:
            return sample_tokens(logits, params, any_filtered=filtered)[0]

        ways = {"learnsgl": by_learnsgl, "torch": by_torch}
        yield Case("sampling", f"{num_rows} rows, {kind}", num_bytes, 0, ways, has_one_answer=kind == "greedy")

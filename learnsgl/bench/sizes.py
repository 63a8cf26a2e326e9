"""What a model must read, and compute, for a step: the floors that `bench steps` and `bench offline` measure beside.

Everything follows from the shape in a config.json. Norms and the activations between layers are left out: together they
are less than a per cent of the bytes of a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from learnsgl.bench.workload import Request
from learnsgl.models.config import ModelConfig

CPU = "CPU"
"""Name of a device that is no GPU."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class ModelSizes(msgspec.Struct, frozen=True):
    """What one step of a model moves and computes.

    Attributes:
        num_layer_weights: numbers in the linear layers of all blocks.
        num_head_weights: numbers in the output layer, also where it is tied to the embedding. Of an embedding that
            isn't, a step reads one row a token, which is nothing.
        num_layers, num_heads, num_kv_heads, head_dim: of its attention.
        dtype_bytes: of a number, in weights and in the KV cache.
    """

    num_layer_weights: int
    num_head_weights: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads, however many tokens are in it."""
        return (self.num_layer_weights + self.num_head_weights) * self.dtype_bytes

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of KV cache of one token, of all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype_bytes

    def decode_bytes(self, num_context_tokens: int) -> int:
        """Bytes that a decode step reads.

        Args:
            num_context_tokens: tokens that its requests attend to, all of them together.
        """
        return self.weight_bytes + num_context_tokens * self.kv_token_bytes

    def linear_flops(self, num_tokens: int) -> int:
        """Operations of the linear layers for a prompt: 2 a weight and token; the output layer for its last token."""
        return 2 * (self.num_layer_weights * num_tokens + self.num_head_weights)

    def attention_flops(self, num_tokens: int) -> int:
        """Operations of causal attention for a prompt without a cached prefix.

        The token at position p has p + 1 keys; for each and each head, 2 * head_dim for the score and 2 * head_dim for
        the weighted sum of the values.
        """
        num_pairs = num_tokens * (num_tokens + 1) // 2
        return 4 * self.num_layers * self.num_heads * self.head_dim * num_pairs


def sizes_of(config: ModelConfig, dtype: str) -> ModelSizes:
    """The sizes of a model in a dtype: float32, bfloat16 or float16."""
    hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
    attention = 2 * hidden * (heads + kv_heads) * config.head_dim
    return ModelSizes(
        num_layer_weights=config.num_layers * (attention + 3 * hidden * config.intermediate_size),
        num_head_weights=config.vocab_size * hidden,
        num_layers=config.num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=config.head_dim,
        dtype_bytes=DTYPE_BYTES[dtype],
    )


class Ceilings(msgspec.Struct, frozen=True):
    """What the device reaches at its best, measured in the same run.

    Attributes:
        device: its name.
        copy_bytes_per_s: bytes read plus bytes written in a second, by a copy of `copy_bytes` within the device.
        copy_bytes: bytes that were copied at once.
        matmul_flops_per_s: operations a second of a product of two square matrices.
        matmul_size: rows of these.
        dtype: of the matrices.
    """

    device: str
    copy_bytes_per_s: float
    copy_bytes: int
    matmul_flops_per_s: float
    matmul_size: int
    dtype: str

    def text(self) -> str:
        """In a sentence, for the note of a table."""
        gb_s, tflops = self.copy_bytes_per_s / 1e9, self.matmul_flops_per_s / 1e12
        return (
            f"{self.device}: a copy of {self.copy_bytes / 2**20:,.0f} MiB within the device moves {gb_s:,.4g} GB/s "
            f"(bytes read plus bytes written), and a {self.dtype} product of two matrices of {self.matmul_size:,} rows "
            f"and columns computes {tflops:,.3g} TFLOP/s."
        )


class WorkloadFloor(msgspec.Struct, frozen=True):
    """The least time that a workload takes on a device, if all of its requests decode at once.

    Attributes:
        prefill_s: the operations of all prompts, at the rate of a large matrix product.
        decode_s: the bytes of all decode steps, at the bandwidth of a large copy. There are as many steps as the
            longest answer has tokens after its first; each reads the weights once, and the KV of what still decodes.
        num_output_tokens: tokens generated in that time.
    """

    prefill_s: float
    decode_s: float
    num_output_tokens: int

    @property
    def total_s(self) -> float:
        """Seconds for all of it."""
        return self.prefill_s + self.decode_s

    @property
    def output_rate(self) -> float:
        """Generated tokens a second."""
        return self.num_output_tokens / self.total_s


def workload_floor(requests: Sequence[Request], sizes: ModelSizes, ceilings: Ceilings) -> WorkloadFloor:
    """The floor of a workload of at least one request."""
    lens = [(len(request.prompt_ids), request.output_len) for request in requests]
    flops = sum(sizes.linear_flops(prompt) + sizes.attention_flops(prompt) for prompt, _ in lens)
    num_steps = max(output for _, output in lens) - 1
    # the step that makes token t + 1 of an answer attends to the prompt and t tokens of it, t = 1 .. output - 1
    num_read = sum((output - 1) * prompt + (output - 1) * output // 2 for prompt, output in lens)
    num_bytes = num_steps * sizes.weight_bytes + num_read * sizes.kv_token_bytes
    return WorkloadFloor(
        prefill_s=flops / ceilings.matmul_flops_per_s,
        decode_s=num_bytes / ceilings.copy_bytes_per_s,
        num_output_tokens=sum(output for _, output in lens),
    )

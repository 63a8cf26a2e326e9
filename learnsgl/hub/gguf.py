"""Read a GGUF file: its configuration under Hugging Face's keys, and its weights under Hugging Face's names.

`convert.py` writes both into a model folder. Llama's and Qwen's architectures are read. GGUF keeps the rows of Llama's
q and k projections in the order in which the original Llama code rotates them (pairs side by side), Hugging Face in
the order of its own (halves apart), so these rows are put back; Qwen's are the same in both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from learnsgl.errors import UnsupportedModelError
from learnsgl.hub.gguf_rope import llama3_scaling
from learnsgl.hub.safetensors_file import Float32Array
from learnsgl.models.architectures import ARCHITECTURES

SUPPORTED = {known.gguf_name: known for known in ARCHITECTURES.values() if known.gguf_name is not None}
"""By the name in `general.architecture`."""
_PERMUTED = "llama"
ROPE_DIVISORS = "rope_freqs.weight"

_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OWN_LAYER_NAMES = {
    "llama": {},
    "qwen2": {"attn_q.bias": "q_proj.bias", "attn_k.bias": "k_proj.bias", "attn_v.bias": "v_proj.bias"},
    "qwen3": {"attn_q_norm.weight": "q_norm.weight", "attn_k_norm.weight": "k_norm.weight"},
}
"""What one architecture has beside these, below `self_attn`."""
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+\.\w+)")


class GgufFile:
    """One open GGUF file.

    Raises:
        UnsupportedModelError: not GGUF, another architecture, or features that the engine doesn't have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError) as error:  # what the reader raises on a foreign or cut file
            raise UnsupportedModelError(f"{path} isn't a GGUF file that can be read ({error})") from error
        self.architecture = str(self.get("general.architecture"))
        if self.architecture not in SUPPORTED:
            raise UnsupportedModelError(
                f"{path} holds a model of architecture {self.architecture!r}; GGUF files are read for: "
                f"{', '.join(SUPPORTED)}. Use the model's safetensors version"
            )
        self._tensors = [tensor for tensor in self._reader.tensors if tensor.name != ROPE_DIVISORS]
        self._names = {tensor.name: self._hf_name(tensor.name) for tensor in self._tensors}
        self.config = self._read_config()

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value, or `default` where the file hasn't got it."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        """A metadata value that must be there."""
        value = self.get(key)
        if value is None:
            raise UnsupportedModelError(
                f"{self.path} has no metadata {key!r}, which every {self.architecture} model needs"
            )
        return value

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by its Hugging Face name; GGUF counts dimensions the other way round."""
        return {
            self._names[tensor.name]: tuple(int(size) for size in reversed(tensor.shape)) for tensor in self._tensors
        }

    def saved_dtypes(self) -> tuple[str, ...]:
        """What the weights are saved in, such as Q4_1; what most numbers are in comes first."""
        numbers: Counter[str] = Counter()
        for tensor in self._tensors:
            numbers[tensor.tensor_type.name] += int(tensor.n_elements)
        return tuple(dtype for dtype, _ in numbers.most_common())

    def tensors(self) -> Iterator[tuple[str, Float32Array]]:
        """Every weight, dequantised to float32, in the order of `shapes`; one at a time is in memory."""
        for tensor in self._tensors:
            yield self._names[tensor.name], self._values(tensor)

    def _values(self, tensor: ReaderTensor) -> Float32Array:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(shape)
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"{self.path}: tensor {tensor.name} is quantised as {tensor.tensor_type.name}, which can't be read"
            ) from error
        if self.architecture != _PERMUTED:
            return values
        if tensor.name.endswith("attn_q.weight"):
            return unpermute(values, self.config["num_attention_heads"])
        if tensor.name.endswith("attn_k.weight"):
            return unpermute(values, self.config["num_key_value_heads"])
        return values

    def _hf_name(self, name: str) -> str:
        if name in _GLOBAL_NAMES:
            return _GLOBAL_NAMES[name]
        match = _LAYER_TENSOR.fullmatch(name)
        part = "" if match is None else match[2]
        stem, own = part.removesuffix(".weight"), _OWN_LAYER_NAMES[self.architecture]
        if match is not None and part.endswith(".weight") and stem in _LAYER_NAMES:
            return f"model.layers.{match[1]}.{_LAYER_NAMES[stem]}.weight"
        if match is not None and part in own:
            return f"model.layers.{match[1]}.self_attn.{own[part]}"
        raise UnsupportedModelError(
            f"{self.path} holds the tensor {name!r}, which a plain {self.architecture} model hasn't got (experts "
            "aren't supported, nor biases where the architecture has none); use the model's safetensors version"
        )

    def _read_config(self) -> dict[str, Any]:
        """The metadata as `config.json` has it."""
        arch = self.architecture
        num_heads = int(self.need(f"{arch}.attention.head_count"))
        hidden_size = int(self.need(f"{arch}.embedding_length"))
        config: dict[str, Any] = {
            "architectures": [SUPPORTED[arch].name],
            "model_type": SUPPORTED[arch].model_type,
            "vocab_size": self.shapes()["model.embed_tokens.weight"][0],
            "hidden_size": hidden_size,
            "intermediate_size": int(self.need(f"{arch}.feed_forward_length")),
            "num_hidden_layers": int(self.need(f"{arch}.block_count")),
            "num_attention_heads": num_heads,
            "num_key_value_heads": int(self.get(f"{arch}.attention.head_count_kv", num_heads)),
            "head_dim": int(self.get(f"{arch}.attention.key_length", hidden_size // num_heads)),
            "hidden_act": "silu",
            "max_position_embeddings": int(self.need(f"{arch}.context_length")),
            "rms_norm_eps": _decimal(self.need(f"{arch}.attention.layer_norm_rms_epsilon")),
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "output.weight" not in self._names,
            "dtype": "float32",
        }
        ids = {name: self.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
        config |= self._rope_config(config["head_dim"])
        config |= {"bos_token_id": ids["bos"], "eos_token_id": self.eos_ids(), "pad_token_id": ids["padding"]}
        return {key: value for key, value in config.items() if value is not None}

    def _rope_config(self, head_dim: int) -> dict[str, Any]:
        """`rope_theta`, and `rope_scaling` where there is one."""
        theta = _decimal(self.get(f"{self.architecture}.rope.freq_base", 10000.0))
        kind = self.get(f"{self.architecture}.rope.scaling.type", "none")
        num_rotated = self.get(f"{self.architecture}.rope.dimension_count", head_dim)
        if kind not in ("none", "linear", "yarn") or num_rotated != head_dim:
            raise UnsupportedModelError(
                f"{self.path} has rotary embeddings that aren't supported (scaling {kind}, over {num_rotated} of "
                f"{head_dim} dimensions); plain ones over all dimensions, linear and YaRN ones and those of Llama 3 are"
            )
        if kind != "none":
            return {"rope_theta": theta, "rope_scaling": self._rope_scaling(kind)}
        divisors = [tensor for tensor in self._reader.tensors if tensor.name == ROPE_DIVISORS]
        if not divisors:
            return {"rope_theta": theta}
        scaling = llama3_scaling(np.asarray(divisors[0].data, dtype=np.float32), theta)
        if scaling is None:
            raise UnsupportedModelError(
                f"{self.path} scales its rotary embeddings in another way than Llama 3 does; use the model's "
                "safetensors version"
            )
        return {"rope_theta": theta, "rope_scaling": scaling}

    def _rope_scaling(self, kind: str) -> dict[str, Any]:
        scaling: dict[str, Any] = {
            "rope_type": kind,
            "factor": _decimal(self.need(f"{self.architecture}.rope.scaling.factor")),
        }
        if kind == "yarn":
            original = self.need(f"{self.architecture}.rope.scaling.original_context_length")
            scaling["original_max_position_embeddings"] = int(original)
        return scaling

    def eos_ids(self) -> list[int]:
        """Tokens that end a sequence: end of text, end of turn, end of message, as far as the file names them."""
        ids = [self.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        return list(dict.fromkeys(int(token) for token in ids if token is not None))


def unpermute(rows: npt.NDArray[np.float32], num_heads: int) -> Float32Array:
    """Put the rows of a q or k projection into Hugging Face's order.

    Within a head, GGUF's rows 2i and 2i+1 rotate together; in Hugging Face's order rows i and i + head_dim/2 do.

    Args:
        rows: float32 [num_heads * head_dim, hidden_size].
        num_heads: heads of this projection.
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _decimal(value: float) -> float:
    """A float32 of the file as the short decimal it was written from: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))

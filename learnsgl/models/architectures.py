"""The architectures that are built, as plain data: what sets each apart before a weight is looked at. No torch here.

`config.py` reads a config.json by it, `registry.py` has the class for each entry, and `learnsgl model` and the GGUF
reader tell from it what is supported. A new architecture is one entry here, one file, and one line in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learnsgl.errors import UnsupportedModelError


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: what config.json's `architectures` says.
        family: for people, with models that have it.
        model_type: what config.json's `model_type` says.
        gguf_name: what a GGUF file's `general.architecture` says; `None` where such files aren't read. Mistral's say
            `llama`, and are read as that.
        defaults: what a field of config.json means where the file leaves it out; only where that isn't what it means
            for Llama. As in transformers' configuration classes.
        is_windowed: whether `sliding_window` alone asks for a window in every layer, whatever other fields say.
    """

    name: str
    family: str
    model_type: str
    gguf_name: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_windowed: bool = False


_QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}

_ALL = (
    Architecture("LlamaForCausalLM", "Llama 2 and 3, SmolLM2, TinyLlama", "llama", gguf_name="llama"),
    Architecture(
        "MistralForCausalLM", "Mistral 7B v0.2 and later, Mistral Nemo", "mistral",
        # a Mistral always has a window, unless its file says null
        defaults={"num_key_value_heads": 8, "sliding_window": 4096}, is_windowed=True,
    ),
    Architecture("Qwen2ForCausalLM", "Qwen2 and Qwen2.5", "qwen2", gguf_name="qwen2", defaults=_QWEN),
    Architecture(
        "Qwen3ForCausalLM", "Qwen3, the dense ones", "qwen3", gguf_name="qwen3", defaults={**_QWEN, "head_dim": 128},
    ),
)  # fmt: skip

ARCHITECTURES: Mapping[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
"""By name, in the order of the alphabet."""


def find_architecture(name: str | None) -> Architecture:
    """The entry of an architecture.

    Args:
        name: the first entry of config.json's `architectures`.

    Raises:
        UnsupportedModelError: it isn't built; those that are, are named.
    """
    if name is None or name not in ARCHITECTURES:
        raise UnsupportedModelError(f"the architecture {name!r} isn't built; there are: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]

"""The tokenizer inside a GGUF file, as `tokenizer.json` and `tokenizer_config.json`.

Called by `convert.py`. GGUF keeps vocabulary, merges and token types, but of the way in which text is cut before
merging only a name (`tokenizer.ggml.pre`); what each name means is written down here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import processors

from learnsgl.errors import UnsupportedModelError
from learnsgl.hub.byte_level import byte_level_tokenizer, split_by, write_json
from learnsgl.hub.gguf import GgufFile


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, as far as byte-level BPE uses it."""

    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True)
class Splitting:
    """How text is cut before the merges apply.

    Attributes:
        patterns: regular expressions; each cuts the pieces that the one before it left.
        ignore_merges: a word that is a token is taken whole.
        nfc: text is brought into composed form first.
        add_bos: a prompt begins with the bos token, where the file doesn't say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS_AND_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_PUNCTUATION_AND_SPACE = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = Splitting(
    (_CONTRACTIONS_AND_WORDS + r"\p{N}{1,3}" + _PUNCTUATION_AND_SPACE,), ignore_merges=True, add_bos=True
)
_QWEN2 = Splitting((_CONTRACTIONS_AND_WORDS + r"\p{N}" + _PUNCTUATION_AND_SPACE,), nfc=True)

SPLITTINGS = {
    "default": Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": Splitting((_GPT2,)),
    "smollm": Splitting((r"\p{N}", _GPT2)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
"""By the name in `tokenizer.ggml.pre`, as llama.cpp cuts text for each (`llama-vocab.cpp`)."""


def write_tokenizer(gguf: GgufFile, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` (with the chat template, where the file has one).

    Raises:
        UnsupportedModelError: a tokenizer of another kind than byte-level BPE, or an unknown way of splitting.
    """
    kind = gguf.need("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedModelError(
            f"{gguf.path} has a tokenizer of kind {kind!r}; byte-level BPE (gpt2) is read. Use the model's "
            "safetensors version"
        )
    splitting = _splitting(gguf)
    tokens: list[str] = gguf.need("tokenizer.ggml.tokens")
    types: list[int] = gguf.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    merges = [merge.split(" ", 1) for merge in gguf.need("tokenizer.ggml.merges")]
    tokenizer = byte_level_tokenizer(
        {token: index for index, token in enumerate(tokens)},
        [(left, right) for left, right in merges],
        split_by(*splitting.patterns),
        special_tokens=[token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL],
        plain_tokens=[token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.USER_DEFINED],
        ignore_merges=splitting.ignore_merges,
        nfc=splitting.nfc,
    )
    bos = gguf.get("tokenizer.ggml.bos_token_id")
    if bos is not None and gguf.get("tokenizer.ggml.add_bos_token", splitting.add_bos):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A {tokens[bos]} $B", special_tokens=[(tokens[bos], bos)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(gguf, tokens))


def _splitting(gguf: GgufFile) -> Splitting:
    name = gguf.get("tokenizer.ggml.pre", "default")
    if name not in SPLITTINGS:
        raise UnsupportedModelError(
            f"{gguf.path} splits text as {name!r} (tokenizer.ggml.pre); known are: {', '.join(SPLITTINGS)}. Use the "
            "model's safetensors version"
        )
    return SPLITTINGS[name]


def _tokenizer_config(gguf: GgufFile, tokens: list[str]) -> dict[str, Any]:
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    ids = {key: gguf.get(f"tokenizer.ggml.{name}_token_id") for name, key in names.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {key: tokens[index] for key, index in ids.items() if index is not None}
    config |= {"clean_up_tokenization_spaces": False, "model_max_length": gguf.config["max_position_embeddings"]}
    template = gguf.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if template else {})

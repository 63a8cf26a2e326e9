"""Building blocks of byte-level BPE tokenizers, for `tiny.py` and `gguf_tokenizer.py`.

Byte-level BPE writes each of the 256 bytes as one printable character, so that any text is a sequence of known
symbols (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte: itself where it has a visible form, else one from U+0100 on.

    Returns:
        256 characters, indexed by byte.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, spare = [], 0x100
    for byte in range(256):
        symbols.append(chr(byte if byte in visible else spare))
        spare += byte not in visible
    return symbols


def split_by(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Pre-tokenizer that cuts text with each regular expression in turn, then writes the pieces' bytes as symbols."""
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level_tokenizer(
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    *,
    special_tokens: Sequence[str],
    plain_tokens: Sequence[str] = (),
    ignore_merges: bool = False,
    nfc: bool = False,
) -> Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        vocab: id of each token, written in the byte alphabet; special tokens are written as they are.
        merges: pairs of tokens that become one, the earliest first.
        pre_tokenizer: how text is cut before the merges apply.
        special_tokens: control tokens; they are matched whole and give no text when decoded.
        plain_tokens: tokens that are matched whole too, but are text.
        ignore_merges: take a word that is a token as it is, without looking at merges (Llama 3).
        nfc: bring text into Unicode's composed form first (Qwen 2).
    """
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special_tokens])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain_tokens])
    return tokenizer


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a configuration file as people like to read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Token ids to text, one token at a time, never half a character.

`Tokenizer.start_decoding` makes one for each request; `detokenize.py` feeds it. Byte-level tokenizers (GPT-2,
Llama 3, Qwen, SmolLM) have a table from token to bytes; any other tokenizer is asked to decode a short window of
tokens.
"""

from __future__ import annotations

import codecs
from typing import Protocol

from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders

from learnsgl.hub.byte_level import byte_symbols

MAX_PENDING_TOKENS = 8
"""Tokens that may wait for the rest of a character. A character has at most 4 bytes, and a byte is at most a token."""
REPLACEMENT = "\ufffd"


class TokenDecoder(Protocol):
    """The decoder of one sequence of tokens."""

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token and wasn't before."""
        ...

    def flush(self) -> str:
        """The text of what is incomplete at the end of the sequence."""
        ...


class ByteTable:
    """The bytes of each token of a byte-level tokenizer, looked up once; all its requests share the table."""

    def __init__(self, backend: BackendTokenizer, skipped: frozenset[int]) -> None:
        self._backend = backend
        self._byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        self._known: dict[int, bytes] = dict.fromkeys(skipped, b"")

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of one token; none for special tokens, and for ids beyond the vocabulary."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return bytes(self._byte_of[symbol] for symbol in token)
        except KeyError:
            return token.encode()  # an added token is written as it is, not in the byte alphabet


class ByteDecoder:
    """Decodes through a `ByteTable`: a lookup and an incremental UTF-8 decoder, whatever came before."""

    def __init__(self, table: ByteTable) -> None:
        self._bytes_of = table.bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token and wasn't before."""
        return self._utf8.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        """U+FFFD where the sequence ends within a character."""
        return self._utf8.decode(b"", final=True)


class WindowDecoder:
    """Decodes the last few tokens with and without the new one; the difference is the new text.

    A tokenizer may write a token differently at the beginning of a text (SentencePiece drops a space there), so the
    window begins with tokens whose text was given already. The method of Hugging Face's text-generation-inference.
    """

    def __init__(self, backend: BackendTokenizer, skipped: frozenset[int]) -> None:
        self._backend = backend
        self._skipped = skipped
        self._window: list[int] = []
        self._num_given = 0

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token and wasn't before."""
        if token_id in self._skipped:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        num_pending = len(self._window) - self._num_given
        if text.endswith(REPLACEMENT) and num_pending < MAX_PENDING_TOKENS:
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What waited for the rest of its character, with U+FFFD in place of what is missing."""
        return self._give(self._decode(self._window))

    def _give(self, text: str) -> str:
        """The part of the window's text that is new; the window shrinks to the tokens that brought it."""
        given = self._decode(self._window[: self._num_given])
        self._window = self._window[self._num_given :]
        self._num_given = len(self._window)
        return text[len(given) :]

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)


def is_byte_level(backend: BackendTokenizer) -> bool:
    """Whether tokens stand for bytes, so that a `ByteTable` tells their text."""
    return isinstance(backend.decoder, decoders.ByteLevel)

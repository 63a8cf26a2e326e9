"""A request's tokens to the text that may be sent, as they come. The detokenizer worker holds one object a request.

Text is held back while it is half a character, or may be the beginning of a stop string; a stop string and what
follows it are never sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnsgl.tokenizer.stop_strings import StopStrings
from learnsgl.tokenizer.tokenize import Tokenizer


class IncrementalDetokenizer:
    """The text of one request.

    Args:
        tokenizer: the model's tokenizer.
        stop: the request's stop strings.
        min_tokens: tokens after which a stop string counts; one that is complete with these isn't seen.

    Invariants:
        All the text that `add` and `finish` give, joined, is the decoded text of all tokens, special tokens
        left out, up to where the first stop string begins.

    Attributes:
        num_tokens: tokens added so far, until a stop string was complete.
        num_chars: characters of their text, those that are held back among them.
        matched: the stop string that is complete; from then on there is no more text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._decoder = tokenizer.start_decoding()
        self._stops = StopStrings(stop) if stop else None
        self._held = ""
        self._min_tokens = min_tokens
        self.num_tokens = 0
        self.num_chars = 0
        self.matched: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.matched is not None

    @property
    def num_kept_tokens(self) -> int | None:
        """Tokens up to and including the one that completed a stop string; `None` while none is complete."""
        return self.num_tokens if self.stopped else None

    def add(self, token_id: int) -> str:
        """Take the next token; returns the text that can be sent now. After a stop string tokens are ignored."""
        if self.stopped:
            return ""
        self.num_tokens += 1
        return self._release(self._decoder.feed(token_id))

    def finish(self) -> str:
        """The tokens have ended: the text that was held back, U+FFFD in place of a character that never came whole."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.flush())
        if self.stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        """Add new text to what is held, and take off what can be sent."""
        self.num_chars += len(new)
        if self._stops is None or not new:
            return new
        found = self._stops.find_end(new, counts=self.num_tokens > self._min_tokens)
        if found is not None:
            end, self.matched = found
            text, self._held = self._held + new[:end], ""
            return text[: len(text) - len(self.matched)]
        text = self._held + new
        num_free = len(text) - self._stops.num_held
        self._held = text[num_free:]
        return text[:num_free]

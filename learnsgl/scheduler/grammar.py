"""Grammars: what constrained answers are compiled from, and the matchers that say which token may come next.

`Scheduler` asks `Grammars` for a matcher when it takes a request with a grammar, and `grammar_desk.py` has compiled it
by then, beside the scheduler's loop. llguidance does the work: it is Rust, lets the GIL go, and needs no torch.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from

from learnsgl.core import Grammar, GrammarKind
from learnsgl.errors import RequestError
from learnsgl.grammar_work import endless_work, on_deep_stack
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.scheduler.grammar_errors import refused
from learnsgl.scheduler.grammar_matcher import GrammarMatcher

MAX_GRAMMAR_BYTES = 128 << 10
"""Longest text of a grammar; a schema of that size takes about half a second to compile."""
MAX_KEPT = 128
"""Compiled grammars that are kept, the latest used ones, for requests with the same grammar."""
MAX_KEPT_CHARS = 1 << 20
"""Length of all their texts together; a text of 128 KiB may need 40 MB of memory."""
MAX_ITEMS = 5_000
"""Ways that a parser may follow at once: enough for an object with 1,000 properties that may each be left out."""
MAX_STEP_ITEMS = 20_000
"""Ways that it may look at for one mask. Most masks take 10 µs, of an object with 500 such properties 8 ms."""
WHITESPACE = r"[ \n\r\t]{0,20}"
"""What JSON answers may have between two words. Without an end, a small model may write blanks until `max_tokens`."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar that is ready.

    Attributes:
        grammar: the text.
        template: a matcher before its first token, of which every request gets a copy.
        start_ns, end_ns: when it was compiled, on the clock of `Grammars`.
    """

    grammar: Grammar
    template: LLMatcher
    start_ns: int
    end_ns: int

    @property
    def num_bytes(self) -> int:
        """Length of its text."""
        return len(self.grammar.text.encode())


class Grammars:
    """Compiles grammars for one model, and keeps those that were used last.

    Safe to call from several threads: one compiles at a time, and what is known is found without waiting for it.

    Args:
        make_tokenizer: builds the tokenizer's tree of tokens; called once, when it is first needed.
        vocab_size: of the model, which may be more than the tokenizer knows.
        eos_ids: tokens that end a sequence.
        clock: nanoseconds.
    """

    def __init__(
        self, make_tokenizer: Callable[[], LLTokenizer], vocab_size: int, eos_ids: tuple[int, ...],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._make_tokenizer = make_tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._clock = clock
        self._known: OrderedDict[Grammar, Compiled | RequestError] = OrderedDict()
        self._num_chars = 0
        """Of the texts of all that is known."""
        self._compiling = threading.Lock()
        self._keeping = threading.Lock()

    def load(self) -> None:
        """Build the tokenizer's tree now, and not with the first grammar.

        Raises:
            RequestError: answers of this model can't be constrained.
        """
        with self._compiling:
            self._loaded()

    def is_known(self, grammar: Grammar) -> bool:
        """Whether `compile` has nothing left to do for it; if so, it counts as used just now."""
        return self._find(grammar) is not None

    def compile(self, grammar: Grammar) -> Compiled:
        """The compiled grammar, from memory if it is known.

        Raises:
            RequestError: it isn't a grammar, or too large, or it asks for what isn't supported.
        """
        found = self._find(grammar)
        if found is None:
            with self._compiling:
                found = self._find(grammar)  # another thread may have had the same
                if found is None:
                    found = self._keep(grammar, on_deep_stack(lambda: self._compile(grammar)))
        if isinstance(found, RequestError):
            raise found
        return found

    def start(self, compiled: Compiled) -> GrammarMatcher:
        """A matcher for one answer, before its first token."""
        return GrammarMatcher(
            compiled.template.deep_copy(), model_vocab_size=self._vocab_size,
            tokenizer_vocab_size=self._loaded().vocab_size, eos_ids=self._eos_ids,
        )  # fmt: skip

    def _find(self, grammar: Grammar) -> Compiled | RequestError | None:
        error = _too_long(grammar)
        if error is not None:
            return error
        with self._keeping:
            if grammar in self._known:
                self._known.move_to_end(grammar)
            return self._known.get(grammar)

    def _keep(self, grammar: Grammar, found: Compiled | RequestError) -> Compiled | RequestError:
        with self._keeping:
            self._known[grammar] = found
            self._num_chars += len(grammar.text)
            while len(self._known) > MAX_KEPT or (self._num_chars > MAX_KEPT_CHARS and len(self._known) > 1):
                self._num_chars -= len(self._known.popitem(last=False)[0].text)
        return found

    def _loaded(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    def _compile(self, grammar: Grammar) -> Compiled | RequestError:
        start_ns = self._clock()
        if reason := endless_work(grammar.text):
            return refused(grammar, reason)
        try:
            source = _source(grammar)
            limits = LLParserLimits(
                max_items_in_row=MAX_ITEMS, step_max_items=MAX_STEP_ITEMS, verbose_errors=False
            )  # fmt: skip
            template = LLMatcher(self._loaded(), source, log_level=0, limits=limits)
        except (ValueError, TypeError, RecursionError) as error:  # no JSON, half of a surrogate pair
            return refused(grammar, str(error))
        except RequestError as error:
            return error
        reason = template.get_error() or _try_out(template)
        if reason:
            return refused(grammar, reason)
        return Compiled(grammar, template, start_ns, self._clock())


def _too_long(grammar: Grammar) -> RequestError | None:
    num_bytes = len(grammar.text.encode(errors="surrogatepass"))
    if num_bytes <= MAX_GRAMMAR_BYTES:
        return None
    return refused(grammar, f"it is {num_bytes} bytes long, and at most {MAX_GRAMMAR_BYTES} are allowed")


def _try_out(template: LLMatcher) -> str:
    """Compute the first two masks; why that fails, or nothing.

    The first mask is the slowest, since it builds what later ones share: better here than in the loop. And a grammar
    that is too much for the limits mostly shows it here.
    """
    mask = np.frombuffer(template.compute_bitmask(), dtype=np.uint8)
    if template.is_error():
        return template.get_error()
    trial = template.deep_copy()
    trial.consume_token(int(np.flatnonzero(np.unpackbits(mask, bitorder="little"))[-1]))
    if not trial.is_stopped():
        trial.compute_bitmask()
    return trial.get_error()


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own form."""
    if grammar.kind is GrammarKind.REGEX:
        return LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind is GrammarKind.LARK:
        # llama.cpp's and SGLang's clients write EBNF, in which rules are told by `::=`
        return grammar_from("ebnf" if "::=" in grammar.text else "lark", grammar.text)
    schema = '{"type": "object"}' if grammar.kind is GrammarKind.JSON_OBJECT else grammar.text
    if not isinstance(msgspec.json.decode(schema), dict):
        raise ValueError("a schema is a JSON object, such as {}, which allows any value")
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITESPACE})


def grammars_of_model(folder: Path, info: ExecutorInfo, clock: Callable[[], int] = time.monotonic_ns) -> Grammars:
    """The grammars of a model in Hugging Face's layout. Its `tokenizer.json` is read when it is first needed.

    Args:
        folder: the model's files.
        info: vocabulary and end tokens.
        clock: nanoseconds.
    """

    def make() -> LLTokenizer:
        if not info.eos_ids:
            raise _unsupported("it has no end-of-sequence token, so no answer could end where its grammar does")
        try:
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except OSError:
            raise _unsupported("its folder holds no tokenizer.json") from None
        return _make_tokenizer(text, info.vocab_size, list(info.eos_ids))

    return Grammars(make, info.vocab_size, info.eos_ids, clock)


def _make_tokenizer(text: str, vocab_size: int, eos_ids: list[int]) -> LLTokenizer:
    try:
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=eos_ids)
    except ValueError:
        try:
            return LLTokenizer(text, eos_token=eos_ids)  # the tokenizer has more tokens than the model
        except ValueError as error:
            raise _unsupported(f"its tokenizer.json can't be used: {error}") from None


def _unsupported(reason: str) -> RequestError:
    return RequestError(
        f"this model's answers can't be held to a grammar: {reason}; leave the grammar out",
        code="unsupported", param="grammar",
    )  # fmt: skip

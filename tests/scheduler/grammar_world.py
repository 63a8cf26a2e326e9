"""A made-up model that writes whatever its masks allow, and a tokenizer small enough to read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from learnsgl.scheduler.executor import Masks, Step
from learnsgl.scheduler.grammar import Grammars
from tests.fakes import EOS_ID, VOCAB_SIZE, FakeExecutor, FakeTicket, next_token
from tests.scheduler.harness import Harness

TOKENS = [b"<end>", *(bytes([code]) for code in range(0x20, 0x7F))]
"""Token 0 ends, each printable character has one, and the last of the model's 97 tokens is none of the tokenizer's."""


class _Words:
    eos_token_id = EOS_ID
    bos_token_id = None
    tokens = TOKENS
    special_token_ids = (EOS_ID,)

    def __call__(self, text: str) -> list[int]:
        return [TOKENS.index(character.encode()) for character in text if character.encode() in TOKENS]


@functools.cache
def make_grammars() -> Grammars:
    def make() -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Words()), n_vocab=VOCAB_SIZE, eos_token=[EOS_ID])

    return Grammars(make, VOCAB_SIZE, (EOS_ID,))


def text_of(tokens: list[int]) -> str:
    return b"".join(TOKENS[token] for token in tokens if token != EOS_ID).decode()


def ids_of(text: str) -> list[int]:
    return [TOKENS.index(bytes([code])) for code in text.encode()]


class MaskedExecutor(FakeExecutor):
    """Takes any allowed token, by the hash of what came before; without a mask, what `FakeExecutor` takes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.masks: dict[int, dict[int, np.ndarray[Any, Any]]] = {}
        self.order: list[str] = []

    def submit(self, step: Step) -> FakeTicket:
        self.order.append(f"submit {step.number}")
        return super().submit(step)

    def sample(self, ticket: FakeTicket, masks: Masks | None) -> None:
        self.order.append(f"sample {ticket.number}")
        if masks is not None:
            packed = np.frombuffer(masks.allowed, dtype=np.uint8).reshape(len(masks.rows), -1)
            allowed = np.unpackbits(packed, axis=1, count=VOCAB_SIZE, bitorder="little")
            self.masks[ticket.number] = dict(zip(masks.rows.tolist(), allowed, strict=True))
            step = self.steps[ticket.number - 1]
            assert set(masks.rows.tolist()) <= set(step.rows[step.wants_token.astype(bool)].tolist())
        super().sample(ticket, masks)

    def collect(self, ticket: FakeTicket) -> Any:
        self.order.append(f"collect {ticket.number}")
        return super().collect(ticket)

    def _choose(self, step: Step, row: int, kv: int) -> int:
        mask = self.masks.get(step.number, {}).get(row)
        if mask is None:
            return next_token(kv)
        allowed = np.flatnonzero(mask)
        return int(allowed[kv % len(allowed)])


def make_harness(**options: Any) -> Harness:
    defaults = {"num_pages": 4096, "max_model_len": 512}
    return Harness(make_executor=MaskedExecutor, grammars=make_grammars(), **{**defaults, **options})

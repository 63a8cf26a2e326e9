"""Messages to bytes and back, with every check that keeps a broken message from reaching a worker's code.

The channels call it. A channel carries only the kinds that its receiver understands, so a decoder knows the kinds of
its channel and refuses the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from learnsgl.errors import MessageError
from learnsgl.message.types import (
    AbortMsg,
    DetokenizeMsg,
    FlushCacheMsg,
    LogprobsMsg,
    Message,
    TextCallMsg,
    TokenizeMsg,
    UserMsg,
    UserReply,
)

MAX_MESSAGE_BYTES = 64 << 20
"""Longest payload of one ZMQ message; a request's body is limited to much less, see `server/openai.py`."""

API_CHANNEL = "api"
SCHEDULER_CHANNEL = "scheduler"
DETOKENIZER_CHANNEL = "detokenizer"
TOKENIZER_PREFIX = "tokenizer-"


def tokenizer_channel(index: int) -> str:
    """Name of the channel to the tokenizer worker with this index, counted from 0."""
    return f"{TOKENIZER_PREFIX}{index}"


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of every ZMQ message: what names it in the trace of the sender and of the receiver."""

    sender: str
    channel: str
    number: int
    """Counts the sender's messages on this channel from 1."""
    sent_ns: int
    """When it was handed to ZMQ, on `time.monotonic_ns`."""


_KINDS: dict[str, Any] = {
    API_CHANNEL: list[UserReply],
    SCHEDULER_CHANNEL: list[UserMsg | AbortMsg | FlushCacheMsg],
    DETOKENIZER_CHANNEL: list[DetokenizeMsg],
    TOKENIZER_PREFIX: list[TokenizeMsg | AbortMsg | TextCallMsg | FlushCacheMsg],
}
_encoder = msgspec.msgpack.Encoder()
_envelope_decoder = msgspec.msgpack.Decoder(Envelope)


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope as a MessagePack array."""
    return _encoder.encode(envelope)


def decode_envelope(frame: bytes) -> Envelope:
    """The envelope in a frame.

    Raises:
        MessageError: the frame isn't an envelope.
    """
    try:
        return _envelope_decoder.decode(frame)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MessageError(f"the envelope can't be decoded: {error}") from None


def encode_messages(messages: Sequence[Message]) -> bytes:
    """A list of messages as MessagePack maps, each with its kind in `type`."""
    return _encoder.encode(messages)


class MessageDecoder:
    """Decodes the payloads of one channel.

    Args:
        channel: the channel's name; it decides which kinds are allowed.
    """

    def __init__(self, channel: str) -> None:
        kinds = _KINDS[TOKENIZER_PREFIX if channel.startswith(TOKENIZER_PREFIX) else channel]
        self._decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(kinds)

    def decode(self, payload: bytes) -> list[Message]:
        """The messages in a payload, in the order in which they were sent.

        Raises:
            MessageError: the payload is too large, isn't MessagePack, holds a kind that this channel doesn't carry,
                a value out of range, or arrays whose lengths don't fit together.
        """
        if len(payload) > MAX_MESSAGE_BYTES:
            raise MessageError(f"the payload is {len(payload)} bytes long; at most {MAX_MESSAGE_BYTES} are allowed")
        try:
            messages = self._decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MessageError(f"the payload can't be decoded: {error}") from None
        for message in messages:
            _check_arrays(message)
        return messages


def _check_arrays(message: Message) -> None:
    if isinstance(message, UserMsg):
        if not message.input_ids or len(message.input_ids) % 4:
            raise MessageError(f"input_ids of request {message.uid} has {len(message.input_ids)} bytes, not 4 a token")
    elif isinstance(message, DetokenizeMsg):
        n, rest = divmod(len(message.uids), 8)
        lengths = (len(message.choices), len(message.token_ids), len(message.hidden))
        if rest or lengths[:2] != (4 * n, 4 * n) or lengths[2] not in (0, n):
            raise MessageError(
                f"arrays of step {message.step} don't fit together: {len(message.uids)}, {lengths} bytes"
            )
        if message.logprobs is not None:
            _check_logprobs(message.logprobs, len(message.logprobs.places), n)
        for part in message.prompt_logprobs:
            _check_logprobs(part.values, len(part.values.logprobs), 0)


def _check_logprobs(values: LogprobsMsg, num_bytes: int, num_tokens: int) -> None:
    m, rest = divmod(num_bytes, 4)
    lengths = [len(values.logprobs), len(values.top_ids), len(values.top_logprobs)]
    places = np.frombuffer(values.places, "<i4") if not len(values.places) % 4 else np.array([-1])
    fits = not rest and values.num_top >= 0 and lengths == [4 * m, 4 * m * values.num_top, 4 * m * values.num_top]
    if not fits or ((places < 0) | (places >= num_tokens)).any():
        raise MessageError(f"log-probabilities of {m} tokens with {values.num_top} others don't fit: {lengths} bytes")


def kinds_of(messages: Sequence[Message]) -> str:
    """The kinds in a list, with counts, for people: `UserMsg*3, AbortMsg`."""
    counts = Counter(type(message).__name__ for message in messages)
    return ", ".join(name if count == 1 else f"{name}*{count}" for name, count in counts.items())


def uids_of(messages: Sequence[Message]) -> bytes:
    """The requests that a list of messages is about, each once, in order of appearance: int64 [n] as bytes.

    Calls are about none.
    """
    first = messages[0]
    if len(messages) == 1 and isinstance(first, DetokenizeMsg) and not first.accepted and not first.endings:
        return first.uids  # the common case: one step, one token for each request
    found: dict[int, None] = {}
    for message in messages:
        if isinstance(message, DetokenizeMsg):
            found.update(dict.fromkeys(accepted.uid for accepted in message.accepted))
            found.update(dict.fromkeys(np.frombuffer(message.uids, np.int64).tolist()))
            found.update(dict.fromkeys(ending.uid for ending in message.endings))
        elif isinstance(message, UserReply):
            found.update(dict.fromkeys(delta.uid for delta in message.deltas))
        elif not isinstance(message, (TextCallMsg, FlushCacheMsg)):
            found[message.uid] = None
    return np.array(list(found), np.int64).tobytes()

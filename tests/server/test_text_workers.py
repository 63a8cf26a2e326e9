"""The tokenizer's and the detokenizer's jobs, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from learnsgl.config import TraceLevel
from learnsgl.core import FinishReason, SamplingParams
from learnsgl.hub import resolve_model
from learnsgl.hub.tiny import IM_END, IM_START
from learnsgl.message.channel import SendChannel
from learnsgl.message.types import (
    AbortMsg,
    Accepted,
    Delta,
    DetokenizeMsg,
    Ending,
    LogprobsMsg,
    PromptLogprobsMsg,
    TokenizeMsg,
    TopLogprob,
    UserMsg,
    UserReply,
)
from learnsgl.tokenizer.detokenizer_worker import DetokenizerWorker
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer
from learnsgl.tokenizer.tokenizer_worker import TokenizerWorker
from learnsgl.trace import events
from learnsgl.trace.recorder import MemoryRecorder


class Sent(list[list[Any]]):
    """A channel that keeps what it is given."""

    def send(self, messages: Sequence[Any]) -> None:
        self.append(list(messages))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    model = resolve_model("tiny-random", progress=False, cache=tmp_path_factory.mktemp("cache"))
    return load_tokenizer(Path(model.folder))


@pytest.fixture
def tok(tokenizer: Tokenizer) -> tuple[TokenizerWorker, Sent, Sent, MemoryRecorder]:
    recorder, scheduler, api = MemoryRecorder(TraceLevel.TOKENS), Sent(), Sent()
    worker = TokenizerWorker(tokenizer, recorder, cast(SendChannel, scheduler), cast(SendChannel, api))
    return worker, scheduler, api, recorder


@pytest.fixture
def detok(tokenizer: Tokenizer) -> tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder]:
    recorder, api, scheduler = MemoryRecorder(TraceLevel.TOKENS), Sent(), Sent()
    worker = DetokenizerWorker(tokenizer, recorder, cast(SendChannel, api), cast(SendChannel, scheduler))
    return worker, api, scheduler, recorder


def ids(message: UserMsg) -> list[int]:
    return cast(list[int], np.frombuffer(message.input_ids, "<i4").tolist())


def test_what_waits_becomes_one_message_in_order(tok: tuple[TokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, scheduler, api, recorder = tok
    sampling = SamplingParams(max_tokens=3)
    worker.process_one_msg(TokenizeMsg(1, sampling, text="AB"))
    worker.process_one_msg(TokenizeMsg(2, sampling, input_ids=[7, 8]))
    worker.process_one_msg(AbortMsg(1))
    worker.process_one_msg(TokenizeMsg(3, sampling, messages=[{"role": "user", "content": "A"}]))
    worker.flush()
    ((first, second, abort, third),) = scheduler
    assert (ids(first), ids(second), abort) == ([65, 66], [7, 8], AbortMsg(1))
    assert (ids(third)[0], third.sampling) == (IM_START, sampling)
    assert api == []
    worker.flush()
    assert len(scheduler) == 1, "nothing is sent twice"
    tokenized = [e for e in recorder.events if isinstance(e, events.TokTokenized)]
    assert [(event.uid, event.num_tokens) for event in tokenized] == [(1, 2), (2, 2), (3, len(ids(third)))]
    assert all(event.start_ns <= event.ns for event in tokenized)


def test_a_prompt_that_cannot_be_tokenized_is_answered(tok: tuple[TokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, scheduler, api, recorder = tok
    worker.process_one_msg(TokenizeMsg(1, SamplingParams(), messages=[{"role": "king", "content": "A"}]))
    worker.process_one_msg(TokenizeMsg(2, SamplingParams(), input_ids=[]))
    worker.process_one_msg(TokenizeMsg(3, SamplingParams(), text="A"))
    worker.flush()
    ((reply,),) = api
    assert [(delta.uid, delta.ending.error.status) for delta in reply.deltas] == [(1, 400), (2, 400)]
    assert [message.uid for message in scheduler[0]] == [3]
    assert [event.uid for event in recorder.events if isinstance(event, events.TokFailed)] == [1, 2]


def test_a_defect_ends_one_request_only(
    tok: tuple[TokenizerWorker, Sent, Sent, MemoryRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, scheduler, api, _ = tok
    monkeypatch.setattr(Tokenizer, "encode_text", lambda self, text: 1 / 0)
    worker.process_one_msg(TokenizeMsg(1, SamplingParams(), text="A"))
    worker.process_one_msg(TokenizeMsg(2, SamplingParams(), input_ids=[5]))
    worker.flush()
    assert api[0][0].deltas[0].ending.error.code == "internal_error"
    assert [message.uid for message in scheduler[0]] == [2]


def accept(*uids: int, stop: tuple[str, ...] = ()) -> DetokenizeMsg:
    return DetokenizeMsg(0, [Accepted(uid, 5, SamplingParams(stop=stop)) for uid in uids])


def step(tokens: dict[int, int], *, hidden: bytes = b"", endings: Sequence[Ending] = ()) -> DetokenizeMsg:
    return DetokenizeMsg(
        1, [], np.array(list(tokens), "<i8").tobytes(), bytes(4 * len(tokens)),
        np.array(list(tokens.values()), "<i4").tobytes(), hidden, list(endings),
    )  # fmt: skip


def run(worker: DetokenizerWorker, *messages: DetokenizeMsg) -> None:
    for message in messages:
        worker.process_one_msg(message)
        worker.flush()


def deltas(api: Sent) -> list[Delta]:
    return [delta for batch in api for reply in batch for delta in cast(UserReply, reply).deltas]


def text_of(api: Sent, uid: int) -> str:
    return "".join(delta.text for delta in deltas(api) if delta.uid == uid)


def test_tokens_become_text_one_reply_a_step(detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, api, scheduler, recorder = detok
    end = Ending(1, 0, FinishReason.STOP, 5, 2, 2)
    run(worker, accept(1, 2), step({1: 65, 2: 66}), step({1: IM_END, 2: 67}, hidden=b"\1\0", endings=[end]))
    assert [len(reply.deltas) for (reply,) in api] == [2, 2, 2]
    assert [delta.accepted for delta in deltas(api)] == [True, True, False, False, False, False]
    assert (text_of(api, 1), text_of(api, 2)) == ("A", "BC")
    assert [delta.ending for delta in deltas(api) if delta.ending] == [end]
    assert sum(delta.num_tokens for delta in deltas(api) if delta.uid == 1) == 2
    assert scheduler == []
    assert worker.num_live == 1
    decoded = [event for event in recorder.events if isinstance(event, events.DetokDecoded)]
    assert [np.frombuffer(event.num_chars, "<i4").tolist() for event in decoded] == [[1, 1], [0, 1]]


def test_half_a_character_waits_and_is_replaced_at_the_end(
    detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder],
) -> None:
    worker, api, _, _ = detok
    first, second = "ä".encode()
    run(worker, accept(1), step({1: first}))
    assert text_of(api, 1) == ""
    run(worker, step({1: second}), step({1: first}, endings=[Ending(1, 0, FinishReason.LENGTH, 5, 0, 3)]))
    assert text_of(api, 1) == "ä\ufffd"


def test_a_stop_string_ends_the_text_and_the_scheduler_ends_the_request(
    detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder],
) -> None:
    worker, api, scheduler, recorder = detok
    run(worker, accept(1, stop=("BC",)), step({1: 65}), step({1: 66}), step({1: 67}), step({1: 68}))
    assert text_of(api, 1) == "A"
    assert scheduler == [[AbortMsg(1, 0, FinishReason.STOP, 3)]]
    assert not any(delta.ending for delta in deltas(api)), "its ending is the scheduler's to give"
    run(worker, step({}, endings=[Ending(1, 0, FinishReason.STOP, 5, 0, 3)]))
    assert deltas(api)[-1].ending == Ending(1, 0, FinishReason.STOP, 5, 0, 3, matched="BC")
    assert [event.num_kept_tokens for event in recorder.events if isinstance(event, events.DetokStopped)] == [3]
    assert worker.num_live == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_request_that_the_scheduler_ended_first_still_stops_at_its_stop_string(
    detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder], late: bool
) -> None:
    worker, api, scheduler, _ = detok
    end = [Ending(1, 0, FinishReason.LENGTH, 5, 0, 2 + late)]
    run(worker, accept(1, stop=("B",)), step({1: 65}), step({1: 66}, endings=[] if late else end))
    if late:  # the scheduler did one more token, the last that it may, before it heard of the stop string
        run(worker, step({1: 67}, endings=end))
    assert text_of(api, 1) == "A"
    assert deltas(api)[-1].ending == Ending(1, 0, FinishReason.STOP, 5, 0, 2, matched="B")
    assert len(scheduler) == int(late)


def test_a_refused_request_gets_its_ending(detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, api, _, _ = detok
    refused = Ending(1, 0, FinishReason.ERROR, 5)
    run(worker, step({}, endings=[refused]))
    assert deltas(api) == [Delta(1, ending=refused)]


def test_texts_are_recorded_at_level_tokens_only(
    detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder], tokenizer: Tokenizer
) -> None:
    worker, api, _, recorder = detok
    run(worker, accept(1), step({1: 65}))
    assert [event.texts for event in recorder.events if isinstance(event, events.DetokText)] == [["A"]]
    full = MemoryRecorder(TraceLevel.FULL)
    quiet = DetokenizerWorker(tokenizer, full, cast(SendChannel, api), cast(SendChannel, Sent()))
    run(quiet, accept(1), step({1: 65}))
    assert [type(event) for event in full.events] == [events.DetokDecoded]


def logprobs_of(place: int, token: int) -> LogprobsMsg:
    """One token's, with the two likeliest tokens."""
    tops = np.array([token, 66], "<i4").tobytes(), np.array([-1.5, -np.inf], "<f4").tobytes()
    return LogprobsMsg(np.array([-1.5], "<f4").tobytes(), 2, *tops, np.array([place], "<i4").tobytes())


def test_log_probabilities_come_with_their_tokens(detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, api, _, _ = detok
    sampling = SamplingParams(logprobs=1, prompt_logprobs=2)
    prompt = np.array([IM_START, 65, 0xC3], "<i4").tobytes()
    run(worker, DetokenizeMsg(0, [Accepted(1, 3, SamplingParams()), Accepted(2, 3, sampling, prompt)]))
    of_prompt = [PromptLogprobsMsg(2, 0, logprobs_of(0, token)) for token in (65, 0xC3)]
    run(worker, DetokenizeMsg(1, prompt_logprobs=of_prompt[:1]), DetokenizeMsg(2, prompt_logprobs=of_prompt[1:]))
    told = [entry for delta in deltas(api) for entry in delta.prompt_logprobs]
    assert [delta.is_prompt_whole for delta in deltas(api) if delta.prompt_logprobs] == [False, False, True]
    assert [(entry.token_id, entry.token, entry.logprob, entry.offset) for entry in told] == [
        (IM_START, b"<|im_start|>", None, 0), (65, b"A", -1.5, 0), (0xC3, b"\xc3", -1.5, 1),
    ]  # fmt: skip
    assert told[1].top == (TopLogprob(65, b"A", -1.5), TopLogprob(66, b"B", -9999.0))
    for token in "aÄ".encode():
        message = step({1: 67, 2: token})
        message.logprobs = logprobs_of(1, token)
        run(worker, message)
    entries = [entry for delta in deltas(api) if delta.uid == 2 for entry in delta.logprobs]
    assert [(entry.token, entry.offset, len(entry.top)) for entry in entries] == [
        (b"a", 0, 1), (b"\xc3", 1, 1), (b"\x84", 1, 1),
    ]  # fmt: skip
    assert not any(delta.logprobs for delta in deltas(api) if delta.uid == 1)
    run(worker, step({}, endings=[Ending(2, 0, FinishReason.ABORT)]), DetokenizeMsg(9, prompt_logprobs=of_prompt))


def test_a_prompt_of_one_token_is_told_at_once(detok: tuple[DetokenizerWorker, Sent, Sent, MemoryRecorder]) -> None:
    worker, api, _, _ = detok
    sampling = SamplingParams(prompt_logprobs=0)
    run(worker, DetokenizeMsg(0, [Accepted(1, 1, sampling, np.array([65], "<i4").tobytes())]))
    (delta,) = deltas(api)
    assert [(entry.token, entry.logprob) for entry in delta.prompt_logprobs] == [(b"A", None)]

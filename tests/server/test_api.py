"""The HTTP API through the real `openai` client, on a server whose engine repeats the prompt."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import openai
import pytest

from tests.fakes import fake_logprob
from tests.server.conftest import Starter
from tests.server.echo_executor import CONTEXT_LEN, echo
from tests.server.running import MODEL, RunningServer


def test_ready_line_tells_what_serves(server: RunningServer) -> None:
    line = server.ready_line
    assert server.url in line
    assert MODEL in line
    assert "fake" in line
    assert "4,096 pages" in line
    assert str(server.trace_folder) in line


def test_models_and_health(server: RunningServer) -> None:
    client = server.openai()
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "learnsgl"
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    for route in ("/health", "/v1/models"):  # load balancers ask like this
        answer = httpx.head(server.url + route)
        assert (answer.status_code, answer.content) == (200, b"")


def test_completion(server: RunningServer) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt="ABCDE", max_tokens=12)
    assert answer.choices[0].text == echo("ABCDE", 12)
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == MODEL
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 12, 17)


def test_completion_defaults_to_16_tokens(server: RunningServer) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt=[65, 66, 67])
    assert answer.choices[0].text == echo("ABC", 16)


@pytest.mark.parametrize("prompt", [["ABC"], [[65, 66, 67]], "ABC"])
def test_a_list_of_one_prompt_is_a_prompt(server: RunningServer, prompt: object) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt=prompt, max_tokens=6)  # type: ignore[call-overload]
    assert answer.choices[0].text == "ABCABC"


def test_cached_tokens_are_counted(server: RunningServer) -> None:
    def ask() -> int:
        answer = server.openai().completions.create(model=MODEL, prompt="CACHE ME IF YOU CAN", max_tokens=4)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert ask() < 19
    assert ask() == 18  # all but the token whose logits are needed


def test_chat_ends_at_the_end_of_a_turn(server: RunningServer) -> None:
    answer = server.openai().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "HELLO"}])
    assert answer.choices[0].finish_reason == "stop"  # the echo of the template's <|im_end|>
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")


def test_streamed_chat_equals_the_whole(server: RunningServer) -> None:
    client, messages = server.openai(), [{"role": "user", "content": "SOME WORDS, ÄÖÜ 🙂"}]
    options = {"model": MODEL, "messages": messages, "max_tokens": 60, "extra_body": {"ignore_eos": True}}
    answer = client.chat.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert "ÄÖÜ 🙂" in text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens == 60
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_a_stream_without_usage_ends_with_its_reason(server: RunningServer) -> None:
    stream = server.openai().completions.create(model=MODEL, prompt="ABC", max_tokens=5, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ABCAB"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(chunks) > 2, "text comes token by token"


def test_the_raw_stream_is_server_sent_events(server: RunningServer) -> None:
    body = {"model": MODEL, "prompt": "ABC", "max_tokens": 2, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "text_completion" for event in events[:-2])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "max_tokens", "text", "tokens", "reason"),
    [
        ("D", 20, "ABC", 4, "stop"),
        (["XX", "CDE"], 20, "AB", 5, "stop"),
        ("EA", 20, "ABCD", 6, "stop"),
        ("E", 5, "ABCD", 5, "stop"),  # its last token is also the last that it may have
        ("EB", 7, "ABCDEAB", 7, "length"),
        ("A", 20, "", 1, "stop"),
    ],
)
def test_stop_strings(
    server: RunningServer, stop: str | list[str], max_tokens: int, text: str, tokens: int, reason: str, stream: bool
) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt="ABCDE", max_tokens=max_tokens, stop=stop, stream=stream,
        stream_options={"include_usage": True} if stream else None,
    )  # type: ignore[call-overload]  # fmt: skip
    if stream:
        chunks = list(answer)
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == text
        assert chunks[-2].choices[0].finish_reason == reason
        assert chunks[-1].usage.completion_tokens == tokens
    else:
        assert answer.choices[0].text == text
        assert answer.choices[0].finish_reason == reason
        assert answer.usage.completion_tokens == tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop_tokens(server: RunningServer, stream: bool) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt="ABCDE", max_tokens=20, stream=stream, extra_body={"stop_token_ids": [90, ord("D")]},
    )  # fmt: skip
    choices = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices]  # type: ignore[union-attr]
    assert "".join(choice.text for choice in choices) == "ABC"
    assert choices[-1].finish_reason == "stop"


def test_a_stop_string_waits_for_min_tokens(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt="ABCDE", max_tokens=20, stop=["CD", "EA"], extra_body={"min_tokens": 4}
    )
    assert answer.choices[0].text == "ABCD"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_max_completion_tokens_goes_before_max_tokens(server: RunningServer) -> None:
    answer = server.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "A"}], max_completion_tokens=3, max_tokens=9
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("params", "text", "reason"),
    [
        ({"max_new_tokens": 2}, "AB", {"type": "length", "length": 2}),
        ({"stop": "C"}, "AB", {"type": "stop", "matched": "C"}),
        ({"stop_token_ids": [67]}, "AB", {"type": "stop", "matched": 67}),
        ({"stop": ["BCA", "C"], "min_new_tokens": 3}, "A", {"type": "stop", "matched": "BCA"}),
    ],
)
def test_generate_says_what_ended_it(server: RunningServer, params: object, text: str, reason: object) -> None:
    answer = httpx.post(f"{server.url}/generate", json={"text": "ABC", "sampling_params": params}).json()
    assert (answer["text"], answer["meta_info"]["finish_reason"]) == (text, reason)


def test_max_tokens_is_cut_to_the_room_left(server: RunningServer) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt="A" * 250, max_tokens=100_000)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == CONTEXT_LEN


def test_generate(server: RunningServer) -> None:
    body = {"text": "ABC", "sampling_params": {"max_new_tokens": 5, "temperature": 0}}
    answer = httpx.post(f"{server.url}/generate", json=body).json()
    assert answer["text"] == "ABCAB"
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 5}
    assert answer["meta_info"]["prompt_tokens"] == 3
    lines = httpx.post(f"{server.url}/generate", json={**body, "stream": True}).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    texts = [json.loads(line.removeprefix("data: "))["text"] for line in lines[:-1]]
    assert texts[-1] == "ABCAB"
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_requests_at_once_each_get_their_own_text(server: RunningServer) -> None:
    client = server.openai()
    prompts = [f"{chr(65 + i)}-{i * 37}-" for i in range(12)]

    def ask(prompt: str) -> str:
        stream = client.completions.create(model=MODEL, prompt=prompt, max_tokens=40, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(ask, prompts)) == [echo(prompt, 40) for prompt in prompts]


def test_a_prompt_longer_than_the_context_is_a_400_also_for_a_stream(server: RunningServer) -> None:
    client = server.openai()
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="A" * 300, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "prompt"
        assert "300" in caught.value.message
        assert str(CONTEXT_LEN) in caught.value.message


def num_running(server: RunningServer) -> int:
    return int(httpx.get(f"{server.url}/health").json()["num_running"])


def wait_idle(server: RunningServer) -> None:
    deadline = time.monotonic() + 10
    while num_running(server):
        assert time.monotonic() < deadline, "a request is stuck"
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_aborts_its_request(server: RunningServer, stream: bool) -> None:
    body = {"model": MODEL, "prompt": "ABCDEFG", "max_tokens": 240, "stream": stream}
    if stream:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
            next(answer.iter_raw())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.05)
    wait_idle(server)


def test_two_requests_on_one_connection(server: RunningServer) -> None:
    with server.http() as client:
        for _ in range(2):
            assert client.post("/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 2}}).is_success


def test_a_model_card(server: RunningServer) -> None:
    card = httpx.get(f"{server.url}/v1/models/{MODEL}").json()
    assert (card["id"], card["root"], card["max_model_len"]) == (MODEL, MODEL, CONTEXT_LEN)
    assert httpx.get(f"{server.url}/v1/models").json()["data"] == [card]


def test_a_models_id_may_hold_slashes(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--served-model-name", "org/its model")
    client = server.openai()
    assert client.models.retrieve("org/its model").id == "org/its model"
    answer = client.completions.create(model="org/its model", prompt="AB", max_tokens=2)
    assert (answer.model, answer.choices[0].text) == ("org/its model", "AB")


PROMPTS: list[object] = [["AB", "CDE"], [[65, 66], [67, 68, 69]], ["AB", [67, 68, 69]]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("echoed", [False, True])
def test_several_prompts(server: RunningServer, prompts: object, stream: bool, echoed: bool) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt=prompts, max_tokens=5, echo=echoed, stream=stream,
        stream_options={"include_usage": True} if stream else None,
    )  # type: ignore[call-overload]  # fmt: skip
    chunks = list(answer) if stream else [answer]
    texts = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
    assert texts == [("AB" if echoed else "") + echo("AB", 5), ("CDE" if echoed else "") + echo("CDE", 5)]
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 10, 15)
    assert len({chunk.id for chunk in chunks}) == 1


def test_prompts_keep_their_order(server: RunningServer) -> None:
    prompts = [f"{number:03}" for number in range(70)]  # more than there are rows
    answer = server.openai().completions.create(model=MODEL, prompt=prompts, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(70))
    assert [choice.text for choice in answer.choices] == [echo(prompt, 4) for prompt in prompts]


def test_an_echo_is_the_prompt_as_it_was_given(server: RunningServer) -> None:
    client = server.openai()
    answer = client.completions.create(model=MODEL, prompt="<|im_start|>ÄÖ", max_tokens=1, echo=True)
    assert answer.choices[0].text.startswith("<|im_start|>ÄÖ")
    answer = client.completions.create(model=MODEL, prompt=[258, *"ÄÖ".encode(), 195], max_tokens=1, echo=True)
    assert answer.choices[0].text.startswith("ÄÖ\ufffd"), "a special token gives no text"


def test_a_prompt_that_is_refused_ends_the_others(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.openai().completions.create(model=MODEL, prompt=["A", "B" * 300], max_tokens=250, stream=True)
    assert caught.value.code == "context_length_exceeded"
    wait_idle(server)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_content_may_be_text_parts(server: RunningServer, role: str) -> None:
    def ask(content: object) -> tuple[str | None, int]:
        messages = [{"role": role, "content": "BE BRIEF"}, {"role": "user", "content": content}]
        answer = server.openai().chat.completions.create(model=MODEL, messages=messages, max_tokens=90)  # type: ignore[arg-type]
        assert answer.usage is not None
        return answer.choices[0].message.content, answer.usage.prompt_tokens

    parts = [{"type": "text", "text": "ONE"}, {"type": "text", "text": "TWO"}]
    assert ask("ONE\nTWO") == ask(parts)


def test_a_developer_is_a_system_where_the_template_knows_no_developer(server: RunningServer) -> None:
    def num_tokens(role: str) -> int:
        messages = [{"role": role, "content": "BE BRIEF"}, {"role": "user", "content": "A"}]
        answer = server.openai().chat.completions.create(model=MODEL, messages=messages, max_tokens=1)  # type: ignore[arg-type]
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert num_tokens("developer") == num_tokens("system")


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(server: RunningServer, stream: bool) -> None:
    answer = server.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "HELLO"}], n=3, max_tokens=30, stream=stream,
        extra_body={"ignore_eos": True}, stream_options={"include_usage": True} if stream else None,
    )  # type: ignore[call-overload]  # fmt: skip
    texts, reasons = {0: "", 1: "", 2: ""}, {}
    chunks = list(answer) if stream else [answer]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += (choice.delta if stream else choice.message).content or ""
        if choice.finish_reason:
            assert choice.index not in reasons
            reasons[choice.index] = choice.finish_reason
    assert texts[0] == texts[1] == texts[2] != ""
    assert reasons == {0: "length", 1: "length", 2: "length"}
    usage = chunks[-1].usage
    assert usage.completion_tokens == 90
    assert usage.total_tokens == usage.prompt_tokens + 90
    if stream:
        assert [chunk.choices[0].index for chunk in chunks[:3]] == [0, 1, 2]
        assert all(chunk.choices[0].delta.role == "assistant" for chunk in chunks[:3])


def test_choices_of_several_prompts(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt=["AB", "CDE"], n=2, max_tokens=40, stop=["BA"], echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = ["ABA", "ABA", "CDE" + echo("CDE", 40), "CDE" + echo("CDE", 40)]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop", "length", "length"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_generate_gives_a_list_of_choices(server: RunningServer) -> None:
    body = {"text": "AB", "sampling_params": {"n": 3, "max_new_tokens": 4}}
    answer = httpx.post(f"{server.url}/generate", json=body).json()
    assert [(one["text"], one["index"]) for one in answer] == [("ABAB", 0), ("ABAB", 1), ("ABAB", 2)]


def test_a_client_that_goes_away_aborts_every_choice(server: RunningServer) -> None:
    body = {"model": MODEL, "prompt": ["ABCDEFG", "HIJ"], "n": 40, "max_tokens": 240, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        next(answer.iter_raw())
    wait_idle(server)


def chat_entries(logprobs: object) -> list[tuple[str, float, list[int], list[tuple[str, float]]]]:
    return [
        (one.token, one.logprob, one.bytes, [(other.token, other.logprob) for other in one.top_logprobs])
        for one in logprobs.content  # type: ignore[attr-defined]
    ]


def written(entries: list[tuple[str, float, list[int], list[tuple[str, float]]]]) -> str:
    """The text of these tokens; special ones have none."""
    return re.sub(r"<\|\w+\|>", "", b"".join(bytes(entry[2]) for entry in entries).decode())


@pytest.mark.parametrize("top", [0, 2])
def test_log_probabilities_of_chats_are_the_same_streamed_or_not(server: RunningServer, top: int) -> None:
    options: dict[str, object] = {
        "model": MODEL, "messages": [{"role": "user", "content": "É!"}], "max_tokens": 50, "logprobs": True,
        "top_logprobs": top, "stop": "assistant", "n": 2, "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    answer = server.openai().chat.completions.create(**options)  # type: ignore[call-overload]
    entries: dict[int, list[tuple[str, float, list[int], list[tuple[str, float]]]]] = {0: [], 1: []}
    texts = {0: "", 1: ""}
    for chunk in server.openai().chat.completions.create(**options, stream=True):  # type: ignore[call-overload]
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.logprobs is not None:
            entries[choice.index] += chat_entries(choice.logprobs)
            assert written(entries[choice.index]) == texts[choice.index], "they come with their text"
    for choice in answer.choices:
        whole = chat_entries(choice.logprobs)
        assert entries[choice.index] == whole
        assert written(whole) == choice.message.content
        assert "É" in choice.message.content
        assert all(len(entry[3]) == top for entry in whole)
        assert all(entry[3][0] == entry[:2] for entry in whole if top), "the echo's tokens are the likeliest"
        assert "assistant" not in "".join(entry[0] for entry in whole)
        assert whole[-1][0] != "a", "nothing of the stop string"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["ABCDE", [65, 66, 67, 68, 69]])
def test_log_probabilities_of_completions_with_echo(server: RunningServer, prompt: object, stream: bool) -> None:
    for _ in range(2):  # the second time the prompt is in the cache
        answer = server.openai().completions.create(
            model=MODEL, prompt=prompt, max_tokens=6, echo=True, logprobs=2, stream=stream, n=2
        )  # type: ignore[call-overload]
        found: dict[int, dict[str, list[object]]] = {0: {}, 1: {}}
        texts = {0: "", 1: ""}
        for choice in (choice for chunk in (answer if stream else [answer]) for choice in chunk.choices):
            texts[choice.index] += choice.text
            for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                found[choice.index].setdefault(name, []).extend(values)
        assert texts == {0: "ABCDEABCDEA", 1: "ABCDEABCDEA"}
        for lists in found.values():
            assert lists["tokens"] == list("ABCDEABCDEA")
            assert lists["text_offset"] == list(range(11))
            expected = [None] + [fake_logprob(65 + k % 5, k) for k in range(1, 11)]
            assert lists["token_logprobs"] == pytest.approx(expected)
            assert lists["top_logprobs"][0] is None
            assert lists["top_logprobs"][1] == pytest.approx({"B": fake_logprob(66, 1), "C": fake_logprob(66, 1) - 1})


def test_log_probabilities_of_the_answer_only(server: RunningServer) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt="ÄB", max_tokens=7, logprobs=0, stop="BÄ")
    (choice,) = answer.choices
    assert choice.text == "Ä"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["bytes:\\xc3", "bytes:\\x84"], "a part of a character is written as its bytes"
    assert choice.logprobs.text_offset == [0, 0]
    assert [list(likeliest) for likeliest in choice.logprobs.top_logprobs or []] == [
        [name] for name in choice.logprobs.tokens
    ]
    plain = server.openai().completions.create(model=MODEL, prompt="AB", max_tokens=3)
    assert plain.choices[0].logprobs is None


def test_log_probabilities_at_an_end_of_sequence(server: RunningServer) -> None:
    prompt = [65, 66, 259]  # the echo of the third token ends the answer
    answer = server.openai().completions.create(model=MODEL, prompt=prompt, max_tokens=9, logprobs=1)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["A", "B"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    body = {"input_ids": prompt, "return_logprob": True, "sampling_params": {"max_new_tokens": 9}}
    meta = httpx.post(f"{server.url}/generate", json=body).json()["meta_info"]
    assert [entry[1] for entry in meta["output_token_logprobs"]] == prompt, "here every token that counts is there"


def test_log_probabilities_of_generate(server: RunningServer) -> None:
    body = {
        "text": "ABC", "return_logprob": True, "logprob_start_len": 1, "top_logprobs_num": 1,
        "return_text_in_logprobs": True, "sampling_params": {"max_new_tokens": 2},
    }  # fmt: skip
    meta = httpx.post(f"{server.url}/generate", json=body).json()["meta_info"]
    assert [entry[1:] for entry in meta["input_token_logprobs"]] == [[66, "B"], [67, "C"]]
    assert [entry[1:] for entry in meta["output_token_logprobs"]] == [[65, "A"], [66, "B"]]
    assert meta["output_top_logprobs"][1] == [meta["output_token_logprobs"][1]]
    with httpx.stream("POST", f"{server.url}/generate", json=body | {"stream": True}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert events[-1]["meta_info"] | {"id": ""} == meta | {"id": "", "cached_tokens": 0}
    meta = httpx.post(f"{server.url}/generate", json=body | {"logprob_start_len": -1}).json()["meta_info"]
    assert meta["input_token_logprobs"] == []
    assert meta["cached_tokens"] == 2

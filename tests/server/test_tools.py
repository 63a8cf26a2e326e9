"""SGLang's own routes, and vLLM's for tokens: what they answer, and what they do to what runs."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import learnsgl
from learnsgl.hub.tiny import IM_END, IM_START
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import CONTEXT_LEN, echo
from tests.server.running import MODEL, RunningServer


def post(server: RunningServer, route: str, **body: Any) -> Any:
    answer = httpx.post(server.url + route, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(server: RunningServer, route: str, **body: Any) -> tuple[int, str, str | None]:
    answer = httpx.post(server.url + route, json=body, timeout=30)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


def test_what_is_served(server: RunningServer) -> None:
    assert httpx.get(f"{server.url}/version").json() == {"version": learnsgl.__version__}
    info = httpx.get(f"{server.url}/get_model_info").json()
    assert (info["model_path"], info["is_generation"]) == (MODEL, True)


def test_text_to_tokens_and_back(server: RunningServer) -> None:
    told = post(server, "/tokenize", prompt="AÄ<|im_end|>", return_token_strs=True)
    assert told == {
        "count": 4, "max_model_len": CONTEXT_LEN, "tokens": [65, 195, 132, IM_END],
        "token_strs": ["A", "\ufffd", "\ufffd", "<|im_end|>"],
    }  # fmt: skip
    assert post(server, "/detokenize", tokens=told["tokens"]) == {"prompt": "AÄ<|im_end|>", "text": "AÄ<|im_end|>"}
    assert post(server, "/detokenize", tokens=told["tokens"], skip_special_tokens=True)["text"] == "AÄ"
    assert post(server, "/detokenize", tokens=[], model=MODEL)["text"] == ""
    assert post(server, "/tokenize", prompt="A")["token_strs"] is None
    chat = post(server, "/tokenize", messages=[{"role": "user", "content": "A"}], model=MODEL)
    assert chat["tokens"][0] == IM_START
    asked = server.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "A"}], max_tokens=1
    )
    assert asked.usage is not None
    assert asked.usage.prompt_tokens == chat["count"], "as a chat is tokenized"


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("/tokenize", {}, (400, "invalid_value", "prompt")),
        ("/tokenize", {"prompt": "A", "messages": [{"role": "user"}]}, (400, "invalid_value", "prompt")),
        ("/tokenize", {"prompt": ""}, (400, "invalid_value", "prompt")),
        ("/tokenize", {"prompt": ["A"]}, (400, "invalid_type", "prompt")),
        ("/tokenize", {"prompt": "A", "model": "gpt-4"}, (404, "model_not_found", "model")),
        ("/tokenize", {"messages": []}, (400, "invalid_value", "messages")),
        ("/tokenize", {"messages": [{"role": "king", "content": "A"}]}, (400, "invalid_value", "messages[0].role")),
        ("/tokenize", {"prompt": "A", "add_generation_prompt": False}, (400, "invalid_value", "add_generation_prompt")),
        ("/tokenize", {"prompt": "", "continue_final_message": True}, (400, "invalid_value", "continue_final_message")),
        ("/detokenize", {}, (400, "missing_required_parameter", "tokens")),
        ("/detokenize", {"tokens": [260]}, (400, "invalid_value", "tokens")),
        ("/detokenize", {"tokens": [-1]}, (400, "invalid_value", "tokens[0]")),
        ("/detokenize", {"tokens": "A"}, (400, "invalid_type", "tokens")),
        ("/tokenize", {"prompt": "A" * ((1 << 20) + 1)}, (400, "invalid_value", "prompt")),
        ("/detokenize", {"tokens": [65] * ((1 << 18) + 1)}, (400, "invalid_value", "tokens")),
        ("/abort_request", {}, (400, "invalid_value", "rid")),
        ("/abort_request", {"rid": 5}, (400, "invalid_type", "rid")),
        ("/generate", {"text": "A", "rid": ""}, (400, "invalid_value", "rid")),
        ("/generate", {"text": "A", "rid": "x" * 257}, (400, "invalid_value", "rid")),
        ("/generate", {"text": ["A", "B"], "rid": ["x"]}, (400, "invalid_value", "rid")),
        ("/generate", {"text": ["A", "B"], "rid": ["x", "x"]}, (400, "invalid_value", "rid")),
        ("/generate", {"text": ["A", 5]}, (400, "invalid_type", "text[1]")),
        ("/generate", {"text": []}, (400, "invalid_value", "text")),
        ("/generate", {"text": ["A", "B"], "sampling_params": [{}]}, (400, "invalid_value", "sampling_params")),
        (
            "/generate", {"text": ["A", "B"], "sampling_params": [{}, {"top_k": -2}]},
            (400, "invalid_value", "sampling_params[1].top_k"),
        ),
        ("/generate", {"input_ids": [[65], [300]]}, (400, "invalid_value", "input_ids")),
    ],
)  # fmt: skip
def test_bad_bodies(
    server: RunningServer, route: str, body: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    assert refused(server, route, **body) == expected


def test_generate_takes_lists(server: RunningServer) -> None:
    params = [{"max_new_tokens": 3}, {"max_new_tokens": 4, "n": 2}]
    for prompts in ({"text": ["AB", "CD"]}, {"input_ids": [[65, 66], [67, 68]]}):
        told = post(server, "/generate", **prompts, sampling_params=params)
        assert [one["text"] for one in told] == ["ABA", "CDCD", "CDCD"]
        assert [one["index"] for one in told] == [0, 1, 2]
    assert isinstance(post(server, "/generate", text=["AB"], sampling_params={"max_new_tokens": 1}), list)
    told = post(server, "/generate", text=["AB", "CD"], rid="mine", sampling_params={"max_new_tokens": 2})
    assert [one["meta_info"]["id"] for one in told] == ["mine_0", "mine_1"]
    told = post(server, "/generate", text=["AB", "CD"], return_logprob=[True, False], sampling_params=params[0])
    assert [len(one["meta_info"].get("output_token_logprobs", "")) for one in told] == [3, 0]


def test_generate_streams_lists(server: RunningServer) -> None:
    body = {"text": ["AB", "CD"], "stream": True, "rid": ["x", "y"], "sampling_params": {"max_new_tokens": 5}}
    last: dict[int, Any] = {}
    with httpx.stream("POST", f"{server.url}/generate", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert event["text"].startswith(last.get(event["index"], {"text": ""})["text"])
                last[event["index"]] = event
    assert [(last[k]["text"], last[k]["meta_info"]["id"]) for k in (0, 1)] == [("ABABA", "x"), ("CDCDC", "y")]
    assert last[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 5}


def wait_running(server: RunningServer, count: int) -> None:
    deadline = time.monotonic() + 20
    while httpx.get(f"{server.url}/health").json()["num_running"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_aborting_and_flushing(start: Starter) -> None:
    server = start("--seed", "20", "--num-tokenizer", "2")  # a step takes 20 ms
    with ThreadPoolExecutor(4) as pool:
        long: dict[str, Any] = {"sampling_params": {"max_new_tokens": 240}}
        mine = pool.submit(post, server, "/generate", text="ABC", rid="mine", **long)
        wait_running(server, 1)
        assert refused(server, "/generate", text="A", rid="mine") == (400, "invalid_value", "rid")
        assert refused(server, "/flush_cache")[:2] == (400, "server_busy")
        assert post(server, "/abort_request", rid="nobody") == {"num_aborted": 0}
        assert post(server, "/abort_request", rid="mine") == {"num_aborted": 1}
        told = mine.result()
        assert told["meta_info"]["finish_reason"]["type"] == "abort"
        assert echo("ABC", 240).startswith(told["text"])
        post(server, "/generate", text="ABC", rid="mine", sampling_params={"max_new_tokens": 1})
        body = {"model": MODEL, "prompt": ["AB", "CD"], "max_tokens": 240, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines)[6:])
            assert post(server, "/abort_request", rid=first["id"]) == {"num_aborted": 2}
            chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        reasons = {choice["index"]: choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]}
        assert reasons == {0: "abort", 1: "abort"}
        running = [pool.submit(post, server, "/generate", text=text, **long) for text in ("XY", "ZW")]
        wait_running(server, 2)
        assert post(server, "/abort_request", abort_all=True) == {"num_aborted": 2}
        assert [one.result()["meta_info"]["finish_reason"]["type"] for one in running] == ["abort", "abort"]
    assert post(server, "/flush_cache")["num_pages"] > 0
    assert httpx.get(f"{server.url}/flush_cache").json() == {"success": True, "num_pages": 0}
    again = post(server, "/generate", text="ABC", sampling_params={"max_new_tokens": 1})
    assert again["meta_info"]["cached_tokens"] == 0
    server.process.terminate()
    assert server.wait() == 0, server.log
    check_trace(server)


def test_calls_end_with_the_server(start: Starter) -> None:
    server = start("--seed", "20")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(httpx.post, f"{server.url}/generate", json={"text": "ABC"}, timeout=30)
        wait_running(server, 1)
        worker = server.workers()["tokenizer-0"]
        worker.suspend()
        waiting = pool.submit(httpx.post, f"{server.url}/tokenize", json={"prompt": "A"}, timeout=30)
        time.sleep(0.3)
        worker.kill()
        assert waiting.result().status_code == 503
        assert waiting.result().json()["error"]["code"] == "worker_lost"
        running.result()
    server.wait()


def test_the_largest_calls_fit_into_a_message(server: RunningServer) -> None:
    text = "\x7f" * (1 << 20)
    assert post(server, "/tokenize", prompt=text, return_token_strs=True)["count"] == 1 << 20
    ids = [IM_START] * (1 << 18)
    assert len(post(server, "/detokenize", tokens=ids)["text"]) == len("<|im_start|>") << 18

"""Fields that reach the model's chat template: variables of its own, and where the prompt ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from learnsgl.errors import RequestError
from learnsgl.hub.tiny import build_tiny_random
from learnsgl.message.types import TemplateMsg
from learnsgl.server.chat_template import read_template
from learnsgl.server.tool_routes import TokenizeRequest
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer
from tests.server.conftest import Starter

QUESTION = {"role": "user", "content": "Why?"}
BEGUN = {"role": "assistant", "content": "Because "}
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% if enable_thinking is defined and not enable_thinking %}"
    "<no thinking>{% endif %}{% endif %}{{ note | default('') }}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in random model with the template above."""
    made = tmp_path_factory.mktemp("templated")
    build_tiny_random(made)
    config = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def rendered(tokenizer: Tokenizer, messages: list[dict[str, Any]], **fields: Any) -> str:
    return tokenizer.render_chat(messages, template=read_template(TokenizeRequest(**fields), messages))


def test_as_usual_there_is_nothing_to_tell() -> None:
    usual = ({}, {"add_generation_prompt": True}, {"continue_final_message": False}, {"chat_template_kwargs": {}})
    assert [read_template(TokenizeRequest(**fields), [QUESTION]) for fields in usual] == [None] * 4


def test_variables_reach_the_template(tokenizer: Tokenizer) -> None:
    assert rendered(tokenizer, [QUESTION]) == "[user] Why?\n[assistant] "
    values: dict[str, Any] = {"enable_thinking": False, "note": {"n": 2**80, "ä": [None, 0.5]}}
    text = rendered(tokenizer, [QUESTION], chat_template_kwargs=values)
    assert text == f"[user] Why?\n[assistant] <no thinking>{values['note']}"
    assert rendered(tokenizer, [QUESTION], chat_template_kwargs={"nobody_asks": 1}) == "[user] Why?\n[assistant] "


def test_the_prompt_ends_after_or_within_the_last_message(tokenizer: Tokenizer) -> None:
    assert rendered(tokenizer, [QUESTION], add_generation_prompt=False) == "[user] Why?\n"
    for also in ({}, {"add_generation_prompt": False}):
        text = rendered(tokenizer, [QUESTION, BEGUN], continue_final_message=True, **also)
        assert text.rstrip() == "[user] Why?\n[assistant] Because"


@pytest.mark.parametrize(
    ("messages", "fields", "words"),
    [
        ([QUESTION, BEGUN], {"continue_final_message": True, "add_generation_prompt": True}, "are both true"),
        ([QUESTION], {"continue_final_message": True}, "isn't the beginning of an answer"),
        ([QUESTION, BEGUN | {"content": ""}], {"continue_final_message": True}, "isn't the beginning of an answer"),
        ([QUESTION, BEGUN | {"tool_calls": [{}]}], {"continue_final_message": True}, "isn't the beginning"),
        ([QUESTION], {"chat_template_kwargs": {"messages": [], "tools": []}}, "holds messages, tools, which"),
    ],
)
def test_what_cannot_be(messages: list[dict[str, Any]], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_template(TokenizeRequest(**fields), messages)


@pytest.mark.parametrize("name", ["self", "conversations", "return_tensors"])
def test_a_name_of_transformers_own_is_an_error_of_the_client(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(RequestError):
        rendered(tokenizer, [QUESTION], chat_template_kwargs={name: 1})


def test_values_too_deep_for_the_template_are_an_error_of_the_client(tokenizer: Tokenizer) -> None:
    deep = TemplateMsg(values='{"note": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(RequestError, match="recursion"):
        tokenizer.render_chat([QUESTION], template=deep)


def test_a_server_renders_as_it_is_asked(start: Starter, folder: Path) -> None:
    server = start("--num-tokenizer", "0", "--model", str(folder), "--served-model-name", "m")
    body: dict[str, Any] = {"model": "m", "messages": [QUESTION, BEGUN], "continue_final_message": True}
    values = {"chat_template_kwargs": {"note": "!"}}

    def tokens(**fields: Any) -> int:
        answer = httpx.post(f"{server.url}/tokenize", json=body | fields).json()
        return int(answer["count"])

    def prompt_tokens(**fields: Any) -> int:
        asked = body | {"max_tokens": 1} | fields
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=30).json()
        return int(answer["usage"]["prompt_tokens"])

    ends: list[dict[str, Any]] = [{}, {"continue_final_message": False}, {"add_generation_prompt": False}, values]
    assert [tokens(**end) for end in ends] == [prompt_tokens(**end) for end in ends]
    assert tokens(continue_final_message=False, **values) == tokens(continue_final_message=False) + 1
    assert tokens() < tokens(continue_final_message=False)
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=body | {"messages": [QUESTION]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_final_message")

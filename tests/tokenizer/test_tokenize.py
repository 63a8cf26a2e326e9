"""Prompts and chats become token ids; what can't is one clear error for the client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learnsgl.errors import ModelNotFoundError, RequestError, UnsupportedModelError
from learnsgl.hub.tiny import BOS, EOS, IM_END, IM_START
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer


@pytest.fixture
def with_template(tiny_folder: Path, tmp_path: Path) -> Callable[[str | None], Tokenizer]:
    """The tiny tokenizer with another chat template."""

    def load(template: str | None) -> Tokenizer:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(folder)

    return load


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_text_is_its_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_text("hé\n") == list("hé\n".encode())


def test_special_tokens_written_in_text_become_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_text("a<|eos|>b") == [ord("a"), EOS, ord("b")]


def test_a_chat_ends_where_the_answer_begins(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_chat([{"role": "system", "content": "S"}, user("hi")])
    assert ids == [
        IM_START, *b"system\nS", IM_END, ord("\n"), IM_START, *b"user\nhi", IM_END, ord("\n"),
        IM_START, *b"assistant\n",
    ]  # fmt: skip
    assert BOS not in ids  # only the template writes special tokens


def test_a_chat_equals_what_transformers_gives(tokenizer: Tokenizer, tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    chat = [user("Hello 你好"), {"role": "assistant", "content": "Yes."}, user("<|im_end|>?")]
    theirs = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.encode_chat(chat) == theirs.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )


def test_text_parts_are_joined_by_line_breaks(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert tokenizer.encode_chat([user(parts)]) == tokenizer.encode_chat([user("one\ntwo")])


def test_an_assistant_message_may_have_no_content(tokenizer: Tokenizer) -> None:
    empty = {"role": "assistant", "content": None}
    assert "assistant\n<|im_end|>" in tokenizer.render_chat([user("x"), empty, user("y")])


def test_developer_is_system_where_the_template_does_not_know_it(
    tokenizer: Tokenizer, with_template: Callable[[str | None], Tokenizer]
) -> None:
    chat = [{"role": "developer", "content": "d"}]
    assert tokenizer.render_chat(chat).startswith("<|im_start|>system\nd")
    knows = with_template("{% if messages[0].role == 'developer' %}yes{% endif %}")
    assert knows.render_chat(chat) == "yes"


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        ([], "messages", "at least one"),
        ([{"role": "banana", "content": "x"}], "messages[0].role", "'banana'"),
        ([{"content": "x"}], "messages[0].role", "None"),
        ([user("x"), {"role": "user"}], "messages[1].content", "missing"),
        ([user(3)], "messages[0].content", "a int"),
        ([user([{"type": "image_url", "image_url": {}}])], "messages[0].content", "'image_url'"),
        ([user([{"type": "text"}])], "messages[0].content", "text"),
        ([user(["x"])], "messages[0].content", "'str'"),
    ],
)
def test_malformed_messages_are_named(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], param: str, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        tokenizer.encode_chat(messages)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content }}", "no element 5"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages.__class__.__mro__ }}", "unsafe|undefined|access"),
        ("{% for %}", "Expected|syntax|unexpected"),
    ],
)
def test_a_template_that_fails_is_the_chats_fault(
    with_template: Callable[[str | None], Tokenizer], template: str, words: str
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        with_template(template).encode_chat([user("x")])
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_model_without_a_template_says_so(with_template: Callable[[str | None], Tokenizer]) -> None:
    tokenizer = with_template(None)
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="/v1/completions") as caught:
        tokenizer.encode_chat([user("x")])
    assert caught.value.code == "no_chat_template"


def test_half_a_surrogate_pair_is_a_bad_request(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"\\ud83d at character 3") as caught:
        tokenizer.encode_text("ab \ud83d")
    assert (caught.value.status, caught.value.code) == (400, "invalid_unicode")
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode_chat([user("\udc00")])


def test_an_empty_prompt_is_a_bad_request(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="no token"):
        tokenizer.encode_text("")


def test_limits_of_a_training_run_do_not_cut_prompts(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    assert len(load_tokenizer(folder).encode_text("x" * 3000)) == 3000


def test_a_folder_without_a_tokenizer_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="can't be read"):
        load_tokenizer(tmp_path)


def test_tokenizing_never_imports_torch(tiny_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from learnsgl.tokenizer.tokenize import load_tokenizer;"
        "from learnsgl.tokenizer.detokenize import IncrementalDetokenizer;"
        f"t = load_tokenizer(Path({str(tiny_folder)!r})); t.encode_chat([{{'role': 'user', 'content': 'x'}}]);"
        "IncrementalDetokenizer(t).add(65); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bytes_of_a_token(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(token) for token in (65, 0xC3, IM_END, 10**6)] == [b"A", b"\xc3", b"<|im_end|>", b""]

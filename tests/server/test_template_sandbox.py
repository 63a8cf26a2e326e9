"""A model's chat template is rendered in a sandbox: it can't reach Python, the machine or the server's own objects.

`docs/security.md` says what is promised: the template comes with a model, and clients choose only its messages.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from learnsgl.errors import RequestError
from learnsgl.hub import resolve_model
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer

CHAT = [{"role": "user", "content": "HELLO"}]
WAYS_OUT = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a filter's attributes": "{{ ''|attr('__class__') }}",
    "a method's globals": "{{ messages[0].get.__globals__ }}",
    "globals of a helper": "{{ raise_exception.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
    "globals of a class": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "the environment": "{{ self.__init__.__globals__ }}",
    "a format string": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "a map of formats": "{{ '{m.__class__}'.format_map({'m': messages}) }}",
    "a coroutine's frame": "{{ namespace.__init__.__code__.co_consts }}",
    "messages that change": "{{ messages.append(1) }}",
    "a message that changes": "{{ messages[0].update({'role': 'x'}) }}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "an include": "{% include '/etc/passwd' %}",
    "a parent": "{% extends '/etc/passwd' %}",
    "a range without an end": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "a power without an end": "{{ 'x' * (10 ** 4000) }}",
    "recursion": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny model, whose template a test may replace."""
    copy = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(resolve_model("tiny-random").folder, copy)
    return copy


def with_template(folder: Path, template: str) -> Tokenizer:
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return load_tokenizer(folder)


@pytest.mark.parametrize("way", list(WAYS_OUT))
def test_no_template_leaves_the_sandbox(folder: Path, way: str) -> None:
    tokenizer = with_template(folder, WAYS_OUT[way])
    try:
        told = tokenizer.render_chat(CHAT)
    except RequestError as error:  # an answer to the client, and not a defect
        told = str(error).partition("these messages: ")[2].partition(" of ")[0]
    assert not any(word in told for word in ("root:", "uid=", "__builtins__", "<class", "<function", "0x")), told


def test_a_template_that_breaks_ends_no_worker(folder: Path) -> None:
    """The next chat is rendered as if nothing had happened, by the same tokenizer."""
    tokenizer = with_template(folder, "{% if messages[0].content == 'A' %}{{ messages.clear() }}{% endif %}OK")
    with pytest.raises(RequestError, match="chat template"):
        tokenizer.render_chat([{"role": "user", "content": "A"}])
    assert tokenizer.render_chat(CHAT) == "OK"


def test_what_clients_write_is_no_template(folder: Path) -> None:
    tokenizer = with_template(folder, "{{ messages[0].role }}: {{ messages[0].content }}")
    for text in ("{{ 7 * 7 }}", "{% for i in range(9) %}x{% endfor %}", "{# c #}", "{{ ''.__class__ }}"):
        assert tokenizer.render_chat([{"role": "user", "content": text}]) == f"user: {text}"

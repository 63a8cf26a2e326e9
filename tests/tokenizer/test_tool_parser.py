"""Tool calls are read out of text, and it never matters how the text was cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnsgl.tokenizer.tool_parser import BareParser, CallParser, MarkedParser
from learnsgl.tokenizer.tool_text import arguments_of

BEGIN, END = "<tool_call>", "</tool_call>"
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine even small examples take their time."""
Calls = list[tuple[str, str]]


def marked() -> CallParser:
    return MarkedParser(BEGIN, END)


def bare() -> CallParser:
    return BareParser({"f", "get_weather"})


def read(parser: CallParser, *pieces: str) -> tuple[str, Calls, bool]:
    """Content, calls, and whether the last one isn't whole."""
    content, calls = "", []
    for number, piece in enumerate([*pieces, ""]):
        parsed = parser.feed(piece, final=number == len(pieces))
        content += parsed.content
        for delta in parsed.calls:
            if delta.name is not None:
                assert (delta.index, delta.arguments) == (len(calls), "")
                calls.append((delta.name, ""))
            else:
                assert delta.index == len(calls) - 1
                assert delta.arguments
                calls[-1] = calls[-1][0], calls[-1][1] + delta.arguments
    assert parser.num_calls == len(calls)
    return content, calls, parser.is_open


@pytest.mark.parametrize(
    ("text", "content", "calls", "is_open"),
    [
        ("", "", [], False),
        ("  no call \n", "  no call \n", [], False),
        (f'{BEGIN}\n{{"name": "f", "arguments": {{"a": 1}}}}\n{END}', "", [("f", '{"a": 1}')], False),
        (f'Well.\n\n{BEGIN}{{"name":"f","arguments":{{}}}}{END}\n', "Well.", [("f", "{}")], False),
        (
            f'{BEGIN}{{"name": "f", "arguments": {{"a": "}}{END}\\"{{"}}}}{END}\n'
            f'{BEGIN} {{"name": "g", "arguments": {{}}}} {END}',
            "", [("f", f'{{"a": "}}{END}\\"{{"}}'), ("g", "{}")], False,
        ),
        (f'{BEGIN}{{"name": "f", "arguments": {{"a": [1, {{"b', "", [("f", '{"a": [1, {"b')], True),
        (f'{BEGIN}{{"name": "f", "arguments": {{"a": 1}}', "", [("f", '{"a": 1}')], False),
        (f'A {BEGIN}\n{{"name": "ge', f'A {BEGIN}\n{{"name": "ge', [], False),
        (f'A{BEGIN}{{"args": 1}}{END} b', f'A{BEGIN}{{"args": 1}}{END} b', [], False),
        (f'{BEGIN}{{"name": "f", "arguments": "t"}}{END}', f'{BEGIN}{{"name": "f", "arguments": "t"}}{END}', [], False),
        (f'{BEGIN}{{"name": "a b", "arguments": {{', f'{BEGIN}{{"name": "a b", "arguments": {{', [], False),
        (f'{BEGIN}no {BEGIN}{{"name": "f", "arguments": {{}}}}{END}', f"{BEGIN}no", [("f", "{}")], False),
        (f'A{BEGIN}{{"name": "f", "arguments": {{}}}}{END}  and on ', "A\nand on ", [("f", "{}")], False),
        (f'{BEGIN}{{"name": "f", "arguments": {{}}}}{END}and on', "and on", [("f", "{}")], False),
        (f'{BEGIN}{{"name": "f", "arguments": {{}}, "x": 1}}{END}', f', "x": 1}}{END}', [("f", "{}")], False),
        ("a < b <tool <tool_call", "a < b <tool <tool_call", [], False),
        ("<" * 30, "<" * 30, [], False),
    ],
)  # fmt: skip
def test_calls_between_marks(text: str, content: str, calls: Calls, is_open: bool) -> None:
    assert read(marked(), text) == (content, calls, is_open)
    assert read(marked(), *text) == (content, calls, is_open), "character by character"


@pytest.mark.parametrize(
    ("text", "content", "calls", "is_open"),
    [
        ("", "", [], False),
        (' {"a": 1} ', ' {"a": 1} ', [], False),
        ('{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')], False),
        ('\n{ "type": "function", "name": "f", "parameters": {}}\n', "", [("f", "{}")], False),
        ('{"name": "other", "parameters": {}}', '{"name": "other", "parameters": {}}', [], False),
        ('{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {}}', [], False),
        ('Call {"name": "f", "parameters": {}}', 'Call {"name": "f", "parameters": {}}', [], False),
        ('{"name": "f", "parameters": {"a": ', "", [("f", '{"a": ')], True),
        ('{"name": "get_wea', '{"name": "get_wea', [], False),
        ('{"name": "f", "parameters": {}} then', "then", [("f", "{}")], False),
    ],
)
def test_bare_calls(text: str, content: str, calls: Calls, is_open: bool) -> None:
    assert read(bare(), text) == (content, calls, is_open)
    assert read(bare(), *text) == (content, calls, is_open), "character by character"


def test_text_is_given_as_soon_as_it_can_be_no_call() -> None:
    parser = marked()
    assert parser.feed("Hello").content == "Hello"
    assert parser.feed(" ").content == "", "it may belong to a call"
    assert parser.feed("<to").content == ""
    assert parser.feed("o>").content == " <too>"
    parser.feed(f'{BEGIN}{{"name": "f", "arguments": ')
    assert [delta.arguments for delta in parser.feed('{"a').calls] == ["", '{"a']
    assert [delta.arguments for delta in parser.feed('": 1').calls] == ['": 1']


FRAGMENTS = [
    BEGIN, END, "<tool", "\n", " ", "{", "}", '"', '"name"', ": ", ", ", '"f"', '"arguments": ', '"parameters": ', "{}",
    '{"name": "f", "arguments": ', '{"name": "f", "parameters": ', '{"a": "\\""}', "}}\n", "text",
    f'{BEGIN}\n{{"name": "f", "arguments": {{"a": [1]}}}}\n{END}',
]  # fmt: skip


@pytest.mark.parametrize("make", [marked, bare])
@PATIENT
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=12), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_pieces_give_what_the_whole_gives(make: Callable[[], CallParser], parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    places = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole = read(make(), text)
    assert read(make(), *pieces) == whole
    if not whole[1]:
        assert whole[0] == text, "what holds no call is content to the letter"


NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.text(max_size=9))


@PATIENT
@given(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=4))
def test_calls_come_back_as_they_were_written(calls: list[tuple[str, dict[str, str]]]) -> None:
    written = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    content, found, is_open = read(marked(), "\n".join(f"{BEGIN}\n{text}\n{END}" for text in written))
    assert (content, is_open) == ("", False)
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_arguments_of_the_past() -> None:
    assert arguments_of('{"a": 1}') == {"a": 1}
    assert arguments_of(" ") == {}
    for text in ("[1]", "1", '{"a"', "nul", '{"a":' * 70 + "1" + "}" * 70, "[" * 5000):
        assert arguments_of(text) is None

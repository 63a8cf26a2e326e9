"""Server-sent events: the same events, however the stream is cut into pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.chat.sse import event_data

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@settings(deadline=None, max_examples=100)
@given(st.lists(LINE, max_size=5), st.lists(st.integers(0, 200), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_any_text_in_any_pieces(texts: list[str], places: list[int], end: str) -> None:
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    assert list(event_data(cut(stream, places))) == texts


def test_a_line_separator_of_unicode_ends_no_line() -> None:
    assert list(event_data(['data: {"a": "x\u2028y\u0085z\x0b"}\n\n'.encode()])) == ['{"a": "x\u2028y\u0085z\x0b"}']


def test_comments_other_fields_and_several_data_lines() -> None:
    stream = b": ping\n\nevent: message\nid: 7\ndata: one\ndata:two\n\ndata: the last, cut off"
    assert list(event_data([stream])) == ["one\ntwo", "the last, cut off"]

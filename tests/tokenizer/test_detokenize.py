"""Text token by token equals the text of all tokens, cut where the first stop string begins, however it is split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from learnsgl.hub.byte_level import byte_level_tokenizer, byte_symbols, split_by
from learnsgl.hub.tiny import EOS, IM_END
from learnsgl.tokenizer.decoders import ByteDecoder, WindowDecoder
from learnsgl.tokenizer.detokenize import IncrementalDetokenizer
from learnsgl.tokenizer.tokenize import Tokenizer

ALPHABET = "ab c.é你👩\n"
texts = st.text(alphabet=ALPHABET, max_size=30) | st.text(max_size=15)
stop_lists = st.lists(st.text(alphabet="ab c.é你", min_size=1, max_size=4), max_size=4)


def merged_tokenizer() -> Tokenizer:
    """Byte-level, with tokens that hold parts of one character together with parts of the next."""
    symbols = byte_symbols()
    pairs = [(symbols[a], symbols[b]) for a, b in itertools.pairwise("ab c.é你👩ab".encode())]
    merges = list(dict.fromkeys(pairs))
    tokens = [*symbols, *dict.fromkeys(left + right for left, right in merges), "<end>", "<plain é>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = byte_level_tokenizer(
        vocab, merges, split_by(), special_tokens=["<end>"], plain_tokens=["<plain é>"], nfc=False
    )
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


def sentencepiece_tokenizer() -> Tokenizer:
    """Llama 2's kind: a mark for spaces, a dropped leading space, and bytes where the vocabulary has no character."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "c", ".", "▁a", "▁ab"]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[("▁", "a"), ("▁a", "b")],
        byte_fallback=True, unk_token="<unk>", fuse_unk=True,
    )  # fmt: skip
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


MERGED, PIECES = merged_tokenizer(), sentencepiece_tokenizer()


def cut_at_first_stop(text: str, stops: Sequence[str]) -> tuple[str, int | None]:
    """What is left of `text`, and where the stop string ends; the one that is complete first counts, then the longest.

    The naive definition: look at every prefix of the text in turn.
    """
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], end
    return text, None


def run(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str]) -> tuple[list[str], IncrementalDetokenizer]:
    detokenizer = IncrementalDetokenizer(tokenizer, stops)
    return [*(detokenizer.add(token) for token in ids), detokenizer.finish()], detokenizer


@settings(max_examples=300, deadline=None)
@given(texts, stop_lists)
def test_joined_text_is_the_whole_text_cut_at_the_stop(text: str, stops: list[str]) -> None:
    for tokenizer in (MERGED, PIECES):
        ids = tokenizer.encode_text(text + ".")
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        pieces, _ = run(tokenizer, ids, stops)
        assert "".join(pieces) == cut_at_first_stop(whole, stops)[0]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=40), stop_lists)
def test_any_tokens_at_all_give_their_whole_text(ids: list[int], stops: list[str]) -> None:
    # also broken UTF-8, special tokens in the middle of a character, and ids that no token has
    whole = MERGED.decode(ids, skip_special_tokens=True)
    pieces, detokenizer = run(MERGED, ids, stops)
    expected, end = cut_at_first_stop(whole, stops)
    assert "".join(pieces) == expected
    assert detokenizer.stopped == (end is not None)


@settings(max_examples=200, deadline=None)
@given(texts, stop_lists)
def test_the_stop_is_found_with_the_token_that_completes_it(text: str, stops: list[str]) -> None:
    ids = MERGED.encode_text(text + ".")
    pieces, detokenizer = run(MERGED, ids, stops)
    complete = [
        count for count in range(1, len(ids) + 1)
        # a character that is still in pieces shows as U+FFFD at the end; it can't be part of a stop string yet
        if cut_at_first_stop(MERGED.decode(ids[:count]).rstrip("\ufffd"), stops)[1] is not None
    ]  # fmt: skip
    if "\ufffd" in text:
        return
    assert detokenizer.num_kept_tokens == (complete[0] if complete else None)
    if complete:
        assert all(not piece for piece in pieces[complete[0] :])


@settings(max_examples=200, deadline=None)
@given(texts, stop_lists)
def test_no_more_is_held_back_than_a_stop_string_needs(text: str, stops: list[str]) -> None:
    ids = MERGED.encode_text(text + ".")
    detokenizer = IncrementalDetokenizer(MERGED, stops)
    sent = ""
    for count, token in enumerate(ids, 1):
        sent += detokenizer.add(token)
        if detokenizer.stopped or "\ufffd" in text:
            return
        held = MERGED.decode(ids[:count]).rstrip("\ufffd")[len(sent) :]
        assert not held or any(stop.startswith(held) for stop in stops)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_no_character_is_broken(text: str) -> None:
    for tokenizer in (MERGED, PIECES):
        whole = tokenizer.decode(tokenizer.encode_text(text + "."), skip_special_tokens=True)
        if "\ufffd" not in whole:
            pieces, _ = run(tokenizer, tokenizer.encode_text(text + "."), [])
            assert not any("\ufffd" in piece for piece in pieces)


def test_the_right_decoder_is_taken() -> None:
    assert isinstance(MERGED.start_decoding(), ByteDecoder)
    assert isinstance(PIECES.start_decoding(), WindowDecoder)


def test_a_character_waits_for_its_last_byte(tokenizer: Tokenizer) -> None:
    pieces, _ = run(tokenizer, list("é👩!".encode()), [])
    assert pieces == ["", "é", "", "", "", "👩", "!", ""]


def test_half_a_character_at_the_end_shows_as_one_replacement(tokenizer: Tokenizer) -> None:
    pieces, _ = run(tokenizer, list("x👩".encode())[:-1], [])
    assert "".join(pieces) == "x\ufffd"


def test_special_tokens_give_no_text_but_count(tokenizer: Tokenizer) -> None:
    pieces, detokenizer = run(tokenizer, [*b"a", EOS, *b"b", IM_END], [])
    assert "".join(pieces) == "ab"
    assert (detokenizer.num_tokens, detokenizer.num_kept_tokens) == (4, None)


def test_spaces_between_sentencepiece_tokens_stay() -> None:
    ids = PIECES.encode_text("ab a ab")
    assert run(PIECES, ids, [])[0] == ["ab", " a", " ab", ""]


def test_a_stop_string_over_several_tokens_never_leaks(tokenizer: Tokenizer) -> None:
    pieces, detokenizer = run(tokenizer, list(b"one END two"), [" END"])
    assert pieces[:3] == ["o", "n", "e"]
    assert "".join(pieces) == "one"
    assert detokenizer.num_kept_tokens == len("one END")


def test_a_near_miss_is_sent_as_soon_as_it_is_one(tokenizer: Tokenizer) -> None:
    pieces, detokenizer = run(tokenizer, list(b"a ENx"), [" END"])
    assert pieces == ["a", "", "", "", " ENx", ""]
    assert not detokenizer.stopped


def test_what_is_held_at_the_end_is_sent(tokenizer: Tokenizer) -> None:
    pieces, detokenizer = run(tokenizer, list(b"a EN"), [" END"])
    assert pieces == ["a", "", "", "", " EN"]
    assert detokenizer.num_kept_tokens is None


def test_a_stop_string_that_begins_inside_another_is_found(tokenizer: Tokenizer) -> None:
    # after "aab" the match of "aabx" fails, and "ab" of it was complete
    assert "".join(run(tokenizer, list(b"aaaby"), ["aabx", "ab"])[0]) == "aa"
    assert "".join(run(tokenizer, list(b"ababac!"), ["abac"])[0]) == "ab"


def test_of_stop_strings_complete_at_once_the_longest_is_cut(tokenizer: Tokenizer) -> None:
    assert "".join(run(tokenizer, list(b"xxabc"), ["c", "abc", "bc"])[0]) == "xx"


def test_a_stop_string_may_end_in_the_last_half_character(tokenizer: Tokenizer) -> None:
    pieces, detokenizer = run(tokenizer, [*b"ok", 0xC3], ["\ufffd"])
    assert "".join(pieces) == "ok"
    assert detokenizer.stopped


def test_tokens_after_the_stop_are_ignored(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, ["b"])
    assert [detokenizer.add(token) for token in b"abc"] == ["a", "", ""]
    assert (detokenizer.num_kept_tokens, detokenizer.finish()) == (2, "")


def test_bytes_that_are_never_a_character_come_out_at_once(tokenizer: Tokenizer) -> None:
    # with a window that waits for a character, text would never come and each token would cost more than the last
    pieces, _ = run(tokenizer, [0x80] * 50, [])
    assert pieces[:50] == ["\ufffd"] * 50
    pieces, _ = run(PIECES, [PIECES.encode_text("\u0080")[-1]] * 50, [])
    assert sum(map(len, pieces)) == 50
    assert any(pieces[:10])


def test_the_bytes_of_sentencepiece_tokens() -> None:
    ids = PIECES.encode_text("ab a\u0080")
    assert b"".join(PIECES.token_bytes(token) for token in ids).decode().lstrip() == "ab a\u0080"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab", max_size=12), stop_lists, st.integers(0, 14))
def test_a_stop_string_counts_only_after_min_tokens(
    tokenizer: Tokenizer, text: str, stops: list[str], least: int
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, stops, least)
    pieces = [*(detokenizer.add(token) for token in text.encode()), detokenizer.finish()]
    ends = [end for end in range(least + 1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert "".join(pieces) == text
        assert detokenizer.matched is None
    else:
        longest = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert "".join(pieces) == text[: ends[0] - len(longest)]
        assert detokenizer.matched == longest


@pytest.mark.model
def test_the_built_in_models_text_comes_whole() -> None:
    from learnsgl.hub import resolve_model
    from learnsgl.tokenizer.tokenize import load_tokenizer

    tokenizer = load_tokenizer(resolve_model("smollm2-135m").folder)
    text = "It's 3,141.59 — naïve café; 你好，世界! 👩‍👩‍👧 🎉\n\n    def f(x):\n\treturn x ** 2  # ½ ٣ नमस्ते"
    ids = tokenizer.encode_text(text)
    pieces, _ = run(tokenizer, ids, [])
    assert "".join(pieces) == text == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)

"""Constrained requests through the real scheduler: every answer follows its grammar, and nobody else notices."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnsgl.core import FinishReason, Grammar, GrammarKind, ReqKey
from learnsgl.trace import events
from tests.fakes import EOS_ID, expected_output
from tests.scheduler.grammar_world import MaskedExecutor, ids_of, make_harness, text_of
from tests.scheduler.harness import Harness

PROMPT = list(range(1, 12))


def schema_grammar(schema: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def regex(text: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, text)


def answer(harness: Harness, uid: int) -> str:
    return text_of(harness.outputs[uid])


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.integers(-5, 5).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 30}),
    st.integers(0, 4).map(lambda n: {"type": "string", "maxLength": n}),
    st.lists(st.sampled_from(["red", "gr een", 'a"b', 7, None]), min_size=1, unique=True).map(lambda v: {"enum": v}),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
)


def objects_of(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.dictionaries(st.sampled_from(["a", "b b", "c"]), children, min_size=1)
    return st.builds(
        lambda props, required: {
            "type": "object", "properties": props, "required": [name for name in props if name in required],
            "additionalProperties": False,
        },
        names, st.sets(st.sampled_from(["a", "b b", "c"])),
    )  # fmt: skip


schemas = st.recursive(
    leaves,
    lambda children: st.one_of(
        objects_of(children),
        children.map(lambda item: {"type": "array", "items": item, "maxItems": 2}),
        st.lists(children, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    made=st.lists(schemas, min_size=1, max_size=3),
    overlap=st.booleans(),
    policy=st.sampled_from(["prefill-first", "mixed"]),
    salt=st.integers(0, 1000),
)
def test_answers_are_valid_json_and_neighbours_are_as_alone(
    made: list[Any], overlap: bool, policy: str, salt: int
) -> None:
    harness = make_harness(overlap=overlap, policy=policy, max_prefill_length=7)
    plain = [harness.send([salt % 90 + 1, 2, 3 + n], 12, ignore_eos=True) for n in range(2)]
    uids = [harness.send([salt % 50 + 1, salt % 7 + 1], 480, grammar=schema_grammar(schema)) for schema in made]
    harness.run()
    for uid in plain:
        assert harness.outputs[uid] == expected_output(harness.prompts[uid], 12, ignore_eos=True)
    for uid, schema in zip(uids, made, strict=True):
        if harness.endings[uid].reason is FinishReason.STOP:
            assert harness.outputs[uid][-1] == EOS_ID
            jsonschema.validate(json.loads(answer(harness, uid)), schema)
        else:
            assert harness.endings[uid].reason is FinishReason.LENGTH
            assert len(harness.outputs[uid]) == 480


GRAMMARS = [
    (regex("(yes|no), [0-9]{2}"), r"(yes|no), [0-9]{2}"),
    (Grammar(GrammarKind.LARK, 'start: "<" word ">"\nword: /[a-z]{1,4}/ | word "-" word\n'), r"<[a-z-]+>"),
    (Grammar(GrammarKind.LARK, 'start: "call " %json {"enum": [1, 2]}'), r"call [12]"),
    (schema_grammar({"const": {"a": [1]}}), r'\{\s*"a"\s*:\s*\[\s*1\s*\]\s*\}'),
]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("grammar", "pattern"), GRAMMARS)
def test_every_kind_is_followed(grammar: Grammar, pattern: str, overlap: bool) -> None:
    harness = make_harness(overlap=overlap)
    uids = [harness.send([seed + 1, 5], grammar=grammar) for seed in range(6)]
    harness.run()
    for uid in uids:
        if harness.endings[uid].reason is FinishReason.STOP:
            assert re.fullmatch(pattern, answer(harness, uid))
    assert any(harness.endings[uid].reason is FinishReason.STOP for uid in uids)


def test_any_object_is_an_object() -> None:
    harness = make_harness()
    uids = [harness.send([seed + 1], 400, grammar=Grammar(GrammarKind.JSON_OBJECT)) for seed in range(8)]
    harness.run()
    ended = [uid for uid in uids if harness.endings[uid].reason is FinishReason.STOP]
    assert ended
    for uid in ended:
        assert isinstance(json.loads(answer(harness, uid)), dict)
    assert all(answer(harness, uid).startswith("{") for uid in uids)


def test_overlap_changes_no_token() -> None:
    outputs = []
    for overlap in (True, False):
        harness = make_harness(overlap=overlap)
        for seed in range(6):
            harness.send([seed + 1, 7], 40, grammar=GRAMMARS[seed % 4][0], n=seed % 3 + 1)
            harness.send([seed + 1, 9], 20)
        harness.run()
        outputs.append(harness.choice_outputs)
    assert outputs[0] == outputs[1]


def test_a_step_is_sampled_when_the_tokens_before_it_are_known() -> None:
    harness = make_harness(overlap=True)
    harness.send(PROMPT, 4, grammar=regex("[a-z]{9}"))
    harness.run()
    executor = harness.executor
    assert isinstance(executor, MaskedExecutor)
    assert executor.order[:7] == [
        "submit 1", "sample 1", "submit 2", "collect 1", "sample 2", "submit 3", "collect 2",
    ]  # fmt: skip
    plain = make_harness(overlap=True)
    plain.send(PROMPT, 4, ignore_eos=True)
    plain.run()
    assert isinstance(plain.executor, MaskedExecutor)
    assert plain.executor.order[:5] == ["submit 1", "sample 1", "submit 2", "sample 2", "collect 1"]


def test_the_end_comes_where_the_grammar_ends_and_not_before() -> None:
    harness = make_harness()
    uids = [harness.send([seed + 1], grammar=regex("abc")) for seed in range(4)]
    harness.run()
    for uid in uids:
        assert harness.outputs[uid] == [*ids_of("abc"), EOS_ID]
        assert harness.endings[uid].reason is FinishReason.STOP
        assert harness.endings[uid].matched == EOS_ID


@pytest.mark.parametrize("ends_early", [{"ignore_eos": True}, {"min_tokens": 30}])
def test_what_puts_the_end_off_does_so_as_long_as_the_grammar_goes_on(ends_early: dict[str, Any]) -> None:
    harness = make_harness()
    free = harness.send(PROMPT, 30, grammar=regex("[ab]*"), **ends_early)
    forced = harness.send(PROMPT, 40, grammar=regex("[ab]{0,5}"), **ends_early)
    harness.run()
    assert len(harness.outputs[free]) == 30
    assert EOS_ID not in harness.outputs[free]
    assert len(harness.outputs[forced]) == 6
    assert harness.endings[forced].reason is FinishReason.STOP


def test_a_stop_token_ends_where_the_grammar_may_end_or_has_it_as_text() -> None:
    (bar,) = ids_of("|")
    (b,) = ids_of("b")
    harness = make_harness()
    ended = [harness.send([n + 1], 200, grammar=regex("(ab)*"), stop_token_ids=(bar,)) for n in range(8)]
    within = harness.send([3], 200, grammar=regex("(ab){3}"), stop_token_ids=(b,))
    harness.run()
    assert {harness.endings[uid].matched for uid in ended} == {EOS_ID, bar}
    for uid in ended:
        assert re.fullmatch(r"(ab)*\|?", answer(harness, uid))
    assert answer(harness, within) == "ab"
    assert harness.endings[within].matched == b


def test_max_tokens_cuts() -> None:
    harness = make_harness()
    uid = harness.send(PROMPT, 3, grammar=regex("[a-z]{20}"))
    harness.run()
    assert harness.endings[uid].reason is FinishReason.LENGTH
    assert len(harness.outputs[uid]) == 3


def test_choices_follow_their_own_ways() -> None:
    harness = make_harness()
    uid = harness.send(PROMPT, grammar=regex("[ab]{4}"), n=3)
    harness.run()
    for choice in range(3):
        assert re.fullmatch("[ab]{4}", text_of(harness.choice_outputs[ReqKey(uid, choice)]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), overlap=st.booleans())
def test_aborts_at_any_moment_leave_nothing_behind(seed: int, overlap: bool) -> None:
    rng = random.Random(seed)
    harness = make_harness(overlap=overlap, num_rows=3, max_prefill_length=4)
    uids = [harness.send([n + 1] * rng.randint(1, 9), 30, grammar=GRAMMARS[n % 4][0]) for n in range(6)]
    while harness.scheduler.has_work:
        if rng.random() < 0.2:
            harness.abort(rng.choice(uids))
        harness.step()
    harness.run()
    assert set(harness.endings) == set(uids)
    assert harness.scheduler.running.table.num_with_grammar == 0


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (schema_grammar({"type": "object", "properties": {"a": {"not": {}}}}), r'keys: \["not"\] \(at \$.properties.a'),
        (schema_grammar({"anyOf": [{"type": "string"}, {"type": "strin"}]}), r"type: strin \(at \$.anyOf\[1\]"),
        (schema_grammar(3), "a schema is a JSON object"),
        (schema_grammar({"anyOf": [False]}), "schema is false"),
        (schema_grammar({"$ref": "#/nowhere"}), "'/nowhere' does not exist"),
        (Grammar(GrammarKind.JSON_SCHEMA, "{"), "JSON schema can't be used"),
        (schema_grammar({"description": "x" * 200_000}), "at most 131072 are allowed"),
        (regex("(a"), "unclosed group"),
        (regex("é"), "no token of this model"),
        (Grammar(GrammarKind.LARK, "start: missing"), "missing"),
        (Grammar(GrammarKind.LARK, ""), "Empty grammar"),
        (regex("\ud800"), "can't be used"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_named(grammar: Grammar, words: str) -> None:
    harness = make_harness()
    harness.send(PROMPT, 3, grammar=grammar, n=2)
    for _ in range(2):  # the second time it is remembered
        uid = harness.send(PROMPT, 3, grammar=grammar)
        harness.run()
        ending = harness.endings[uid]
        assert ending.reason is FinishReason.ERROR
        assert ending.error is not None
        assert (ending.error.status, ending.error.code, ending.error.param) == (400, "invalid_grammar", "grammar")
        assert re.search(words, ending.error.message)


def test_without_grammars_a_constrained_request_is_refused() -> None:
    harness = Harness()
    uid = harness.send(PROMPT, 3, grammar=regex("a"))
    harness.run()
    assert harness.endings[uid].error is not None
    assert harness.endings[uid].error.code == "unsupported"


def test_a_matcher_that_fails_ends_its_request_alone() -> None:
    harness = make_harness()
    uid = harness.send(PROMPT, 50, grammar=regex("[a-z]{40}"))
    other = harness.send(PROMPT[::-1], 50, grammar=regex("[a-z]{40}"))
    for _ in range(5):
        harness.step()
    row = harness.scheduler.running.rows[ReqKey(uid)]
    matcher = harness.scheduler.running.table.req(row).matcher
    assert matcher is not None
    matcher.take(EOS_ID)
    assert matcher.error is not None
    harness.run()
    assert harness.endings[uid].error is not None
    assert harness.endings[uid].error.status == 400
    assert harness.endings[uid].error.code == "grammar_error"
    assert len(harness.outputs[other]) == 41


def test_the_trace_tells_times_and_sizes_and_no_text() -> None:
    harness = make_harness()
    harness.send(PROMPT, 5, grammar=regex("secretword"))
    harness.send(PROMPT, 5)
    harness.run()
    (constrained,) = harness.events_of(events.ReqConstrained)
    assert isinstance(constrained, events.ReqConstrained)
    assert (constrained.kind, constrained.num_bytes) == ("regex", 10)
    assert constrained.start_ns <= constrained.end_ns
    masked = [event for event in harness.events_of(events.BatchMasked) if isinstance(event, events.BatchMasked)]
    assert [event.num_rows for event in masked] == [1] * 5
    assert all(event.start_ns <= event.ns for event in masked)
    assert b"secret" not in b"".join(repr(event).encode() for event in harness.recorder.events)

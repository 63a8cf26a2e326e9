"""OTLP: one trace a request, whose spans form a tree; the same in protobuf and in both forms of JSON."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from learnsgl.export import export_trace
from learnsgl.trace import events as ev
from learnsgl.trace.lives import requests
from learnsgl.trace.manifest import read_manifest
from learnsgl.trace.reader import Trace
from tests.export.recordings import ANSWER, PROMPT, SORTS
from tests.trace.story import UID, i4, i8, tell, write

STAGE_NAMES = ("received", "tokenized", "queued", "prefilled", "decoded", "detokenized", "replied", "ended")


def exported(trace: Trace, **options: bool) -> ExportTraceServiceRequest:
    stream = io.BytesIO()
    export_trace(trace, "otlp", stream, **options)
    request = ExportTraceServiceRequest()
    request.ParseFromString(stream.getvalue())
    return request


def spans_of(request: ExportTraceServiceRequest) -> list[tuple[dict[str, Any], trace_pb2.Span]]:
    """Each span with the attributes of its resource."""
    return [
        (attributes(part.resource), span)
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: value(each.value) for each in of.attributes}


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


def test_spans_are_trees_of_requests(trace: Trace) -> None:
    spans = [span for _, span in spans_of(exported(trace))]
    ids = {(span.trace_id, span.span_id) for span in spans}
    assert len(ids) == len(spans), "ids are unique"
    assert all(len(span.trace_id) == 16 and len(span.span_id) == 8 for span in spans)
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert not span.parent_span_id or (span.trace_id, span.parent_span_id) in ids
        assert all((link.trace_id, link.span_id) in ids for link in span.links)
    roots = [span for span in spans if not span.parent_span_id]
    uids = {life.key.uid for life in requests(trace)}
    assert {attributes(root)["learnsgl.uid"] for root in roots} == uids
    assert len({root.trace_id for root in roots}) == len(roots) == len(uids)


def test_the_stages_of_each_request_are_its_life_s(trace: Trace) -> None:
    told = sorted(
        (attributes(span)["learnsgl.uid"], attributes(span)["learnsgl.choice"], span.name)
        for _, span in spans_of(exported(trace))
        if span.kind == trace_pb2.Span.SPAN_KIND_INTERNAL
    )
    assert told == sorted((*life.key, stage.name) for life in requests(trace) for stage in life.stages if stage)


def test_the_root_has_the_names_of_the_conventions(story: Trace) -> None:
    ((resource, root),) = [each for each in spans_of(exported(story)) if not each[1].parent_span_id]
    assert root.name == "text_completion smollm2-135m"
    assert root.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert attributes(root) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "learnsgl",
        "gen_ai.request.model": "smollm2-135m",
        "gen_ai.response.model": "smollm2-135m",
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "text",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.response.time_to_first_chunk": 175e-9,
        "server.address": "127.0.0.1",
        "server.port": 8000,
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "learnsgl.uid": UID,
        "learnsgl.tpot_s": 100e-9,
    }
    assert [(event.name) for event in root.events] == ["first token"]
    assert resource["service.name"] == "learnsgl"
    assert resource["service.instance.id"] == story.manifest["run_id"]
    assert (resource["process.pid"], resource["learnsgl.process"], resource["learnsgl.role"]) == (100, "api", "api")


def test_moments_are_on_the_wall_clock(story: Trace) -> None:
    anchor = read_manifest(story.path)["clock"]
    (root,) = [span for _, span in spans_of(exported(story)) if not span.parent_span_id]
    assert root.start_time_unix_nano == anchor["time_ns"] + 100 - anchor["monotonic_ns"]
    assert root.end_time_unix_nano - root.start_time_unix_nano == 301


def test_each_process_has_the_spans_of_its_work(story: Trace) -> None:
    found = {(resource["learnsgl.process"], span.name) for resource, span in spans_of(exported(story))}
    stages = dict(
        zip(STAGE_NAMES, ("api", "tokenizer-0", *["scheduler-0"] * 3, "detokenizer", "api", "api"), strict=True)
    )
    wanted = {(process, name) for name, process in stages.items()}
    wanted |= {("tokenizer-0", "TokenizeMsg"), ("scheduler-0", "UserMsg"), ("detokenizer", "DetokenizeMsg")}
    assert found == wanted | {("api", "UserReply"), ("api", "text_completion smollm2-135m")}


def test_a_message_links_to_the_one_that_caused_it(story: Trace) -> None:
    spans = [span for _, span in spans_of(exported(story))]
    names = {span.span_id: span.name for span in spans}
    causes = {(span.name, names[link.span_id]) for span in spans for link in span.links}
    assert causes == {
        ("UserMsg", "TokenizeMsg"), ("DetokenizeMsg", "UserMsg"), ("UserReply", "DetokenizeMsg")
    }  # fmt: skip
    (sent,) = [span for span in spans if span.name == "UserMsg"]
    assert sent.end_time_unix_nano - sent.start_time_unix_nano == 10
    assert attributes(sent)["messaging.destination.name"] == "scheduler"


def test_ids_are_the_run_s_and_the_request_s(story: Trace, tmp_path: Path) -> None:
    def ids(trace: Trace) -> set[bytes]:
        return {span.trace_id for _, span in spans_of(exported(trace))}

    assert ids(story) == ids(story)
    assert ids(story) != ids(Trace.open(write(tmp_path, tell()))), "another run"


def test_why_a_request_waited_is_on_its_queued_span(tmp_path: Path) -> None:
    story = tell()
    waits = [("prefix", UID), ("prefix", UID), ("pages", None), ("prefix", UID)]
    story["scheduler-0"][6:6] = [
        ev.ReqQueued(161, 8, 0, 2, 3, 5, None),
        *(ev.SchedBlocked(162 + at, 1, 8, 0, why, 0, 3, 13, 0, 5, other) for at, (why, other) in enumerate(waits)),
        ev.SchedAdmitted(167, 1, i8(8), i4(0), i4(1), i4(0), i8(0), i4(5)),
    ]
    trace = Trace.open(write(tmp_path, story))
    spans = [span for _, span in spans_of(exported(trace)) if attributes(span)["learnsgl.uid"] == 8]
    (queued,) = [span for span in spans if span.name == "queued"]
    assert [event.name for event in queued.events] == ["blocked: prefix", "blocked: pages", "blocked: prefix"]
    assert attributes(queued.events[1]) == {
        "learnsgl.step": 1, "learnsgl.needed": 3, "learnsgl.free": 13, "learnsgl.evictable": 0, "learnsgl.promised": 5
    }  # fmt: skip
    (link,) = queued.links
    (root,) = [
        span
        for _, span in spans_of(exported(trace))
        if not span.parent_span_id and attributes(span)["learnsgl.uid"] == UID
    ]
    assert (link.trace_id, link.span_id) == (root.trace_id, root.span_id)


def test_an_error_is_the_span_s_status(tmp_path: Path) -> None:
    trace = Trace.open(SORTS["choices"](tmp_path))
    (root,) = [span for _, span in spans_of(exported(trace)) if not span.parent_span_id]
    assert root.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert attributes(root)["error.type"] == root.status.message == "engine_error"
    assert attributes(root)["gen_ai.response.finish_reasons"] == ["length", "error"]
    assert attributes(root)["gen_ai.request.choice.count"] == 2


def parsed(line: str | dict[str, Any]) -> ExportTraceServiceRequest:
    """OTLP's JSON, read by protobuf's parser, which wants ids in base64."""
    fields = json.loads(line) if isinstance(line, str) else line

    def to_base64(item: Any) -> None:
        if isinstance(item, dict):
            for key in ("traceId", "spanId", "parentSpanId"):
                if key in item:
                    item[key] = base64.b64encode(bytes.fromhex(item[key])).decode()
            item = list(item.values())
        if isinstance(item, list):
            for each in item:
                to_base64(each)

    to_base64(fields)
    return json_format.ParseDict(fields, ExportTraceServiceRequest())


@pytest.mark.parametrize("name", ["x.json", "x.otlp.json", "x.jsonl"])
def test_json_says_the_same(trace: Trace, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    export_trace(trace, "otlp", path)
    text = path.read_text("utf-8")
    lines = [text] if name.endswith(".json") else text.splitlines()
    told = [each for line in lines for each in spans_of(parsed(line))]
    assert told == spans_of(exported(trace))


def test_json_may_be_asked_for(story: Trace) -> None:
    stream = io.BytesIO()
    export_trace(story, "otlp", stream, as_json=True)
    span = json.loads(stream.getvalue())["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert len(bytes.fromhex(span["traceId"])) == 16
    assert isinstance(span["kind"], int)
    assert isinstance(span["startTimeUnixNano"], str), "JSON's numbers are too small for nanoseconds"


def test_text_is_there_only_where_it_is_asked_for(spoken: Trace) -> None:
    (root,) = [span for _, span in spans_of(exported(spoken)) if not span.parent_span_id]
    assert not any(name.startswith("learnsgl.prompt") for name in attributes(root))
    (root,) = [span for _, span in spans_of(exported(spoken, with_text=True)) if not span.parent_span_id]
    assert attributes(root)["learnsgl.prompt"] == PROMPT
    assert attributes(root)["learnsgl.answers"] == ["".join(ANSWER)]

"""OpenTelemetry's protocol, OTLP: spans as an ExportTraceServiceRequest, in protobuf or in JSON.

`formats.py` calls `write_otlp`. Collectors, Jaeger and Grafana Tempo take the file; docs/exports.md says how.

Source: the OpenTelemetry Protocol specification, and "OpenTelemetry Protocol File Exporter" for JSON lines.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from learnsgl import __version__
from learnsgl.export.output import Writable
from learnsgl.export.recording import Facts, Progress, facts_of, read_through
from learnsgl.export.spans import Attribute, Span, SpanKind, SpanStream
from learnsgl.trace.reader import Trace

_BATCH_SPANS = 512
_KINDS = {
    SpanKind.INTERNAL: trace_pb2.Span.SPAN_KIND_INTERNAL, SpanKind.SERVER: trace_pb2.Span.SPAN_KIND_SERVER,
    SpanKind.CONSUMER: trace_pb2.Span.SPAN_KIND_CONSUMER,
}  # fmt: skip


class OtlpForm(Enum):
    """How the requests are written down."""

    PROTOBUF = "protobuf"
    """One message; its parts follow each other."""
    JSON = "json"
    """One JSON object."""
    JSON_LINES = "json lines"
    """A JSON object a line, as the collector's file exporter writes and its file receiver reads."""


def write_otlp(
    trace: Trace, output: Writable, form: OtlpForm, *, with_text: bool = False, progress: Progress | None = None
) -> None:
    """Write a trace's requests as OTLP spans, some hundreds at a time."""
    facts = facts_of(trace)
    spans = SpanStream(trace, facts, with_text=with_text)
    batches = _Batches(trace, facts, output, form)
    for span in read_through(trace, spans.take, progress):
        batches.add(span)
    for span in spans.rest():
        batches.add(span)
    batches.close()


class _Batches:
    """Gathers spans by the process that did them, and writes a request when there are enough."""

    def __init__(self, trace: Trace, facts: Facts, output: Writable, form: OtlpForm) -> None:
        self._trace = trace
        self._facts = facts
        self._output = output
        self._form = form
        self._resources: dict[str | None, Resource] = {}
        self._spans: dict[str | None, list[Span]] = {}
        self._num_spans = 0
        self._num_parts = 0

    def add(self, span: Span) -> None:
        """Take a span over."""
        self._spans.setdefault(span.process, []).append(span)
        self._num_spans += 1
        if self._num_spans >= _BATCH_SPANS:
            self._write()

    def close(self) -> None:
        """Write the rest."""
        if self._spans:
            self._write()
        if self._form is OtlpForm.JSON:
            self._output.write(b"]}\n" if self._num_parts else b'{"resourceSpans":[]}\n')

    def _write(self) -> None:
        request = ExportTraceServiceRequest()
        for process, spans in self._spans.items():
            part = request.resource_spans.add(resource=self._resource(process))
            scope = part.scope_spans.add()
            scope.scope.name, scope.scope.version = "learnsgl", __version__
            scope.spans.extend(self._encoded(span) for span in spans)
        self._spans, self._num_spans = {}, 0
        if self._form is OtlpForm.PROTOBUF:
            self._output.write(request.SerializeToString())
        else:
            self._write_json(_as_json(request))
        self._num_parts += 1

    def _write_json(self, request: dict[str, Any]) -> None:
        if self._form is OtlpForm.JSON_LINES:
            self._output.write(msgspec.json.encode(request) + b"\n")
            return
        parts = msgspec.json.encode(request["resourceSpans"])[1:-1]
        self._output.write((b"," if self._num_parts else b'{"resourceSpans":[') + parts)

    def _resource(self, process: str | None) -> Resource:
        if process not in self._resources:
            self._resources[process] = self._new_resource(process)
        return self._resources[process]

    def _new_resource(self, process: str | None) -> Resource:
        attributes: dict[str, Attribute] = {
            "service.name": "learnsgl", "service.version": str(self._version()),
            "service.instance.id": self._facts.run_id, "learnsgl.level": str(self._facts.level or "unknown"),
        }  # fmt: skip
        if process is not None:
            attributes["learnsgl.process"] = process
            for name, key in (("learnsgl.role", "role"), ("process.pid", "pid")):
                fact = self._trace.process(process).fact(key)
                if isinstance(fact, (str, int)):
                    attributes[name] = fact
        return Resource(attributes=_key_values(attributes))

    def _version(self) -> object:
        versions = self._trace.manifest.get("versions")
        return versions.get("learnsgl", "unknown") if isinstance(versions, dict) else "unknown"

    def _encoded(self, span: Span) -> trace_pb2.Span:
        made = trace_pb2.Span(
            trace_id=span.trace_id, span_id=span.span_id, parent_span_id=span.parent_id or b"", name=span.name,
            kind=_KINDS[span.kind], start_time_unix_nano=self._facts.unix_ns(span.start_ns),
            end_time_unix_nano=self._facts.unix_ns(span.end_ns), attributes=_key_values(span.attributes),
        )  # fmt: skip
        for link in span.links:
            made.links.add(trace_id=link.trace_id, span_id=link.span_id)
        for name, ns, attributes in span.happenings:
            moment = self._facts.unix_ns(ns)
            made.events.add(name=name, time_unix_nano=moment, attributes=_key_values(attributes))
        if span.error is not None:
            made.status.code = trace_pb2.Status.STATUS_CODE_ERROR
            made.status.message = span.error
        return made


def _key_values(attributes: dict[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_any_value(value)) for name, value in attributes.items()]


def _any_value(value: Attribute) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))


def _as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """OTLP's JSON form: protobuf's, but with ids in hexadecimal, and enums as numbers."""
    fields: dict[str, Any] = json_format.MessageToDict(request, use_integers_for_enums=True)
    for part, told in zip(fields.get("resourceSpans", []), request.resource_spans, strict=True):
        for span, message in zip(part["scopeSpans"][0]["spans"], told.scope_spans[0].spans, strict=True):
            span["traceId"], span["spanId"] = message.trace_id.hex(), message.span_id.hex()
            if message.parent_span_id:
                span["parentSpanId"] = message.parent_span_id.hex()
            for link, target in zip(span.get("links", []), message.links, strict=True):
                link["traceId"], link["spanId"] = target.trace_id.hex(), target.span_id.hex()
    return fields

"""Recordings in the formats of other tools: Perfetto, Chrome, OpenTelemetry, Parquet and JSON lines.

`learnsgl trace export` and notebooks call `export_trace`. The room reads traces and nothing else; the server never
imports it. docs/exports.md says how to open each format.
"""

from learnsgl.export.formats import ExportFormat, export_trace, notes_of

__all__ = ["ExportFormat", "export_trace", "notes_of"]

"""Recording a running server for a while: `/trace/start`, `/trace/stop` and `/trace/status`.

The API process makes the run's folder, begins to record, and tells the workers through their control pipes; each
follows at its next turn. The scheduler begins with a keyframe of its whole state, so that the recording can be replayed
from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from learnsgl.config import Config, TraceLevel
from learnsgl.errors import RequestError
from learnsgl.message.mailbox import TRACE_STOP_WORD, trace_start_word
from learnsgl.server.processes import Child
from learnsgl.trace.manifest import create_run, update_manifest
from learnsgl.trace.recorder import Recorder, begin_recording

_log = logging.getLogger(__name__)


class TraceControl:
    """Begins and ends recordings of a running server.

    Args:
        config: every option; `--trace` says where recordings go.
        command: the command line, for the manifests.
        facts: what the manifest tells of model, engine and URL.
        recorder: the API process's.
        children: the workers.
        folder: the run that is being recorded since the server's start, if one is.
        flush: records what the API process has gathered.
    """

    def __init__(
        self, config: Config, command: Sequence[str], facts: dict[str, Any], recorder: Recorder,
        children: Callable[[], Sequence[Child]], folder: Path | None, flush: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._config = config
        self._command = list(command)
        self._facts = facts
        self._recorder = recorder
        self._children = children
        self._flush = flush
        self._folder = folder
        self._level = config.trace.trace_level
        self._since_ns = time.monotonic_ns()
        self._is_late = False

    def status(self) -> dict[str, Any]:
        """Whether a recording runs, where, at which level, and since when."""
        if self._folder is None:
            return {"recording": False, "path": None, "level": None, "seconds": None}
        seconds = round((time.monotonic_ns() - self._since_ns) / 1e9, 3)
        return {"recording": True, "path": str(self._folder), "level": self._level.value, "seconds": seconds}

    def start(self, level: TraceLevel) -> dict[str, Any]:
        """Begin to record.

        Raises:
            RequestError: the server has no folder for recordings, or records already.
        """
        root = self._config.trace.trace
        if root is None:
            raise RequestError(
                "the server has no folder for recordings; start it with --trace DIR --trace-level off",
                status=409, code="no_trace_folder",
            )  # fmt: skip
        if self._folder is not None:
            raise RequestError("the server records already; stop that recording first", status=409, code="recording")
        config = replace(self._config, trace=replace(self._config.trace, trace_level=level))
        folder = create_run(root, config.to_json(), self._command)
        update_manifest(folder, **self._facts)
        begin_recording(self._recorder, folder, config.trace, "api", "api", late=True)
        self._tell(trace_start_word(folder, level))
        self._folder, self._level, self._since_ns, self._is_late = folder, level, time.monotonic_ns(), True
        _log.info("recording at level %s in %s", level.value, folder)
        return self.status()

    def stop(self) -> dict[str, Any]:
        """End the recording.

        Raises:
            RequestError: none runs.
        """
        if self._folder is None:
            raise RequestError("the server doesn't record; start that first", status=409, code="not_recording")
        ended = self.status() | {"recording": False}
        self._tell(TRACE_STOP_WORD)
        self._flush()
        self._recorder.close(in_order=False)
        update_manifest(self._folder, state="stopped")
        _log.info("the recording in %s has ended", self._folder)
        self._folder = None
        return ended

    def close(self) -> None:
        """The server ends: so does a recording that was begun while it ran."""
        if self._folder is not None and self._is_late:
            update_manifest(self._folder, state="ended")

    def _tell(self, word: bytes) -> None:
        for child in self._children():
            child.say(word)

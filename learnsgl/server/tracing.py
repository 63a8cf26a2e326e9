"""Recording a running server for a while: `/trace/start`, `/trace/stop` and `/trace/status`.

The API process makes the run's folder, begins to record, and tells the workers through their control pipes; each
follows at its next turn and says so with a beat. The scheduler begins with a keyframe of its whole state, so that the
recording can be replayed from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from learnsgl.config import Config, TraceLevel
from learnsgl.errors import FolderError, RequestError, TraceFormatError
from learnsgl.message.mailbox import TRACE_STOP_WORD, trace_start_word
from learnsgl.server.processes import Child
from learnsgl.server.watchdog import Beat
from learnsgl.trace.manifest import RunState, create_run, read_manifest, run_id_of, update_manifest
from learnsgl.trace.recorder import Recorder, begin_recording

WORKERS_WAIT_S = 3.0
"""How long an answer waits for workers that are in the middle of something."""
_LOOK_AGAIN_S = 0.01

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
        beats: what each worker has said last of itself, by its name.
        wait_s: how long an answer waits for the workers.
    """

    def __init__(
        self, config: Config, command: Sequence[str], facts: dict[str, Any], recorder: Recorder,
        children: Callable[[], Sequence[Child]], folder: Path | None, flush: Callable[[], None] = lambda: None,
        beats: Callable[[], Mapping[str, Beat]] = dict, wait_s: float = WORKERS_WAIT_S,
    ) -> None:  # fmt: skip
        self._config = config
        self._command = list(command)
        self._facts = facts
        self._recorder = recorder
        self._children = children
        self._flush = flush
        self._beats = beats
        self._wait_s = wait_s
        self._folder = folder
        self._run_id = None if folder is None else run_id_of(folder)
        self._level = config.trace.trace_level
        self._since_ns = time.monotonic_ns()
        self._is_late = False
        self._one_at_a_time = asyncio.Lock()

    def status(self) -> dict[str, Any]:
        """Whether a recording runs, where, at which level and since when, and what is wrong with it.

        `pending` names the processes whose parts have not begun, or not ended, although they were told; `failing` says
        which process can't write its part at this moment, and why; `lost_events` counts what is missing for that.
        """
        about: dict[str, Any] = {"recording": False, "path": None, "level": None, "seconds": None}
        if self._folder is not None:
            seconds = round((time.monotonic_ns() - self._since_ns) / 1e9, 3)
            about = {"recording": True, "path": str(self._folder), "level": self._level.value, "seconds": seconds}
        return about | self._parts()

    def _parts(self) -> dict[str, Any]:
        """How far the processes' parts of the recording are."""
        recorder = self._recorder
        own = Beat(0, False, recorder.run_id, recorder.failure, recorder.num_lost)
        beats = {name: beat for name, beat in {"api": own, **self._beats()}.items() if beat.run_id is not None}
        return {
            "pending": self._pending(),
            "failing": {name: beat.trace_failure for name, beat in beats.items() if beat.trace_failure is not None},
            "lost_events": sum(beat.num_lost_events for beat in beats.values()),
        }

    def _pending(self) -> list[str]:
        beats = self._beats()
        names = [child.name for child in self._children()]
        return [name for name in names if name not in beats or beats[name].run_id != self._run_id]

    async def start(self, level: TraceLevel) -> dict[str, Any]:
        """Begin to record. Returns `status` once every process records, or after a while without those that don't yet.

        Raises:
            RequestError: the server has no folder for recordings, can't write there, or records already.
        """
        async with self._one_at_a_time:
            root = self._config.trace.trace
            if root is None:
                raise RequestError(
                    "the server has no folder for recordings; start it with --trace DIR --trace-level off",
                    status=409, code="no_trace_folder",
                )  # fmt: skip
            if self._folder is not None:
                raise RequestError(
                    "the server records already; stop that recording first", status=409, code="recording"
                )
            config = replace(self._config, trace=replace(self._config.trace, trace_level=level))
            try:  # on a thread: it looks versions and hardware up, and requests are not to wait for that
                folder = await asyncio.to_thread(create_run, root, config.to_json(), self._command)
            except FolderError as error:
                raise RequestError(str(error), status=503, code="trace_folder") from error
            update_manifest(folder, **self._facts)
            begin_recording(self._recorder, folder, config.trace, "api", "api", late=True)
            self._tell(trace_start_word(folder, level))
            self._folder, self._run_id, self._level = folder, run_id_of(folder), level
            self._since_ns, self._is_late = time.monotonic_ns(), True
            _log.info("recording at level %s in %s", level.value, folder)
            await self._wait_for_workers()
            return self.status()

    async def stop(self) -> dict[str, Any]:
        """End the recording. Returns what `status` said, once every process has closed its part, or after a while.

        Raises:
            RequestError: none runs.
        """
        async with self._one_at_a_time:
            if self._folder is None:
                raise RequestError("the server doesn't record; start that first", status=409, code="not_recording")
            ended, folder = self.status() | {"recording": False}, self._folder
            self._tell(TRACE_STOP_WORD)
            self._flush()
            self._recorder.close(in_order=False)
            self._folder = self._run_id = None
            ended["pending"] = await self._wait_for_workers()
            update_manifest(folder, state=RunState.STOPPED)
            _log.info("the recording in %s has ended", folder)
            return ended

    async def _wait_for_workers(self) -> list[str]:
        """Wait until every worker has done as it was told. Returns the names of those that haven't yet."""
        deadline = time.monotonic() + self._wait_s
        while (pending := self._pending()) and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_AGAIN_S)
        if pending:
            _log.warning("%s will begin or end the recording later: busy with something else", ", ".join(pending))
        return pending

    def close(self) -> None:
        """The server ends: so does a recording that was begun while it ran."""
        if self._folder is not None and self._is_late:
            update_manifest(self._folder, state=RunState.ENDED)

    def _tell(self, word: bytes) -> None:
        for child in self._children():
            child.say(word)


def is_stopped(folder: Path) -> bool:
    """Whether the recording in this folder was ended while the server ran."""
    with contextlib.suppress(OSError, TraceFormatError):
        return bool(read_manifest(folder).get("state") == RunState.STOPPED)
    return False

"""The offline API's recording: one process, `llm`, with every job's events in it, in the server's format.

`start.py` opens it and the pipeline closes it. Without `trace=DIR` it records nothing.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from learnsgl.config import Config, TraceLevel
from learnsgl.errors import LearnsglError
from learnsgl.trace.index import ALL_ROLES
from learnsgl.trace.manifest import create_run, update_manifest
from learnsgl.trace.recorder import open_recorder

PROCESS = "llm"


class Recording:
    """One run's recording, or none.

    Attributes:
        folder: the run's folder; `None` where nothing is recorded.
        recorder: takes the events.
        run_key: key of the digests of content; never written.
    """

    def __init__(self, config: Config) -> None:
        """Begin to record.

        Raises:
            FolderError: the folder can't be made or written.
        """
        root = None if config.trace.trace_level is TraceLevel.OFF else config.trace.trace
        # not the process's command line: it may hold prompts, which belong into no trace below level `tokens`
        command = [f"learnsgl.llm.LLM({config.engine.model!r})"]
        self.folder: Path | None = None if root is None else create_run(root, config.to_json(), command)
        self.recorder = open_recorder(self.folder, config.trace, PROCESS, ALL_ROLES)
        self.run_key = secrets.token_bytes(16)

    def tell(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        if self.folder is not None:
            update_manifest(self.folder, **facts)

    def close(self, *, in_order: bool, error: BaseException | None = None) -> None:
        """Write the last events. Where the run broke, the recording stops without the process's last event."""
        self.recorder.close(in_order=in_order)
        if in_order:
            self.tell(state="ended", exit_code=0)
        elif isinstance(error, LearnsglError):
            self.tell(state="failed", exit_code=error.exit_code, error=str(error))
        else:
            self.tell(state="failed", error=type(error).__name__ if error else "the engine failed")

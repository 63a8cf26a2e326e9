"""Executors for the offline API's tests: the servers' echo, one that is interrupted, and one that breaks."""

from __future__ import annotations

import signal
from pathlib import Path

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.scheduler.executor import StepResult
from tests.server.echo_executor import CONTEXT_LEN, EchoExecutor, EchoTicket

ECHO = "tests.server.echo_executor:create_echo_executor"
INTERRUPTED = "tests.llm.echo:create_interrupted"
INTERRUPTED_STEP = 5


class InterruptedExecutor(EchoExecutor):
    """Ctrl-C comes while the fifth step is collected."""

    def collect(self, ticket: EchoTicket) -> StepResult:
        if ticket.number == INTERRUPTED_STEP:
            signal.raise_signal(signal.SIGINT)
        return super().collect(ticket)


def create_interrupted(folder: Path, name: str, engine: EngineConfig, scheduler: SchedulerConfig) -> EchoExecutor:
    return InterruptedExecutor(4096, engine.page_size, 0.0, CONTEXT_LEN)

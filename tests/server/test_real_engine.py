"""The whole server with the real engine on the small random model: the same command that a user types."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from learnsgl.trace import events
from tests.server.conftest import Starter, check_trace
from tests.server.running import MODEL, RunningServer

OPTIONS = ("--num-pages", "4096", "--num-threads", "1", "--max-prefill-length", "64")


def ask(server: RunningServer, prompt: str, **options: object) -> tuple[str, int]:
    answer = server.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=24, **options
    )  # type: ignore[call-overload]
    return answer.choices[0].message.content, answer.usage.prompt_tokens_details.cached_tokens


@pytest.mark.parametrize(
    "more", [(), ("--num-tokenizer", "0", "--no-overlap", "--policy", "mixed", "--page-size", "16")]
)
def test_answers_do_not_hang_on_the_neighbours(start: Starter, more: tuple[str, ...]) -> None:
    server = start(*OPTIONS, *more, echo=False)
    assert MODEL in server.ready_line, server.log
    prompts = ["Hello!", "How are you today? " * 20, "Tell me " + "more and " * 30]
    alone = [ask(server, prompt, temperature=0) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda prompt: ask(server, prompt, temperature=0), prompts))
        seeded = list(pool.map(lambda prompt: ask(server, prompt, temperature=1, seed=7), prompts))
    assert [text for text, _ in together] == [text for text, _ in alone]
    assert [text for text, _ in seeded] == [ask(server, prompt, temperature=1, seed=7)[0] for prompt in prompts]
    assert all(cached > 0 for _, cached in together), "their prompts were in the cache"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    trace = check_trace(server)
    steps = [entry.event for entry in trace.events("scheduler-0") if isinstance(entry.event, events.SchedStep)]
    assert max(step.num_prefill for step in steps) >= 1
    phases = {entry.event.phase for entry in trace.events() if isinstance(entry.event, events.ProcessPhase)}
    assert {"resolve_model", "start_workers", "start_process", "load_weights", "load_tokenizer"} <= phases

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
    check_every_sampling_field(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.left_behind() == []
    trace = check_trace(server)
    steps = [entry.event for entry in trace.events("scheduler-0") if isinstance(entry.event, events.SchedStep)]
    assert max(step.num_prefill for step in steps) >= 1
    phases = {entry.event.phase for entry in trace.events() if isinstance(entry.event, events.ProcessPhase)}
    assert {"resolve_model", "start_workers", "start_process", "load_weights", "load_tokenizer"} <= phases


def check_every_sampling_field(server: RunningServer) -> None:
    """Fields that only a real sampler honours."""

    def complete(**fields: object) -> str:
        options: dict[str, object] = {"temperature": 0, "max_tokens": 6} | fields
        extra = {name: options.pop(name) for name in ("min_p", "repetition_penalty", "min_tokens") if name in options}
        answer = server.openai().completions.create(model=MODEL, prompt="AAB", extra_body=extra, **options)  # type: ignore[call-overload]
        return str(answer.choices[0].text)

    assert complete(logit_bias={"90": 100}) == "Z" * 6
    favoured = {"90": 50, "89": 45}
    assert set(complete(logit_bias=favoured)) == {"Z"}
    assert set(complete(logit_bias=favoured, frequency_penalty=2)) == {"Y", "Z"}
    assert complete(logit_bias={"65": 50, "90": 40}, repetition_penalty=100)[0] == "Z", "A stands in the prompt"
    assert complete(logit_bias={"257": 100}) == ""
    assert len(complete(logit_bias={"257": 100, "90": 90}, min_tokens=3)) == 3
    plain = complete()
    assert complete(temperature=2, seed=1, min_p=1.0) == plain, "only the likeliest is left"
    check_choices(server)
    fields = {"temperature": 1, "seed": 3, "frequency_penalty": 1, "repetition_penalty": 1.5, "min_p": 0.01}
    with ThreadPoolExecutor(4) as pool:
        others = [{"presence_penalty": 2, "temperature": 1}, {"logit_bias": {"70": 9}}, {"max_tokens": 30}]
        together = [pool.submit(complete, **options) for options in (fields, *others)]
        assert together[0].result() == complete(**fields)


def check_choices(server: RunningServer) -> None:
    """Each choice has random numbers of its own, which hang on the seed and its number alone."""

    def choices(n: int, stream: bool) -> list[str]:
        answer = server.openai().completions.create(
            model=MODEL, prompt="Once upon a time, there was " * 4, n=n, seed=11, max_tokens=12, stream=stream
        )
        texts = [""] * n
        for choice in (choice for chunk in (answer if stream else [answer]) for choice in chunk.choices):  # type: ignore[union-attr]
            texts[choice.index] += choice.text
        return texts

    five = choices(5, stream=False)
    assert len(set(five)) == 5
    assert choices(5, stream=True) == five
    assert choices(2, stream=True) == five[:2]

"""What a load benchmark was asked for, as plain data; the report holds it.

`options.py` makes it from a command line. Neither the key nor the address of a server is in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from learnsgl.bench.online.arrivals import Arrivals
from learnsgl.bench.online.results import Limits, Load
from learnsgl.bench.workload import Lengths


class Endpoint(StrEnum):
    """Which of OpenAI's routes is asked."""

    CHAT = "chat"
    COMPLETIONS = "completions"

    @property
    def path(self) -> str:
        """Its path."""
        return "/v1/chat/completions" if self is Endpoint.CHAT else "/v1/completions"


class PromptForm(StrEnum):
    """How prompts that are made up are sent."""

    AUTO = "auto"
    """As ids where the server takes them."""
    IDS = "ids"
    TEXT = "text"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured.

    Attributes:
        own_server: whether the benchmark started the server itself.
        model: as it was given; `None`: the server's first, or the built-in one.
        endpoint: which route.
        prompt_form: how made-up prompts are sent.
        vocab_size: ids of made-up prompts lie below it; `None`: found out by asking.
        loads: one run each.
        arrivals, burstiness: of an open loop.
        num_requests: of each run; `None` where a replayed workload says it.
        max_in_flight: most requests at once of an open loop; `None`: no limit.
        input_len, output_len: lengths of made-up prompts and of the answers to them.
        prefix_len, num_prefixes: tokens ahead of made-up prompts that they share, and how many such prefixes there are.
        prompts, workload: names of the files that prompts or arrivals come from; `None` where they are made up.
        ignore_eos: whether answers go on to their full length.
        temperature: of the sampling; `None` leaves it to the server.
        extra_body: more fields of every request.
        plain_share: of made-up requests and of those of a file, how many ask for no stream.
        probes: routes that are asked again and again meanwhile.
        timeout_s: after so long a request counts as failed.
        warm_up: requests ahead of the first run, which don't count.
        seed: of prompts and arrivals.
        limits: for goodput.
    """

    own_server: bool
    model: str | None
    endpoint: Endpoint
    prompt_form: PromptForm
    vocab_size: int | None
    loads: list[Load]
    arrivals: Arrivals
    burstiness: float
    num_requests: int | None
    max_in_flight: int | None
    input_len: Lengths
    output_len: Lengths
    prefix_len: int
    num_prefixes: int
    prompts: str | None
    workload: str | None
    ignore_eos: bool
    temperature: float | None
    extra_body: dict[str, Any]
    plain_share: float
    probes: list[str]
    timeout_s: float
    warm_up: int
    seed: int
    limits: Limits

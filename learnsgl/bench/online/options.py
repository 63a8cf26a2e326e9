"""The options of `learnsgl bench online`, declared; nothing is measured or imported for measuring here.

`bench/command.py` calls `add_online_options`. Options that contradict each other have no default, so that
`choices.py` sees which were given, and says what the others are.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from learnsgl.config import BUILT_IN_MODEL
from learnsgl.errors import OptionError

DEFAULT_RATES = [1.0, 2.0, 4.0]
DEFAULT_NUM_REQUESTS = 32
DEFAULT_PROBES = ("/health", "/v1/models")
_LOAD_TEXT = (
    "An open loop (--rate), a closed one (--concurrency), or a recorded workload (--workload); several values are "
    "measured one by one."
)


def add_online_options(parser: argparse.ArgumentParser) -> None:
    """Add all options."""
    _add_server(parser.add_argument_group("server"))
    _add_load(parser.add_argument_group("load", _LOAD_TEXT))
    _add_prompts(parser.add_argument_group("prompts"))
    group = parser.add_argument_group("results")
    group.add_argument(
        "--slo-ttft-ms",
        type=_positive_float,
        metavar="X",
        help="limit of the time to first token, for goodput: requests a second that meet all limits",
    )
    group.add_argument("--slo-tpot-ms", type=_positive_float, metavar="X", help="limit of the time of a further token")
    group.add_argument(
        "--probe", nargs="*", default=list(DEFAULT_PROBES), metavar="ROUTE",
        help="routes that another process asks ten times a second meanwhile, to see whether the server still answers "
        f"at once; without a route none is asked (default: {' '.join(DEFAULT_PROBES)})",
    )  # fmt: skip
    group.add_argument("--figure", type=Path, metavar="FILE", help="draw latency against load (.png, .svg or .pdf)")


def _add_server(group: Any) -> None:
    group.add_argument("--url", help="an OpenAI-compatible server (default: one is started, and ended)")
    group.add_argument(
        "--api-key",
        metavar="KEY",
        help="key that the server asks for; it isn't written down (default: $LEARNSGL_API_KEY, and with --url "
        "$OPENAI_API_KEY)",
    )
    group.add_argument("--model", help=f"its name (default: the server's first; for our own {BUILT_IN_MODEL})")
    group.add_argument(
        "--serve-options", default="", metavar="TEXT", help="options of learnsgl serve for our own, in one argument"
    )
    group.add_argument(
        "--endpoint",
        choices=("completions", "chat"),
        default="completions",
        help="route that is asked (default: completions)",
    )
    group.add_argument(
        "--timeout",
        type=_positive_float,
        default=600.0,
        metavar="S",
        help="seconds after which a request counts as failed (default: 600)",
    )


def _add_load(group: Any) -> None:
    group.add_argument(
        "--rate",
        type=_rate,
        nargs="+",
        metavar="X",
        help=f"requests a second; inf: all at once (default: {' '.join(f'{rate:g}' for rate in DEFAULT_RATES)})",
    )
    group.add_argument("--concurrency", type=_positive, nargs="+", metavar="N", help="requests at once")
    group.add_argument(
        "--workload",
        type=Path,
        metavar="FILE",
        help="from learnsgl trace workload: its arrivals, lengths, shared prefixes, and clients that go away",
    )
    group.add_argument(
        "--speed",
        type=_positive_float,
        nargs="+",
        metavar="X",
        help="of the workload's arrivals; 2 takes half the time (default: 1)",
    )
    group.add_argument(
        "--arrivals",
        choices=("poisson", "gamma", "constant"),
        help="gaps between requests of a rate: gamma makes bursts, see --burstiness (default: poisson)",
    )
    group.add_argument(
        "--burstiness",
        type=_positive_float,
        metavar="X",
        help="of gamma: below 1 bursts, 1 as poisson, above 1 more even (default: 0.5)",
    )
    group.add_argument(
        "--num-requests",
        type=_positive,
        metavar="N",
        help=f"of each run (default: {DEFAULT_NUM_REQUESTS}, or a file's)",
    )
    group.add_argument(
        "--max-in-flight",
        type=_positive,
        metavar="N",
        help="most requests at once of an open loop; others wait, and that counts (default: no limit)",
    )
    group.add_argument(
        "--warm-up", type=_natural, default=4, metavar="N", help="requests ahead, which don't count (default: 4)"
    )
    group.add_argument(
        "--plain-share",
        type=_share,
        metavar="X",
        help="of the requests, how many ask for no stream, 0 to 1 (default: 0)",
    )
    group.add_argument("--seed", type=_natural, default=0, metavar="N", help="of prompts and arrivals (default: 0)")


def _add_prompts(group: Any) -> None:
    group.add_argument("--input-len", metavar="N|N:N", help="tokens of a prompt (default: 128)")
    group.add_argument("--output-len", metavar="N|N:N", help="tokens of an answer (default: 64)")
    group.add_argument(
        "--prefix-len", type=_natural, metavar="N", help="tokens ahead of --input-len that prompts share (default: 0)"
    )
    group.add_argument("--num-prefixes", type=_positive, metavar="N", help="so many such prefixes (default: 1)")
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON lines: "text", or {"prompt": ...} or {"messages": ...}, with "max_tokens" if you like',
    )
    group.add_argument(
        "--prompt-form",
        choices=("auto", "ids", "text"),
        default="auto",
        help="made-up prompts: as token ids where the server takes them, or as text (default: auto)",
    )
    group.add_argument(
        "--vocab-size",
        type=_positive,
        metavar="N",
        help="ids of made-up prompts lie below it (default: found out by asking)",
    )
    group.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="have answers of full length; vLLM, SGLang and learnsgl know it (default: on)",
    )
    group.add_argument(
        "--temperature", type=_temperature, default=0.0, metavar="X", help="of the sampling (default: 0)"
    )
    group.add_argument("--extra-body", default="{}", metavar="JSON", help="more fields of every request")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"{text!r} was given where a whole number of at least 1 is expected; see --help")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise OptionError(f"{text!r} was given where a whole number of at least 0 is expected; see --help")
    return int(text)


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise OptionError(f"{text!r} was given where a number above 0 is expected; see --help")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise OptionError(f"{text!r} was given where a share from 0 to 1 is expected; see --help")
    return value


def _temperature(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else _positive_float(text)


def _rate(text: str) -> float:
    return math.inf if text.lower() == "inf" else _positive_float(text)

"""Every option of the server: its default, its unit, its allowed values and its help text, each written once.

One frozen dataclass an area. `options.py` makes the command line from them, `launch.py` hands each process the areas
that it needs, and the manifest of a trace records them whole. Environment variables are read here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from learnsgl.errors import FolderError, OptionError
from learnsgl.option_field import check_value, flag_of, option

BUILT_IN_MODEL = "smollm2-135m"
SECRET = "(secret)"
"""What stands in the place of a secret option's value."""
DUMMY_PREFIX = "dummy:"
"""Before the name of a shape, in `--model`: a model of that shape with random weights."""


class TraceLevel(StrEnum):
    """How much of what happens is recorded. Each level holds all of the one before it."""

    OFF = "off"
    STEPS = "steps"
    FULL = "full"
    TOKENS = "tokens"


@dataclass(frozen=True)
class ServerConfig:
    """Where the API server listens, and which processes stand behind it."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens the server to the network")
    port: int = option(8000, "TCP port of the HTTP API; 0 takes a free one", minimum=0, maximum=65535)
    num_tokenizer: int = option(
        1, "tokenizer worker processes; 0 shares one process with the detokenizer", minimum=0, maximum=64
    )
    start_timeout_s: float = option(600.0, "seconds that the workers may take to get ready", above=0)
    drain_timeout_s: float = option(
        30.0, "seconds that running requests may take to end after Ctrl-C or SIGTERM", minimum=0
    )
    max_queue: int | None = option(
        None, "answers that may wait for their first token; a request beyond them is refused with status 429", minimum=1
    )
    max_body_mib: float = option(
        8.0,
        "MiB that the body of a request may have; a longer one is refused with status 413",
        above=0,
        maximum=15,
    )
    max_choices: int = option(
        128, "most answers to one prompt that a request may ask for with n", minimum=1, maximum=128
    )
    api_key: str | None = option(
        None,
        "key that clients must send (Authorization: Bearer KEY). Other users of the machine see command lines: "
        "--api-key-file and $LEARNSGL_API_KEY keep it from them. By default none is asked for",
        metavar="KEY",
        secret=True,
    )
    api_key_file: Path | None = option(
        None, "file whose first line is the key; nobody else should be able to read it", metavar="FILE"
    )
    request_timeout_s: float | None = option(
        None,
        "seconds that a request may take, waiting and answering; then it ends with status 504. By default no limit",
        flag="--request-timeout",
        above=0,
        metavar="SECONDS",
    )
    cors_origin: str | None = option(
        None,
        "origins whose web pages may use the API, such as http://localhost:3000, with commas between them; * allows "
        "all. By default browsers keep every other origin's pages out",
        metavar="ORIGIN[,ORIGIN]",
    )
    worker_timeout_s: float = option(
        60.0,
        "seconds that a worker process may give no sign of life, as when it was stopped by SIGSTOP, before it is "
        "killed and the server ends with an error. A long step is no silence: see --step-timeout-s",
        above=0,
    )
    step_timeout_s: float = option(
        600.0,
        "seconds that a worker may be busy with one thing, such as a step of the engine, before it counts as stuck and "
        "is killed, and the server ends with an error. Give more where a step of --max-prefill-length tokens can take "
        "so long. Loading the model doesn't count: see --start-timeout-s",
        above=0,
    )
    log_level: str = option("info", "least severe line that is logged", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True)
class EngineConfig:
    """The model, and the device that runs it."""

    model: str = option(
        BUILT_IN_MODEL,
        "a built-in model (smollm2-135m, tiny-random), a folder in Hugging Face's layout, a .gguf file, a "
        "repository id (org/name), or a shape with random weights, to measure speed (dummy:qwen3-0.6b, "
        "dummy:llama-3.1-8b)",
    )
    dummy_weights: bool = option(
        False,
        "random weights, from --seed, in the shapes that the config.json of --model says. Of the model's folder "
        "nothing else is needed: without a tokenizer.json, each byte of a text is a token",
    )
    served_model_name: str | None = option(None, "name that clients use for the model; by default --model's own")
    device: str = option("auto", "auto takes an NVIDIA GPU where there is one", choices=("auto", "cpu", "cuda"))
    dtype: str = option(
        "auto",
        "of weights, activations and KV cache; auto is float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = option(
        "none",
        "int8 keeps the weights of linear layers as 8-bit integers: on a CPU faster, smaller and a little less exact",
        choices=("none", "int8"),
    )
    attention_backend: str | None = option(
        None,
        "what attention is computed with: torch, triton or flashinfer (where that is installed), or two of them for "
        "prompts and for answers, as in triton,flashinfer. By default triton on a GPU and torch on a CPU",
        metavar="PREFILL[,DECODE]",
    )
    num_threads: int | None = option(
        None,
        "CPU threads of the engine; by default the cores that this process may use. Where other programs keep them "
        "busy, fewer can be faster: each operator waits for its slowest thread",
        minimum=1,
        maximum=1024,
    )
    max_model_len: int | None = option(
        None, "most tokens of one request, prompt and output; by default the model's context", minimum=2
    )
    page_size: int = option(1, "tokens a page of KV cache", minimum=1, maximum=1024)
    num_pages: int | None = option(None, "pages of KV cache; by default as many as --memory-ratio allows", minimum=1)
    memory_ratio: float | None = option(
        None,
        "share of the memory that is free after loading which the KV cache takes; on a GPU, of what weights, the "
        "largest step and CUDA graphs leave. By default 0.25 on a CPU and 0.9 on a GPU",
        above=0,
        maximum=1,
    )
    cuda_graph_max_bs: int | None = option(
        None,
        "largest batch of answers that a GPU runs as a CUDA graph; 0 captures none. By default as many as run at once, "
        "up to 256",
        minimum=0,
        maximum=4096,
    )
    seed: int = option(0, "seed of the requests that bring none, and of dummy weights", minimum=0, maximum=2**63 - 1)

    @property
    def has_dummy_weights(self) -> bool:
        """Whether weights are random numbers, which either option asks for."""
        return self.dummy_weights or self.model.startswith(DUMMY_PREFIX)


@dataclass(frozen=True)
class SchedulerConfig:
    """Which requests run, and in what order."""

    max_running_requests: int | None = option(
        None,
        "requests that hold a table row at once; by default 64 on a CPU and 256 on a GPU",
        minimum=1,
        maximum=65536,
    )
    max_prefill_length: int | None = option(
        None,
        "most prompt tokens of one step; longer prompts are cut into chunks. By default 512 on a CPU and 2048 on a GPU",
        minimum=1,
        maximum=1 << 20,
    )
    policy: str = option(
        "prefill-first",
        "prefill-first: prompts before running answers; mixed: answers ride along with prompt chunks",
        choices=("prefill-first", "mixed"),
    )
    max_decode_wait_steps: int = option(
        8,
        "with prefill-first: most steps in a row in which running answers wait for prompts; the next one is theirs",
        minimum=1,
    )
    cache_type: str = option(
        "radix", "radix shares the KV of common prefixes between requests; naive shares nothing",
        choices=("radix", "naive"),
    )  # fmt: skip
    overlap: bool = option(True, "schedule the next step while the device runs this one; --no-overlap waits for it")
    prefix_wait_tokens: int = option(
        32,
        "a request waits for another that is computing a prefix which both share, when that saves at least "
        "this many tokens",
        minimum=1,
    )


@dataclass(frozen=True)
class TraceConfig:
    """What is recorded of all this, and where."""

    trace: Path | None = option(
        None, "folder for recordings; each run makes a folder of its own in it. Without it nothing is recorded",
        metavar="DIR",
    )  # fmt: skip
    trace_level: TraceLevel = option(
        TraceLevel.FULL, "steps: requests and steps; full: also messages, cache and pages; tokens: also ids and text",
        choices=tuple(level.value for level in TraceLevel),
    )  # fmt: skip
    trace_max_bytes: int = option(
        2 << 30, "bytes that the recording may take; the oldest files go first. 0 sets no limit", minimum=0
    )
    trace_segment_bytes: int = option(
        64 << 20, "bytes after which a process goes on in a new file", minimum=4096, maximum=1 << 40
    )


@dataclass(frozen=True)
class Config:
    """All areas together."""

    server: ServerConfig = field(default_factory=ServerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON-ready values, area by area, for the manifest of a trace."""
        return {area.name: _plain(getattr(self, area.name)) for area in dataclasses.fields(self)}

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with some options set, by the fields' names (`Config().with_values({"port": 0})`).

        Raises:
            OptionError: no such option, or a value that isn't allowed.
        """
        areas: dict[str, Any] = {}
        known = {f.name: area.name for area in dataclasses.fields(self) for f in _options(area)}
        for name in values:
            if name not in known:
                raise OptionError(f"unknown option {name!r}; there are: {', '.join(sorted(known))}")
        for area in dataclasses.fields(self):
            mine = {name: value for name, value in values.items() if known[name] == area.name}
            areas[area.name] = dataclasses.replace(getattr(self, area.name), **mine)
        config = Config(**areas)
        config.check()
        return config

    def check(self) -> None:
        """Check every value against its range and choices.

        Raises:
            OptionError: naming the option, the value and what is allowed.
        """
        for area in dataclasses.fields(self):
            for f in _options(area):
                check_value(f, getattr(getattr(self, area.name), f.name))


def _options(area: dataclasses.Field[Any]) -> tuple[dataclasses.Field[Any], ...]:
    assert isinstance(area.default_factory, type)
    return dataclasses.fields(area.default_factory)


def _plain(area: Any) -> dict[str, Any]:
    return {f.name: _plain_value(f, getattr(area, f.name)) for f in dataclasses.fields(area)}


def _plain_value(f: dataclasses.Field[Any], value: Any) -> Any:
    if f.metadata["secret"] and value is not None:
        return SECRET
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def secret_flags() -> list[str]:
    """The flags of options whose values are never written into a recording."""
    return [flag_of(f) for area in dataclasses.fields(Config) for f in _options(area) if f.metadata["secret"]]


_SPIN_COUNT = 4000
"""About 100 µs: longer than what lies between two operators, shorter than a slice of time of the system."""


def limit_spinning() -> bool:
    """Have idle threads of PyTorch's operators sleep after a short while. It must be called before torch is loaded.

    GNU's OpenMP runtime, which runs them on Linux, has its threads wait for work in a loop for milliseconds, and reads
    from the environment only for how long. A thread that spins uses up the slice of time that the system would have
    given it for work: with one busy neighbour on two cores, steps of 25 ms took 85 to 1,200 ms, and 50 to 60 ms with
    short waits. Threads that sleep at once take 5 to 10 ms longer a step when nothing else runs.

    Returns:
        Whether waits are short, or as the user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY says. False where torch was
        loaded before.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return True
    if "torch" in sys.modules:
        return False
    os.environ["GOMP_SPINCOUNT"] = str(_SPIN_COUNT)
    return True


def wants_no_color() -> bool:
    """Whether the user asks programs for text without colours, by NO_COLOR (no-color.org) or a terminal without any."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def api_key(config: ServerConfig) -> str | None:
    """The key that clients must send: `--api-key`, the first line of `--api-key-file`, or else `$LEARNSGL_API_KEY`.

    Returns:
        The key; `None` where none is asked for.

    Raises:
        OptionError: both options are given, or the file holds no key.
        FolderError: the file can't be read.
    """
    if config.api_key_file is None:
        return config.api_key or os.environ.get("LEARNSGL_API_KEY") or None
    if config.api_key is not None:
        raise OptionError("--api-key and --api-key-file contradict each other; leave one out")
    try:
        key = config.api_key_file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"--api-key-file {config.api_key_file} can't be read: {error}") from None
    if not key:
        raise OptionError(f"--api-key-file {config.api_key_file} has an empty first line; write the key into it")
    return key


def client_api_key(given: str | None, *, is_url_given: bool) -> str | None:
    """The key that our own clients send: the option's, `$LEARNSGL_API_KEY`, or `$OPENAI_API_KEY`.

    Args:
        given: the option's value.
        is_url_given: whether the user has named the server. The key for OpenAI isn't shown to whoever happens to
            listen at the address that is tried by default.
    """
    theirs = os.environ.get("OPENAI_API_KEY") if is_url_given else None
    return given or os.environ.get("LEARNSGL_API_KEY") or theirs or None


def keyless_environment() -> dict[str, str]:
    """For servers that our own programs start for themselves, on a port of their own: whose clients send no key."""
    return {name: value for name, value in os.environ.items() if name != "LEARNSGL_API_KEY"}


def cache_folder() -> Path:
    """Where pulled models are kept: `$LEARNSGL_HOME`, or `learnsgl` in the user's cache folder."""
    if home := os.environ.get("LEARNSGL_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "learnsgl"

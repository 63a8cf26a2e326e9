"""What engines have in common whose `generate` takes a list of prompts and returns when the last answer is complete.

Mini-SGLang, nano-vLLM, vLLM and SGLang are such; each has a file here that knows how to start it. Of such an engine
only the time of the whole is known.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request
from learnsgl.errors import ServingError

Generate = Callable[[list[Request]], Sequence[Sequence[int]]]


def require(package: str, *distributions: str, why: str) -> str:
    """The version of a package that this process could import.

    Args:
        package: as it is imported.
        distributions: under which names it may be installed; none where it is used from its source.
        why: what to do where it isn't there.

    Raises:
        PeerUnavailableError: it isn't.
    """
    if importlib.util.find_spec(package) is None:
        raise PeerUnavailableError(f"the package {package} can't be imported here ({why})")
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "from source"


def require_gpu(spec: PeerSpec) -> None:
    """Refuse a device that isn't a GPU.

    Raises:
        PeerUnavailableError: it isn't one.
    """
    if not spec.is_on_gpu():
        raise PeerUnavailableError("it runs on GPUs only")


class WholePeer:
    """A `Peer` around a function that answers prompts and returns their tokens.

    Args:
        spec: what was asked for.
        version: of the package.
        weights: what the arithmetic runs on, in words.
        vocab_size: token ids go up to this.
        generate: returns the generated tokens of each request, in order.
        end: gives everything back.
    """

    def __init__(
        self, spec: PeerSpec, version: str, weights: str, vocab_size: int, generate: Generate, end: Callable[[], None]
    ) -> None:
        self.facts = PeerFacts(spec.name, version, weights, spec.num_threads, vocab_size)
        self._generate = generate
        self._end: Callable[[], None] | None = end

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`.

        Raises:
            ServingError: an answer is shorter or longer than it was asked to be.
        """
        start_s = time.perf_counter()
        tokens = [list(map(int, answer)) for answer in self._generate(requests)]
        took_s = time.perf_counter() - start_s
        check_lengths(self.facts.name, requests, tokens)
        return Wave([(sum(map(len, tokens)), took_s)], tokens)

    def close(self) -> None:
        """As `Peer`."""
        end, self._end = self._end, None
        if end is not None:
            end()


def check_lengths(name: str, requests: Sequence[Request], tokens: Sequence[Sequence[int]]) -> None:
    """Refuse answers that aren't as long as they were asked to be; one that lacks its last token alone will do.

    Mini-SGLang leaves the last token out where it is the one that ends a sequence.

    Raises:
        ServingError: some answer is missing, or of another length.
    """
    if len(tokens) != len(requests):
        raise ServingError(f"{name} gave {len(tokens)} answers to {len(requests)} requests")
    for place, (request, answer) in enumerate(zip(requests, tokens, strict=True)):
        if not request.output_len - 1 <= len(answer) <= request.output_len:
            raise ServingError(
                f"{name} gave {len(answer)} tokens to request {place}, which was to get {request.output_len}"
            )


def weights_in_words(spec: PeerSpec, where: str = "") -> str:
    """`bfloat16`, `bfloat16, random`; with the attention that an engine runs on, where it says so."""
    return ", ".join([spec.dtype, *([] if spec.has_weights else ["random"]), *([where] if where else [])])


def read_vocab_size(spec: PeerSpec) -> int:
    """Token ids of the model, from its config.json."""
    from learnsgl.models.config import load_model_config

    return load_model_config(spec.model_folder).vocab_size

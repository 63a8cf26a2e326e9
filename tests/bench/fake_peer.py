"""An engine for `bench offline` that answers at once, with tokens that follow from the prompt."""

from __future__ import annotations

from learnsgl.bench.peers.base import PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request

VOCAB_SIZE = 1000


class FakePeer:
    """Doubles the last token, or adds one where its name ends in `wrong`."""

    def __init__(self, spec: PeerSpec) -> None:
        if spec.kind == "llama.cpp":
            raise PeerUnavailableError("it was left at home")
        self.facts = PeerFacts(spec.name, "1.0", spec.dtype, spec.num_threads, VOCAB_SIZE)
        self.num_closed = 0
        self.waves: list[list[Request]] = []

    def run(self, requests: list[Request]) -> Wave:
        self.waves.append(requests)
        step = 1 if self.facts.name.endswith("wrong") else 0
        tokens = [[request.prompt_ids[-1] + step] * request.output_len for request in requests]
        longest = max(request.output_len for request in requests)
        moments = [
            (sum(min(done, request.output_len) for request in requests), 0.5 + 0.01 * done)
            for done in range(1, longest + 1)
        ]
        return Wave(moments, tokens)

    def close(self) -> None:
        self.num_closed += 1


def make_failing_peer(spec: PeerSpec) -> FakePeer:
    raise OSError("no such weights")

"""An engine in a child process of its own, so that no two share thread pools, allocators or a Python's lock.

`offline.py` and `tracing.py` start one for each engine and let them answer in turns; those whose turn it isn't sleep.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

import msgspec

from learnsgl.bench.peers.base import Peer, PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request
from learnsgl.errors import ServingError, StartupError

END_WAIT_S = 20.0
_REQUESTS = msgspec.msgpack.Decoder(list[Request])


class _Answer(msgspec.Struct):
    """What a child sends: exactly one of these."""

    facts: PeerFacts | None = None
    wave: Wave | None = None
    unavailable: str | None = None
    error: str | None = None


_ANSWER = msgspec.msgpack.Decoder(_Answer)


def make_peer(spec: PeerSpec) -> Peer:
    """Start an engine in this process. Of the engines, only the one that is asked for is imported.

    Raises:
        PeerUnavailableError: it can't be measured here.
        LearnsglError: it can't start.
    """
    module, name = _MAKERS[spec.kind]
    peer: Peer = getattr(importlib.import_module(f"learnsgl.bench.peers.{module}"), name)(spec)
    return peer


_MAKERS = {
    "learnsgl": ("ours", "LearnsglPeer"),
    "transformers": ("transformers_peer", "TransformersPeer"),
    "llama.cpp": ("llama_cpp_peer", "LlamaCppPeer"),
    "transformers-paged": ("transformers_paged_peer", "TransformersPagedPeer"),
    "mini-sglang": ("mini_sglang_peer", "start_mini_sglang"),
    "nano-vllm": ("nano_vllm_peer", "start_nano_vllm"),
    "vllm": ("vllm_peer", "start_vllm"),
    "sglang": ("sglang_peer", "start_sglang"),
}
_HAVE_CHILDREN = ("vllm", "sglang")
"""They start processes of their own, which a daemon may not."""


class PeerProcess:
    """A `Peer` in a child process, for a `with` block.

    Attributes:
        facts: what was started.

    Raises:
        PeerUnavailableError: it can't be measured here.
        StartupError: it could not start, or not within the spec's limit.
    """

    def __init__(self, spec: PeerSpec, *, make: Callable[[PeerSpec], Peer] = make_peer) -> None:
        """Start `make(spec)` in a child, and wait until it is ready."""
        self._name, self._limit_s = spec.name, spec.limit_s
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(spec, theirs, make), name=spec.name, daemon=spec.kind not in _HAVE_CHILDREN
        )
        self._process.start()
        theirs.close()
        try:
            answer = self._receive()
            if answer.unavailable is not None:
                raise PeerUnavailableError(answer.unavailable)
            if answer.facts is None:
                raise StartupError(f"{spec.name} could not start: {answer.error}")
        except BaseException:
            self.close()
            raise
        self.facts: PeerFacts = answer.facts

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`.

        Raises:
            ServingError: the engine failed, took too long, or its process died.
        """
        with contextlib.suppress(OSError):  # its process is dead; `_receive` says so
            self._connection.send_bytes(msgspec.msgpack.encode(requests))
        answer = self._receive()
        if answer.wave is None:
            raise ServingError(f"{self._name} failed: {answer.error}")
        return answer.wave

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._connection.close()  # the child's word to end
        self._process.join(END_WAIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> _Answer:
        try:
            if self._limit_s is not None and not self._connection.poll(self._limit_s):
                self._process.kill()
                raise ServingError(f"{self._name} gave no answer within {self._limit_s:g} s, and was ended")
            return _ANSWER.decode(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._process.join(END_WAIT_S)
            raise ServingError(f"the process of {self._name} ended with exit code {self._process.exitcode}") from None


def _serve(spec: PeerSpec, connection: Connection, make: Callable[[PeerSpec], Peer]) -> None:
    """Body of the child: start the engine, then answer waves until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, and closes the pipe
    try:
        peer = make(spec)
    except PeerUnavailableError as error:
        _send(connection, _Answer(unavailable=str(error)))
        return
    except Exception as error:  # an engine of other people's may raise anything, and costs no one else's figures
        traceback.print_exc()
        _send(connection, _Answer(error=f"{type(error).__name__}: {error}"))
        return
    _send(connection, _Answer(facts=peer.facts))
    try:
        while True:
            try:
                requests = _REQUESTS.decode(connection.recv_bytes())
            except EOFError:
                return
            try:
                answer = _Answer(wave=peer.run(requests))
            except Exception as error:
                traceback.print_exc()
                answer = _Answer(error=f"{type(error).__name__}: {error}")
            _send(connection, answer)
    finally:
        peer.close()


def _send(connection: Connection, answer: _Answer) -> None:
    connection.send_bytes(msgspec.msgpack.encode(answer))

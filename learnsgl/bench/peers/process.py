"""An engine in a child process of its own, so that no two share thread pools, allocators or a Python's lock.

`offline.py` and `tracing.py` start one for each engine and let them answer in turns; those whose turn it isn't sleep.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

import msgspec

from learnsgl.bench.peers.base import Peer, PeerFacts, PeerSpec, PeerUnavailableError, Wave
from learnsgl.bench.workload import Request
from learnsgl.errors import LearnsglError, ServingError, StartupError

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
    """Start an engine in this process.

    Raises:
        PeerUnavailableError: it can't be measured here.
        LearnsglError: it can't start.
    """
    if spec.kind == "learnsgl":
        from learnsgl.bench.peers.ours import LearnsglPeer

        return LearnsglPeer(spec)
    if spec.kind == "transformers":
        from learnsgl.bench.peers.transformers_peer import TransformersPeer

        return TransformersPeer(spec)
    from learnsgl.bench.peers.llama_cpp_peer import LlamaCppPeer

    return LlamaCppPeer(spec)


class PeerProcess:
    """A `Peer` in a child process, for a `with` block.

    Attributes:
        facts: what was started.

    Raises:
        PeerUnavailableError: it can't be measured here.
        StartupError: it could not start.
    """

    def __init__(self, spec: PeerSpec, *, make: Callable[[PeerSpec], Peer] = make_peer) -> None:
        """Start `make(spec)` in a child, and wait until it is ready."""
        self._name = spec.name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(spec, theirs, make), name=spec.name, daemon=True)
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
            ServingError: the engine failed, or its process died.
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
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> _Answer:
        try:
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
    except (LearnsglError, ImportError, OSError, ValueError) as error:
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
            except LearnsglError as error:
                answer = _Answer(error=f"{type(error).__name__}: {error}")
            _send(connection, answer)
    finally:
        peer.close()


def _send(connection: Connection, answer: _Answer) -> None:
    connection.send_bytes(msgspec.msgpack.encode(answer))

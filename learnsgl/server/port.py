"""The HTTP port: taken before any process starts, so that a start that can't succeed fails in the first second.

`launch.py` calls it. The socket is only bound here and listens when the server is ready: until then clients are
refused at once, rather than kept waiting.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from learnsgl.errors import LearnsglError, OptionError, PortInUseError

_BACKLOG = 2048
"""Connections that may wait for the event loop to take them."""


def bind_port(host: str, port: int) -> socket.socket:
    """Bind the API's TCP socket.

    Args:
        host: name or address, `--host`.
        port: `--port`; 0 takes a free one.

    Raises:
        PortInUseError: another process listens there; the message names it where the system tells.
        OptionError: the host can't be resolved or isn't this machine's, or the port needs more rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise OptionError(f"--host is {host!r}, which can't be resolved ({error}); give 127.0.0.1 or 0.0.0.0") from None
    if port:
        with _new_socket(family, kind, protocol) as probe, _explained(host, port):
            probe.bind(address)
            probe.listen(1)  # only this tells: two sockets that don't listen may be bound to one port
    bound = _new_socket(family, kind, protocol)
    try:
        with _explained(host, port):
            bound.bind(address)
    except LearnsglError:
        bound.close()
        raise
    return bound


def listen(bound: socket.socket, host: str, port: int) -> None:
    """Let a bound socket take connections.

    Raises:
        PortInUseError: another server that was started at the same time was faster.
    """
    with _explained(host, port):
        bound.listen(_BACKLOG)


def url_of(bound: socket.socket) -> str:
    """The URL under which clients reach a bound socket; one that is open to the network is named by its loopback."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_public(bound: socket.socket) -> bool:
    """Whether others than this machine reach a bound socket."""
    return not ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _new_socket(family: int, kind: int, protocol: int) -> socket.socket:
    new = socket.socket(family, kind, protocol)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for old connections to expire
    if family == socket.AF_INET6:
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return new


@contextlib.contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    """Bind or listen in here: an error says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {host} is taken by {_holder(port)}; stop it, or choose another with --port (0 takes "
                "a free one)"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise OptionError(f"--host is {host!r}, which isn't an address of this machine; give 127.0.0.1") from None
        if error.errno == errno.EACCES:
            raise OptionError(f"--port is {port}, which this user may not open; choose one of at least 1024") from None
        raise OptionError(f"--host {host} --port {port} can't be opened: {error.strerror}") from None


def _holder(port: int) -> str:
    """The process that listens on a port, as far as the system tells."""
    try:
        pids = [
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
        for pid in pids:
            if pid is not None:
                return f"process {pid} ({psutil.Process(pid).name()})"
    except (psutil.Error, OSError):  # some systems tell only the administrator
        return "another process"
    return "another process"

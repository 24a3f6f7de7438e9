"""Sending and receiving on a connected socket, by a monotonic clock."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._http.request_body import PIECE_BYTES

if TYPE_CHECKING:
    import socket

_MIN_TIMEOUT_SECONDS: Final = 0.001
# A socket's timeout may be this much too long before it is set again. Most waits want the same
# timeout as the wait before, and to set it is a system call.
_TIMEOUT_TOLERANCE_SECONDS: Final = 0.005


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, for a socket's timeout, which must not be 0."""
    return None if deadline is None else max(deadline - monotonic(), _MIN_TIMEOUT_SECONDS)


def send_all(sock: socket.socket, data: bytes, seconds: float | None) -> None:
    """Send all data.

    Args:
        sock: A connected socket.
        data: The bytes.
        seconds: How long that may take, all in all. None: without limit. (`sendall` of a TLS
            socket would allow as much for each record.)

    Raises:
        OSError: The connection failed, or the time ran out.
    """
    if sock.gettimeout() != seconds:
        sock.settimeout(seconds)
    sent = sock.send(data)
    if sent < len(data):
        deadline = None if seconds is None else monotonic() + seconds
        rest = memoryview(data)[sent:]
        while rest:
            set_timeout(sock, seconds_left(deadline))
            rest = rest[sock.send(rest) :]


def receive(sock: socket.socket, deadline: float | None) -> bytes:
    """Receive what is here, or wait for it until the deadline. Empty at the connection's end.

    Raises:
        TimeoutError: The deadline has passed.
        OSError: The connection failed.
    """
    if deadline is None:
        set_timeout(sock, None)
    else:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("nothing more came in time")
        present = sock.gettimeout()
        if present is None or not 0 <= present - left < _TIMEOUT_TOLERANCE_SECONDS:
            sock.settimeout(left)
    return sock.recv(PIECE_BYTES)


def set_timeout(sock: socket.socket, seconds: float | None) -> None:
    """Set how long a socket waits, unless it is set already: it is a system call."""
    if sock.gettimeout() != seconds:
        sock.settimeout(seconds)

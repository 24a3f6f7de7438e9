"""Sending and receiving on a connected socket, bounded by the wall clock."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._http.request_body import PIECE_BYTES

if TYPE_CHECKING:
    import socket

_LEAST_SECONDS: Final = 0.001
# A wait may end later than asked for by this much. See `set_timeout`.
_NEAR_SECONDS: Final = 0.005


def seconds_left(deadline: float | None) -> float | None:
    """Give the seconds until a deadline, for a socket's timeout, which must not be 0."""
    return None if deadline is None else max(deadline - monotonic(), _LEAST_SECONDS)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all data. `sendall` costs more, so it sends only what one system call did not take."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(sock: socket.socket, deadline: float | None) -> bytes:
    """Receive what is here, or wait for it until the deadline. Empty at the connection's end.

    Raises:
        TimeoutError: The deadline has passed.
        OSError: The connection failed.
    """
    left = None
    if deadline is not None:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the read timeout ran out")
    set_timeout(sock, left)
    return sock.recv(PIECE_BYTES)


def set_timeout(sock: socket.socket, seconds: float | None) -> None:
    """Set how long a socket waits.

    Setting it is a system call. Most waits may last the whole read timeout, as the wait before
    them could, so a value that is hardly longer stays.
    """
    present = sock.gettimeout()
    if present == seconds:
        return
    if present is None or seconds is None or not 0 < present - seconds < _NEAR_SECONDS:
        sock.settimeout(seconds)

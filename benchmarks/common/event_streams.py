"""Receives many event streams at a time, and times each event."""

from __future__ import annotations

import re
import selectors
import socket
import ssl
from time import monotonic, monotonic_ns, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import WAIT_SECONDS, call, connected
from benchmarks.common.processes import allow_many_files
from benchmarks.common.results import percentile

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS: Final = 10
"""Events of each stream, unless the caller says otherwise."""

# For each stream: a TLS handshake in each of two processes.
_OPENING_SECONDS: Final = 0.006
# Between the last opening and the first event: this, and a little for each stream.
_SETTLING_SECONDS: Final = 1.0
_SETTLING_SECONDS_PER_STREAM: Final = 0.001
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_EVENT: Final = re.compile(rb"data: ([0-9]+) ([0-9]+) ([0-9]+)\n\n")


def opening_seconds(streams: int) -> float:
    """Return the time from `ready` in `receive` to the first event."""
    return _SETTLING_SECONDS + streams * (_OPENING_SECONDS + _SETTLING_SECONDS_PER_STREAM)


def receive(  # noqa: PLR0913, PLR0917 - the parameters of a stream
    ready: Callable[[], None],
    port: int,
    ca_file: str | None,
    streams: int,
    period_seconds: float,
    events: int = EVENTS,
    warming: int = 0,
) -> dict[str, float]:
    """Receive event streams; `processes.child` runs this in its own process.

    Args:
        ready: Called before the first stream is opened.
        port: The proxy's, or the upstream's.
        ca_file: The upstream's authority, to call it directly. None: call a proxy.
        streams: How many at a time.
        period_seconds: Between two events of a stream.
        events: Of each stream.
        warming: The first events of each stream whose delay does not count.

    Returns:
        "good": events that arrived in order. "p99" and "worst": their delay in milliseconds.
    """
    allow_many_files()
    context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    ready()
    period = int(period_seconds * 1e9)
    opening = opening_seconds(streams)
    begin = monotonic_ns() + int(opening * 1e9)
    receiver = _Receiver(streams, warming)
    for stream in range(streams):
        due = begin + period * stream // streams
        receiver.open(stream, port, context, f"/events/{stream}/{events}/{due}/{period}")
        sleep(_OPENING_SECONDS / 2)
    delays = receiver.run(opening + events * period_seconds + WAIT_SECONDS)
    return {
        "good": receiver.good,
        "p99": percentile(delays, 99) if delays else 0,
        "worst": max(delays, default=0),
    }


class _Receiver:
    """Receives streams on one thread.

    Args:
        streams: How many.
        warming: The first events of each stream whose delay does not count.

    Attributes:
        good: Events that arrived in order.
    """

    def __init__(self, streams: int, warming: int) -> None:
        self.good = 0
        self._warming = warming
        self._selector = selectors.DefaultSelector()
        self._pending = [b""] * streams
        self._next = [0] * streams
        self._delays: list[float] = []

    def open(self, stream: int, port: int, context: ssl.SSLContext | None, path: str) -> None:
        """Request a stream from the proxy, or with a TLS context from the upstream itself."""
        sock: socket.socket = connected(port)
        if context is None:
            sock.sendall(call(path))
        else:
            sock = context.wrap_socket(sock, server_hostname="fal.run")
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: fal.run\r\n\r\n".encode())
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, stream)

    def run(self, seconds: float) -> list[float]:
        """Receive until all streams have ended, and return the delays in milliseconds."""
        end = monotonic() + seconds
        while self._selector.get_map() and monotonic() < end:
            for key, _ in self._selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                self._receive(sock, key.data)
        self._selector.close()
        return self._delays

    def _receive(self, sock: socket.socket, stream: int) -> None:
        while True:
            try:
                data = sock.recv(65_536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                data = b""
            if data:
                self._take(stream, data, monotonic_ns())
            # The proxy keeps the connection open after its answer.
            if not data or self._pending[stream].endswith(_LAST_CHUNK):
                self._selector.unregister(sock)
                sock.close()
                return

    def _take(self, stream: int, data: bytes, now: int) -> None:
        pending = self._pending[stream] + data
        position = 0
        for event in _EVENT.finditer(pending):
            of, number, sent = map(int, event.groups())
            if (of, number) == (stream, self._next[stream]):
                self._next[stream] += 1
                self.good += 1
                if number >= self._warming:
                    self._delays.append((now - sent) / 1e6)
            position = event.end()
        self._pending[stream] = pending[position:]

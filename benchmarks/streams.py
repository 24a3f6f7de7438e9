"""The figure of many event streams at a time on one gevent worker."""

from __future__ import annotations

import re
import selectors
import socket
import ssl
from time import monotonic, monotonic_ns, sleep
from typing import TYPE_CHECKING, Any, Final

from benchmarks.harness import (
    WAIT_SECONDS,
    Result,
    allow_many_files,
    call,
    child,
    connected,
    percentile,
    progress,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.harness import Upstream
    from benchmarks.robustness import Scale

_EVENTS: Final = 10
# Between two streams' openings: a TLS handshake in each of two processes.
_OPENING_SECONDS: Final = 0.006
# From the last one's opening to the first event; and more of it for each stream.
_SETTLING_SECONDS: Final = 1.0
_MORE_SETTLING_SECONDS: Final = 0.001
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_EVENT: Final = re.compile(rb"data: ([0-9]+) ([0-9]+) ([0-9]+)\n\n")


def streams(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Whether every event arrives, and how much later than without the proxy."""
    allow_many_files()
    progress(f"{scale.streams} streams without the proxy")
    size = {"streams": scale.streams, "period_seconds": scale.period_seconds}
    direct = _received(port=upstream.port, ca_file=str(upstream.ca_file), **size)
    progress(f"{scale.streams} streams by one gevent worker")
    with upstream.gunicorn("gevent", "--worker-connections", "2000") as served:
        proxied = _received(port=served.port, ca_file=None, **size)
    expected = scale.streams * _EVENTS
    yield Result(
        f"4 {scale.streams} event streams: events delivered",
        f"{proxied['good']} of {expected}",
        "all",
        proxied["good"] == expected == direct["good"],
    )
    added = proxied["p99"] - direct["p99"]
    yield Result(
        f"4 {scale.streams} event streams: added delay, p99",
        f"{added:.1f} ms ({proxied['p99']:.1f} less {direct['p99']:.1f} direct;"
        f" worst {proxied['worst']:.1f})",
        "< 50 ms",
        added < 50,
    )


def _received(**arguments: Any) -> dict[str, float]:
    with child("benchmarks.streams:receive", **arguments) as result:
        received: dict[str, float] = result()
    return received


def opening_seconds(streams: int) -> float:
    """Give the time that `receive` takes, once it is ready, before the first event is due."""
    return _SETTLING_SECONDS + streams * (_OPENING_SECONDS + _MORE_SETTLING_SECONDS)


def receive(  # noqa: PLR0913, PLR0917 - what a stream is made of
    ready: Callable[[], None],
    port: int,
    ca_file: str | None,
    streams: int,
    period_seconds: float,
    events: int = _EVENTS,
    warming: int = 0,
) -> dict[str, float]:
    """Receive so many streams at a time, and tell how many events came in order, and how late.

    How late the first events of each stream are does not count, as many as `warming` says.
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
    """Receives streams, on one thread.

    Args:
        streams: How many.
        warming: How many events of each do not count.

    Attributes:
        good: Events that came in order.
    """

    def __init__(self, streams: int, warming: int) -> None:
        self.good = 0
        self._warming = warming
        self._selector = selectors.DefaultSelector()
        self._pending = [b""] * streams
        self._next = [0] * streams
        self._delays: list[float] = []

    def open(self, stream: int, port: int, context: ssl.SSLContext | None, path: str) -> None:
        """Ask for a stream: by way of the proxy, or without it where TLS is given."""
        sock: socket.socket = connected(port)
        if context is None:
            sock.sendall(call(path))
        else:
            sock = context.wrap_socket(sock, server_hostname="fal.run")
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: fal.run\r\n\r\n".encode())
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, stream)

    def run(self, seconds: float) -> list[float]:
        """Receive until all streams have ended, and give each event's delay in milliseconds."""
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
            # The proxy keeps a connection open after its answer.
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

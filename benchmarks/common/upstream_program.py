"""An upstream over TLS. The path of a request names the behaviour of its answer.

    python -m benchmarks.common.upstream_program DIRECTORY

It writes its certificate authority to `ca.pem` in the directory. On standard output it prints its
port, and then reports: a word, the request's id, and a time in nanoseconds. The time is from the
monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import socket
import ssl
import sys
import threading
from enum import Enum, auto
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import TYPE_CHECKING, Final

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNKED: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_EMPTY_LINE: Final = b"\r\n\r\n"
_PIECE: Final = bytes(262_144)
_DRIP_SECONDS: Final = 0.02
_BACKLOG: Final = 2_048
_STACK_BYTES: Final = 262_144
# Seeded, so that each run has the same faults.
_random: Final = random.Random(1)  # noqa: S311 - chance, not a secret


class Then(Enum):
    """The next step with a connection after an answer."""

    CLOSE = auto()
    KEEP = auto()
    HANDED_OVER = auto()


def _report(word: str, request_id: str, time: int = 0) -> None:
    # In one write, so that lines of several threads do not mix.
    os.write(1, f"{word} {request_id} {time}\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answer(content: bytes, fields: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%bContent-Length: %d\r\n\r\n"
    return head % (fields, len(content)) + content


class Connection:
    """An accepted connection.

    Args:
        sock: After the TLS handshake.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._received = bytearray()

    def read_head(self) -> bytes:
        """Read the head of the next request, and keep the bytes after it for `read`."""
        while (end := self._received.find(_EMPTY_LINE)) < 0:
            self._receive()
        return self._take(end + len(_EMPTY_LINE))

    def read(self, count: int) -> bytes:
        """Read `count` bytes."""
        while len(self._received) < count:
            self._receive()
        return self._take(count)

    def discard(self, count: int) -> None:
        """Read `count` bytes without keeping them in memory."""
        buffer = bytearray(len(_PIECE))
        left = count - len(self._received)
        self._received.clear()
        while left > 0:
            size = self._sock.recv_into(buffer)
            if not size:
                raise ConnectionError("the other side closed in mid-content")
            left -= size

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        self._sock.sendall(data)

    def await_close(self) -> None:
        """Read until the other side has closed."""
        with contextlib.suppress(OSError):
            while self._sock.recv(65_536):
                pass

    def reset(self) -> None:
        """Close with a TCP reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._sock.close()

    def hand_over(self) -> ssl.SSLSocket:
        """Return the socket, for another thread to send on and to close."""
        return self._sock

    def _take(self, count: int) -> bytes:
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _receive(self) -> None:
        data = self._sock.recv(65_536)
        if not data:
            raise ConnectionError("the other side closed")
        self._received += data


class Request:
    """A request whose head has arrived.

    Args:
        connection: It arrived there.
        head: All bytes up to the empty line.
    """

    def __init__(self, connection: Connection, head: bytes) -> None:
        self.connection = connection
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        self.behaviour, *self.arguments = target.removeprefix("/").split("/")
        lengths = [f.partition(":")[2] for f in fields if f.lower().startswith("content-length:")]
        self.length = int(lengths[0]) if lengths else 0

    def content(self) -> bytes:
        """Read and return the request's content."""
        return self.connection.read(self.length)

    def discard(self) -> int:
        """Read the request's content without keeping it, and return its length."""
        self.connection.discard(self.length)
        return self.length

    def report_close(self) -> None:
        """Wait until the other side has closed, and report the time."""
        self.connection.await_close()
        _report("closed", self.arguments[0], monotonic_ns())


def _silent(request: Request) -> Then:
    """Send no answer."""
    _report("arrived", request.arguments[0])
    request.report_close()
    return Then.CLOSE


def _open(request: Request) -> Then:
    """Send one event, then nothing."""
    request.connection.send(_CHUNKED + _chunk(b"data: 1\n\n"))
    request.report_close()
    return Then.CLOSE


def _events(request: Request) -> Then:
    """Send a stream of events at the times that the path gives."""
    stream, count, first, period = map(int, request.arguments)
    request.connection.send(_CHUNKED)
    pacer.add(request.connection.hand_over(), stream, count, first, period)
    return Then.HANDED_OVER


def _down(request: Request) -> Then:
    """Send an answer of the length that the path gives."""
    left = int(request.arguments[0])
    request.connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % left
    )
    while left > 0:
        request.connection.send(_PIECE[:left])
        left -= min(left, len(_PIECE))
    return Then.KEEP


def _up(request: Request) -> Then:
    """Answer with the length of the request's content."""
    request.connection.send(_answer(b"%d" % request.discard()))
    return Then.KEEP


def _echo(request: Request) -> Then:
    """Answer with the tag in the path, and the request's content."""
    content = request.content()
    request.connection.send(_answer(request.arguments[0].encode() + b" " + content))
    return Then.KEEP


def _fickle(request: Request) -> Then:
    """Answer or not, then close the connection at once, a little later, or not; by chance."""
    _report("head", request.arguments[0])
    chance = _random.random()
    if chance < 0.1:
        return Then.CLOSE
    content = request.content()
    if chance < 0.2:
        return Then.CLOSE
    request.connection.send(_answer(content))
    if chance < 0.4:
        return Then.CLOSE
    if chance < 0.6:
        # The next request may arrive in the meantime; it is not read.
        sleep(_random.random() * 0.004)
        return Then.CLOSE
    return Then.KEEP


def _stall(request: Request) -> Then:
    """Stop at the place that the path names."""
    sent = {
        "before": b"",
        "head": b"HTTP/1.1 200 OK\r\nContent-",
        "body": _CHUNKED + _chunk(b"data: 1\n\n"),
    }
    request.connection.send(sent[request.arguments[0]])
    request.connection.await_close()
    return Then.CLOSE


def _drops(what: str) -> Iterator[bytes]:
    """Yield endless pieces of an answer that never completes the part that `what` names."""
    if what == "head":
        yield b"HTTP/1.1 200 OK\r\nX: "
    if what == "trailers":
        yield _CHUNKED + _chunk(b"data: 1\n\n") + b"0\r\n"
    if what == "extension":
        yield _CHUNKED + _chunk(b"data: 1\n\n") + b"5;"
    drop = {
        "head": b"x",
        "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        "trailers": b"x: y\r\n",
        "extension": b"x",
    }[what]
    while True:
        yield drop


def _drip(request: Request) -> Then:
    """Send one drop at a time; send 100 Continue without a pause."""
    what = request.arguments[0]
    for data in _drops(what):
        request.connection.send(data)
        if what != "continue":
            sleep(_DRIP_SECONDS)
    return Then.CLOSE


def _fault(request: Request) -> Then:
    """Commit the fault that the path names, or answer well for "good"."""
    connection = request.connection
    match request.arguments[0]:
        case "reset":
            connection.reset()
        case "cut":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + bytes(5_000))
        case "cut-chunk":
            connection.send(_CHUNKED + b"ffff\r\n" + bytes(5_000))
        case "garbage":
            connection.send(bytes(range(256)))
        case "bad-chunk":
            connection.send(_CHUNKED + _chunk(b"data: 1\n\n") + b"no chunk\r\n")
        case "stall":
            connection.await_close()
        case "good":
            connection.send(_answer(request.content()))
            return Then.KEEP
    return Then.CLOSE


_BEHAVIOURS: Final[dict[str, Callable[[Request], Then]]] = {
    "silent": _silent,
    "open": _open,
    "events": _events,
    "down": _down,
    "up": _up,
    "echo": _echo,
    "fickle": _fickle,
    "stall": _stall,
    "drip": _drip,
    "fault": _fault,
}


class Pacer:
    """Sends the events of all streams at their times, on one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, int, int, int, socket.socket]] = []
        self._changed = threading.Condition()

    def add(self, sock: socket.socket, stream: int, count: int, first: int, period: int) -> None:
        """Schedule a stream; close its connection at the end.

        Args:
            sock: Its connection, after the head of the answer.
            stream: Its number, for its events.
            count: Events to send.
            first: Monotonic time of the first event, in nanoseconds.
            period: Nanoseconds between two events.
        """
        with self._changed:
            heapq.heappush(self._due, (first, stream, 0, count, period, sock))
            self._changed.notify()

    def run(self) -> None:
        """Send events when they are due, for ever."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due)
                time, stream, number, count, period, sock = heapq.heappop(self._due)
                seconds = (time - monotonic_ns()) / 1e9
                if seconds > 0:
                    heapq.heappush(self._due, (time, stream, number, count, period, sock))
                    self._changed.wait(seconds)
                    continue
            with contextlib.suppress(OSError):
                if number == count:
                    sock.sendall(b"0\r\n\r\n")
                    sock.close()
                    continue
                event = b"data: %d %d %d\n\n" % (stream, number, monotonic_ns())
                sock.sendall(_chunk(event))
                with self._changed:
                    due = (time + period, stream, number + 1, count, period, sock)
                    heapq.heappush(self._due, due)


pacer: Final = Pacer()


def _serve(context: ssl.SSLContext, raw: socket.socket) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    then = Then.KEEP
    sock = raw
    with contextlib.suppress(OSError):
        sock = tls = context.wrap_socket(raw, server_side=True)
        connection = Connection(tls)
        while then is Then.KEEP:
            request = Request(connection, connection.read_head())
            then = _BEHAVIOURS[request.behaviour](request)
    if then is not Then.HANDED_OVER:
        sock.close()


def _context(directory: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("fal.run", "*.fal.run", "127.0.0.1").configure_cert(context)
    return context


def main(directory: Path) -> None:
    """Serve for ever."""
    context = _context(directory)
    threading.stack_size(_STACK_BYTES)
    threading.Thread(target=pacer.run, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
        _report("port", str(listener.getsockname()[1]), int(monotonic()))
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=_serve, args=(context, raw), daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

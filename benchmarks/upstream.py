"""An upstream over TLS, in a process of its own, that does what the path of a request says.

    python -m benchmarks.upstream DIRECTORY

It writes its certificate authority into the directory, and to its standard output its port and
then one line for what is to be known of a request: a word, the request's id, a time. Times are of
the monotonic clock, which the processes of one machine share.
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

from tests.support.raw_server import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNKED: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_PIECE: Final = bytes(262_144)
_DRIP_SECONDS: Final = 0.02
_BACKLOG: Final = 2_048
_STACK_BYTES: Final = 262_144
# What faults and random closings are drawn from: the same in each run.
_random: Final = random.Random(1)  # noqa: S311 - chance, not a secret


class Then(Enum):
    """What becomes of a connection after an answer."""

    CLOSE = auto()
    GO_ON = auto()
    HANDED_OVER = auto()


def _report(word: str, request_id: str, time: int = 0) -> None:
    # One write, so that lines of several threads do not mix.
    os.write(1, f"{word} {request_id} {time}\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answer(content: bytes, fields: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%bContent-Length: %d\r\n\r\n"
    return head % (fields, len(content)) + content


class Request:
    """A request whose head is here.

    Args:
        connection: On which it came.
        head: All of it.
    """

    def __init__(self, connection: Connection, head: bytes) -> None:
        self.connection = connection
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        self.behaviour, *self.arguments = target.removeprefix("/").split("/")
        lengths = [f.partition(":")[2] for f in fields if f.lower().startswith("content-length:")]
        self.length = int(lengths[0]) if lengths else 0

    def content(self) -> bytes:
        """Read the request's content."""
        return self.connection.read(self.length)

    def drain(self) -> int:
        """Read the request's content, keep none of it, and give its length."""
        received, buffer = self.connection.received, bytearray(262_144)
        left = self.length - len(received)
        received.clear()
        while left > 0:
            count = self.connection.sock.recv_into(buffer)
            if not count:
                raise ConnectionError("the other side closed in mid-content")
            left -= count
        return self.length

    def await_leaving(self) -> None:
        """Wait until the other side has closed, and report when that was."""
        with contextlib.suppress(OSError):
            self.connection.sock.recv(1)
        _report("closed", self.arguments[0], monotonic_ns())


def _silent(request: Request) -> Then:
    """No answer at all."""
    _report("arrived", request.arguments[0])
    request.await_leaving()
    return Then.CLOSE


def _open(request: Request) -> Then:
    """An event, then silence."""
    request.connection.send(_CHUNKED + _chunk(b"data: 1\n\n"))
    request.await_leaving()
    return Then.CLOSE


def _events(request: Request) -> Then:
    """A stream of events, at times that the path gives."""
    stream, count, first, period = map(int, request.arguments)
    request.connection.send(_CHUNKED)
    pacer.add(request.connection.sock, stream, count, first, period)
    return Then.HANDED_OVER


def _down(request: Request) -> Then:
    """A large answer."""
    left = int(request.arguments[0])
    request.connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % left
    )
    while left > 0:
        request.connection.send(_PIECE[:left])
        left -= min(left, len(_PIECE))
    return Then.GO_ON


def _up(request: Request) -> Then:
    """The length of the request's content."""
    request.connection.send(_answer(b"%d" % request.drain()))
    return Then.GO_ON


def _echo(request: Request) -> Then:
    """What the path says, and the request's content."""
    content = request.content()
    request.connection.send(_answer(request.arguments[0].encode() + b" " + content))
    return Then.GO_ON


def _fickle(request: Request) -> Then:
    """An answer or none, after which the connection is closed now, later, or not at all."""
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
        # Closed before the next request is read, which may have come by then.
        sleep(_random.random() * 0.004)
        return Then.CLOSE
    return Then.GO_ON


def _stall(request: Request) -> Then:
    """Nothing more, at the place that the path names."""
    sent = {
        "before": b"",
        "head": b"HTTP/1.1 200 OK\r\nContent-",
        "body": _CHUNKED + _chunk(b"data: 1\n\n"),
    }
    request.connection.send(sent[request.arguments[0]])
    request.connection.wait_for_close()
    return Then.CLOSE


def _drops(what: str) -> Iterator[bytes]:
    """Give what comes drop by drop, without an end, so that something always comes."""
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
    """Drop by drop; the storm of 100 Continue as fast as it goes."""
    what = request.arguments[0]
    for data in _drops(what):
        request.connection.send(data)
        if what != "continue":
            sleep(_DRIP_SECONDS)
    return Then.CLOSE


def _fault(request: Request) -> Then:
    """The fault that the path names, or none."""
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
            connection.wait_for_close()
        case "good":
            connection.send(_answer(request.content()))
            return Then.GO_ON
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
    """Sends the events of all streams, each at its time, on one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, int, int, int, socket.socket]] = []
        self._changed = threading.Condition()

    def add(self, sock: socket.socket, stream: int, count: int, first: int, period: int) -> None:
        """Send so many events on the connection, the first at that time, and close it."""
        with self._changed:
            heapq.heappush(self._due, (first, stream, 0, count, period, sock))
            self._changed.notify()

    def run(self) -> None:
        """Send what is due, for ever."""
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
    then = Then.GO_ON
    sock = raw
    with contextlib.suppress(OSError):
        sock = context.wrap_socket(raw, server_side=True)
        connection = Connection(sock, 0)
        while then is Then.GO_ON:
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

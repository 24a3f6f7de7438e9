"""An upstream over TLS that fails at random, as its seed says.

    python -m benchmarks.robustness.soak.upstream_program DIRECTORY

It writes to the directory and prints reports as `benchmarks.common.upstream_program` does. A
request's id is the last segment of its path, a dot, and the number of the repeat. The reports:

- `arrived`: the whole request is here.
- `cut`: its head has come, and the rest was not read: the connection was being closed or reset.
- `gone`: at this time a connection was closed or reset on which no request had come.
- `unbilled`: it is answered with a status for which fal does not bill.
- `crossed`: its path and its content name different calls.
- `held`: its connection was busy with it for so many nanoseconds (only if for two seconds or more).
- `dead`: as an id, a port that refuses connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import sys
import threading
from itertools import count
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import TYPE_CHECKING, Final

import trustme

from benchmarks.common.upstream_program import Connection, Then
from benchmarks.robustness.soak.fates import (
    ATTEMPT_HEADER,
    BIG_BYTES,
    HOLD_SECONDS,
    TOTAL_TIMEOUT,
    chance,
    content,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_WEIGHTS: Final = {
    "good": 700,
    "chunked": 140,
    "until_close": 20,
    "closing": 30,
    "slow": 30,
    "drip": 8,
    "unbilled": 10,
    "reset_head": 6,
    "reset_request": 6,
    "reset": 6,
    "close": 6,
    "stall": 4,
    "stall_head": 3,
    "stall_body": 3,
    "drip_head": 2,
    "drip_for_ever": 2,
    "cut_head": 6,
    "cut_length": 6,
    "cut_chunk": 6,
    "cut_until_close": 3,
    "garbage": 3,
}
# Of connections, not of requests.
_RESET_AT_ACCEPT, _STALLED_TLS, _RESET_AFTER_TLS = 0.01, 0.002, 0.01
_IDLE_SECONDS: Final = 2.0
_LINGER_SECONDS: Final = 0.2
_RESET_SECONDS: Final = 0.03
_REPORTED_HOLD_SECONDS: Final = 2.0
_LARGE: Final = 0.05
_BACKLOG: Final = 2_048
_STACK_BYTES: Final = 262_144
_EVENT_STREAM: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNKED: Final = _EVENT_STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
_UNTIL_CLOSE: Final = _EVENT_STREAM + b"Connection: close\r\n\r\n"
_UNBILLED: Final = (b"503 Service Unavailable", b"502 Bad Gateway", b"429 Too Many Requests")


def _report(word: str, request_id: str, time: int = 0) -> None:
    # In one write, so that lines of several threads do not mix.
    os.write(1, f"{word} {request_id} {time}\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answer(data: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(data)) + data


class Request:
    """A request whose head has arrived, and what chance makes of it.

    Args:
        connection: It arrived there.
        head: All bytes up to the empty line.

    Attributes:
        connection: The same.
        name: The call's.
        id: The name, and the number of the repeat.
        chance: Its own.
        fate: The name of a behaviour.
    """

    def __init__(self, connection: Connection, head: bytes) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        fields = {n.lower(): v.strip() for n, _, v in (one.partition(":") for one in lines)}
        self.connection = connection
        self.method, target, _ = line.split(" ")
        _, kind, *rest = target.split("/")
        self.name = rest[-2] if rest[-1] == "status" else rest[-1]
        self.id = f"{self.name}.{fields.get(ATTEMPT_HEADER, '?')}"
        self._length = int(fields.get("content-length", "0"))
        self.chance = chance("fate", self.id)
        (self.fate,) = self.chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        if kind != "soak":
            self.fate = kind

    def read(self) -> None:
        """Read its content, and report that it has arrived."""
        data = self.connection.read(self._length)
        if self.method == "POST":
            if json.loads(data)["id"] != self.name:
                _report("crossed", self.id)
            _report("arrived", self.id)

    def read_half(self) -> None:
        """Read half of its content."""
        self.connection.read(self._length // 2)

    def content(self) -> bytes:
        """Make the content of its answer."""
        is_large = self.chance.random() < _LARGE
        return content(self.name, self.chance.randrange(400_000 if is_large else 3_000))


def _good(request: Request) -> Then:
    request.connection.send(_answer(request.content()))
    return Then.KEEP


def _chunked(request: Request) -> Then:
    data = request.content()
    middle = request.chance.randrange(1, len(data))
    request.connection.send(_CHUNKED + _chunk(data[:middle]))
    request.connection.send(_chunk(data[middle:]) + b"0\r\n\r\n")
    return Then.KEEP


def _until_close(request: Request) -> Then:
    request.connection.send(_UNTIL_CLOSE + request.content())
    # With TLS's closing alert: this is the answer's end.
    with contextlib.suppress(OSError):
        request.connection.hand_over().unwrap()
    return Then.CLOSE


def _closing(request: Request) -> Then:
    """Answer, and close the connection at once or a moment later, without a word of it."""
    request.connection.send(_answer(request.content()))
    sleep(request.chance.choice((0, request.chance.random() * 0.02)))
    _linger(request.connection)
    return Then.CLOSE


def _slow(request: Request) -> Then:
    sleep(request.chance.uniform(0.1, 1))
    return _good(request)


def _drip(request: Request) -> Then:
    request.connection.send(_CHUNKED)
    data = request.content()
    pieces = request.chance.randrange(5, 30)
    size = len(data) // pieces + 1
    for begin in range(0, len(data), size):
        request.connection.send(_chunk(data[begin : begin + size]))
        sleep(0.05)
    request.connection.send(b"0\r\n\r\n")
    return Then.KEEP


def _unbilled(request: Request) -> Then:
    _report("unbilled", request.id)
    request.connection.send(_answer(request.content(), request.chance.choice(_UNBILLED)))
    return Then.KEEP


def _reset(request: Request) -> Then:
    request.connection.reset()
    return Then.CLOSE


def _close(request: Request) -> Then:
    return Then.CLOSE


def _stalled(sent: bytes) -> Callable[[Request], Then]:
    def stall(request: Request) -> Then:
        request.connection.send(sent)
        request.connection.await_close()
        return Then.CLOSE

    return stall


def _dripping(first: bytes, drop: bytes) -> Callable[[Request], Then]:
    def drip(request: Request) -> Then:
        request.connection.send(first)
        while True:
            request.connection.send(drop)
            sleep(0.05)

    return drip


def _cut(head: bytes) -> Callable[[Request], Then]:
    def cut(request: Request) -> Then:
        data = request.content()
        sent = data[: request.chance.randrange(len(data) - 1)]
        framed = b"%x\r\n%b" % (len(data), sent) if b"chunked" in head else sent
        request.connection.send((head % len(data) if b"%d" in head else head) + framed)
        return Then.CLOSE

    return cut


def _garbage(request: Request) -> Then:
    request.connection.send(request.chance.randbytes(300))
    return Then.CLOSE


def _hold(request: Request) -> Then:
    sleep(HOLD_SECONDS)
    return _good(request)


def _big(request: Request) -> Then:
    request.connection.send(_answer(content(request.name, BIG_BYTES)))
    return Then.KEEP


_AFTER_THE_REQUEST: Final[dict[str, Callable[[Request], Then]]] = {
    "good": _good,
    "chunked": _chunked,
    "until_close": _until_close,
    "closing": _closing,
    "slow": _slow,
    "drip": _drip,
    "unbilled": _unbilled,
    "reset": _reset,
    "close": _close,
    "stall": _stalled(b""),
    "stall_head": _stalled(b"HTTP/1.1 200 OK\r\nContent-"),
    "stall_body": _stalled(_CHUNKED + _chunk(b"data: 1\n\n")),
    "drip_head": _dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "drip_for_ever": _dripping(_CHUNKED, _chunk(b"data: 1\n\n")),
    "cut_head": _cut(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl"),
    "cut_length": _cut(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"),
    "cut_chunk": _cut(_CHUNKED),
    "cut_until_close": _cut(_UNTIL_CLOSE),
    "garbage": _garbage,
    "hold": _hold,
    "big": _big,
    # For the same calls without faults.
    "calm": _good,
    "requests": _good,
}


def _act(request: Request) -> Then:
    if request.fate in {"reset_head", "reset_request"}:
        _report("cut", request.id)
        if request.fate == "reset_request":
            request.read_half()
        return _reset(request)
    request.read()
    return _AFTER_THE_REQUEST[request.fate](request)


def _linger(connection: Connection) -> None:
    """Close the sending side, and see whether a request comes too late."""
    # The method of SSLSocket would end TLS.
    socket.socket.shutdown(connection.hand_over(), socket.SHUT_WR)
    _report_late(connection, _LINGER_SECONDS)


def _reset_unused(connection: Connection) -> None:
    """Reset the connection, and report a request that is just arriving."""
    _report_late(connection, _RESET_SECONDS)
    connection.reset()


def _report_late(connection: Connection, seconds: float) -> None:
    connection.hand_over().settimeout(seconds)
    try:
        request = Request(connection, connection.read_head())
    except OSError:
        # A request may still come between this and the reset.
        _report("gone", f"connection-{monotonic_ns()}", monotonic_ns())
    else:
        _report("cut", request.id)


def _is_used(tls: ssl.SSLSocket, seconds: float) -> bool:
    """Wait until something arrives. Return False if nothing does for so long."""
    poller = select.poll()
    poller.register(tls, select.POLLIN)
    return bool(tls.pending() or poller.poll(seconds * 1e3))


def _converse(tls: ssl.SSLSocket, of_connection: random.Random) -> None:
    connection = Connection(tls)
    then = Then.KEEP
    while then is Then.KEEP:
        if not _is_used(tls, of_connection.expovariate(1 / _IDLE_SECONDS)):
            if of_connection.random() < 0.2:
                _reset_unused(connection)
            else:
                _linger(connection)
            return
        begun = monotonic_ns()
        request = Request(connection, connection.read_head())
        try:
            then = _act(request)
        finally:
            held = monotonic_ns() - begun
            if held > _REPORTED_HOLD_SECONDS * 1e9:
                _report("held", request.id, held)


def _serve(context: ssl.SSLContext, raw: socket.socket, number: int, is_calm: Path) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    of_connection = chance("connection", number)
    roll = 1 if is_calm.exists() else of_connection.random()
    sock = raw
    with contextlib.suppress(OSError):
        if roll < _STALLED_TLS:
            raw.settimeout(TOTAL_TIMEOUT * 2)
            while raw.recv(65_536):
                pass
        elif roll < _STALLED_TLS + _RESET_AT_ACCEPT:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            sock = tls = context.wrap_socket(raw, server_side=True)
            if roll < _STALLED_TLS + _RESET_AT_ACCEPT + _RESET_AFTER_TLS:
                _reset_unused(Connection(tls))
            else:
                _converse(tls, of_connection)
    sock.close()


def _context(directory: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = ("fal.run", "*.fal.run", "falrun.com", "*.falrun.com")
    authority.issue_cert(*names).configure_cert(context)
    return context


def main(directory: Path) -> None:
    """Serve for ever."""
    context = _context(directory)
    threading.stack_size(_STACK_BYTES)
    # Bound, and not listening.
    with socket.socket() as dead, socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as live:
        dead.bind(("127.0.0.1", 0))
        _report("port", str(live.getsockname()[1]), int(monotonic()))
        _report("dead", str(dead.getsockname()[1]))
        for number in count():
            raw, _ = live.accept()
            arguments = (context, raw, number, directory / "calm")
            threading.Thread(target=_serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

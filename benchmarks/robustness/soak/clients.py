"""Clients that call the proxy: most read the answer, others leave, stall or stop reading.

They repeat calls as fal's JavaScript client does, and as its versions do that do not know the
header `x-fal-proxy-error`: up to three times, after 429, 502, 503 or 504, and after no failure of
the connection. They wait less in between.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import PREFIX, in_threads
from benchmarks.robustness.soak.fates import ATTEMPT_HEADER, TOTAL_TIMEOUT, chance, reading

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

CLIENTS: Final = 48
_REPEATED: Final = frozenset({429, 502, 503, 504})
_MOST_REPEATS: Final = 3
_REPEAT_SECONDS: Final = 0.1
_KINDS: Final = {
    "read": 880,
    "half_close": 20,
    "leave_in_body": 15,
    "half_close_in_body": 10,
    "leave_waiting": 30,
    "leave_in_answer": 20,
    "stall_in_body": 10,
    "stop_reading": 4,
}
# Longer than any call may take.
_PATIENCE_SECONDS: Final = 4 * TOTAL_TIMEOUT
_LEFT: Final = -1
_BROKEN: Final = -2
_HOST: Final = "Host: localhost\r\nContent-Type: application/json\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_REASON: Final = re.compile(rb"\r\nx-fal-proxy-error: *([a-z_]+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_SMALL_BUFFER: Final = 4_096


@dataclass(frozen=True)
class Attempt:
    """One sending of a call, and what came of it.

    Attributes:
        name: The call's.
        number: How many times it was sent before.
        kind: Of the client.
        spends: Whether fal may bill it.
        address: The client's. Another connection has another one.
        status: The answer's. Negative: the client left, or the connection broke.
        reason: Why the answer is the proxy's own. None: it is fal's, or there is none.
        is_whole: Whether the client took the answer for a whole one.
        begun: `time.monotonic()` when the request was sent.
        seconds: From then to the answer's end.
    """

    name: str
    number: int
    kind: str
    spends: bool
    address: str
    status: int
    reason: str | None
    is_whole: bool
    begun: float
    seconds: float

    @property
    def id(self) -> str:
        """As in the upstream's reports."""
        return f"{self.name}.{self.number}"


class Clients:
    """Makes calls from many threads.

    Args:
        port: The server's.
        name: Begins the name of each call.
        rate: Calls a second.
        is_calm: No client misbehaves, and fal does not either.

    Attributes:
        attempts: What came of all calls.
        crossed: Ids of the attempts that got an answer to another call.
        cut: Ids of the attempts that took a part of an answer for the whole.
    """

    def __init__(self, port: int, name: str, rate: float, *, is_calm: bool = False) -> None:
        self.attempts: list[Attempt] = []
        self.crossed: list[str] = []
        self.cut: list[str] = []
        self._port = port
        self._name = name
        self._rate = rate
        self._is_calm = is_calm
        self._numbers = itertools.count()
        self._begun = 0.0
        self._calls = 0

    def run(self, calls: int) -> None:
        """Make so many calls, at the rate."""
        self._calls, self._begun = calls, monotonic()
        in_threads([self._make_calls] * CLIENTS)

    def seconds(self) -> float:
        """Return the time since the first call."""
        return monotonic() - self._begun

    def _make_calls(self) -> None:
        client = _Client(self._port)
        while (number := next(self._numbers)) < self._calls:
            sleep(max(0.0, self._begun + number / self._rate - monotonic()))
            self._call(client, f"{self._name}-{number}")
        client.close()

    def _call(self, client: _Client, name: str) -> None:
        of_call = chance("call", name)
        kind = "read"
        if not self._is_calm:
            (kind,) = of_call.choices(list(_KINDS), list(_KINDS.values()))
        spends = kind != "read" or of_call.random() < 0.8
        behaviour = "calm" if self._is_calm else "big" if kind == "stop_reading" else "soak"
        size = of_call.choice((10, 10, 10, 100_000, 400_000)) if "body" in kind else 10
        if of_call.random() < 0.05:
            size = of_call.randrange(300_000)
        body = json.dumps({"id": name, "pad": "x" * size}).encode() if spends else b""
        for number in range(_MOST_REPEATS + 1):
            head = _head(name, number, behaviour, len(body), spends=spends)
            attempt = self._attempt(client, (name, number, kind), head, body, of_call)
            self.attempts.append(attempt)
            if kind != "read" or attempt.status not in _REPEATED:
                return
            sleep(_REPEAT_SECONDS * 2**number)

    def _attempt(
        self,
        client: _Client,
        named: tuple[str, int, str],
        head: bytes,
        body: bytes,
        of_call: random.Random,
    ) -> Attempt:
        name, number, kind = named
        client.begin(small_buffer=kind == "stop_reading")
        address, status, reason, is_whole = client.address, _LEFT, None, False
        begun = monotonic()
        try:
            _SENDING.get(kind, _send)(client, head, body, of_call)
            if kind == "stall_in_body":
                begun = monotonic()
            if not client.has_left:
                status, reason, received = client.read_answer()
                is_whole = True
        except (OSError, ValueError):
            status = _BROKEN
        seconds = monotonic() - begun
        if is_whole and reason is None:
            found = reading(name, received)
            if not found.is_mine:
                self.crossed.append(f"{name}.{number}")
            elif not found.is_whole:
                self.cut.append(f"{name}.{number}")
        if kind not in {"read", "stall_in_body"} or not is_whole:
            client.close()
        return Attempt(
            name=name,
            number=number,
            kind=kind,
            spends=bool(body),
            address=address,
            status=status,
            reason=reason,
            is_whole=is_whole,
            begun=begun,
            seconds=seconds,
        )


def _head(name: str, number: int, behaviour: str, length: int, *, spends: bool) -> bytes:
    if spends:
        method, url = "POST", f"https://fal.run/{behaviour}/{name}"
    else:
        owner = "soak" if behaviour == "soak" else "calm"
        method, url = "GET", f"https://queue.fal.run/{owner}/app/requests/{name}/status"
    more = f"Content-Length: {length}\r\n" if spends else ""
    return (
        f"{method} {PREFIX} HTTP/1.1\r\n{_HOST}x-fal-target-url: {url}\r\n"
        f"{ATTEMPT_HEADER}: {number}\r\n{more}\r\n"
    ).encode()


_addresses: Final = itertools.count(1)


class _Client:
    """One thread's connection to the proxy; each new one comes from an address of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None
        self._received = b""
        self._give_up = 0.0
        self.address = ""
        self.has_left = False

    def begin(self, *, small_buffer: bool) -> None:
        """Get ready for a request."""
        self.has_left = False
        self._give_up = monotonic() + _PATIENCE_SECONDS
        if small_buffer:
            self.close()
        if self._sock is not None:
            return
        number = next(_addresses)
        self.address = f"127.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        self._received = b""
        self._sock = sock = socket.socket()
        sock.settimeout(_PATIENCE_SECONDS)
        if small_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        # So that the number of addresses does not use up the ports.
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT, ip(7)
        sock.bind((self.address, 0))
        sock.connect(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def sock(self) -> socket.socket:
        """The connection."""
        assert self._sock is not None
        return self._sock

    def leave(self, *, by_reset: bool) -> None:
        """Close the connection."""
        if by_reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.has_left = True
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def receive(self) -> None:
        """Receive something.

        Raises:
            ConnectionError: The proxy has closed the connection.
        """
        self._received += self._some(65_536)

    def _some(self, size: int) -> bytes:
        if monotonic() > self._give_up:
            raise TimeoutError("the answer does not end")
        data = self.sock.recv(size)
        if not data:
            raise ConnectionError("the proxy closed the connection")
        return data

    def read_answer(self) -> tuple[int, str | None, bytes]:
        """Read an answer; return its status, the proxy's own reason, and its content.

        Raises:
            OSError: It broke off.
            ValueError: It is not HTTP.
        """
        head = self._until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "):
            raise ValueError(head)
        reason, length = _REASON.search(head), _LENGTH.search(head)
        if _CHUNKED.search(head):
            content = self._chunks()
        elif length is not None:
            content = self._exactly(int(length[1]))
        else:
            raise ValueError(f"an answer that ends with its connection: {head!r}")
        if _CLOSE.search(head):
            self.close()
        return int(head[9:12]), reason and reason[1].decode(), content

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self._until(b"\r\n"), 16):
            pieces.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise ValueError("a chunk without its end")
        self._until(b"\r\n")
        return b"".join(pieces)

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self.receive()
        data, _, self._received = self._received.partition(end)
        return data + b"\r\n" if end == b"\r\n\r\n" else data

    def _exactly(self, size: int) -> bytes:
        pieces, left = [self._received[:size]], size - len(self._received)
        self._received = self._received[size:]
        while left > 0:
            data = self._some(min(left, 262_144))
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)


def _send(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body)


def _half_close(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body)
    sleep(of_call.choice((0.0, of_call.random() * 0.2)))
    client.sock.shutdown(socket.SHUT_WR)


def _half_close_in_body(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body[: len(body) // 2])
    client.sock.shutdown(socket.SHUT_WR)


def _leave_in_body(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body[: len(body) // 2])
    sleep(of_call.choice((0.0, of_call.random() * 0.2)))
    client.leave(by_reset=of_call.random() < 0.5)


def _leave_waiting(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body)
    sleep(of_call.choice((0.0, of_call.random() * 0.01, of_call.random() * 0.3)))
    client.leave(by_reset=of_call.random() < 0.5)


def _leave_in_answer(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body)
    client.receive()
    client.leave(by_reset=of_call.random() < 0.5)


def _stall_in_body(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    middle = len(body) // 2
    client.sock.sendall(head + body[:middle])
    sleep(of_call.uniform(1, TOTAL_TIMEOUT + 1))
    if of_call.random() < 0.5:
        client.leave(by_reset=False)
    else:
        client.sock.sendall(body[middle:])


def _stop_reading(client: _Client, head: bytes, body: bytes, of_call: random.Random) -> None:
    client.sock.sendall(head + body)
    sleep(TOTAL_TIMEOUT + 2)


_SENDING: Final[dict[str, Callable[[_Client, bytes, bytes, random.Random], None]]] = {
    "half_close": _half_close,
    "half_close_in_body": _half_close_in_body,
    "leave_in_body": _leave_in_body,
    "leave_waiting": _leave_waiting,
    "leave_in_answer": _leave_in_answer,
    "stall_in_body": _stall_in_body,
    "stop_reading": _stop_reading,
}


def hold(port: int, name: str, count: int) -> list[Attempt]:
    """Make so many calls at a time whose answers take a while; return what came of them."""
    attempts: list[Attempt] = []

    def one(number: int) -> None:
        client = _Client(port)
        client.begin(small_buffer=False)
        body = json.dumps({"id": f"{name}-{number}"}).encode()
        head = _head(f"{name}-{number}", 0, "hold", len(body), spends=True)
        begun = monotonic()
        client.sock.sendall(head + body)
        try:
            status, reason, _ = client.read_answer()
        except (OSError, ValueError):
            status, reason = _BROKEN, None
        client.close()
        seconds = monotonic() - begun
        attempts.append(
            Attempt(
                name=f"{name}-{number}",
                number=0,
                kind="hold",
                spends=True,
                address=client.address,
                status=status,
                reason=reason,
                is_whole=status > 0,
                begun=begun,
                seconds=seconds,
            )
        )

    in_threads([partial(one, number) for number in range(count)])
    return attempts

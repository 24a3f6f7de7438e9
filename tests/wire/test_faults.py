"""The error map: what an upstream can do wrong on the wire, and the one outcome of each.

Whatever the fault, the next request on the same proxy is answered right.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gc
import gzip
import io
import itertools
import json
import logging
import select
import socket
import ssl
import sys
import threading
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._core.exchange import Exchange
from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy._upstream.connect import _Dialled
from wsgi_fal_proxy.errors import FalProxyError, Truncated

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-secret-4ac1b77e"
ENDPOINT = "fal.run/fal-ai/flux/dev"
QUERY = "prompt=a-private-matter"
TARGET = f"https://{ENDPOINT}?{QUERY}"

RIGHT = b'{"the": "right answer"}'
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(RIGHT),
    RIGHT,
)
# What a request would be answered with if its connection were out of step.
POISON = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\npoison"


# The outcomes.


@dataclass(frozen=True)
class Ours:
    """An answer of our own."""

    status: int
    reason: str


@dataclass(frozen=True)
class BrokenOff:
    """The head was relayed, perhaps with some of this content, and `Truncated` raised then."""

    content: bytes = b""
    status: str = "200 OK"


@dataclass(frozen=True)
class Malformed(BrokenOff):
    """The same; or, if what is malformed came with the head, an answer of our own instead."""


@dataclass(frozen=True)
class Relayed:
    """No harm was done; the connection is used again, or not."""

    content: bytes = b""
    reused: bool = False
    status: str = "200 OK"
    location: str | None = None


Outcome = Ours | BrokenOff | Relayed

UNRESOLVABLE = Ours(502, "upstream_unresolvable")
UNREACHABLE = Ours(502, "upstream_unreachable")
TLS_FAILED = Ours(502, "upstream_tls_failed")
CLOSED = Ours(502, "upstream_closed")
MALFORMED = Ours(502, "upstream_malformed")
UNSUPPORTED = Ours(502, "upstream_coding_unsupported")
CONNECT_TIMEOUT = Ours(504, "connect_timeout")
READ_TIMEOUT = Ours(504, "read_timeout")


# What the upstream does.


@dataclass(frozen=True)
class Stage:
    """What the upstream and the client know of each other, so that neither has to sleep."""

    stopped: threading.Event = field(default_factory=threading.Event)
    head_relayed: threading.Event = field(default_factory=threading.Event)
    all_relayed: threading.Event = field(default_factory=threading.Event)
    late_sent: threading.Event = field(default_factory=threading.Event)


Act = Callable[[Connection, Stage], None]
Staging = Callable[[RawServer], contextlib.AbstractContextManager[object]]


def stays(connection: Connection, stage: Stage) -> None:
    """Keep the connection open: it is the proxy that must close it, without another request."""
    try:
        assert connection.sock.recv(1) == b""
    except TimeoutError as error:  # pragma: no cover - only where the proxy fails
        message = "the proxy did not close the connection"
        raise AssertionError(message) from error
    except OSError:
        pass  # closed, and the proxy had not read everything


def ends(connection: Connection, stage: Stage) -> None:
    connection.end()


def cuts(connection: Connection, stage: Stage) -> None:
    """Close TCP without the end of TLS."""
    connection.sock.close()


def resets(connection: Connection, stage: Stage) -> None:
    connection.reset()


def resets_later(connection: Connection, stage: Stage) -> None:
    # A reset may overtake what was sent before.
    assert stage.head_relayed.wait(WAIT_SECONDS)
    connection.reset()


def serves(connection: Connection, stage: Stage) -> None:
    connection.byte_by_byte = False
    while True:
        connection.read_request()
        connection.send(HEALTHY)


def drips(piece: bytes) -> Act:
    """Send a piece again and again, slowly, until nobody takes it any more."""

    def act(connection: Connection, stage: Stage) -> None:
        while not stage.stopped.wait(0.02):
            connection.send(piece)

    return act


def floods(piece: bytes) -> Act:
    """Send a piece again and again as fast as it is taken."""

    def act(connection: Connection, stage: Stage) -> None:
        while True:  # until the proxy closes
            connection.send(piece)

    return act


def sends_late(data: bytes) -> Act:
    """Send this when the answer has been relayed, and the connection is kept."""

    def act(connection: Connection, stage: Stage) -> None:
        assert stage.all_relayed.wait(WAIT_SECONDS)
        connection.send(data)
        stage.late_sent.set()
        stays(connection, stage)

    return act


def breaks_tls(data: bytes, then: Act = stays) -> Act:
    """Send this as if it were a TLS record of the connection's."""

    def act(connection: Connection, stage: Stage) -> None:
        connection.send_below_tls(data)
        then(connection, stage)

    return act


def drips_below_tls(connection: Connection, stage: Stage) -> None:
    while not stage.stopped.wait(0.02):
        connection.send_below_tls(b"x")


# What happens in the place of TLS.


def reads(act: Act) -> Act:
    """Do this when the client's part of the handshake has come, so that no close is a reset."""

    def reading(connection: Connection, stage: Stage) -> None:
        assert connection.sock.recv(65_536)
        act(connection, stage)

    return reading


def sends_in_the_clear(data: bytes, then: Act) -> Act:
    @reads
    def act(connection: Connection, stage: Stage) -> None:
        connection.send(data)
        then(connection, stage)

    return act


def shakes_hands(context: Callable[[], ssl.SSLContext]) -> Act:
    def act(connection: Connection, stage: Stage) -> None:
        connection.start_tls(context())
        stays(connection, stage)  # pragma: no cover - where the client does not object at once

    return act


@functools.cache
def authority() -> trustme.CA:
    """Give the one that the proxy trusts."""
    return trustme.CA()


def server_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def certified(*names: str, by: trustme.CA | None = None, **fields: Any) -> ssl.SSLContext:
    context = server_context()
    (by or authority()).issue_cert(*names, **fields).configure_cert(context)
    return context


def self_signed() -> ssl.SSLContext:
    context = server_context()
    own = trustme.CA()
    with own.cert_pem.tempfile() as certificate, own.private_key_pem.tempfile() as private:
        context.load_cert_chain(certificate, private)
    return context


def without_its_intermediate() -> ssl.SSLContext:
    context = server_context()
    leaf = authority().create_child_ca().issue_cert("fal.run")
    with leaf.cert_chain_pems[0].tempfile() as chain, leaf.private_key_pem.tempfile() as private:
        context.load_cert_chain(chain, private)
    return context


def at_most(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certified("fal.run")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    return context


def without_a_shared_cipher() -> ssl.SSLContext:
    context = certified("fal.run")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


def asking_for_a_certificate(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certified("fal.run")
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(context)
    return context


# What is wrong before there is a connection.


@contextlib.contextmanager
def nothing(server: RawServer) -> Iterator[None]:
    server.listen()
    yield


@contextlib.contextmanager
def nobody_listens(server: RawServer) -> Iterator[None]:
    yield
    server.listen()


@contextlib.contextmanager
def full_backlog(server: RawServer) -> Iterator[None]:
    fillers = server.fill_backlog()
    yield
    for filler in fillers:
        filler.close()
    server.listen()


@contextlib.contextmanager
def another_name(server: RawServer) -> Iterator[None]:
    look_up = socket.getaddrinfo

    def another(_: object, *rest: Any, **named: Any) -> object:
        # The tests' network resolves nothing but this machine.
        return look_up("nowhere.invalid", *rest, **named)

    server.listen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", another)
        yield


def lookup_fails(error: Exception) -> Staging:
    @contextlib.contextmanager
    def staging(server: RawServer) -> Iterator[None]:
        def lookup(*_: object, **__: object) -> None:
            raise error

        server.listen()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lookup)
            yield

    return staging


def lookup_gives(*found: tuple[int, str]) -> Staging:
    """Have the name resolve to these: an address family, and an address or this machine."""

    @contextlib.contextmanager
    def staging(server: RawServer) -> Iterator[None]:
        server.listen()
        addresses = [
            (family, socket.SOCK_STREAM, 0, "", (address, server.port)) for family, address in found
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
            yield

    return staging


# Mended in 3.11.8 and 3.12.2.
PYTHON_LEAVES_IT_OPEN = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)


@contextlib.contextmanager
def reset_before_tls(server: RawServer) -> Iterator[None]:
    """Have the reset come between the end of TCP's handshake and the beginning of TLS's."""
    connect = _Dialled._new_conn

    def connect_and_wait(connection: _Dialled) -> socket.socket:
        sock = connect(connection)
        sock.send(b"x")  # upon which it is reset
        reset = select.poll()
        reset.register(sock, 0)  # which leaves what is always told: errors, and the end
        assert reset.poll(WAIT_SECONDS * 1_000)
        return sock

    server.listen()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(_Dialled, "_new_conn", connect_and_wait)
        # Python's own TLS socket, which nobody else has got (python/cpython#113280).
        warnings.filterwarnings(
            "ignore" if PYTHON_LEAVES_IT_OPEN else "error", "unclosed <ssl", ResourceWarning
        )
        yield
        # Frames whose locals were shown keep it; so that it is not found in some later test.
        gc.collect()


# One row of the table.


@dataclass(frozen=True)
class Fault:
    """A fault and its outcome.

    Args:
        outcome: Of the request that meets it.
        act: What the upstream does on its first connection; all later ones are healthy.
        wire: What it sends first, if it is only the bytes that matter.
        in_the_clear: Whether the act comes in the place of TLS.
        staging: What is wrong before the request.
        options: Of the proxy.
        connections: How many there are after the second request, if that is told by the fault.
    """

    outcome: Outcome
    act: Act
    wire: bytes | None = None
    in_the_clear: bool = False
    staging: Staging = nothing
    options: Mapping[str, float] = field(default_factory=dict)
    connections: int | None = 2

    def script(self, stage: Stage, *, byte_by_byte: bool) -> Callable[[Connection], None]:
        def script(connection: Connection) -> None:
            if connection.number > 1:
                serves(connection, stage)
            if self.wire is not None:
                connection.read_head()
                connection.byte_by_byte = byte_by_byte
                connection.send(self.wire)
            self.act(connection, stage)

        return script


SOON = {"read_timeout": 0.3}
# For what must not come before the head has been relayed.
LATER = {"read_timeout": 0.5}


def row(name: str, fault: Fault) -> Any:
    return pytest.param(fault, id=name)


def unmade(name: str, staging: Staging, outcome: Outcome, **options: float) -> Any:
    """There is no connection."""
    return row(name, Fault(outcome, serves, staging=staging, options=options, connections=None))


def no_tls(
    name: str,
    act: Act,
    outcome: Outcome = TLS_FAILED,
    staging: Staging = nothing,
    **options: float,
) -> Any:
    """There is a connection, and no TLS on it."""
    return row(name, Fault(outcome, act, in_the_clear=True, staging=staging, options=options))


def answer(
    name: str,
    wire: bytes,
    outcome: Outcome,
    act: Act = stays,
    *,
    options: Mapping[str, float] | None = None,
) -> Any:
    """This comes for an answer, and then the upstream does that."""
    connections = 1 if isinstance(outcome, Relayed) and outcome.reused else 2
    fault = Fault(outcome, act, wire, options=options or {}, connections=connections)
    if isinstance(outcome, Relayed) and outcome.reused and act is stays:
        fault = replace(fault, act=serves)
    return row(name, fault)


DRIPPING_RECORD = b"\x16\x03\x03\x40\x00"

UNMADE = [
    unmade("refused", nobody_listens, UNREACHABLE),
    unmade("backlog-full", full_backlog, CONNECT_TIMEOUT, connect_timeout=0.3),
    unmade("name-unknown", another_name, UNRESOLVABLE),
    unmade(
        "name-unknown-for-now", lookup_fails(socket.gaierror(socket.EAI_AGAIN, "")), UNRESOLVABLE
    ),
    unmade("name-server-fails", lookup_fails(socket.gaierror(socket.EAI_FAIL, "")), UNRESOLVABLE),
    unmade("name-without-address", lookup_gives(), UNREACHABLE),
    unmade("network-unreachable", lookup_gives((socket.AF_INET, "192.0.2.1")), UNREACHABLE),
    unmade("address-family-unknown", lookup_gives((99, "127.0.0.1")), UNREACHABLE),
    unmade(
        "first-of-two-addresses-unreachable",
        lookup_gives((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")),
        Relayed(RIGHT),
    ),
    unmade(
        "first-of-two-address-families-unknown",
        lookup_gives((99, "127.0.0.1"), (socket.AF_INET, "127.0.0.1")),
        Relayed(RIGHT),
    ),
]

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
NO_TLS = [
    no_tls("certificate-expired", shakes_hands(lambda: certified("fal.run", not_after=NOW - DAY))),
    no_tls(
        "certificate-of-tomorrow", shakes_hands(lambda: certified("fal.run", not_before=NOW + DAY))
    ),
    no_tls("certificate-for-another-name", shakes_hands(lambda: certified("evil.example"))),
    no_tls("certificate-for-subdomains-only", shakes_hands(lambda: certified("*.fal.run"))),
    no_tls(
        "certificate-for-a-longer-name", shakes_hands(lambda: certified("fal.run.evil.example"))
    ),
    no_tls("certificate-for-the-address", shakes_hands(lambda: certified("127.0.0.1"))),
    no_tls(
        "certificate-of-an-unknown-authority",
        shakes_hands(lambda: certified("fal.run", by=trustme.CA())),
    ),
    no_tls("certificate-self-signed", shakes_hands(self_signed)),
    no_tls("certificate-without-its-intermediate", shakes_hands(without_its_intermediate)),
    no_tls("tls-1.0-only", shakes_hands(lambda: at_most(ssl.TLSVersion.TLSv1))),
    no_tls("tls-1.1-only", shakes_hands(lambda: at_most(ssl.TLSVersion.TLSv1_1))),
    no_tls("tls-without-a-shared-cipher", shakes_hands(without_a_shared_cipher)),
    no_tls(
        "tls-1.2-asks-for-our-certificate",
        shakes_hands(lambda: asking_for_a_certificate(ssl.TLSVersion.TLSv1_2)),
    ),
    # TLS 1.3 tells the client only after the handshake.
    no_tls(
        "tls-1.3-asks-for-our-certificate",
        shakes_hands(lambda: asking_for_a_certificate(ssl.TLSVersion.TLSv1_3)),
        CLOSED,
    ),
    no_tls("plain-http-for-tls", sends_in_the_clear(b"HTTP/1.1 400 Bad Request\r\n\r\n", stays)),
    no_tls("plain-ssh-for-tls", sends_in_the_clear(b"SSH-2.0-OpenSSH_9.2\r\n", stays)),
    no_tls("zeros-for-tls", sends_in_the_clear(bytes(100), stays)),
    no_tls("alert-handshake-failure", sends_in_the_clear(b"\x15\x03\x03\x00\x02\x02\x28", stays)),
    no_tls("alert-protocol-version", sends_in_the_clear(b"\x15\x03\x03\x00\x02\x02\x46", stays)),
    no_tls("alert-unrecognized-name", sends_in_the_clear(b"\x15\x03\x03\x00\x02\x02\x70", stays)),
    no_tls("alert-close-notify", sends_in_the_clear(b"\x15\x03\x03\x00\x02\x01\x00", stays)),
    no_tls("close-in-the-handshake", reads(cuts)),
    no_tls(
        "close-within-a-handshake-record", sends_in_the_clear(b"\x16\x03\x03\x00\x7a\x02", cuts)
    ),
    no_tls("reset-before-tls", reads(resets), UNREACHABLE, reset_before_tls),
    no_tls("reset-in-the-handshake", reads(resets), UNREACHABLE),
    no_tls("handshake-stalls", reads(stays), CONNECT_TIMEOUT, connect_timeout=0.3),
    no_tls(
        "handshake-stalls-within-a-record",
        sends_in_the_clear(DRIPPING_RECORD, stays),
        CONNECT_TIMEOUT,
        connect_timeout=0.3,
    ),
    no_tls(
        "handshake-drips",
        sends_in_the_clear(DRIPPING_RECORD, drips(b"x")),
        CONNECT_TIMEOUT,
        connect_timeout=0.3,
    ),
]

OK = b"HTTP/1.1 200 OK\r\n"
TEXT = OK + b"Content-Type: text/plain\r\n"
NO_HEAD = [
    answer("close-before-the-head", b"", CLOSED, ends),
    answer("close-before-the-head-without-tlss-end", b"", CLOSED, cuts),
    answer("reset-before-the-head", b"", CLOSED, resets),
    answer("stall-before-the-head", b"", READ_TIMEOUT, options=SOON),
    answer("close-in-the-version", b"HTT", CLOSED, ends),
    answer("close-in-the-status", b"HTTP/1.1 20", CLOSED, ends),
    answer("close-after-the-status", b"HTTP/1.1 200", CLOSED, ends),
    answer("close-after-the-status-line", OK, CLOSED, ends),
    answer("close-in-a-name", OK + b"Content-Le", CLOSED, ends),
    answer("close-in-a-value", OK + b"Content-Length: 1", CLOSED, ends),
    answer("close-within-crlf", OK + b"Content-Length: 0\r", CLOSED, ends),
    answer("close-before-the-empty-line", OK + b"Content-Length: 0\r\n", CLOSED, ends),
    answer("close-within-the-empty-line", OK + b"Content-Length: 0\r\n\r", CLOSED, ends),
    answer("close-in-the-head-without-tlss-end", OK + b"Content-Le", CLOSED, cuts),
    answer("close-after-100", b"HTTP/1.1 100 Continue\r\n\r\n", CLOSED, ends),
    answer("close-after-103", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", CLOSED, ends),
    answer("reset-in-the-head", OK + b"Content-Le", CLOSED, resets),
    answer("stall-in-the-status-line", b"HTTP/1.1 2", READ_TIMEOUT, options=SOON),
    answer("stall-in-the-head", OK + b"Content-Le", READ_TIMEOUT, options=SOON),
    answer("stall-after-100", b"HTTP/1.1 100 Continue\r\n\r\n", READ_TIMEOUT, options=SOON),
    answer("head-drips", OK + b"A: ", READ_TIMEOUT, drips(b"x"), options=SOON),
    answer(
        "interim-answers-drip",
        b"",
        READ_TIMEOUT,
        drips(b"HTTP/1.1 100 Go on\r\n\r\n"),
        options=SOON,
    ),
    answer(
        "interim-answers-storm",
        b"",
        READ_TIMEOUT,
        floods(b"HTTP/1.1 100 Go on\r\n\r\n" * 99),
        options=SOON,
    ),
    answer("head-without-end", OK + b"A: ", MALFORMED, floods(b"x" * 1_000)),
    answer("fields-without-end", OK, MALFORMED, floods(b"A: b\r\n" * 1_000)),
    answer("no-tls-record-before-the-head", b"", CLOSED, breaks_tls(b"HTTP/1.1 200 OK\r\n\r\n")),
    answer(
        "forged-tls-record-in-the-head", OK, CLOSED, breaks_tls(b"\x17\x03\x03\x00\x20" + bytes(32))
    ),
    answer(
        "tls-record-stalls", OK, READ_TIMEOUT, breaks_tls(b"\x17\x03\x03\x40\x00\x01"), options=SOON
    ),
    answer(
        "tls-record-drips",
        OK,
        READ_TIMEOUT,
        breaks_tls(b"\x17\x03\x03\x40\x00", drips_below_tls),
        options=SOON,
    ),
    answer("cut-within-a-tls-record", OK, CLOSED, breaks_tls(b"\x17\x03\x03\x40\x00\x01", cuts)),
]

END = b"\r\nContent-Length: 0\r\n\r\n"
STATUS_LINES = (
    [
        answer(f"status-line-{name}", line + END, MALFORMED)
        for name, line in {
            "http-2.0": b"HTTP/2.0 200 OK",
            "http-2": b"HTTP/2 200",
            "http-1.2": b"HTTP/1.2 200 OK",
            "http-1.10": b"HTTP/1.10 200 OK",
            "http-1": b"HTTP/1 200 OK",
            "http-0.9": b"HTTP/0.9 200 OK",
            "http-01.1": b"HTTP/01.1 200 OK",
            "icy": b"ICY 200 OK",
            "lower-case": b"http/1.1 200 OK",
            "no-version": b"200 OK",
            "no-status": b"HTTP/1.1",
            "no-status-but-space": b"HTTP/1.1 ",
            "no-digits": b"HTTP/1.1 OK",
            "letters-for-digits": b"HTTP/1.1 2OO OK",
            "digits-of-unicode": "HTTP/1.1 \uff12\uff10\uff10 OK".encode(),
            "99": b"HTTP/1.1 99 Low",
            "099": b"HTTP/1.1 099 Low",
            "000": b"HTTP/1.1 000 None",
            "600": b"HTTP/1.1 600 High",
            "999": b"HTTP/1.1 999 Request Denied",
            "1000": b"HTTP/1.1 1000 High",
            "negative": b"HTTP/1.1 -200 OK",
            "plus": b"HTTP/1.1 +200 OK",
            "phrase-at-once": b"HTTP/1.1 200OK",
            "no-space": b"HTTP/1.1200 OK",
            "two-spaces": b"HTTP/1.1  200 OK",
            "tab": b"HTTP/1.1\t200 OK",
            "after-space": b" HTTP/1.1 200 OK",
            "after-crlf": b"\r\nHTTP/1.1 200 OK",
            "after-lf": b"\nHTTP/1.1 200 OK",
            "after-bom": b"\xef\xbb\xbfHTTP/1.1 200 OK",
            "null-in-phrase": b"HTTP/1.1 200 O\x00K",
            "bare-cr-in-phrase": b"HTTP/1.1 200 O\rK",
            "bare-lf-at-its-end": b"HTTP/1.1 200 OK\nA: b",
            "escape-in-phrase": b"HTTP/1.1 200 \x1b[31mOK",
            "a-request": b"GET / HTTP/1.1",
        }.items()
    ]
    + [
        answer(f"not-http-{name}", data, MALFORMED)
        for name, data in {
            "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            "smtp": b"220 mail.example ESMTP\r\n",
            "tls-alert": b"\x15\x03\x03\x00\x02\x02\x28",
            "html": b"<!DOCTYPE html>\n<title>Down</title>",
            "json": b'{"detail": "Down"}',
            "http-2-settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
            "null": b"\x00",
            "empty-lines": b"\r\n\r\n",
        }.items()
    ]
    + [
        answer(
            "101-unsolicited",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            MALFORMED,
        ),
        answer("lines-end-in-lf", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", CLOSED, ends),
    ]
)

FIELDS = [
    answer(f"field-{name}", OK + line + b"\r\nContent-Length: 0\r\n\r\n", MALFORMED)
    for name, line in {
        "no-colon": b"no colon",
        "space-before-colon": b"A : b",
        "tab-before-colon": b"A\t: b",
        "space-before-name": b" A: b",
        "folded": b"A: b\r\n c",
        "folded-by-tab": b"A: b\r\n\tc",
        "name-empty": b": b",
        "name-with-space": b"A B: c",
        "name-no-token": b"(A): b",
        "name-not-ascii": "\u00c4: b".encode(),
        "name-with-null": b"A\x00: b",
        "name-quoted": b'"A": b',
        "bare-cr": b"A: b\rC: d",
        "bare-cr-at-its-end": b"A: b\r",
        "bare-lf": b"A: b\nC: d",
        "null": b"A: \x00",
        "control-character": b"A: \x01",
        "vertical-tab": b"A: b\x0bc",
        "escape": b"A: \x1b[31m",
        "delete": b"A: \x7f",
        "a-second-status-line": b"HTTP/1.1 200 OK",
    }.items()
] + [
    answer("fields-too-many", OK + b"A: b\r\n" * 101 + b"\r\n", MALFORMED),
    answer("line-over-long", OK + b"A: " + b"x" * 65_536 + END, MALFORMED),
    answer("status-line-over-long", b"HTTP/1.1 200 " + b"x" * 65_536 + END, MALFORMED),
    answer("name-over-long", OK + b"x" * 65_536 + b": a" + END, MALFORMED),
    answer("head-over-long", OK + (b"A: " + b"x" * 1_000 + b"\r\n") * 66 + b"\r\n", MALFORMED),
    answer(
        "103-over-long",
        b"HTTP/1.1 103 Early\r\nA: " + b"x" * 65_536 + b"\r\n\r\n" + OK + END,
        MALFORMED,
    ),
    answer("103-malformed", b"HTTP/1.1 103 Early\r\nA b\r\n\r\n" + OK + END, MALFORMED),
]

FIVE = b"12345"


def content(length: bytes, data: bytes = FIVE) -> bytes:
    return TEXT + b"Content-Length: " + length + b"\r\n\r\n" + data


LENGTHS = [
    answer(f"length-{name}", content(value), MALFORMED)
    for name, value in {
        "empty": b"",
        "negative": b"-5",
        "plus": b"+5",
        "hexadecimal": b"0x5",
        "letters": b"five",
        "fraction": b"5.0",
        "exponent": b"5e0",
        "underscored": b"0_5",
        "with-space": b"0 5",
        "superscript": b"\xb5",
        "of-unicode": "\uff15".encode(),
        "quoted": b'"5"',
        "of-19-digits": b"0000000000000000005",
        "of-2-to-the-64": b"18446744073709551621",
        "list-contradictory": b"5, 6",
        "list-with-empty": b"5,",
        "list-with-semicolon": b"5;5",
        "list-of-the-same-written-otherwise": b"5, 05",
        "twice-contradictory": b"5\r\nContent-Length: 6",
        "twice-and-one-empty": b"5\r\ncontent-length: ",
        "with-chunked": b"5\r\nTransfer-Encoding: chunked",
        "with-identity": b"5\r\nTransfer-Encoding: identity",
    }.items()
] + [
    answer("length-malformed-on-204", b"HTTP/1.1 204 None\r\nContent-Length: x\r\n\r\n", MALFORMED),
    answer("length-twice-the-same", content(b"5\r\nContent-Length: 5"), Relayed(FIVE, reused=True)),
    answer("length-list-of-the-same", content(b"5, 5"), Relayed(FIVE, reused=True)),
    answer("length-too-long", content(b"10"), BrokenOff(FIVE), ends),
    answer("length-far-too-long", content(b"9" * 18), BrokenOff(FIVE), ends),
    answer("length-and-nothing", content(b"10", b""), BrokenOff(), ends),
    answer("length-cut-without-tlss-end", content(b"10"), BrokenOff(FIVE), cuts),
    answer("length-reset", content(b"10"), BrokenOff(FIVE), resets_later),
    answer("length-stalls", content(b"10"), BrokenOff(FIVE), options=LATER),
    answer("length-stalls-before-the-content", content(b"10", b""), BrokenOff(), options=LATER),
    answer(
        "length-and-a-forged-tls-record",
        content(b"10"),
        BrokenOff(FIVE),
        breaks_tls(b"\x17\x03\x03\x00\x20" + bytes(32)),
    ),
    answer(
        "length-and-a-dripping-tls-record",
        content(b"10"),
        BrokenOff(FIVE),
        breaks_tls(b"\x17\x03\x03\x40\x00", drips_below_tls),
        options=LATER,
    ),
    answer("length-too-short", content(b"5", FIVE + b"678"), Relayed(FIVE)),
    answer("length-zero-and-content", content(b"0"), Relayed()),
]

CHUNKED = TEXT + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def coded_transfer(value: bytes) -> bytes:
    return TEXT + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\n12345\r\n" + LAST


TRANSFERS = [
    answer(f"transfer-{name}", coded_transfer(value), MALFORMED)
    for name, value in {
        "empty": b"",
        "gzip": b"gzip",
        "gzip-then-chunked": b"gzip, chunked",
        "chunked-then-gzip": b"chunked, gzip",
        "chunked-in-chunked": b"chunked, chunked",
        "chunked-twice": b"chunked\r\nTransfer-Encoding: chunked",
        "identity": b"identity",
        "identity-then-chunked": b"identity, chunked",
        "unknown": b"xchunked",
        "with-parameter": b"chunked;q=1",
        "quoted": b'"chunked"',
        "vertical-tab": b"\x0bchunked",
    }.items()
] + [
    answer(
        "transfer-on-http-1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n" + LAST,
        MALFORMED,
    ),
    answer(
        "transfer-on-204",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
        MALFORMED,
    ),
    answer("transfer-in-capitals", coded_transfer(b"CHUNKED"), Relayed(FIVE, reused=True)),
]

CHUNK = b"5\r\n12345\r\n"
CHUNKS = (
    [
        answer(f"chunk-{name}", CHUNKED + data, Malformed(FIVE))
        for name, data in {
            "size-negative": b"-5\r\n12345\r\n" + LAST,
            "size-negative-after-a-good-one": CHUNK + b"-5\r\n12345\r\n" + LAST,
            "size-minus-zero": b"-0\r\n\r\n",
            "size-signed": b"+5\r\n12345\r\n" + LAST,
            "size-underscored": b"0_5\r\n12345\r\n" + LAST,
            "size-0x": b"0x5\r\n12345\r\n" + LAST,
            "size-empty": b"\r\n12345\r\n" + LAST,
            "size-empty-with-extension": b";a=b\r\n12345\r\n" + LAST,
            "size-after-space": b" 5\r\n12345\r\n" + LAST,
            "size-twice": b"5 5\r\n12345\r\n" + LAST,
            "size-no-number": b"five\r\n12345\r\n" + LAST,
            "size-of-16-digits": b"0000000000000005\r\n12345\r\n" + LAST,
            "size-of-2-to-the-64": b"10000000000000005\r\n12345\r\n" + LAST,
            "size-and-lf": b"5\n12345\n0\n\n",
            "size-and-cr": b"5\r12345\r0\r\r",
            "null-in-extension": b"5;a=\x00\r\n12345\r\n" + LAST,
            "lf-in-extension": b"5;a=b\nc\r\n12345\r\n" + LAST,
            "data-without-crlf": b"5\r\n12345" + LAST,
            "data-and-lf": b"5\r\n12345\n" + LAST,
            "data-and-cr": b"5\r\n12345\r" + LAST,
            "data-longer-than-size": b"5\r\n1234567\r\n" + LAST,
            "data-and-an-empty-line": CHUNK + b"\r\n" + LAST,
            "head-of-another-answer": CHUNK + POISON,
            "lf-in-trailer": CHUNK + b"0\r\nA: b\nC: d\r\n\r\n",
            "cr-in-trailer": CHUNK + b"0\r\nA: b\rC: d\r\n\r\n",
        }.items()
    ]
    + [
        answer(f"chunked-cut-{name}", CHUNKED + data, BrokenOff(FIVE), ends)
        for name, data in {
            "before-the-size": b"",
            "in-the-size": b"5",
            "in-the-extension": b"5;a",
            "within-the-sizes-crlf": b"5\r",
            "before-the-data": b"5\r\n",
            "in-the-data": b"5\r\n123",
            "after-the-data": b"5\r\n12345",
            "within-the-datas-crlf": b"5\r\n12345\r",
            "between-chunks": CHUNK,
            "in-the-last-size": CHUNK + b"0",
            "within-the-last-sizes-crlf": CHUNK + b"0\r",
            "before-the-trailer": CHUNK + b"0\r\n",
            "in-the-trailer": CHUNK + b"0\r\nA: b",
            "after-the-trailer": CHUNK + b"0\r\nA: b\r\n",
            "within-the-last-crlf": CHUNK + b"0\r\n\r",
        }.items()
    ]
    + [
        # The line's end is taken for content.
        answer(
            "chunk-data-shorter-than-size",
            CHUNKED + b"5\r\n123\r\n" + LAST,
            Malformed(b"123\r\n"),
        ),
        answer("chunked-cut-without-tlss-end", CHUNKED + CHUNK, BrokenOff(FIVE), cuts),
        answer("chunked-reset", CHUNKED + CHUNK, BrokenOff(FIVE), resets_later),
        answer("chunked-reset-in-a-chunk", CHUNKED + b"5\r\n123", BrokenOff(FIVE), resets_later),
        answer("chunked-stalls-before-the-size", CHUNKED, BrokenOff(), options=LATER),
        answer("chunked-stalls-in-the-size", CHUNKED + b"5", BrokenOff(), options=LATER),
        answer("chunked-stalls-in-the-data", CHUNKED + b"5\r\n123", BrokenOff(FIVE), options=LATER),
        answer("chunked-stalls-between-chunks", CHUNKED + CHUNK, BrokenOff(FIVE), options=LATER),
        answer(
            "chunked-stalls-in-the-trailer",
            CHUNKED + CHUNK + b"0\r\nA: ",
            BrokenOff(FIVE),
            options=LATER,
        ),
        answer(
            "chunked-stalls-before-the-end",
            CHUNKED + CHUNK + b"0\r\n",
            BrokenOff(FIVE),
            options=LATER,
        ),
        answer("chunk-extension-drips", CHUNKED + b"5;", BrokenOff(), drips(b"x"), options=LATER),
        answer("chunk-extension-without-end", CHUNKED + b"5;", BrokenOff(), floods(b"x" * 100)),
        answer(
            "trailer-drips",
            CHUNKED + CHUNK + b"0\r\n",
            BrokenOff(FIVE),
            drips(b"A: b\r\n"),
            options=LATER,
        ),
        answer(
            "trailer-without-end",
            CHUNKED + CHUNK + b"0\r\n",
            BrokenOff(FIVE),
            floods(b"A: b\r\n" * 99),
        ),
        answer(
            "trailer-line-without-end",
            CHUNKED + CHUNK + b"0\r\nA: ",
            BrokenOff(FIVE),
            floods(b"x" * 100),
        ),
        # It is dropped, whatever it is.
        answer(
            "trailer-garbage", CHUNKED + CHUNK + b"0\r\n?\x01\r\n\r\n", Relayed(FIVE, reused=True)
        ),
    ]
)

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n"
SAYS_CHUNKED = b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\n" + FIVE
LATE = content(b"5")
EXCESS = [
    answer("excess-after-a-length", content(b"5") + POISON, Relayed(FIVE)),
    answer("excess-after-chunks", CHUNKED + CHUNK + LAST + POISON, Relayed(FIVE)),
    answer("excess-crlf-after-chunks", CHUNKED + CHUNK + LAST + b"\r\n", Relayed(FIVE)),
    answer("excess-after-no-length", content(b"0", POISON), Relayed()),
    answer("excess-after-204", NO_CONTENT + POISON, Relayed(status="204 No Content")),
    answer("excess-after-304", NOT_MODIFIED + POISON, Relayed(status="304 Not Modified")),
    answer(
        "excess-after-304-that-says-chunked",
        SAYS_CHUNKED + LAST,
        Relayed(status="304 Not Modified"),
    ),
    answer(
        "excess-100-after-a-length", content(b"5") + b"HTTP/1.1 100 Go on\r\n\r\n", Relayed(FIVE)
    ),
    answer("late-excess-after-a-length", LATE, Relayed(FIVE), sends_late(POISON)),
    answer("late-excess-after-chunks", CHUNKED + CHUNK + LAST, Relayed(FIVE), sends_late(POISON)),
    answer(
        "late-excess-after-204", NO_CONTENT, Relayed(status="204 No Content"), sends_late(POISON)
    ),
    answer("late-excess-crlf", LATE, Relayed(FIVE), sends_late(b"\r\n")),
    answer(
        "late-excess-408",
        LATE,
        Relayed(FIVE),
        sends_late(b"HTTP/1.1 408 Idle\r\nConnection: close\r\n\r\n"),
    ),
    answer("204-without-excess", NO_CONTENT, Relayed(status="204 No Content", reused=True)),
    answer("304-without-excess", NOT_MODIFIED, Relayed(status="304 Not Modified", reused=True)),
    answer("304-that-says-chunked", SAYS_CHUNKED, Relayed(status="304 Not Modified", reused=True)),
    answer("connection-close-and-not-closed", CLOSING, Relayed(FIVE)),
    answer(
        "http-1.0-and-not-closed",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n" + FIVE,
        Relayed(FIVE),
    ),
    answer("until-close", TEXT + b"\r\n" + FIVE, Relayed(FIVE), ends),
    answer("until-close-and-nothing", TEXT + b"\r\n", Relayed(), ends),
    answer("until-close-on-http-1.0", b"HTTP/1.0 200 OK\r\n\r\n" + FIVE, Relayed(FIVE), ends),
    answer("until-close-without-tlss-end", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), cuts),
    answer("until-close-and-reset", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), resets_later),
    answer("until-close-that-never-comes", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), options=LATER),
    answer(
        "100-then-an-answer", b"HTTP/1.1 100 Continue\r\n\r\n" + LATE, Relayed(FIVE, reused=True)
    ),
    answer(
        "103-then-an-answer",
        b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + LATE,
        Relayed(FIVE, reused=True),
    ),
    answer(
        "102-with-a-length-then-an-answer",
        b"HTTP/1.1 102 On\r\nContent-Length: 99\r\n\r\n" + LATE,
        Relayed(FIVE, reused=True),
    ),
    answer(
        "1000-interim-answers-then-one",
        b"HTTP/1.1 100 Go on\r\n\r\n" * 1_000 + LATE,
        Relayed(FIVE, reused=True),
    ),
]


def coded(coding: bytes, data: bytes) -> bytes:
    return TEXT + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        coding,
        len(data),
        data,
    )


def miscoded(name: str, coding: bytes, data: bytes, outcome: Outcome) -> Any:
    """The content is wrong, its framing is not: the connection may be used again, or not."""
    return row(name, Fault(outcome, serves, coded(coding, data), connections=None))


HELLO = b"hello " * 20
GZIPPED = gzip.compress(HELLO, mtime=0)
DEFLATED = zlib.compress(HELLO)
RAW_DEFLATED = DEFLATED[2:-4]
ZEROS = bytes(10_000_000)
CODINGS = [
    answer("gzip-unasked", coded(b"gzip", GZIPPED), Relayed(HELLO, reused=True)),
    miscoded("gzip-corrupt-from-the-start", b"gzip", b"not gzip at all", BrokenOff()),
    miscoded("gzip-corrupt-within", b"gzip", GZIPPED[:10] + b"\x07" * 20, BrokenOff()),
    miscoded(
        "gzip-wrong-checksum", b"gzip", GZIPPED[:-8] + bytes(4) + GZIPPED[-4:], BrokenOff(HELLO)
    ),
    miscoded("gzip-wrong-size", b"gzip", GZIPPED[:-4] + bytes(4), BrokenOff(HELLO)),
    miscoded("gzip-truncated", b"gzip", GZIPPED[:-1], BrokenOff(HELLO)),
    miscoded("gzip-truncated-in-its-header", b"gzip", GZIPPED[:5], BrokenOff()),
    miscoded("gzip-then-garbage", b"gzip", GZIPPED + b"garbage", BrokenOff(HELLO)),
    answer("gzip-in-a-cut-length", coded(b"gzip", GZIPPED)[:-5], BrokenOff(HELLO), ends),
    answer(
        "gzip-whole-in-cut-chunks",
        TEXT
        + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n"
        % (len(GZIPPED), GZIPPED),
        BrokenOff(HELLO),
        ends,
    ),
    answer("gzip-that-is-not-there", coded(b"gzip", b""), Relayed(reused=True)),
    answer("gzip-bomb", coded(b"gzip", gzip.compress(ZEROS)), Relayed(ZEROS, reused=True)),
    answer("gzip-twice", coded(b"gzip, gzip", gzip.compress(GZIPPED)), UNSUPPORTED),
    answer(
        "gzip-twice-in-two-fields",
        coded(b"gzip\r\nContent-Encoding: gzip", gzip.compress(GZIPPED)),
        UNSUPPORTED,
    ),
    answer("gzip-many-times", coded(b", ".join([b"gzip"] * 1_000), GZIPPED), UNSUPPORTED),
    answer("gzip-and-identity", coded(b"identity, gzip,", GZIPPED), Relayed(HELLO, reused=True)),
    miscoded("deflate-corrupt", b"deflate", b"\x78\x9c\xff\xff", BrokenOff()),
    miscoded("deflate-wrong-checksum", b"deflate", DEFLATED[:-4] + bytes(4), BrokenOff(HELLO)),
    miscoded("deflate-truncated", b"deflate", DEFLATED[:-1], BrokenOff(HELLO)),
    answer("deflate-bomb", coded(b"deflate", zlib.compress(ZEROS)), Relayed(ZEROS, reused=True)),
    miscoded("deflate-without-zlibs-frame", b"deflate", RAW_DEFLATED, BrokenOff()),
    answer("brotli", coded(b"br", b"\x0b\x02\x80hello\x03"), UNSUPPORTED),
    answer("zstandard", coded(b"zstd", b"\x28\xb5\x2f\xfd"), UNSUPPORTED),
    answer("coding-unknown", coded(b"x-nonsense", FIVE), UNSUPPORTED),
    answer("coding-no-token", coded(b'"gzip"', GZIPPED), UNSUPPORTED),
    answer("coding-unknown-of-no-content", coded(b"br", b""), Relayed(reused=True)),
]

LOCATIONS = {
    "absent": None,
    "relative": "/elsewhere",
    "evil": "https://evil.example/?x=1",
}
REDIRECTS = [
    answer(
        f"redirect-{status}-location-{name}",
        b"HTTP/1.1 %d Moved\r\n" % status
        + (b"" if location is None else b"Location: %b\r\n" % location.encode())
        + b"Content-Length: 5\r\n\r\n"
        + FIVE,
        Relayed(FIVE, reused=True, status=f"{status} Moved", location=location),
    )
    for status, (name, location) in itertools.product((301, 302, 303, 307, 308), LOCATIONS.items())
]

FAULTS = [
    *UNMADE,
    *NO_TLS,
    *NO_HEAD,
    *STATUS_LINES,
    *FIELDS,
    *LENGTHS,
    *TRANSFERS,
    *CHUNKS,
    *EXCESS,
    *CODINGS,
    *REDIRECTS,
]
every_fault = pytest.mark.parametrize("fault", FAULTS)


# What is seen of it.


@dataclass
class Seen:
    """All that came out of one request, and of the next one."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    broken_off: bool = False
    tracebacks: list[str] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def shown(error: BaseException) -> str:
    """Give all that an error reporter might show of it: causes, frames, and what is in them."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return repr(error) + "".join(told.format())


def request(proxy: FalProxy, stage: Stage) -> Seen:
    seen = Seen()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        seen.status, seen.headers = status, headers
        stage.head_relayed.set()
        return seen.pieces.append

    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "HTTP_X_FAL_TARGET_URL": TARGET,
        "wsgi.input": io.BytesIO(),
    }
    response = proxy(environ, start_response)
    try:
        seen.pieces += response
    except Truncated as error:
        seen.broken_off = True
        seen.tracebacks.append(shown(error))
    finally:
        if hasattr(response, "close"):
            response.close()
    stage.all_relayed.set()
    return seen


def meet(fault: Fault, directory: Path, *, byte_by_byte: bool = False) -> tuple[Seen, Seen]:
    """Meet a fault, send another request on the same proxy, and tell what came of both."""
    before = set(threading.enumerate())
    stage = Stage()
    script = fault.script(stage, byte_by_byte=byte_by_byte)
    server = RawServer(script, authority=authority(), plain=(1,) if fault.in_the_clear else ())
    manager = server.pool_manager(directory)
    options: dict[str, Any] = dict(fault.options)
    proxy = FalProxy(key=KEY, pool_manager=manager, **options)
    try:
        with fault.staging(server):
            first = request(proxy, stage)
        late = fault.act.__qualname__.startswith(sends_late.__name__)
        assert not late or stage.late_sent.wait(WAIT_SECONDS)
        # It is not late, however slow this machine is.
        proxy._upstream._connect_timeout = proxy._upstream._read_timeout = WAIT_SECONDS
        second = request(proxy, stage)
        assert set(threading.enumerate()) - before <= set(server.threads)
        if fault.connections is not None:
            assert server.connections == fault.connections
    finally:
        stage.stopped.set()
        for key in manager.pools.keys():  # noqa: SIM118 - not a dict, and not iterable
            manager.pools[key].close()
        server.__exit__(None, None, None)
    return first, second


def assert_outcome(seen: Seen, outcome: Outcome) -> None:
    if isinstance(outcome, Malformed) and seen.status != outcome.status:
        outcome = MALFORMED
    match outcome:
        case Ours(status, reason):
            assert seen.header("x-fal-proxy-error") == reason
            assert int(seen.status[:3]) == status
            assert not seen.broken_off
            assert json.loads(seen.content)["reason"] == reason
        case BrokenOff(content, status):
            assert seen.status == status
            assert seen.broken_off
            assert content.startswith(seen.content)
        case Relayed(content, _, status, location):  # pragma: no branch - the last one
            assert seen.status == status
            assert not seen.broken_off
            assert seen.content == content
            assert seen.header("Location") == location
    if not isinstance(outcome, Ours):
        assert seen.header("x-fal-proxy-error") is None
    assert all(len(piece) <= PIECE_BYTES for piece in seen.pieces)


@every_fault
def test_a_fault_has_its_outcome_and_the_next_request_is_answered_right(
    fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    first, second = meet(fault, tmp_path)
    assert_outcome(first, fault.outcome)
    assert_outcome(second, Relayed(RIGHT))
    assert all(record.exc_info is None for record in caplog.records)
    logged = [
        record.getMessage() for record in caplog.records if record.name.startswith("wsgi_fal_proxy")
    ]
    match fault.outcome:
        case Relayed():
            assert logged == []
        case Ours(_, reason):
            assert [line.partition(":")[0] for line in logged] == [reason]
        case Malformed():
            assert [line.partition(":")[0] for line in logged] in (
                ["truncated"],
                ["upstream_malformed"],
            )
        case BrokenOff():  # pragma: no branch - the last one
            assert [line.partition(":")[0] for line in logged] == ["truncated"]
    for line in logged:
        assert f"GET {ENDPOINT}," in line
        assert "\n" not in line
    assert QUERY not in caplog.text


def is_the_same_byte_by_byte(fault: Fault) -> bool:
    # What comes after an answer cannot be told from what comes before the next one, if it comes
    # when that has been asked for. And what stalls or is long takes its time.
    excess = isinstance(fault.outcome, Relayed) and not fault.outcome.reused and fault.act is stays
    return bool(fault.wire) and len(fault.wire or b"") < 1_000 and not fault.options and not excess


BY_BYTES = [case for case in FAULTS if is_the_same_byte_by_byte(case.values[0])]


@pytest.mark.parametrize("fault", BY_BYTES)
def test_a_fault_has_the_same_outcome_when_it_comes_byte_by_byte(
    fault: Fault, tmp_path: Path
) -> None:
    first, second = meet(fault, tmp_path, byte_by_byte=True)
    assert_outcome(first, fault.outcome)
    assert_outcome(second, Relayed(RIGHT))


@every_fault
def test_no_fault_shows_the_key(
    fault: Fault,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    tracebacks: list[str] = []
    log = Exchange.log

    def showing_log(exchange: Exchange, error: FalProxyError) -> None:
        tracebacks.append(shown(error))
        log(exchange, error)

    monkeypatch.setattr(Exchange, "log", showing_log)
    first, second = meet(fault, tmp_path)
    assert bool(tracebacks) is not isinstance(fault.outcome, Relayed)
    told = [*tracebacks, caplog.text]
    for seen in (first, second):
        told += [seen.status, repr(seen.headers), repr(seen.content), *seen.tracebacks]
    told += [repr(vars(record)) for record in caplog.records]
    assert [text for text in told if KEY in text or KEY[3:] in text] == []


def test_the_table_is_as_long_as_it_says_and_no_row_is_there_twice() -> None:
    names = [case.id for case in FAULTS]
    assert len(names) == len(set(names)) >= 70
    wires = [
        (fault.wire, fault.act) for case in FAULTS if (fault := case.values[0]).wire is not None
    ]
    assert len(wires) == len(set(wires))

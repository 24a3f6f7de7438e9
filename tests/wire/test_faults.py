"""The error map: what an upstream can do wrong on the wire, and the one outcome of each.

Whatever the fault, the next request on the same proxy is answered right. Each class of fault is
here once, through the whole proxy. The unit that decides has the other faults of a class:
`tests/unit/test_h1.py` those of heads and framing, `tests/unit/test_content_coding.py` those of
codings.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gc
import gzip
import io
import json
import logging
import select
import socket
import ssl
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, close_connections
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
    or_status: int | None = None
    """The other outcome, if the system decides whether it takes the whole request."""


@dataclass(frozen=True)
class BrokenOff:
    """The head was relayed with exactly this content, and `Truncated` raised then."""

    content: bytes = b""
    status: str = "200 OK"


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
# The faults meet a call that spends: fal may have received it, so no client may repeat it.
CLOSED = Ours(500, "upstream_closed")
MALFORMED = Ours(500, "upstream_malformed")
UNSUPPORTED = Ours(500, "upstream_coding_unsupported")
CONNECT_TIMEOUT = Ours(504, "connect_timeout")
READ_TIMEOUT = Ours(500, "read_timeout")


# What the upstream does.


@dataclass(frozen=True)
class Stage:
    """What the upstream and the client know of each other, so that neither has to sleep.

    Args:
        content: What is relayed before the fault, if it comes in mid-content.
    """

    content: bytes
    stopped: threading.Event = field(default_factory=threading.Event)
    content_relayed: threading.Event = field(default_factory=threading.Event)
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
    assert stage.content_relayed.wait(WAIT_SECONDS)
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


def goes_on(data: bytes, then: Act = stays) -> Act:
    """Send this, too, when what came before it has been relayed."""

    def act(connection: Connection, stage: Stage) -> None:
        assert stage.content_relayed.wait(WAIT_SECONDS)
        connection.send(data)
        then(connection, stage)

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
        piecemeal: The outcome where it is another when what comes first comes byte by byte.
    """

    outcome: Outcome
    act: Act
    wire: bytes | None = None
    in_the_clear: bool = False
    staging: Staging = nothing
    options: Mapping[str, float] = field(default_factory=dict)
    connections: int | None = 2
    piecemeal: Outcome | None = None

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
        Ours(500, "upstream_closed", or_status=502),
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
    answer("close-in-the-head", OK + b"Content-Le", CLOSED, ends),
    answer("close-in-the-head-without-tlss-end", OK + b"Content-Le", CLOSED, cuts),
    answer("close-after-100", b"HTTP/1.1 100 Continue\r\n\r\n", CLOSED, ends),
    answer("reset-in-the-head", OK + b"Content-Le", CLOSED, resets),
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
HEADS = [
    answer("status-line-malformed", b"HTTP/2.0 200 OK" + END, MALFORMED),
    answer("not-http", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", MALFORMED),
    answer(
        "101-unsolicited",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        MALFORMED,
    ),
    answer("field-malformed", OK + b"A : b" + END, MALFORMED),
    answer("fields-too-many", OK + b"A: b\r\n" * 11_000 + b"\r\n", MALFORMED),
    answer("head-over-long", OK + b"A: " + b"x" * 65_536 + END, MALFORMED),
    answer("103-malformed", b"HTTP/1.1 103 Early\r\nA b\r\n\r\n" + OK + END, MALFORMED),
]

FIVE = b"12345"


def content(length: bytes, data: bytes = FIVE) -> bytes:
    return TEXT + b"Content-Length: " + length + b"\r\n\r\n" + data


LENGTHS = [
    answer("length-malformed", content(b"-5"), MALFORMED),
    answer("length-twice-contradictory", content(b"5\r\nContent-Length: 6"), MALFORMED),
    answer("length-with-chunked", content(b"5\r\nTransfer-Encoding: chunked"), MALFORMED),
    answer("length-twice-the-same", content(b"5\r\nContent-Length: 5"), Relayed(FIVE, reused=True)),
    answer("length-too-long", content(b"10"), BrokenOff(FIVE), ends),
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


CHUNK = b"5\r\n12345\r\n"
CHUNKS = [
    answer(
        "transfer-coding-unknown", TEXT + b"Transfer-Encoding: gzip, chunked\r\n\r\n", MALFORMED
    ),
    row(
        "chunk-malformed-with-the-head",
        Fault(
            MALFORMED,
            stays,
            CHUNKED + CHUNK + b"-5\r\n12345\r\n" + LAST,
            piecemeal=BrokenOff(FIVE),
        ),
    ),
    answer("chunk-malformed", CHUNKED, BrokenOff(), goes_on(b"-5\r\n12345\r\n" + LAST)),
    answer(
        "chunk-malformed-after-a-good-one",
        CHUNKED + CHUNK,
        BrokenOff(FIVE),
        goes_on(b"-5\r\n12345\r\n" + LAST),
    ),
    answer(
        "chunk-data-longer-than-size", CHUNKED + CHUNK[:-2], BrokenOff(FIVE), goes_on(b"67\r\n")
    ),
    # The line's end is taken for content.
    answer(
        "chunk-data-shorter-than-size",
        CHUNKED + b"5\r\n123\r\n",
        BrokenOff(b"123\r\n"),
        goes_on(LAST),
    ),
    answer("head-of-another-answer-for-a-chunk", CHUNKED + CHUNK, BrokenOff(FIVE), goes_on(POISON)),
    answer(
        "trailer-malformed",
        CHUNKED + CHUNK,
        BrokenOff(FIVE),
        goes_on(b"0\r\nA: b\nC: d\r\n\r\n"),
    ),
    # It is dropped, whatever it is.
    answer("trailer-garbage", CHUNKED + CHUNK + b"0\r\n?\x01\r\n\r\n", Relayed(FIVE, reused=True)),
    answer("chunked-cut-before-the-size", CHUNKED, BrokenOff(), ends),
    answer("chunked-cut-in-the-data", CHUNKED + b"5\r\n123", BrokenOff(b"123"), ends),
    answer("chunked-cut-between-chunks", CHUNKED + CHUNK, BrokenOff(FIVE), ends),
    answer("chunked-cut-in-the-trailer", CHUNKED + CHUNK + b"0\r\nA: b", BrokenOff(FIVE), ends),
    answer("chunked-cut-without-tlss-end", CHUNKED + CHUNK, BrokenOff(FIVE), cuts),
    answer("chunked-reset", CHUNKED + CHUNK, BrokenOff(FIVE), resets_later),
    answer("chunked-stalls-before-the-size", CHUNKED, BrokenOff(), options=LATER),
    answer("chunked-stalls-in-the-data", CHUNKED + b"5\r\n123", BrokenOff(b"123"), options=LATER),
    answer("chunked-stalls-between-chunks", CHUNKED + CHUNK, BrokenOff(FIVE), options=LATER),
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
]

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n"
SAYS_CHUNKED = b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\n" + FIVE
LATE = content(b"5")
EXCESS = [
    answer("excess-after-a-length", content(b"5") + POISON, Relayed(FIVE)),
    answer("excess-after-chunks", CHUNKED + CHUNK + LAST + POISON, Relayed(FIVE)),
    answer("excess-after-no-length", content(b"0", POISON), Relayed()),
    answer("excess-after-204", NO_CONTENT + POISON, Relayed(status="204 No Content")),
    answer("late-excess-after-a-length", LATE, Relayed(FIVE), sends_late(POISON)),
    answer(
        "late-excess-after-204", NO_CONTENT, Relayed(status="204 No Content"), sends_late(POISON)
    ),
    answer(
        "late-excess-408",
        LATE,
        Relayed(FIVE),
        sends_late(b"HTTP/1.1 408 Idle\r\nConnection: close\r\n\r\n"),
    ),
    answer("204-without-excess", NO_CONTENT, Relayed(status="204 No Content", reused=True)),
    answer("304-that-says-chunked", SAYS_CHUNKED, Relayed(status="304 Not Modified", reused=True)),
    answer("connection-close-and-not-closed", CLOSING, Relayed(FIVE)),
    answer("until-close", TEXT + b"\r\n" + FIVE, Relayed(FIVE), ends),
    answer("until-close-and-nothing", TEXT + b"\r\n", Relayed(), ends),
    answer("until-close-without-tlss-end", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), cuts),
    answer("until-close-and-reset", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), resets_later),
    answer("until-close-that-never-comes", TEXT + b"\r\n" + FIVE, BrokenOff(FIVE), options=LATER),
    answer(
        "100-then-an-answer", b"HTTP/1.1 100 Continue\r\n\r\n" + LATE, Relayed(FIVE, reused=True)
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
ZEROS = bytes(10_000_000)
CODINGS = [
    answer("gzip-unasked", coded(b"gzip", GZIPPED), Relayed(HELLO, reused=True)),
    miscoded("gzip-corrupt-from-the-start", b"gzip", b"not gzip at all", BrokenOff()),
    row(
        "gzip-wrong-checksum",
        Fault(
            BrokenOff(HELLO),
            goes_on(bytes(4) + GZIPPED[-4:], serves),
            coded(b"gzip", GZIPPED)[:-8],
            connections=None,
        ),
    ),
    miscoded("gzip-truncated", b"gzip", GZIPPED[:-1], BrokenOff(HELLO)),
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
    answer("coding-unknown-of-no-content", coded(b"br", b""), Relayed(reused=True)),
]

EVIL = "https://evil.example/?x=1"
REDIRECTS = [
    answer(
        f"redirect-{status}-{name}",
        b"HTTP/1.1 %d Moved\r\n" % status
        + (b"" if location is None else b"Location: %b\r\n" % location.encode())
        + b"Content-Length: 5\r\n\r\n"
        + FIVE,
        Relayed(FIVE, reused=True, status=f"{status} Moved", location=location),
    )
    for status, name, location in (
        (302, "nowhere", None),
        (302, "within-fal", "/elsewhere"),
        *((status, "elsewhere", EVIL) for status in (301, 302, 303, 307, 308)),
    )
]

FAULTS = [
    *UNMADE,
    *NO_TLS,
    *NO_HEAD,
    *HEADS,
    *LENGTHS,
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
        if not stage.content:
            stage.content_relayed.set()
        return seen.pieces.append

    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "HTTP_X_FAL_TARGET_URL": TARGET,
        "wsgi.input": io.BytesIO(),
    }
    response = proxy(environ, start_response)
    try:
        for piece in response:
            seen.pieces.append(piece)
            if seen.content == stage.content:
                stage.content_relayed.set()
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
    stage = Stage(fault.outcome.content if isinstance(fault.outcome, BrokenOff) else b"")
    script = fault.script(stage, byte_by_byte=byte_by_byte)
    server = RawServer(script, authority=authority(), plain=(1,) if fault.in_the_clear else ())
    manager = server.pool_manager(directory)
    options: dict[str, Any] = dict(fault.options)
    # The backup domain would meet the same fault; see `test_backup`.
    proxy = FalProxy(key=KEY, pool_manager=manager, backup_domains=False, **options)
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
        close_connections(proxy)
        server.__exit__(None, None, None)
    return first, second


def assert_outcome(seen: Seen, outcome: Outcome) -> None:
    match outcome:
        case Ours(status, reason, or_status):
            assert seen.header("x-fal-proxy-error") == reason
            assert int(seen.status[:3]) in {status, or_status}
            assert not seen.broken_off
            assert json.loads(seen.content)["reason"] == reason
        case BrokenOff(content, status):
            assert seen.status == status
            assert seen.broken_off
            assert seen.content == content
        case Relayed(content, _, status, location):  # pragma: no branch - the last one
            assert seen.status == status
            assert not seen.broken_off
            assert seen.content == content
            assert seen.header("Location") == location
    if not isinstance(outcome, Ours):
        assert seen.header("x-fal-proxy-error") is None
    assert all(len(piece) <= PIECE_BYTES for piece in seen.pieces)


@every_fault
def test_fault_has_its_outcome_and_the_next_request_is_answered_right(
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
def test_fault_has_its_outcome_byte_by_byte_too(fault: Fault, tmp_path: Path) -> None:
    if fault.piecemeal is not None:
        fault = replace(fault, outcome=fault.piecemeal)
    first, second = meet(fault, tmp_path, byte_by_byte=True)
    assert_outcome(first, fault.outcome)
    assert_outcome(second, Relayed(RIGHT))


@every_fault
def test_fault_does_not_show_the_key(
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


def test_fault_table_is_as_long_as_it_says_and_has_no_row_twice() -> None:
    names = [case.id for case in FAULTS]
    assert len(names) == len(set(names)) >= 70
    wires = [
        (fault.wire, fault.act) for case in FAULTS if (fault := case.values[0]).wire is not None
    ]
    assert len(wires) == len(set(wires))

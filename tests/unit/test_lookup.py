"""The lookup of a host's addresses: once at a time, remembered, and bounded."""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import Any

import pytest

from tests.support.raw_server import WAIT_SECONDS
from wsgi_fal_proxy._upstream import lookup as module
from wsgi_fal_proxy._upstream import wire
from wsgi_fal_proxy._upstream.dial import dial, in_order
from wsgi_fal_proxy._upstream.lookup import FRESH_SECONDS, STALE_SECONDS, Lookup

Found = list[tuple[int, int, int, str, Any]]


def found(*addresses: str) -> Found:
    return [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, 443),
        )
        for address in addresses
    ]


OLD, NEW = found("192.0.2.1"), found("192.0.2.2")


class NameServer:
    """Answers lookups, one after the other, with addresses or errors."""

    def __init__(self, *answers: Found | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, host: str, port: int, **_: object) -> Found:
        self.asked += 1
        answer = self.answers.pop(0)
        assert self.may_answer.wait(WAIT_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(wire, "monotonic", clock)
    return clock


def serve(monkeypatch: pytest.MonkeyPatch, *answers: Found | Exception) -> NameServer:
    server = NameServer(*answers)
    monkeypatch.setattr(socket, "getaddrinfo", server)
    return server


def look_up(lookup: Lookup, deadline: float | None = None) -> Any:
    return lookup.addresses("fal.run", 443, deadline)


def settle() -> None:
    """Wait until no lookup is under way."""
    for thread in threading.enumerate():
        if thread.name == "wsgi-fal-proxy lookup":
            thread.join(WAIT_SECONDS)


def test_lookup_asks_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(monkeypatch, OLD)
    server.may_answer.clear()
    lookup = Lookup()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(look_up(lookup))) for _ in range(20)]
    for thread in threads:
        thread.start()
    server.may_answer.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert results == [OLD] * 20
    assert server.asked == 1


def test_lookup_remembers_addresses_for_a_while(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    server = serve(monkeypatch, OLD, NEW)
    lookup = Lookup()
    assert [look_up(lookup), look_up(lookup)] == [OLD, OLD]
    assert server.asked == 1
    clock.ahead = FRESH_SECONDS + 1
    assert look_up(lookup) == NEW


def test_lookup_that_fails_leaves_the_addresses_that_are_known(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    server = serve(monkeypatch, OLD, socket.gaierror(socket.EAI_AGAIN, "later"))
    lookup = Lookup()
    look_up(lookup)
    clock.ahead = FRESH_SECONDS + 1
    # The second one does not ask again so soon.
    assert [look_up(lookup), look_up(lookup)] == [OLD, OLD]
    assert server.asked == 2


@pytest.mark.parametrize(
    ("error", "ahead"),
    [
        pytest.param(socket.EAI_NONAME, FRESH_SECONDS + 1, id="no-such-name"),
        pytest.param(socket.EAI_AGAIN, STALE_SECONDS + 1, id="too-old"),
    ],
)
def test_lookup_forgets_addresses(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, error: int, ahead: float
) -> None:
    serve(monkeypatch, OLD, socket.gaierror(error, "no"))
    lookup = Lookup()
    look_up(lookup)
    clock.ahead = ahead
    with pytest.raises(socket.gaierror, match="no"):
        look_up(lookup)


def test_lookup_that_is_slow_is_not_waited_for_where_addresses_are_known(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    server = serve(monkeypatch, OLD, NEW)
    lookup = Lookup()
    look_up(lookup)
    clock.ahead = FRESH_SECONDS + 1
    server.may_answer.clear()
    assert look_up(lookup) == OLD
    server.may_answer.set()
    settle()
    assert look_up(lookup) == NEW


def test_lookup_ends_at_the_deadline_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(monkeypatch, OLD)
    server.may_answer.clear()
    with pytest.raises(TimeoutError):
        look_up(Lookup(), monotonic() + 0.05)
    server.may_answer.set()
    settle()


def test_lookup_does_without_a_thread_where_there_can_be_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    serve(monkeypatch, OLD)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert look_up(Lookup()) == OLD


def test_lookup_asks_again_after_no_address_could_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve(monkeypatch, OLD, NEW)
    lookup = Lookup()
    assert look_up(lookup) == OLD
    lookup.failed(None)
    assert look_up(lookup) == NEW


def test_lookup_gives_the_address_that_worked_first_and_the_one_that_failed_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    six, four, other = found("2001:db8::1", "192.0.2.1", "192.0.2.2")
    serve(monkeypatch, [six, four, other])
    lookup = Lookup()
    assert look_up(lookup) == [six, four, other]
    lookup.worked(other)
    assert look_up(lookup) == [other, six, four]
    lookup.failed(six)
    assert look_up(lookup) == [four, other, six]
    lookup.worked(six)
    assert look_up(lookup) == [six, four, other]


def test_in_order_lets_families_take_turns() -> None:
    a, b, c, four, five = found(
        "2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"
    )
    assert in_order([a, b, c, four, five], good=None, bad=None) == [a, four, b, five, c]
    # An address that is not among them any more still tells which family works.
    gone = found("192.0.2.9")[0]
    assert in_order([a, b, c, four], good=gone, bad=None) == [four, a, b, c]


def test_dial_waits_for_the_address_that_is_left() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.create_server(("127.0.0.1", 0)) as refusing,
    ):
        ports = [silent.getsockname()[1], refusing.getsockname()[1]]
        # Linux takes one more than the backlog, and then answers nobody.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        refusing.close()
        addresses: list[Any] = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports
        ]
        with pytest.raises(TimeoutError):
            dial(addresses, deadline=monotonic() + 0.5, options=None, source_address=None)
        for filler in fillers:
            filler.close()


def test_dial_binds_to_the_source_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: Any = (socket.AF_INET, socket.SOCK_STREAM, 6, "", server.getsockname())
        sock, _ = dial([address], deadline=None, options=None, source_address=("127.0.0.2", 0))
        with sock:
            assert sock.getsockname()[0] == "127.0.0.2"

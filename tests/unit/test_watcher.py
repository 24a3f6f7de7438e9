"""Noticing that the other side of a connection has closed it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import fork
from wsgi_fal_proxy._downstream import watcher as module
from wsgi_fal_proxy._downstream.connection import client_connection
from wsgi_fal_proxy._downstream.watcher import Watcher
from wsgi_fal_proxy._process import unpatched

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


class Watched:
    """Sets an event when its client has left."""

    deadline: float | None = None

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self.expired = 0

    def on_client_left(self) -> None:
        self._event.set()

    def expire(self) -> None:
        self.expired += 1


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """A watcher without a thread: the test looks for events itself."""
    monkeypatch.setattr(module, "start_new_thread", lambda *_: None)
    return Watcher()


@pytest.mark.parametrize("half", [False, True], ids=["closed", "sending side closed"])
def test_watcher_notices_a_close(pair: Pair, half: bool) -> None:
    gone = threading.Event()
    ours, theirs = pair
    Watcher().watch(ours.fileno(), Watched(gone))
    theirs.shutdown(socket.SHUT_WR) if half else theirs.close()
    assert gone.wait(WAIT_SECONDS)


def test_watcher_notices_a_close_that_was_before_the_watch(pair: Pair) -> None:
    gone = threading.Event()
    ours, theirs = pair
    theirs.close()
    Watcher().watch(ours.fileno(), Watched(gone))
    assert gone.wait(WAIT_SECONDS)


def test_watcher_notices_a_close_behind_bytes_that_nobody_has_read(pair: Pair) -> None:
    gone = threading.Event()
    ours, theirs = pair
    Watcher().watch(ours.fileno(), Watched(gone))
    theirs.sendall(b"the next request")
    theirs.close()
    assert gone.wait(WAIT_SECONDS)


def test_watcher_calls_only_those_whose_connection_was_closed() -> None:
    watcher = Watcher()
    pairs = [socket.socketpair() for _ in range(20)]
    noticed = [threading.Event() for _ in pairs]

    for (ours, _), event in zip(pairs, noticed, strict=True):
        watcher.watch(ours.fileno(), Watched(event))
    for _, theirs in pairs[1:10]:
        theirs.close()
    assert all(event.wait(WAIT_SECONDS) for event in noticed[1:10])
    assert not any(event.is_set() for event in (noticed[0], *noticed[10:]))
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_watcher_does_not_notice_what_is_watched_no_more(pair: Pair) -> None:
    gone, other_gone = threading.Event(), threading.Event()
    on_gone = Watched(gone)
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), on_gone)
    watcher.unwatch(ours.fileno(), on_gone)
    theirs.close()
    # Another one that is noticed afterwards shows that this one was passed over.
    other, other_end = socket.socketpair()
    with other, other_end:
        watcher.watch(other.fileno(), Watched(other_gone))
        other_end.close()
        assert other_gone.wait(WAIT_SECONDS)
    assert not gone.is_set()


def test_watch_that_was_never_ended_gives_way_to_the_next_on_its_descriptor(pair: Pair) -> None:
    first, second = threading.Event(), threading.Event()
    first_gone, second_gone = Watched(first), Watched(second)
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), first_gone)
    watcher.watch(ours.fileno(), second_gone)
    watcher.unwatch(ours.fileno(), first_gone)
    theirs.close()
    assert second.wait(WAIT_SECONDS)
    assert not first.is_set()


class Connection:
    """Stands for what a server hands over for a connection."""


def test_watcher_watches_a_connection_for_one_request_after_another(pair: Pair) -> None:
    first, second = threading.Event(), threading.Event()
    first_gone, second_gone = Watched(first), Watched(second)
    connection = Connection()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), first_gone, connection)
    watcher.unwatch(ours.fileno(), first_gone)
    watcher.watch(ours.fileno(), second_gone, connection)
    theirs.close()
    assert second.wait(WAIT_SECONDS)
    assert not first.is_set()


def test_watcher_notices_at_the_next_request_a_close_between_two(
    pair: Pair,
) -> None:
    first, second, other_gone = threading.Event(), threading.Event(), threading.Event()
    first_gone = Watched(first)
    connection = Connection()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), first_gone, connection)
    watcher.unwatch(ours.fileno(), first_gone)
    theirs.close()
    # Another one that is noticed afterwards shows that this one was.
    other, other_end = socket.socketpair()
    with other, other_end:
        watcher.watch(other.fileno(), Watched(other_gone))
        other_end.close()
        assert other_gone.wait(WAIT_SECONDS)
    watcher.watch(ours.fileno(), Watched(second), connection)
    assert second.wait(WAIT_SECONDS)
    assert not first.is_set()


@pytest.mark.parametrize("lives_on", [True, False], ids=["kept by the server", "gone"])
def test_watcher_watches_the_next_connection_with_the_same_descriptor(
    pair: Pair, lives_on: bool
) -> None:
    before, after = threading.Event(), threading.Event()
    before_gone = Watched(before)
    connections = [Connection(), Connection()]
    watcher = Watcher()
    fd = pair[0].fileno()
    watcher.watch(fd, before_gone, connections[0])
    watcher.unwatch(fd, before_gone)
    # Another connection takes its place, at which the kernel ends the watch.
    other, other_end = socket.socketpair()
    with other, other_end:
        os.dup2(other.fileno(), fd)
        if not lives_on:
            del connections[0]
        watcher.watch(fd, Watched(after), connections[-1])
        other.close()
        other_end.close()
        assert after.wait(WAIT_SECONDS)
    assert not before.is_set()


@pytest.mark.parametrize("kind", ["closed", "file"])
def test_watcher_lets_be_what_cannot_be_watched(kind: str, pair: Pair) -> None:
    gone = threading.Event()
    watcher = Watcher()
    with open(__file__, "rb") as file:
        fd = -1 if kind == "closed" else file.fileno()
        watcher.watch(fd, Watched(gone))
        watcher.unwatch(fd, Watched(gone))
    assert not gone.is_set()


@pytest.mark.parametrize("is_gone", [True, False], ids=["closed", "another one by now"])
def test_watcher_aborts_only_if_the_connection_is_still_the_one_that_was_closed(
    threadless: Watcher, pair: Pair, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    ours, theirs = pair
    gone = threading.Event()
    threadless.watch(ours.fileno(), Watched(gone))
    if not is_gone:
        monkeypatch.setattr(module, "_is_gone", lambda fd: False)
    theirs.close()
    threadless.notice(WAIT_SECONDS)
    assert gone.is_set() is is_gone
    assert bool(threadless._watched) is not is_gone


def test_watcher_passes_over_the_event_of_a_watch_that_has_ended(
    threadless: Watcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = threading.Event()
    on_gone = Watched(gone)
    threadless.watch(ours.fileno(), on_gone, ours)
    threadless.unwatch(ours.fileno(), on_gone)
    theirs.close()
    threadless.notice(WAIT_SECONDS)
    assert not gone.is_set()


def test_watcher_aborts_the_others_if_one_fails(threadless: Watcher, pair: Pair) -> None:
    class Failing(Watched):
        def on_client_left(self) -> None:
            raise ValueError

    gone = threading.Event()
    other, other_end = socket.socketpair()
    with other, other_end:
        threadless.watch(pair[0].fileno(), Failing(gone))
        threadless.watch(other.fileno(), Watched(gone))
        pair[1].close()
        other_end.close()
        threadless.notice(WAIT_SECONDS)
    assert gone.is_set()


def test_watcher_aborts_without_its_lock_so_that_an_abort_may_end_the_watch(
    threadless: Watcher, pair: Pair
) -> None:
    class Ending(Watched):
        def on_client_left(self) -> None:
            threadless.unwatch(pair[0].fileno(), self)

    threadless.watch(pair[0].fileno(), Ending(threading.Event()))
    pair[1].close()
    over = threading.Thread(target=threadless.notice, args=(WAIT_SECONDS,), daemon=True)
    over.start()
    over.join(WAIT_SECONDS)
    assert not over.is_alive()


def test_watcher_hears_once_of_a_closed_connection_that_a_child_has_a_copy_of(
    threadless: Watcher, pair: Pair
) -> None:
    ours, theirs = pair
    on_gone = Watched(threading.Event())
    threadless.watch(ours.fileno(), on_gone, ours)
    threadless.unwatch(ours.fileno(), on_gone)
    copy = os.dup(ours.fileno())
    try:
        ours.close()
        theirs.close()
        with threadless._epoll as epoll:
            assert len(epoll.poll(0)) == 1
            assert epoll.poll(0) == []
    finally:
        os.close(copy)


def test_watcher_expires_what_is_late_at_each_tick_until_it_is_released(
    threadless: Watcher,
) -> None:
    late, early, endless = (Watched(threading.Event()) for _ in range(3))
    late.deadline, early.deadline = monotonic() - 1, monotonic() + 1_000
    for watched in (late, early, endless):
        threadless.enforce_deadline(watched)
    threadless.notice(0)
    # Not more often than once in a tick, however many connections are closed meanwhile.
    threadless.notice(0)
    assert [late.expired, early.expired, endless.expired] == [1, 0, 0]
    threadless._next_tick = 0.0
    threadless.notice(0)
    assert late.expired == 2
    threadless.release_deadline(late)
    threadless._next_tick = 0.0
    threadless.notice(0)
    assert late.expired == 2


def test_watcher_leaves_a_descriptor_alone_that_is_another_ones(
    threadless: Watcher, pair: Pair
) -> None:
    mine, other = Watched(threading.Event()), Watched(threading.Event())
    worked: list[int] = []
    fd = pair[0].fileno()
    threadless.watch(fd, mine)
    threadless.while_watched(fd, other, worked.append)
    assert worked == []
    threadless.while_watched(fd, mine, worked.append)
    assert worked == [fd]


def test_watcher_whose_thread_cannot_start_tries_again_with_the_next_watch(
    monkeypatch: pytest.MonkeyPatch, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    watcher = Watcher()
    gone = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(module, "start_new_thread", no_thread)
        watcher.watch(pair[0].fileno(), Watched(gone))
    assert watcher._watched == {}
    assert "cannot notice clients that leave: can't start new thread" in caplog.text
    watcher.watch(pair[0].fileno(), Watched(gone))
    pair[1].close()
    assert gone.wait(WAIT_SECONDS)


def test_watcher_whose_epoll_is_closed_starts_again_with_the_next_watch(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    gone = threading.Event()
    ticked = threading.Event()
    watcher.at_each_tick(ticked.set)
    first = Watched(threading.Event())
    watcher.watch(pair[0].fileno(), first, pair[0])
    watcher.unwatch(pair[0].fileno(), first)
    watcher._epoll.close()
    while watcher._epoll is not None:  # its thread finds out at the next tick
        ticked.wait(0.1)  # pragma: no cover - as threads have it
    assert "no longer notices clients that leave" in caplog.text
    watcher.watch(pair[0].fileno(), Watched(gone), pair[0])
    pair[1].close()
    assert gone.wait(WAIT_SECONDS)


def test_watcher_works_at_each_tick(pair: Pair) -> None:
    watcher = Watcher()
    worked = threading.Event()
    watcher.at_each_tick(worked.set)
    watcher.watch(pair[0].fileno(), Watched(threading.Event()))
    assert worked.wait(WAIT_SECONDS)


def test_watcher_notices_nothing_where_there_is_no_epoll(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "epoll", None)
    gone = threading.Event()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), Watched(gone))
    theirs.close()
    watcher.unwatch(ours.fileno(), Watched(gone))
    watcher.enforce_deadline(Watched(gone))
    assert not gone.is_set()


def test_watcher_starts_again_in_a_forked_child(pair: Pair) -> None:
    warm, warm_end = socket.socketpair()
    ours, theirs = pair
    with warm, warm_end:
        module.watcher.watch(warm.fileno(), Watched(threading.Event()))
        child = fork()
        if child == 0:  # pragma: no cover - another process
            gone = threading.Event()
            module.watcher.watch(ours.fileno(), Watched(gone))
            theirs.shutdown(socket.SHUT_WR)
            os._exit(0 if gone.wait(WAIT_SECONDS) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_client_connection_is_found_where_servers_put_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = pair
    assert client_connection({})[0] is None
    assert client_connection({"gunicorn.socket": ours})[0] == ours.fileno()
    assert client_connection({"werkzeug.socket": ours})[0] == ours.fileno()
    channel = type("Channel", (), {"socket": ours, "check": lambda self: None})()
    assert client_connection({"waitress.client_disconnected": channel.check})[0] == ours.fileno()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(connection_fd=lambda: 7))
    assert client_connection({})[0] == 7


def test_unpatched_takes_what_gevent_has_replaced_from_where_gevent_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = SimpleNamespace(get_original=lambda module, name: (module, name))
    monkeypatch.setitem(sys.modules, "gevent.monkey", kept)
    assert unpatched.original("select", "epoll") == ("select", "epoll")


def test_unpatched_is_none_for_what_the_system_does_not_have() -> None:
    assert unpatched.original("select", "no_such_thing") is None

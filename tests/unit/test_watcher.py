"""Noticing that the other side of a connection has closed it."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import fork
from wsgi_fal_proxy._downstream import watcher as module
from wsgi_fal_proxy._downstream.connection import client_connection
from wsgi_fal_proxy._downstream.watcher import Watcher, notice
from wsgi_fal_proxy._process import unpatched
from wsgi_fal_proxy._upstream.client import Call

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("half", [False, True], ids=["closed", "sending side closed"])
def test_a_close_is_noticed(pair: Pair, half: bool) -> None:
    gone = threading.Event()
    ours, theirs = pair
    Watcher().watch(ours.fileno(), gone.set)
    theirs.shutdown(socket.SHUT_WR) if half else theirs.close()
    assert gone.wait(WAIT_SECONDS)


def test_a_close_that_was_before_the_watch_is_noticed(pair: Pair) -> None:
    gone = threading.Event()
    ours, theirs = pair
    theirs.close()
    Watcher().watch(ours.fileno(), gone.set)
    assert gone.wait(WAIT_SECONDS)


def test_a_close_is_noticed_behind_bytes_that_nobody_has_read(pair: Pair) -> None:
    gone = threading.Event()
    ours, theirs = pair
    Watcher().watch(ours.fileno(), gone.set)
    theirs.sendall(b"the next request")
    theirs.close()
    assert gone.wait(WAIT_SECONDS)


def test_of_many_watches_only_those_are_called_whose_connection_was_closed() -> None:
    watcher = Watcher()
    pairs = [socket.socketpair() for _ in range(20)]
    noticed = [threading.Event() for _ in pairs]

    for (ours, _), event in zip(pairs, noticed, strict=True):
        watcher.watch(ours.fileno(), event.set)
    for _, theirs in pairs[1:10]:
        theirs.close()
    assert all(event.wait(WAIT_SECONDS) for event in noticed[1:10])
    assert not any(event.is_set() for event in (noticed[0], *noticed[10:]))
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_what_is_watched_no_more_is_not_noticed(pair: Pair) -> None:
    gone, other_gone = threading.Event(), threading.Event()
    on_gone = gone.set
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), on_gone)
    watcher.unwatch(ours.fileno(), on_gone)
    theirs.close()
    # Another one that is noticed afterwards shows that this one was passed over.
    other, other_end = socket.socketpair()
    with other, other_end:
        watcher.watch(other.fileno(), other_gone.set)
        other_end.close()
        assert other_gone.wait(WAIT_SECONDS)
    assert not gone.is_set()


def test_a_watch_that_was_never_ended_gives_way_to_the_next_on_its_descriptor(pair: Pair) -> None:
    first, second = threading.Event(), threading.Event()
    first_gone, second_gone = first.set, second.set
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


def test_a_connection_is_watched_for_one_request_after_another(pair: Pair) -> None:
    first, second = threading.Event(), threading.Event()
    first_gone, second_gone = first.set, second.set
    connection = Connection()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), first_gone, connection)
    watcher.unwatch(ours.fileno(), first_gone)
    watcher.watch(ours.fileno(), second_gone, connection)
    theirs.close()
    assert second.wait(WAIT_SECONDS)
    assert not first.is_set()


def test_a_connection_that_is_closed_between_two_requests_is_noticed_at_the_next(
    pair: Pair,
) -> None:
    first, second, other_gone = threading.Event(), threading.Event(), threading.Event()
    first_gone = first.set
    connection = Connection()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), first_gone, connection)
    watcher.unwatch(ours.fileno(), first_gone)
    theirs.close()
    # Another one that is noticed afterwards shows that this one was.
    other, other_end = socket.socketpair()
    with other, other_end:
        watcher.watch(other.fileno(), other_gone.set)
        other_end.close()
        assert other_gone.wait(WAIT_SECONDS)
    watcher.watch(ours.fileno(), second.set, connection)
    assert second.wait(WAIT_SECONDS)
    assert not first.is_set()


@pytest.mark.parametrize("lives_on", [True, False], ids=["kept by the server", "gone"])
def test_the_next_connection_with_the_same_descriptor_is_watched_as_well(
    pair: Pair, lives_on: bool
) -> None:
    before, after = threading.Event(), threading.Event()
    before_gone = before.set
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
        watcher.watch(fd, after.set, connections[-1])
        other.close()
        other_end.close()
        assert after.wait(WAIT_SECONDS)
    assert not before.is_set()


@pytest.mark.parametrize("kind", ["closed", "file"])
def test_what_cannot_be_watched_is_let_be(kind: str, pair: Pair) -> None:
    gone = threading.Event()
    watcher = Watcher()
    with open(__file__, "rb") as file:
        fd = -1 if kind == "closed" else file.fileno()
        watcher.watch(fd, gone.set)
        watcher.unwatch(fd, gone.set)
    assert not gone.is_set()


@pytest.mark.parametrize("is_gone", [True, False], ids=["closed", "another one by now"])
def test_an_event_counts_if_the_connection_is_still_the_one_that_was_closed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    ours, theirs = pair
    gone = threading.Event()
    watched = {ours.fileno(): gone.set}
    if not is_gone:
        monkeypatch.setattr(module, "_is_gone", lambda fd: False)
    with select.epoll() as epoll:
        epoll.register(ours.fileno(), select.EPOLLRDHUP)
        theirs.close()
        notice(epoll, watched, {}, threading.Lock())
    assert gone.is_set() is is_gone
    assert bool(watched) is not is_gone


def test_an_event_of_what_is_watched_no_more_is_nobodys(pair: Pair) -> None:
    ours, theirs = pair
    with select.epoll() as epoll:
        epoll.register(ours.fileno(), select.EPOLLRDHUP)
        theirs.close()
        notice(epoll, {}, {}, threading.Lock())


def test_what_one_call_raises_leaves_the_others_heard(pair: Pair) -> None:
    def fail() -> None:
        raise ValueError

    gone: list[int] = []
    other, other_end = socket.socketpair()
    with select.epoll() as epoll, other, other_end:
        for sock in (pair[0], other):
            epoll.register(sock.fileno(), select.EPOLLRDHUP | select.EPOLLET)
        pair[1].close()
        other_end.close()
        watched = {pair[0].fileno(): fail, other.fileno(): lambda: gone.append(1)}
        notice(epoll, watched, {}, threading.Lock())
    assert gone == [1]


def test_of_a_closed_connection_that_a_child_has_a_copy_of_the_kernel_tells_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No thread: what it would be told is looked at here.
    monkeypatch.setattr(module, "start_new_thread", lambda *_: None)
    watcher = Watcher()
    ours, theirs = pair
    on_gone = threading.Event().set
    watcher.watch(ours.fileno(), on_gone, ours)
    watcher.unwatch(ours.fileno(), on_gone)
    copy = os.dup(ours.fileno())
    try:
        ours.close()
        theirs.close()
        with watcher._epoll as epoll:
            assert len(epoll.poll(0)) == 1
            assert epoll.poll(0) == []
    finally:
        os.close(copy)


def test_a_watch_ends_where_an_answer_is_collected_in_the_middle_of_another(pair: Pair) -> None:
    watcher = Watcher()
    call = Call()
    ended = threading.Event()

    def collect() -> None:
        # The collector runs at any moment: here, while this thread holds the locks.
        with watcher._lock, call._lock:
            watcher.unwatch(pair[0].fileno(), on_gone)
            call.give_back(reusable=False)
        ended.set()

    on_gone = threading.Event().set
    watcher.watch(pair[0].fileno(), on_gone)
    threading.Thread(target=collect, daemon=True).start()
    assert ended.wait(WAIT_SECONDS)
    assert not watcher._watched


def test_where_there_is_no_epoll_nothing_is_noticed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "epoll", None)
    gone = threading.Event()
    watcher = Watcher()
    ours, theirs = pair
    watcher.watch(ours.fileno(), gone.set)
    theirs.close()
    watcher.unwatch(ours.fileno(), gone.set)
    assert not gone.is_set()


def test_a_forked_child_watches_anew(pair: Pair) -> None:
    warm, warm_end = socket.socketpair()
    ours, theirs = pair
    with warm, warm_end:
        module.watcher.watch(warm.fileno(), lambda: None)
        child = fork()
        if child == 0:  # pragma: no cover - another process
            gone = threading.Event()
            module.watcher.watch(ours.fileno(), gone.set)
            theirs.shutdown(socket.SHUT_WR)
            os._exit(0 if gone.wait(WAIT_SECONDS) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_the_clients_socket_is_found_where_servers_put_it(
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


def test_what_gevent_has_replaced_is_taken_from_where_gevent_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = SimpleNamespace(get_original=lambda module, name: (module, name))
    monkeypatch.setitem(sys.modules, "gevent.monkey", kept)
    assert unpatched.original("select", "epoll") == ("select", "epoll")


def test_what_the_system_does_not_have_is_none() -> None:
    assert unpatched.original("select", "no_such_thing") is None

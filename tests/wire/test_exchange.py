"""An exchange releases what it holds, whatever the collector, a fork or a fault does."""

from __future__ import annotations

import gc
import io
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, answering, tcp_pair
from tests.support.serving import fork
from tests.wire.test_calls import one_piece, start
from tests.wire.test_upstream import CHUNKED, OK, get, post, proxy_to
from wsgi_fal_proxy import CallRecord, FalProxy
from wsgi_fal_proxy._core.exchange import Exchange, abandoned
from wsgi_fal_proxy._core.recorder import NullRecorder
from wsgi_fal_proxy._core.slots import Slots
from wsgi_fal_proxy._downstream.watcher import watcher
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy._policy.limits.memory_store import MemoryStore
from wsgi_fal_proxy._policy.limits.notation import parse_limit
from wsgi_fal_proxy._upstream import pool as pool_module
from wsgi_fal_proxy._upstream.call import Call
from wsgi_fal_proxy._upstream.pool import Pools
from wsgi_fal_proxy.errors import RelayFull

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def exchange_of(**environ: Any) -> Exchange:
    body = RequestBody({"wsgi.input": io.BytesIO()}, 0)
    return Exchange(environ, lambda *_: lambda data: None, body, NullRecorder(), None)


def on_a_thread(work: Callable[[], object]) -> bool:
    """Run this on a thread of its own; tell whether it ended."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    return not thread.is_alive()


# Destructors


def test_response_body_dropped_in_a_cycle_takes_no_lock_when_it_is_collected(
    tmp_path: Path,
) -> None:
    records: list[CallRecord] = []
    recorded = threading.Event()

    def observer(record: CallRecord) -> None:
        records.append(record)
        recorded.set()

    with RawServer(one_piece) as server, tcp_pair() as (ours, _):
        proxy = proxy_to(server, tmp_path, max_concurrent=1, observer=observer)
        content = start(proxy, **{"gunicorn.socket": ours})
        assert proxy._slots is not None
        locks = (proxy._slots._lock, watcher._lock, content._exchange._lock)
        cycle: list[Any] = [content]
        cycle.append(cycle)
        del content

        def collect_within_all_locks() -> None:
            nonlocal cycle
            with ExitStack() as held:
                for lock in locks:
                    held.enter_context(lock)
                cycle = []
                gc.collect()
                # The watcher's thread may look before this.
                assert records == []

        assert on_a_thread(collect_within_all_locks)
        # The next call ends the first exchange, or the watcher's thread, if it was faster.
        abandoned.end_all()
        assert recorded.wait(WAIT_SECONDS)
        # The slot is free.
        content = start(proxy)
        assert [record.client_left for record in records] == [True]
        content.close()
        assert len(records) == 2


def test_abandoned_exchange_is_ended_by_the_watchers_thread_where_no_call_comes(
    tmp_path: Path,
) -> None:
    ended = threading.Event()
    with RawServer(one_piece) as server, tcp_pair() as (ours, _):
        proxy = proxy_to(server, tmp_path, observer=lambda record: ended.set())
        content = start(proxy, **{"gunicorn.socket": ours})
        del content
        assert ended.wait(WAIT_SECONDS)


def test_abandoned_exchanges_are_left_to_the_next_call_where_gevent_owns_the_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._core.exchange.gevent_owns_sockets", lambda: True)
    exchange = exchange_of()
    # On this test's own queue: the watcher's thread serves the other one.
    mine = type(abandoned)()
    mine.queue.put(exchange)
    mine.end_all_on_the_watchers_thread()
    assert exchange.outcome is None
    mine.end_all()
    assert exchange.outcome == "client_left"


def test_exchange_that_expires_frees_its_slot_and_keeps_its_connection_under_gevent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._core.exchange.gevent_owns_sockets", lambda: True)
    connection: Any = SimpleNamespace(sock=None)
    exchange, freed = exchange_of(), threading.Event()
    exchange.connection = connection
    exchange.hold(freed.set)
    exchange.expire()
    assert not freed.is_set()
    exchange.expire()
    assert freed.is_set()
    # Only its own thread may close it.
    assert exchange.connection is connection


# Releases


def test_exchange_releases_everything_though_one_release_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange = exchange_of()
    released: list[str] = []

    def fail() -> None:
        raise OSError("no")

    exchange.hold(partial(released.append, "first"))
    exchange.hold(fail)
    exchange.hold(partial(released.append, "last"))
    exchange.end("refused")
    exchange.end("refused")
    assert released == ["last", "first"]
    assert caplog.messages == ["The fal proxy could not release a resource; please report this."]


def test_call_gives_the_connection_back_though_its_close_fails(tmp_path: Path) -> None:
    closed: list[bool] = []
    with RawServer(one_piece) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        content = start(proxy)
        connection = content._exchange.connection
        close = connection.close

        def close_and_fail() -> None:
            close()
            closed.append(True)
            raise OSError("no")

        connection.close = close_and_fail
        content.close()
        assert closed == [True]
        del connection.close
        # And so is the slot.
        start(proxy).close()


def test_pool_with_a_bound_gets_its_place_back_though_a_close_fails(tmp_path: Path) -> None:
    with RawServer(one_piece) as server:
        manager = server.pool_manager(tmp_path)
        manager.connection_pool_kw.update(maxsize=1, block=True)
        proxy = FalProxy(key="k", pool_manager=manager, connect_timeout=0.5)
        content = start(proxy)
        connection = content._exchange.connection
        close = connection.close

        def close_and_fail() -> None:
            close()
            raise OSError("no")

        connection.close = close_and_fail
        content.close()
        del connection.close
        start(proxy).close()


# Aborts


def test_call_aborted_while_it_connects_leaves_the_descriptor_alone() -> None:
    call = Call()
    other, other_end = socket.socketpair()
    with other, other_end:

        class Connecting:
            """Its socket was closed, and another connection has the descriptor by now."""

            sock: socket.socket | None = None

            def close(self) -> None:
                pass

        connecting: Any = Connecting()
        call.connection = connecting
        connecting.sock = other
        call.abort()
        other.send(b"still there")
        assert other_end.recv(20) == b"still there"
        call.allow_abort()
        call.abort()
        assert other_end.recv(20) == b""
        call.release_connection(reusable=False)


# Forks


def in_a_child(work: Callable[[], bool]) -> bool:
    """Run this in a forked child; tell whether it returned True."""
    child = fork()
    if child == 0:  # pragma: no cover - another process
        os._exit(0 if work() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_slots_in_use_at_a_fork_are_free_in_the_child() -> None:
    slots = Slots(1)
    release = slots.take()

    def take() -> bool:  # pragma: no cover - another process
        slots.take()
        release()
        # The parent's release frees no slot of the child.
        with pytest.raises(RelayFull):
            slots.take()
        return True

    assert in_a_child(take)
    with pytest.raises(RelayFull):
        slots.take()


def test_memory_store_whose_lock_is_held_at_a_fork_counts_in_the_child() -> None:
    store = MemoryStore()
    limits = [parse_limit("2/day")]
    store.charge(limits, ["a"], 1)

    def take() -> bool:  # pragma: no cover - another process
        return store.charge(limits, ["a"], 1).refund is not None

    with store._lock:
        assert in_a_child(lambda: on_a_thread(take))


def test_exchanges_that_were_abandoned_before_a_fork_are_not_the_childs() -> None:
    mine = type(abandoned)()
    mine.queue.put(exchange_of())

    def is_empty() -> bool:  # pragma: no cover - another process
        return bool(mine.queue.empty())

    assert in_a_child(is_empty)
    assert not mine.queue.empty()
    mine.end_all()


# The owner's pool manager


def test_pool_manager_that_its_owner_closes_is_still_good_for_the_relay(tmp_path: Path) -> None:
    with RawServer(answering(OK, OK)) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager)
        assert get(proxy)[0] == "200 OK"
        manager.clear()
        assert post(proxy, b"{}")[0] == "200 OK"
    assert server.connections == 1


def test_pool_manager_of_the_owner_is_not_changed(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        manager = server.pool_manager(tmp_path)
        before = dict(vars(manager))
        get(FalProxy(key="k", pool_manager=manager))
        assert vars(manager) == before
        assert len(manager.pools) == 0


def test_pool_manager_for_socks_keeps_its_own_way_of_dialling() -> None:
    pytest.importorskip("socks")
    from urllib3.contrib.socks import SOCKSConnection, SOCKSProxyManager  # noqa: PLC0415

    proxy = FalProxy(key="k", pool_manager=SOCKSProxyManager("socks5h://127.0.0.1:1"))
    connections: Any = proxy._upstream._pools.pool_for("fal.run").ConnectionCls
    assert connections._new_conn is SOCKSConnection._new_conn
    assert get(proxy)[1]["x-fal-proxy-error"] == "upstream_unreachable"


def test_pools_of_hosts_that_answered_are_not_pushed_out_by_hosts_that_did_not(
    tmp_path: Path,
) -> None:
    def script(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(OK)

    class OnlyFal(urllib3.PoolManager):
        """Connects to fal.run alone."""

        def connection_from_host(self, host: str | None, *more: Any, **kw: Any) -> Any:
            port = server.port if host == "fal.run" else 9
            name = {"server_hostname": host}
            return super().connection_from_host("127.0.0.1", port, "https", name)

    with RawServer(script) as server:
        context = server.pool_manager(tmp_path).connection_pool_kw["ssl_context"]
        proxy = FalProxy(key="k", pool_manager=OnlyFal(ssl_context=context))
        assert get(proxy)[0] == "200 OK"
        for number in range(40):
            url = f"https://invented-{number}.fal.run/"
            reason = get(proxy, HTTP_X_FAL_TARGET_URL=url)[1]["x-fal-proxy-error"]
            assert reason == "upstream_unreachable"
        assert get(proxy)[0] == "200 OK"
        proxy._upstream._pools.reset_after_fork()
    assert server.connections == 1


def test_response_is_safe_to_iterate_when_its_content_begins_malformed(tmp_path: Path) -> None:
    with RawServer(answering(CHUNKED + b"no size\r\n")) as server:
        status, headers, _ = get(proxy_to(server, tmp_path, max_concurrent=1))
    assert (status, headers["x-fal-proxy-error"]) == (
        "500 Internal Server Error",
        "upstream_malformed",
    )


def test_pools_of_many_hosts_make_room_and_a_host_that_lost_its_pool_gets_another(
    tmp_path: Path,
) -> None:
    def script(connection: Connection) -> None:
        while True:
            connection.read_request()
            connection.send(OK)

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        pools = proxy._upstream._pools
        urls = [f"https://h{number}.fal.run/" for number in range(40)]
        with ThreadPoolExecutor(8) as threads:
            statuses = threads.map(lambda url: get(proxy, HTTP_X_FAL_TARGET_URL=url)[0], urls * 2)
            assert set(statuses) == {"200 OK"}
        assert len(pools.connected) <= 32
        (lost, *_) = {url[8:-1] for url in urls} - set(pools.connected)
        # It has been closed, but the manager has it still.
        assert not pools.pool_for(lost).is_closed
        connections = server.connections
        for _ in range(2):
            assert get(proxy, HTTP_X_FAL_TARGET_URL=f"https://{lost}/")[0] == "200 OK"
        assert server.connections == connections + 1
        pools.reset_after_fork()


def test_pools_do_not_take_a_pool_back_that_made_room(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        pools = proxy_to(server, tmp_path)._upstream._pools
        pool = pools.pool_for("fal.run")
        pool.close()
        pools.add("fal.run", pool)
        assert pools.connected == {}


def test_pool_with_a_bound_that_made_room_is_full_and_no_fault_of_ours(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        manager = server.pool_manager(tmp_path)
        manager.connection_pool_kw.update(maxsize=1, block=True)
        proxy = FalProxy(key="k", pool_manager=manager, backup_domains=False)
        pools = proxy._upstream._pools
        pool = pools.pool_for("fal.run")
        pools.add("fal.run", pool)
        pool.close()
        assert get(proxy)[1]["x-fal-proxy-error"] == "relay_full"


def test_pools_replace_a_pool_that_is_closed() -> None:
    pools = Pools(urllib3.PoolManager())
    closed = pools.pool_for("fal.run")
    closed.close()
    assert not pools.pool_for("fal.run").is_closed


def test_pool_with_a_bound_reaps_nothing_when_it_is_closed() -> None:
    pool = Pools(urllib3.PoolManager(block=True)).pool_for("fal.run")
    pool.close()
    pool.reap()
    assert pool.is_closed


def test_pool_reaps_by_age_alone_where_there_is_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "poll", None)
    old, young, closed = (SimpleNamespace(sock=object(), usable_until=at) for at in (1, 3, 1))
    closed.sock = None
    assert pool_module._find_gone([old, young, closed], 2.0) == [old]

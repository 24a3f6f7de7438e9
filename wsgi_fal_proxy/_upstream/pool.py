"""The pools of connections to fal's hosts.

A urllib3 `PoolManager`, ours or the owner's, decides on TLS, on a proxy and on how many connections
are kept. The relay works on pools of its own that are made by that manager's rules: it copies the
manager, shallowly, and has the copy make subclasses of the manager's own pool classes. So the
owner's manager is never changed, and code that shares it, or clears it, does not touch the relay.

urllib3 has no public way to take a connection out of a pool. It keeps these methods for its
subclasses, and `RelayPool` alone uses them: `_get_conn`, `_put_conn`, `_new_conn`,
`_prepare_proxy` and `_validate_conn`. The module `connect` overrides a connection's `_new_conn`.
That is why urllib3's major version is bounded, and why tests run on its oldest supported and newest
versions.
`docs/architecture.md` lists the internals of other packages that we use.
"""

from __future__ import annotations

import copy
import select
import weakref
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.exceptions import ClosedPoolError, EmptyPoolError

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import poll
from wsgi_fal_proxy._upstream.connect import (
    KEEPALIVE_OPTIONS,
    MAX_IDLE_SECONDS,
    connection_class,
)
from wsgi_fal_proxy._upstream.lookup import Lookup
from wsgi_fal_proxy.errors import RelayFull

if TYPE_CHECKING:
    from collections.abc import Iterable

    from urllib3.connectionpool import HTTPConnectionPool

    from wsgi_fal_proxy._upstream.call import Call
    from wsgi_fal_proxy._upstream.connect import Connection

_PORT: Final = 443
# Hosts whose connections are kept. fal's clients call four: fal.run, queue., rest. and wma.fal.run.
_MAX_HOSTS: Final = 32
# Connections that are kept for each host: at least as many as any usual server process has threads
# or greenlets.
_MAX_KEPT: Final = 1_000
# The shortest time between two reaps of a pool.
_REAP_SECONDS: Final = 0.5
# How many connections a reap by a call looks at, so that one call does not pay for hundreds.
_MAX_CHECKED_PER_CALL: Final = 64


class Pools:
    """One pool for each host that is called.

    Any name under fal's domains is a host, whether it exists or not. So the pools of hosts that
    have accepted a connection are kept apart: other names cannot push them out.

    Args:
        manager: The manager whose settings the pools use. It is not changed.

    Attributes:
        connected: The pools of the hosts that have accepted a connection.
    """

    def __init__(self, manager: urllib3.PoolManager) -> None:
        self._manager = manager
        self._own = _own(manager)
        self.connected: dict[str, RelayPool] = {}
        reset_in_children(self)

    def pool_for(self, host: str) -> RelayPool:
        """Return the pool of a host that is not among the connected ones."""
        pool: Any = self._own.connection_from_host(host, _PORT, "https")
        if pool.is_closed:
            # `add` closed it to make room. The manager still has it.
            self._own.pools.clear()
            pool = self._own.connection_from_host(host, _PORT, "https")
        relay_pool: RelayPool = pool
        return relay_pool

    def add(self, host: str, pool: RelayPool) -> None:
        """Keep the pool of a host to which a connection was made."""
        if host in self.connected or pool.is_closed:
            return
        self.connected[host] = pool
        if len(self.connected) > _MAX_HOSTS:
            # Another thread may do so at the same time.
            idle, _ = min(list(self.connected.items()), key=lambda item: item[1].released_at)
            if closed := self.connected.pop(idle, None):  # pragma: no branch - as threads have it
                closed.close()

    def reap(self) -> None:
        """Close the kept connections that fal has closed, and those that are too old."""
        for pool in list(self.connected.values()):
            pool.reap()

    def reset_after_fork(self) -> None:
        """Start without connections: the inherited ones belong to the parent."""
        # Keep the parent's pools for ever: to free one takes its lock, which another thread may
        # have held at the fork.
        _pools_of_parent.append((self._own, self.connected))
        for pool in self.connected.values():
            pool.forget()
        self._own = _own(self._manager)
        self.connected = {}


_pools_of_parent: Final[list[object]] = []


def _own(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """Copy a manager, so that the copy makes pools of ours by the same rules."""
    own = copy.copy(manager)
    own.pools = urllib3.PoolManager(_MAX_HOSTS).pools
    own.pool_classes_by_scheme = {
        scheme: _pool_class(base) for scheme, base in manager.pool_classes_by_scheme.items()
    }
    return own


if TYPE_CHECKING:
    _Base = HTTPConnectionPool
else:
    _Base = object


class RelayPool(_Base):
    """Hands out connections, keeps those that come back, and connects.

    urllib3's own pool keeps connections in a queue with a lock and a condition, on which nobody
    waits unless the pool's size is a bound (`block`). Here they are in a list, whose operations are
    atomic.

    Attributes:
        released_at: `time.monotonic()` when a connection last came back.
    """

    # An instance with more than 30 attributes besides its slots is slower on CPython.
    __slots__ = ("_kept", "_lookup", "_max_kept", "_reap_at", "_reaped_to", "released_at")

    def __init__(self, host: str, port: int | None = None, **options: Any) -> None:
        self._max_kept: int = options.get("maxsize", _MAX_KEPT)
        if not options.get("block"):
            # The queue is not used, and urllib3 would fill it.
            options["maxsize"] = 1
        if "socket_options" not in options:
            # What urllib3 would set, and keepalive.
            usual = [] if options.get("_proxy") else self.ConnectionCls.default_socket_options
            options["socket_options"] = [*usual, *KEEPALIVE_OPTIONS]
        super().__init__(host, port, **options)
        self.released_at: float = monotonic()
        self._lookup = Lookup()
        # In the order of their release, except that `reap` puts a connection back at the end.
        self._kept: list[Any] = []
        self._reap_at = 0.0
        self._reaped_to = 0
        # As urllib3 does for its queue: when a pool is freed, its connections are closed.
        weakref.finalize(self, _close_all, self._kept).atexit = False

    def acquire(self, call: Call, seconds: float | None) -> Connection:
        """Return the connection that came back last, or a new one that is not connected yet.

        Args:
            call: It holds the connection until its release. Its deadline bounds the wait, too.
            seconds: How long to wait if the pool's size is a bound. None: no limit.

        Raises:
            RelayFull: The size is a bound, and all connections are in use.
        """
        connection: Any
        try:
            connection = self._get_bounded(call, seconds) if self.block else self._kept.pop()
        except IndexError:
            connection = self._new_connection()
        else:
            now = monotonic()
            if now >= connection.usable_until or not connection.is_connected:
                connection.close()
            if self._kept and now >= self._reap_at:
                self.reap(_MAX_CHECKED_PER_CALL)
        call.pool, call.connection = self, connection
        call.is_abortable = connection.sock is not None
        return connection  # type: ignore[no-any-return]

    def _new_connection(self) -> Any:
        return self._new_conn()

    def _get_bounded(self, call: Call, seconds: float | None) -> Any:
        try:
            return self._get_conn(timeout=call.timeout_for(seconds))
        except (EmptyPoolError, ClosedPoolError) as error:
            # `add` has just closed this pool to make room. The next call gets a new one.
            raise RelayFull from error

    def connect(self, call: Call, connection: Connection, seconds: float | None) -> None:
        """Connect: through the proxy, if there is one, and with TLS.

        Args:
            call: Its deadline bounds the lookup, too.
            connection: One of this pool's.
            seconds: How long it may take after the lookup. None: no limit.

        Raises:
            Exception: One of `errors.WHILE_CONNECTING`.
        """
        untyped: Any = connection
        untyped.look_up(self._lookup, call.deadline)
        untyped.timeout = call.timeout_for(seconds)
        if self.proxy is not None:
            self._prepare_proxy(untyped)
        self._validate_conn(untyped)
        if untyped.is_closed:
            untyped.connect()
        if hasattr(untyped.sock, "suppress_ragged_eofs"):
            # A connection that is cut off without TLS's closing alert must not pass for the end of
            # content that ends with the connection (RFC 9112 section 9.8).
            untyped.sock.suppress_ragged_eofs = False

    def release(self, connection: Connection) -> None:
        """Take a connection back.

        A closed one is dropped, unless the pool's size is a bound: then it keeps its place.
        """
        untyped: Any = connection
        self.released_at = now = monotonic()
        untyped.usable_until = now + MAX_IDLE_SECONDS
        if self.block:
            self._put_conn(untyped)
        elif connection.sock is not None:
            if len(self._kept) >= self._max_kept:
                connection.close()
            else:
                self._kept.append(connection)

    def reap(self, max_checked: int | None = None) -> None:
        """Close the kept connections that fal has closed, and those that are too old.

        It may run on any thread. It does nothing if it has just run.

        Args:
            max_checked: How many connections it looks at. The next time, it goes on from there.
                None: all.
        """
        now = monotonic()
        if now < self._reap_at:
            return
        self._reap_at = now + _REAP_SECONDS
        if self.block:
            self._reap_queue(now)
            return
        begin = 0 if max_checked is None or self._reaped_to >= len(self._kept) else self._reaped_to
        looked_at = self._kept[begin : None if max_checked is None else begin + max_checked]
        self._reaped_to = begin + len(looked_at)
        for connection in _find_gone(looked_at, now):
            self._reaped_to -= 1
            # If a call has taken it, it is the call's to close.
            with suppress(ValueError):
                self._kept.remove(connection)
                # A call may have used it in between.
                if now < connection.usable_until and connection.is_connected:
                    self._kept.append(connection)
                else:
                    connection.close()

    def _reap_queue(self, now: float) -> None:
        """Close those in urllib3's queue. A closed connection keeps its place there."""
        if self.pool is not None:
            with self.pool.mutex:
                for connection in _find_gone(filter(None, self.pool.queue), now):
                    connection.close()

    @property
    def is_closed(self) -> bool:
        """Whether it keeps no connection any more."""
        return self._max_kept == 0

    def close(self) -> None:
        """Close the connections that are kept, and those that are in use when they come back."""
        self._max_kept = 0
        _close_all(self._kept)
        super().close()

    def forget(self) -> None:
        """Close the descriptors that were inherited from the parent, which uses them."""
        self._max_kept = 0
        _close_all(self._kept)


def _find_gone(connections: Iterable[Any], now: float) -> list[Any]:
    """Return those that cannot be used again. A call may take one meanwhile."""
    gone: list[Any] = []
    watched: dict[int, Any] = {}
    # Not a connection's own, which the call that takes it uses.
    readiness = None if poll is None else poll()
    for connection in connections:
        sock = connection.sock
        if sock is None:
            continue
        if now >= connection.usable_until:
            gone.append(connection)
        elif readiness is not None:
            # If the call that took it has closed it, it has no descriptor.
            with suppress(OSError, ValueError):
                watched[fd := sock.fileno()] = connection
                readiness.register(fd, select.POLLIN)
    if readiness is not None:
        gone += [watched[fd] for fd, _ in readiness.poll(0)]
    return gone


def _close_all(connections: list[Any]) -> None:
    while connections:
        connections.pop().close()


@cache
def _pool_class(base: type[HTTPConnectionPool]) -> type[Any]:
    """Derive the relay's pool class from a manager's own one."""
    connections = {"ConnectionCls": connection_class(base.ConnectionCls)}
    return type("RelayPool", (RelayPool, base), connections)

"""One call to fal: its time, and the connection that it holds."""

from __future__ import annotations

import _socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from wsgi_fal_proxy._process.unpatched import allocate_lock
from wsgi_fal_proxy._upstream.wire import seconds_left

if TYPE_CHECKING:
    from wsgi_fal_proxy._upstream.connect import Connection


class Pool(Protocol):
    """Where a connection comes from."""

    def release(self, connection: Connection) -> None:
        """Take the connection back."""


class Call:
    """One call's deadline and connection. Another thread may abort it at any moment.

    Args:
        total_timeout: Seconds from now to the end of the answer. None: no limit.

    Attributes:
        pool: Where the connection came from.
        connection: What the call holds, by `Pool.acquire`. None before that and after its release.
        is_abortable: Whether `abort` may use the connection's descriptor. While a connection is
            being made or closed, that number may already belong to another one.
        started_at: `time.monotonic()` at the beginning.
        deadline: The same clock's time at which `total_timeout` ends. None: no limit.
        is_aborted: Whether `abort` was called.
        is_sent: Whether the system has taken the whole request. fal cannot act on a part of one.
    """

    __slots__ = (
        "_lock",
        "connection",
        "deadline",
        "is_abortable",
        "is_aborted",
        "is_sent",
        "pool",
        "started_at",
    )

    def __init__(self, total_timeout: float | None = None) -> None:
        # A real thread's lock, also under gevent: the watcher's thread takes it. Both hold it for
        # moments only.
        self._lock = allocate_lock()
        self.pool: Pool | None = None
        self.is_abortable: bool = False
        self.connection: Connection | None = None
        self.is_aborted: bool = False
        self.is_sent: bool = False
        self.started_at: float = monotonic()
        self.deadline: float | None = (
            None if total_timeout is None else self.started_at + total_timeout
        )

    def allow_abort(self) -> None:
        """Let `abort` break the connection, which has been made."""
        # No lock: the caller checks `is_aborted` right after this.
        self.is_abortable = True

    def close_connection(self) -> None:
        """Close the connection and keep holding it, so that it can connect again."""
        with self._lock:
            self.is_abortable = False
        connection = self.connection
        if connection is not None:
            connection.close()

    def release_connection(self, *, reusable: bool) -> None:
        """Return the connection to its pool. Only the first call counts.

        Args:
            reusable: Whether another request may use it. If not, it is closed first: a closed
                connection still has its place in the pool, and connects again when it is used.
        """
        if self.connection is None:
            return
        with self._lock:
            self.is_abortable = False
            connection, self.connection = self.connection, None
        if connection is None:
            return  # pragma: no cover - the watcher's thread was faster
        try:
            if not reusable:
                connection.close()
        finally:
            if self.pool is not None:
                self.pool.release(connection)

    def abort(self) -> None:
        """Break the call off: a wait for the connection ends at once, with an error."""
        with self._lock:
            self.is_aborted = True
            sock = self.connection.sock if self.is_abortable and self.connection else None
            if sock is not None:
                _shut_down(sock.fileno())

    def deadline_for(self, wait_seconds: float | None) -> float | None:
        """Return when a wait that starts now must end, by `time.monotonic()`. None: no limit.

        Args:
            wait_seconds: The limit of the wait itself. None: it has none.
        """
        if wait_seconds is None:
            return self.deadline
        end = monotonic() + wait_seconds
        return end if self.deadline is None else min(end, self.deadline)

    def timeout_for(self, wait_seconds: float | None) -> float | None:
        """Return a socket's timeout: `wait_seconds`, or less if the deadline comes earlier."""
        if self.deadline is None:
            return wait_seconds
        return seconds_left(self.deadline_for(wait_seconds))

    def has_timed_out(self) -> bool:
        """Whether `total_timeout` has passed."""
        return self.deadline is not None and monotonic() >= self.deadline


def _shut_down(fd: int) -> None:
    # Only the system call: the other thread uses the ssl or gevent object.
    with suppress(OSError, ValueError):
        sock = _socket.socket(fileno=fd)
        try:
            sock.shutdown(_socket.SHUT_RDWR)
        finally:
            sock.detach()

"""Notices a client that leaves while fal is silent, where the server hands over its socket.

A WSGI application learns that its client has gone when the server next writes to it. Until then
fal works on, and bills. One thread per process waits, for all requests at once, for the kernel's
word that the other side of a client's connection was closed (EPOLLRDHUP), as nginx does. A client
that closes only its sending side counts as gone, as for nginx.
"""

from __future__ import annotations

import select
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock, epoll, poll, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

# In epoll and in poll alike: the other side closed, at least its sending half, or all is lost.
_GONE: Final[int] = getattr(select, "EPOLLRDHUP", 0)
# Once for each connection (epoll(7), "edge-triggered"): where a forked child holds a copy of one
# that was closed here, the kernel goes on to watch it, and nothing here can end that any more.
_GONE_ONCE: Final[int] = _GONE | getattr(select, "EPOLLET", 0)


_TICK_SECONDS: Final = 1.0


class Abortable(Protocol):
    """Something that goes on for a client."""

    def abort(self) -> None:
        """Break it off. Runs on the watcher's thread, and neither waits nor raises."""


class Watcher:
    """Aborts what goes on for a client when the client closes its connection.

    Its thread starts with the first watch. On a system without epoll, nothing is ever noticed.
    """

    def __init__(self) -> None:
        self._at_each_tick: list[Callable[[], None]] = []
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Begin with no watch: a forked child has no thread, and the epoll is its parent's."""
        # It guards what is watched, here and in the kernel, as one. A connection's owner ends the
        # watch before it closes the connection. So what is found under the lock is the connection
        # that was watched, and not another one that has its descriptor by now.
        self._lock = allocate_lock()
        self._epoll: Any = None
        self._watched: dict[int, Abortable] = {}
        # By descriptor, the connections that the kernel watches although no request is under way:
        # to begin and to end that for each request would be two system calls under the lock.
        self._kept: dict[int, Callable[[], object]] = {}

    def at_each_tick(self, work: Callable[[], None]) -> None:
        """Run this on the watcher's thread about once a second."""
        self._at_each_tick.append(work)

    def watch(self, fd: int, watched: Abortable, connection: object = None) -> None:
        """Abort once when the other side closes a connection, or at once if it has.

        Args:
            fd: The connection's descriptor.
            watched: What to abort.
            connection: An object, such as a socket, that exists as long as the connection does and
                stands for no other one. None: there is no such object.
        """
        if epoll is None:
            return
        with self._lock:
            self._watched[fd] = watched
            if connection is None or self._kept.get(fd, _nothing)() is not connection:
                self._register(fd, connection)

    def _register(self, fd: int, connection: object) -> None:
        if self._epoll is None:
            self._epoll = epoll()
            start_new_thread(self._run, (self._epoll,))
        self._kept.pop(fd, None)
        try:
            self._epoll.register(fd, _GONE_ONCE)
        except FileExistsError:
            # A watch that was never ended.
            self._epoll.modify(fd, _GONE_ONCE)
        except (OSError, ValueError):
            # It is no connection, or none any more.
            del self._watched[fd]
            return
        if connection is not None:
            self._kept[fd] = weakref.ref(connection)

    def unwatch(self, fd: int, watched: Abortable) -> None:
        """End a watch. If it has ended, the descriptor may be another connection's: leave that."""
        with self._lock:
            if self._watched.get(fd) is watched:
                del self._watched[fd]
                if fd not in self._kept:
                    # The kernel ends a watch by itself when the connection is closed.
                    with suppress(OSError):
                        self._epoll.unregister(fd)

    def _run(self, mine: Any) -> None:
        # In a forked child there is no such thread: its epoll is another one.
        while mine is self._epoll:  # pragma: no cover - no tracer sees this thread
            # Without this thread nobody would notice anything any more.
            with suppress(Exception):
                self.notice(_TICK_SECONDS)
                for work in self._at_each_tick:
                    work()

    def notice(self, seconds: float | None = None) -> None:
        """Wait for connections that the other side closes, and abort what goes on for them.

        Args:
            seconds: How long to wait at most. None: without limit.
        """
        for fd, _ in self._epoll.poll(seconds):
            with self._lock:
                # By now the descriptor may be another connection's, and its watch another one.
                if not _is_gone(fd):
                    continue
                self._kept.pop(fd, None)
                with suppress(OSError):
                    self._epoll.unregister(fd)
                watched = self._watched.pop(fd, None)
            # Outside the lock: `abort` takes its own.
            if watched is not None:
                # If one fails, the others are still aborted.
                with suppress(Exception):
                    watched.abort()


def _nothing() -> None:
    """Stand for a reference to a connection that there is not."""


def _is_gone(fd: int) -> bool:
    poller = poll()
    poller.register(fd, _GONE)
    return bool(poller.poll(0))


watcher: Final = Watcher()
"""The process's own."""

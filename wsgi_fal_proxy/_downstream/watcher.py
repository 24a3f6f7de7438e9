"""Notices a client that leaves while fal is silent, where the server hands over its socket.

A WSGI application learns that its client has gone when the server next writes to it. Until then
fal works on, and bills. One thread per process waits, for all requests at once, for the kernel's
word that the other side of a client's connection was closed (EPOLLRDHUP), as nginx does. A client
that closes only its sending side counts as gone, as for nginx.
"""

from __future__ import annotations

import os
import select
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._process.unpatched import allocate_rlock, epoll, poll, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    Watched = dict[int, Callable[[], None]]
    Kept = dict[int, Callable[[], object]]

# In epoll and in poll alike: the other side closed, at least its sending half, or all is lost.
_GONE: Final[int] = getattr(select, "EPOLLRDHUP", 0)
# Once for each connection (epoll(7), "edge-triggered"): where a forked child holds a copy of one
# that was closed here, the kernel goes on to watch it, and nothing here can end that any more.
_GONE_ONCE: Final[int] = _GONE | getattr(select, "EPOLLET", 0)


class Watcher:
    """Calls back, on a thread of its own, when the other side closes a connection.

    The thread starts with the first watch. Where the system has no epoll, nothing is ever noticed.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in a forked child: it has no thread, and the epoll is its parent's."""
        # Over what is watched, here and in the kernel, as one. A connection's owner unwatches it
        # before it is closed: so what is found under the lock is the connection that was watched,
        # and not another one that has its descriptor by now.
        self._lock = allocate_rlock()
        self._epoll: Any = None
        self._watched: Watched = {}
        # By descriptor, the connections that the kernel watches although no request is under way:
        # to begin and to end that for each request would be two system calls under the lock.
        self._kept: Kept = {}

    def watch(self, fd: int, on_gone: Callable[[], None], connection: object = None) -> None:
        """Call back once when the other side of this connection closes it, or at once if it has.

        Args:
            fd: The connection's descriptor.
            on_gone: What to do. It runs on the watcher's thread, and must neither wait nor raise.
            connection: What stands for it from its beginning to its end, and for no other one,
                such as a socket; None where there is no such thing.
        """
        if epoll is None:
            return
        with self._lock:
            self._watched[fd] = on_gone
            if connection is None or self._kept.get(fd, _nothing)() is not connection:
                self._register(fd, connection)

    def _register(self, fd: int, connection: object) -> None:
        if self._epoll is None:
            self._epoll = epoll()
            start_new_thread(_run, (self._epoll, self._watched, self._kept, self._lock))
        self._kept.pop(fd, None)
        try:
            self._epoll.register(fd, _GONE_ONCE)
        except FileExistsError:
            # Of a watch that was never ended.
            self._epoll.modify(fd, _GONE_ONCE)
        except (OSError, ValueError):
            # Not a connection, or not any more: there is nothing to be noticed.
            del self._watched[fd]
            return
        if connection is not None:
            self._kept[fd] = weakref.ref(connection)

    def unwatch(self, fd: int, on_gone: Callable[[], None]) -> None:
        """End a watch, unless it has ended, and the descriptor may be another connection's."""
        with self._lock:
            if self._watched.get(fd) is on_gone:
                del self._watched[fd]
                if fd not in self._kept:
                    # The kernel ends a watch by itself when the connection is closed.
                    with suppress(OSError):
                        self._epoll.unregister(fd)


def _nothing() -> None:
    """Stand for a reference to a connection where there is none."""


def _run(epoll: Any, watched: Watched, kept: Kept, lock: Any) -> None:
    while True:  # pragma: no cover - on a thread that no tracer is told of
        # Without this thread nobody would notice anything any more.
        with suppress(Exception):
            notice(epoll, watched, kept, lock)


def notice(epoll: Any, watched: Watched, kept: Kept, lock: Any) -> None:
    """Wait for connections to be closed by the other side, and call back for each."""
    for fd, _ in epoll.poll():
        with lock:
            # By now the descriptor may be another connection's, and its watch another one.
            if not _is_gone(fd):
                continue
            kept.pop(fd, None)
            with suppress(OSError):
                epoll.unregister(fd)
            if on_gone := watched.pop(fd, None):
                # What one call may raise must not leave the others unheard: each is told once.
                with suppress(Exception):
                    on_gone()


def _is_gone(fd: int) -> bool:
    poller = poll()
    poller.register(fd, _GONE)
    return bool(poller.poll(0))


watcher: Final = Watcher()
"""The process's own."""
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=watcher.reset)

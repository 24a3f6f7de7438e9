"""Notices what no thread of the server does: a client that left, a deadline that has passed.

Two things go unnoticed without help. A WSGI application learns that its client has gone when the
server next writes to it: until then fal works, and bills. And a deadline passes while the server
writes to a client that does not read. One thread for each process watches for both. The kernel
tells it of all connections that clients close (EPOLLRDHUP), as it tells nginx. A client that closes
only its sending side counts as gone, as for nginx.
"""

from __future__ import annotations

import logging
import select
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock, epoll, poll, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_logger: Final = logging.getLogger("wsgi_fal_proxy")

# For epoll and poll alike: the other side closed at least its sending half, or all is lost.
_GONE: Final[int] = getattr(select, "EPOLLRDHUP", 0)
# Edge-triggered (epoll(7)): if a forked child holds a copy of a connection that was closed here,
# the kernel goes on watching it, and nothing here can stop that. So it wakes the thread only once.
_GONE_ONCE: Final[int] = _GONE | getattr(select, "EPOLLET", 0)
_TICK_SECONDS: Final = 0.5


class Watched(Protocol):
    """A call that the watcher may end. Its methods run on the watcher's thread and do not wait."""

    deadline: float | None

    def on_client_left(self) -> None:
        """End the call: the client has closed its connection."""

    def expire(self) -> None:
        """End the call: the deadline has passed. Called at each tick until the call is released."""


class Watcher:
    """Ends calls whose client has left or whose deadline has passed.

    Its thread starts with the first watch. On a system without epoll it does nothing.
    """

    def __init__(self) -> None:
        self._at_each_tick: list[Callable[[], None]] = []
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Forget all watches. The thread and the epoll are the parent's."""
        # Guards the dicts and the epoll together. A call ends its watch before the server closes
        # the connection, so a watch that is found under the lock belongs to the descriptor's
        # present owner. (waitress can close the connection of a client that left a moment before.)
        self._lock = allocate_lock()
        self._epoll: Any = None
        self._watched: dict[int, Watched] = {}
        # Connections that stay registered between two requests, which saves two system calls for
        # each request.
        self._kept: dict[int, Callable[[], object]] = {}
        self._with_deadline: set[Watched] = set()
        self._next_tick = 0.0

    def at_each_tick(self, work: Callable[[], None]) -> None:
        """Run this on the watcher's thread about twice a second."""
        self._at_each_tick.append(work)

    def watch(self, fd: int, watched: Watched, connection: object = None) -> None:
        """Call `on_client_left` once: when the other side closes the connection, or now if it has.

        Args:
            fd: The connection's descriptor.
            watched: The call.
            connection: An object, such as a socket, that exists as long as the connection does and
                stands for no other one. None: there is no such object.
        """
        with self._lock:
            if self._epoll is not None or self._start():
                self._watched[fd] = watched
                if connection is None or self._kept.get(fd, _dead_reference)() is not connection:
                    self._register(fd, connection)

    def unwatch(self, fd: int, watched: Watched) -> None:
        """End a watch. Do nothing if it has ended: the number may be another connection's."""
        with self._lock:
            if self._watched.get(fd) is watched:
                del self._watched[fd]
                if fd not in self._kept:
                    # The kernel ends a watch by itself when the connection is closed.
                    with suppress(OSError):
                        self._epoll.unregister(fd)

    def enforce_deadline(self, watched: Watched) -> None:
        """Call `expire` when the deadline has passed, until `release_deadline`."""
        with self._lock:
            if self._epoll is not None or self._start():
                self._with_deadline.add(watched)

    def release_deadline(self, watched: Watched) -> None:
        """Forget a deadline."""
        with self._lock:
            self._with_deadline.discard(watched)

    def while_watched(self, fd: int, watched: Watched, work: Callable[[int], None]) -> None:
        """Do something with a descriptor, if it is still this call's connection."""
        with self._lock:
            if self._watched.get(fd) is watched:
                work(fd)

    def _start(self) -> bool:
        """Start the thread. Return whether that worked."""
        if epoll is None:
            return False
        try:
            made = self._epoll = epoll()
            start_new_thread(self._run, (made,))
        except (OSError, RuntimeError) as error:
            # No descriptor or thread is left. Requests go on unwatched; the next one tries again.
            self._epoll = None
            _logger.warning("The fal proxy cannot notice clients that leave: %s", error)
        return self._epoll is not None

    def _register(self, fd: int, connection: object) -> None:
        self._kept.pop(fd, None)
        try:
            self._epoll.register(fd, _GONE_ONCE)
        except FileExistsError:
            # A watch that was never ended.
            self._epoll.modify(fd, _GONE_ONCE)
        except (OSError, ValueError):
            # Not a connection, or already closed.
            del self._watched[fd]
            return
        if connection is not None:
            self._kept[fd] = weakref.ref(connection)

    def _run(self, mine: Any) -> None:
        # A forked child, or a restart, has another epoll.
        while mine is self._epoll:  # pragma: no cover - the thread outlives the tests
            try:
                self.notice(_TICK_SECONDS)
            except (OSError, ValueError) as error:
                # Something closed the epoll, such as code that closes all descriptors.
                _logger.warning("The fal proxy no longer notices clients that leave: %s", error)
                with self._lock:
                    self._epoll = None
                    self._watched.clear()
                    self._kept.clear()
                return

    def notice(self, seconds: float | None = None) -> None:
        """Wait for connections that the other side closes. If a tick is due, do its work, too.

        Args:
            seconds: How long to wait at most. None: without limit.

        Raises:
            OSError: The epoll does not work any more.
        """
        for fd, _ in self._epoll.poll(seconds):
            # If this fails for one connection, the others are still seen to.
            with suppress(Exception):
                self._handle_close(fd)
        now = monotonic()
        # Each closed connection ends the wait above. The work of a tick is not done more often.
        if now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._tick(now)

    def _tick(self, now: float) -> None:
        with self._lock:
            late = [one for one in self._with_deadline if one.deadline and one.deadline < now]
        for work in (*(one.expire for one in late), *self._at_each_tick):
            with suppress(Exception):
                work()

    def _handle_close(self, fd: int) -> None:
        with self._lock:
            # By now the descriptor may be another connection's, and its watch another one.
            if not _is_gone(fd):
                return
            self._kept.pop(fd, None)
            with suppress(OSError):
                self._epoll.unregister(fd)
            watched = self._watched.pop(fd, None)
        # Outside the lock: the call takes its own.
        if watched is not None:
            watched.on_client_left()


def _dead_reference() -> None:
    """Stand in for a weak reference whose object is gone."""


def _is_gone(fd: int) -> bool:
    poller = poll()
    poller.register(fd, _GONE)
    return bool(poller.poll(0))


watcher: Final = Watcher()
"""The process's own."""

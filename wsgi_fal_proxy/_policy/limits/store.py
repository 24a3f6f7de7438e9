"""Where calls are counted: in this process, or in Redis for all processes and machines.

The strategies of the `limits` library cannot do this: they take from one limit at a time, a
refused call may count (some count it for a moment), and they cannot refund in the window that was
charged. This package therefore uses the library only for its notation and for the URIs of its
storages. A store charges all limits that apply in one step, or none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit

ACCEPTED: Final = (
    "memory://, or redis://host:port/number, rediss:// (over TLS) or redis+unix:///path/of/socket"
)
_REDIS_SOCKET: Final = "redis+unix"
_REDIS_SCHEMES: Final = frozenset({"redis", "rediss", _REDIS_SOCKET})
_DATABASE: Final = re.compile(r"(?:/[0-9]*)?")

Refund = Callable[[], None]
"""Refunds one charge. Call it once at most."""


class StoreFailed(Exception):
    """The store did not answer, or its answer is an error. `__cause__` says why."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The result of one attempt to charge a call.

    Attributes:
        refund: Undoes the charge. None if a limit had no room: then no limit was charged.
        taken: For each limit, the amount that its window held before this call.
        seconds_left: For each limit, the seconds until its window ends.
    """

    refund: Refund | None
    taken: Sequence[int]
    seconds_left: Sequence[int]


class Store(Protocol):
    """Counts how much each caller has taken from each limit in the current window."""

    def take(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> Charge:
        """Charge all limits in one step, or none of them.

        Args:
            limits: The limits that apply.
            callers: For each limit, the name to charge.
            cost: The amount to take from each limit.

        Raises:
            StoreFailed: The store did not answer. If it has charged the call, the charge stays.
        """


class MemoryStore:
    """Counts in this process alone. The counts end with the process.

    Args:
        clock: Returns the time in seconds since 1 January 1970 (UTC).
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self.reset_after_fork()
        reset_in_children(self)
        # For each limit: the number of its window, and the amount that each caller has taken.
        self._windows: dict[Limit, tuple[int, dict[str, int]]] = {}

    def reset_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold. The count stays."""
        # A plain lock suffices under gevent: no greenlet switches while it is held.
        self._lock = allocate_lock()

    def take(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> Charge:
        """See `Store`. This store does not fail."""
        with self._lock:
            now = int(self._clock())
            windows = [self._window(limit, now) for limit in limits]
            taken = [
                counts.get(caller, 0) for (_, counts), caller in zip(windows, callers, strict=True)
            ]
            seconds_left = [
                (number + 1) * limit.seconds - now
                for (number, _), limit in zip(windows, limits, strict=True)
            ]
            if any(
                so_far + cost > limit.amount for so_far, limit in zip(taken, limits, strict=True)
            ):
                return Charge(None, taken, seconds_left)
            for (_, counts), caller, so_far in zip(windows, callers, taken, strict=True):
                counts[caller] = so_far + cost
        charged = [counts for _, counts in windows]
        return Charge(partial(self._refund, charged, callers, cost), taken, seconds_left)

    def _window(self, limit: Limit, now: int) -> tuple[int, dict[str, int]]:
        number = now // limit.seconds
        window = self._windows.get(limit)
        # If the clock is set back, the newer window stays: an old one must not start again.
        if window is None or window[0] < number:
            window = self._windows[limit] = (number, {})
        return window

    def _refund(self, charged: Sequence[dict[str, int]], callers: Sequence[str], cost: int) -> None:
        # Refund the window that was charged. If it is over, nothing reads it any more.
        with self._lock:
            for counts, caller in zip(charged, callers, strict=True):
                counts[caller] -= cost


def store(uri: str) -> Store:
    """Make the store that a URI names, without connecting to it.

    Raises:
        ImportError: A library is not installed.
        ValueError: The URI cannot be used; see `ACCEPTED`.
    """
    if uri == "memory://":
        return MemoryStore()
    parts = urlsplit(uri)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError
    # redis-py reads a path that is not a number as database 0, where another app may count.
    if parts.scheme != _REDIS_SOCKET and not _DATABASE.fullmatch(parts.path):
        raise ValueError
    from wsgi_fal_proxy._policy.limits.redis_store import RedisStore  # noqa: PLC0415 - if needed

    return RedisStore(uri)

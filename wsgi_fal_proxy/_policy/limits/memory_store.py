"""Counts calls in this process alone."""

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._policy.limits.store import ChargeResult
from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit


# For each limit, in one window; about 20 MB. Beyond that number, the first caller is
# forgotten. An attacker with 100,000 addresses can already spend that many budgets.
_MAX_CALLERS: Final = 100_000


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

    def charge(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> ChargeResult:
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
                return ChargeResult(None, taken, seconds_left)
            for (_, counts), caller, so_far in zip(windows, callers, taken, strict=True):
                counts[caller] = so_far + cost
                if len(counts) > _MAX_CALLERS:
                    # The first in the order in which they came.
                    del counts[next(iter(counts))]
        charged = [counts for _, counts in windows]
        return ChargeResult(partial(self._refund, charged, callers, cost), taken, seconds_left)

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
                if (taken := counts.get(caller, 0)) > cost:
                    counts[caller] = taken - cost
                else:
                    counts.pop(caller, None)

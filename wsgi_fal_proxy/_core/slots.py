"""The places for requests that are relayed at the same time: the option `max_concurrent`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock
from wsgi_fal_proxy.errors import RelayFull

if TYPE_CHECKING:
    from collections.abc import Callable


class Slots:
    """Counts the requests that are being relayed in this process.

    Args:
        max_taken: How many there may be.
    """

    def __init__(self, max_taken: int) -> None:
        self._max_taken = max_taken
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Free all slots: the requests that hold them are the parent's."""
        self._lock = allocate_lock()
        self._taken: set[object] = set()

    def take(self) -> Callable[[], None]:
        """Take a slot. Return what releases it; to call that twice does no harm.

        Raises:
            RelayFull: There is none.
        """
        holder = object()
        with self._lock:
            if len(self._taken) >= self._max_taken:
                raise RelayFull
            self._taken.add(holder)
        # Bound to this set: after a fork the child has a new one.
        return partial(self._taken.discard, holder)

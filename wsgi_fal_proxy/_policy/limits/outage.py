"""The log of a store's outages: one line when an outage begins, and one when it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import allocate_lock

if TYPE_CHECKING:
    from wsgi_fal_proxy._policy.limits.store import StoreFailed

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class Outage:
    """Whether the store of the limits fails at the moment.

    Threads report their results in any order. Each therefore reads `number` before it asks the
    store, and reports its result with that number. If the number has changed in the meantime, the
    result is outdated and is ignored.

    Args:
        fate: What happens to calls during an outage, as a participle: it is logged.

    Attributes:
        number: Counts the changes. It is odd during an outage.
    """

    def __init__(self, fate: str) -> None:
        self._fate = fate
        self.number: int = 0
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = allocate_lock()

    def begins(self, number: int, error: StoreFailed) -> None:
        """Report that the store failed. Logs the first failure of an outage."""
        if self._changes(number, lasts=False):
            cause = error.__cause__
            _logger.error(
                "limits_unavailable: the store of the limits failed. Until it answers, calls are %s"
                " and charges are not refunded. [%s: %s]",
                self._fate,
                type(cause).__name__,
                cause,
            )

    def ends(self, number: int) -> None:
        """Report that the store answered. Logs the end of an outage."""
        if self._changes(number, lasts=True):
            _logger.warning("The store of the limits answers again.")

    def _changes(self, number: int, *, lasts: bool) -> bool:
        if bool(number % 2) is not lasts:
            return False
        with self._lock:
            is_news = self.number == number
            self.number += is_news
        return is_news

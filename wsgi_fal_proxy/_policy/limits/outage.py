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

    Threads report their results in any order. Each therefore reads `generation` before it asks the
    store, and reports its result with it. If an outage has begun or ended in the meantime, the
    result is outdated and is ignored.

    Args:
        fate: What happens to calls during an outage, as a participle: it is logged.

    Attributes:
        generation: How often an outage has begun or ended. It is odd during an outage.
    """

    def __init__(self, fate: str) -> None:
        self._fate = fate
        self.generation: int = 0
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = allocate_lock()

    def report_failure(self, generation: int, error: StoreFailed) -> None:
        """Report that the store failed. Logs the first failure of an outage."""
        if not _is_down(generation) and self._advance(generation):
            cause = error.__cause__
            _logger.error(
                "limits_unavailable: the store of the limits failed. Until it answers, calls are %s"
                " and charges are not refunded. [%s: %s]",
                self._fate,
                type(cause).__name__,
                cause,
            )

    def report_success(self, generation: int) -> None:
        """Report that the store answered. Logs the end of an outage."""
        if _is_down(generation) and self._advance(generation):
            _logger.warning("The store of the limits answers again.")

    def _advance(self, generation: int) -> bool:
        """Begin the next generation if this is the current one. Return whether it was."""
        with self._lock:
            is_current = self.generation == generation
            self.generation += is_current
        return is_current


def _is_down(generation: int) -> bool:
    return generation % 2 == 1

"""Where calls are counted: in this process, or in Redis for all processes and machines.

The strategies of the `limits` library cannot do this: they take from one limit at a time, a
refused call may count (some count it for a moment), and they cannot refund in the window that was
charged. This package therefore uses the library only for its notation and for the URIs of its
storages. A store charges all limits that apply in one step, or none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit

Refund = Callable[[], None]
"""Refunds one charge. Call it once at most."""


class StoreFailed(Exception):
    """The store did not answer, or its answer is an error. `__cause__` says why."""


@dataclass(frozen=True, slots=True)
class ChargeResult:
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

    def charge(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> ChargeResult:
        """Charge all limits in one step, or none of them.

        Args:
            limits: The limits that apply.
            callers: For each limit, the name to charge.
            cost: The amount to take from each limit.

        Raises:
            StoreFailed: The store did not answer. If it has charged the call, the charge stays.
        """

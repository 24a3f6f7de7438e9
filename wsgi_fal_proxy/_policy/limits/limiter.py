"""The limiter: charges the limits for each call, or refuses the call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._policy.limits.caller import caller_name
from wsgi_fal_proxy._policy.limits.costs import Costs
from wsgi_fal_proxy._policy.limits.notation import parse_limit
from wsgi_fal_proxy._policy.limits.outage import Outage
from wsgi_fal_proxy._policy.limits.storage import make_store
from wsgi_fal_proxy._policy.limits.store import StoreFailed
from wsgi_fal_proxy.errors import LimitExceeded, LimitsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._fal.operations import Operation
    from wsgi_fal_proxy._policy.limits.notation import Limit
    from wsgi_fal_proxy._policy.limits.store import ChargeResult, Refund, Store

_EVERYBODY: Final = "everybody"


class Limiter:
    """Charges all limits in one step, before the call is relayed.

    Args:
        limits: The option `limits`, such as `["20/minute", "1000/day global"]`.
        costs: The option `costs`. None means that each call costs 1.
        storage: The option `limits_storage`: the URI of the store.
        fail_open: The option `limits_fail_open`: whether to relay calls that cannot be counted.

    Raises:
        ImportError: A library is not installed.
        ValueError: A limit or the URI cannot be used.
    """

    def __init__(
        self,
        limits: Iterable[str],
        *,
        costs: Mapping[str, int] | None,
        storage: str,
        fail_open: bool,
    ) -> None:
        self._limits = tuple(map(parse_limit, limits))
        self._costs = Costs(costs)
        self._store: Store = make_store(storage)
        self._fail_open = fail_open
        self._outage = Outage("relayed uncounted" if fail_open else "refused")

    def charge(
        self, environ: WSGIEnvironment, identity: str | None, operation: Operation
    ) -> Refund | None:
        """Charge a call, unless it is free.

        Args:
            environ: The WSGI environ; only `REMOTE_ADDR` is read.
            identity: The identity that `authorize` returned. None: the remote address counts.
            operation: What the request asks of fal.

        Returns:
            Refunds the charge; it does not raise. None if nothing was charged.

        Raises:
            LimitExceeded: A limit has no room for the call.
            LimitsUnavailable: The store failed, and calls that cannot be counted are refused.
        """
        if not operation.spends:
            return None
        cost = self._costs.cost_of(operation.endpoint)
        name = caller_name(identity, environ.get("REMOTE_ADDR") or "")
        callers = [_EVERYBODY if one.is_global else name for one in self._limits]
        generation = self._outage.generation
        try:
            result = self._store.charge(self._limits, callers, cost)
        except StoreFailed as error:
            self._outage.report_failure(generation, error)
            if self._fail_open:
                return None
            raise LimitsUnavailable from error
        self._outage.report_success(generation)
        if result.refund is None:
            raise self._make_refusal(result, cost)
        return self._guarded(result.refund)

    def _guarded(self, refund: Refund) -> Refund:
        """Return a refund that does not raise: if the store fails, it is logged."""

        def guarded() -> None:
            generation = self._outage.generation
            try:
                refund()
            except StoreFailed as error:
                self._outage.report_failure(generation, error)

        return guarded

    def _make_refusal(self, result: ChargeResult, cost: int) -> LimitExceeded:
        """Describe the full limit whose window ends last."""
        seconds, index = max(
            (seconds, index)
            for index, seconds in enumerate(result.seconds_left)
            if result.taken[index] + cost > self._limits[index].amount
        )
        full = self._limits[index]
        return _describe_refusal(full, full.amount - result.taken[index], seconds, cost)


def _describe_refusal(full: Limit, remaining: int, seconds: int, cost: int) -> LimitExceeded:
    whose = "all callers together" if full.is_global else "each caller"
    counts = "" if cost == 1 else f" This call counts for {cost}, and {remaining} are left."
    detail = (
        f"The limit of {full.text.removesuffix(' global')} for {whose} is reached.{counts}"
        f" Try again in {_duration(seconds)}."
    )
    # draft-ietf-httpapi-ratelimit-headers-10: q is the quota, w its window in seconds, r the
    # remaining quota, t the seconds until the quota is whole again; names are RFC 9651 strings.
    headers = (
        ("Retry-After", str(seconds)),
        ("RateLimit-Policy", f'"{full.text}";q={full.amount};w={full.seconds}'),
        ("RateLimit", f'"{full.text}";r={remaining};t={seconds}'),
    )
    return LimitExceeded(detail, headers)


def _duration(seconds: int) -> str:
    """Write a duration, rounded up, in the largest unit that it exceeds twice."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"

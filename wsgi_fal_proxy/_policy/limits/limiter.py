"""How much: what a call costs, for whom it is counted, and what is given back."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._fal.patterns import endpoint_globs
from wsgi_fal_proxy._policy.limits.notation import limit
from wsgi_fal_proxy._policy.limits.store import StoreFailed, store
from wsgi_fal_proxy._process.unpatched import allocate_lock
from wsgi_fal_proxy.errors import LimitExceeded, LimitsUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._fal.operations import Operation
    from wsgi_fal_proxy._policy.limits.notation import Limit
    from wsgi_fal_proxy._policy.limits.store import Counted, Store
    from wsgi_fal_proxy._settings.options import Settings

_logger: Final = logging.getLogger("wsgi_fal_proxy")

GiveBack = Callable[[], None]
"""Gives back what a call has taken, if it is called once. It does not raise."""

_EVERYBODY: Final = "everybody"
# RFC 4291 section 2.5.4: whoever has one address has all that begin with its first 64 bits.
_IPV6_PREFIX: Final = 64
# The names of owners, apps and paths, in lower case. What else is in a path, fal may read as
# another one: dots, escapes, empty segments.
_SEGMENT: Final = r"[a-z0-9_~-][a-z0-9_.~-]*+"
_PLAIN: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*+")


class Limiter:
    """Takes what each call costs from the limits, in one step, before the call is relayed.

    Args:
        settings: Of which `limits`, `costs`, `limits_storage` and `limits_fail_open` count here.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = tuple(map(limit, settings.limits))
        self._store: Store = store(settings.limits_storage)
        self._price = _Prices(settings.costs)
        self._fail_open = settings.limits_fail_open
        self._outage = _Outage(
            "let through, uncounted," if settings.limits_fail_open else "refused"
        )

    def take(
        self, environ: WSGIEnvironment, identity: str | None, operation: Operation
    ) -> GiveBack | None:
        """Count a call, unless it is free.

        Args:
            environ: The WSGI environ, of which the remote address counts.
            identity: Who the caller is; None for who is counted by remote address.
            operation: What is asked of fal.

        Returns:
            What gives it back; None where there is nothing to give back.

        Raises:
            LimitExceeded: There is not so much left.
            LimitsUnavailable: It cannot be counted, and what is not counted is not to be relayed.
        """
        if not operation.spends:
            return None
        cost = self._price.of(operation.endpoint)
        name = caller(identity, environ.get("REMOTE_ADDR") or "")
        callers = [_EVERYBODY if one.is_global else name for one in self._limits]
        number = self._outage.number
        try:
            counted = self._store.take(self._limits, callers, cost)
        except StoreFailed as error:
            self._outage.begins(number, error)
            if self._fail_open:
                return None
            raise LimitsUnavailable from error
        self._outage.ends(number)
        if counted.give_back is None:
            raise self._exceeded(counted, cost)
        return self._guarded(counted.give_back)

    def _guarded(self, give_back: GiveBack) -> GiveBack:
        def guarded() -> None:
            number = self._outage.number
            try:
                give_back()
            except StoreFailed as error:
                self._outage.begins(number, error)

        return guarded

    def _exceeded(self, counted: Counted, cost: int) -> LimitExceeded:
        """Tell of the limit that leaves no room for the longest."""
        seconds, index = max(
            (left, index)
            for index, left in enumerate(counted.left)
            if counted.taken[index] + cost > self._limits[index].amount
        )
        full = self._limits[index]
        return _exceeded(full, full.amount - counted.taken[index], seconds, cost)


def _exceeded(full: Limit, remaining: int, seconds: int, cost: int) -> LimitExceeded:
    whose = "all callers together" if full.is_global else "each caller"
    counts = "" if cost == 1 else f" This call counts for {cost}, and {remaining} are left."
    detail = (
        f"The limit of {full.text.removesuffix(' global')} for {whose} is reached.{counts}"
        f" Try again in {_duration(seconds)}."
    )
    # draft-ietf-httpapi-ratelimit-headers-10: the quota and its window, what remains of it, and
    # the seconds until it is whole again; names are strings of RFC 9651.
    headers = (
        ("Retry-After", str(seconds)),
        ("RateLimit-Policy", f'"{full.text}";q={full.amount};w={full.seconds}'),
        ("RateLimit", f'"{full.text}";r={remaining};t={seconds}'),
    )
    return LimitExceeded(detail, headers)


def _duration(seconds: int) -> str:
    """Tell a time, rounded up, in the largest unit of which it is more than two."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def caller(identity: str | None, address: str) -> str:
    """Give the name that a caller is counted under: short, plain, and telling nobody who it is.

    What a client can choose of its address does not make it another caller, and no identity is
    anybody's address.
    """
    known = f"identity {identity}" if identity is not None else f"address {_network(address)}"
    # An identity may be any text, with halves of characters in it.
    return sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _network(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        # A Unix socket has none, and what a server in front made up is none: all of these are one
        # caller, or each would be another one.
        return "none"
    if isinstance(ip, IPv4Address):
        return str(ip)
    # RFC 4291 section 2.5.5.2: an IPv4 address, as a socket for both has it.
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((int(ip), _IPV6_PREFIX), strict=False))


class _Prices:
    """What calls cost: by endpoint, and where several globs match, the dearest.

    Args:
        costs: The option.
    """

    def __init__(self, costs: Mapping[str, int] | None) -> None:
        costs = costs or {}
        dearest_first = sorted(costs.items(), key=lambda item: -item[1])
        self._globs = [
            (endpoint_globs([glob.lower()], in_namespaces=True), cost)
            for glob, cost in dearest_first
        ]
        self._dearest = max([1, *costs.values()])

    def of(self, endpoint: str | None) -> int:
        """Give what a call costs; of an endpoint that cannot be told, what any might.

        In any case of letters, as fal may not tell them apart.
        """
        if not self._globs:
            return 1
        if endpoint is None or not _PLAIN.fullmatch(endpoint.lower()):
            return self._dearest
        path = f"/{endpoint.lower()}"
        return next((cost for globs, cost in self._globs if globs.match(path)), 1)


class _Outage:
    """Logs when the store ceases to answer and when it answers again, once each.

    Args:
        fate: What becomes of calls in the meantime.
    """

    def __init__(self, fate: str) -> None:
        self._fate = fate
        self._lock = allocate_lock()
        self.number = 0
        """Odd while the store fails; one more with each change. For who begins to ask the store:
        the answer is news only if nothing else has changed since."""

    def begins(self, number: int, error: StoreFailed) -> None:
        """Say that the store fails, unless that is known."""
        if self._changes(number, lasts=False):
            cause = error.__cause__
            _logger.error(
                "limits_unavailable: the store of the limits failed; calls are %s until it answers,"
                " and what would be given back stays taken. [%s: %s]",
                self._fate,
                type(cause).__name__,
                cause,
            )

    def ends(self, number: int) -> None:
        """Say that the store answers, unless that is known."""
        if self._changes(number, lasts=True):
            _logger.warning("The store of the limits answers again.")

    def _changes(self, number: int, *, lasts: bool) -> bool:
        if bool(number % 2) is not lasts:
            return False
        with self._lock:
            is_news = self.number == number
            self.number += is_news
        return is_news

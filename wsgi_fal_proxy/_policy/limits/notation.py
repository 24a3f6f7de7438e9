"""The notation of limits, such as `200/day`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ACCEPTED: Final = (
    "such as '20/minute', '200/day' or, for all callers together, '1000/day global'; per second,"
    " minute, hour or day, or several of these ('500/7 days')"
)
_UNITS: Final = frozenset({"second", "minute", "hour", "day"})
_MAX_AMOUNT: Final = 10**12
# The longest window: about thirty years. Redis can still expire a count after that.
_MAX_SECONDS: Final = 10**9
_GLOBAL: Final = re.compile(r"\s+global", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may be taken in each window, by each caller or by all callers together.

    Attributes:
        text: The limit as callers are shown it, such as `200/day`.
        amount: The sum of the calls' costs that fits in a window.
        seconds: The length of a window. The first window began at midnight UTC on
            1 January 1970, so a minute begins at second 0 and a day at midnight UTC.
        is_global: Whether all callers share the limit.
    """

    text: str
    amount: int
    seconds: int
    is_global: bool


class ZeroInLimit(ValueError):
    """A number in a limit is 0. Such a limit would let no call through, or has no window."""


def parse_limit(text: str) -> Limit:
    """Parse one limit.

    Raises:
        ZeroInLimit: A number in it is 0.
        ValueError: The text is not a limit; see `ACCEPTED`.
        ImportError: The `limits` library, which parses the notation, is not installed.
    """
    from limits import parse_many  # noqa: PLC0415 - only if there are limits

    rate = text.strip()
    shared = _GLOBAL.search(rate)
    is_global = shared is not None and shared.end() == len(rate)
    if shared is not None:
        rate = rate[: shared.start()]
    items = parse_many(rate)
    # The library accepts several limits in one text, and reads 0 as 1.
    if not all(map(int, re.findall("[0-9]+", rate))):
        raise ZeroInLimit(text)
    if len(items) != 1:
        raise ValueError(text)
    (item,) = items
    usable = (
        item.GRANULARITY.name in _UNITS
        and item.amount <= _MAX_AMOUNT
        and item.get_expiry() <= _MAX_SECONDS
        and is_global is (shared is not None)
    )
    if not usable:
        raise ValueError(text)
    unit = item.GRANULARITY.name
    window = unit if item.multiples == 1 else f"{item.multiples} {unit}s"
    shown = f"{item.amount}/{window}{' global' if is_global else ''}"
    return Limit(shown, item.amount, item.get_expiry(), is_global)

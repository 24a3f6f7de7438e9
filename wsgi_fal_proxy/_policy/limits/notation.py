"""Limits as they are written, such as `200/day`, and what they mean."""

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
# Of a window: thirty years, which a store can still let a count expire after.
_MAX_SECONDS: Final = 10**9
_GLOBAL: Final = re.compile(r"\s+global", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many calls in each window of time, for each caller or for all of them together.

    Attributes:
        text: As it is told to callers, such as `200/day`.
        amount: Of calls, or of what they cost, in a window.
        seconds: The length of a window. Windows follow one another from midnight UTC of
            1 January 1970: a minute begins at second 0, a day at midnight UTC.
        is_global: Whether all callers share it.
    """

    text: str
    amount: int
    seconds: int
    is_global: bool


class ZeroInLimit(ValueError):
    """A number in a limit is 0: it is none, or would let nothing through."""


def limit(text: str) -> Limit:
    """Read a limit.

    Raises:
        ZeroInLimit: A number in it is 0.
        ValueError: It is none; see `ACCEPTED`.
        ImportError: The library whose notation this is is not installed.
    """
    from limits import parse_many  # noqa: PLC0415 - only where there are limits

    rate = text.strip()
    shared = _GLOBAL.search(rate)
    is_global = shared is not None and shared.end() == len(rate)
    if shared is not None:
        rate = rate[: shared.start()]
    items = parse_many(rate)
    # The library takes several in one text, and a 0 for a 1.
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
    told = f"{item.amount}/{window}{' global' if is_global else ''}"
    return Limit(told, item.amount, item.get_expiry(), is_global)

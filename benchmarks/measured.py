"""What was measured of each proxy, its medians, and their ratios."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.harness import Result

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        figure: What was measured.
        of: Of which proxy.
        value: How much.
        unit: Of what.
    """

    figure: str
    of: str
    value: float
    unit: str


@dataclass(frozen=True)
class Spread:
    """Repeated measurements.

    Attributes:
        values: All of them, at least one.
        unit: Theirs.
    """

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def short(self) -> str:
        """The median with its unit."""
        return f"{number(self.median)} {self.unit}".rstrip()

    def __str__(self) -> str:
        median, least, most = map(number, (self.median, min(self.values), max(self.values)))
        spread = f" ({least} to {most})" if len(self.values) > 1 else ""
        return f"{median}{spread} {self.unit}".rstrip()


Figures = dict[str, dict[str, Spread]]
"""By figure, then by proxy."""


@dataclass(frozen=True)
class Target:
    """What a figure should be, against another proxy's or by itself.

    Attributes:
        figure: Which.
        of: Of which proxy.
        to: The proxy whose median it is divided by; None to compare the median itself.
        limit: The most that it may be; the least, where `at_least`.
        at_least: Whether more is better.
    """

    figure: str
    of: str
    to: str | None
    limit: float
    at_least: bool = False

    def result(self, figures: Figures) -> Result | None:
        """Compare; None if it was not measured."""
        spreads = figures.get(self.figure, {})
        if self.of not in spreads or (self.to is not None and self.to not in spreads):
            return None
        value, unit = spreads[self.of].median, spreads[self.of].unit
        what = f"{self.figure}: {self.of}"
        if self.to is not None:
            # What is nothing to begin with is as good as it gets.
            value, unit = value / (spreads[self.to].median or 1), "times"
            what += f" / {self.to}"
        sign = ">=" if self.at_least else "<="
        ok = value >= self.limit if self.at_least else value <= self.limit
        return Result(what, f"{number(value)} {unit}", f"{sign} {self.limit:g}", ok)


def gathered(measurements: Iterable[Measured]) -> Figures:
    """Put the repeats of each figure together."""
    values: dict[str, dict[str, list[Measured]]] = {}
    for one in measurements:
        values.setdefault(one.figure, {}).setdefault(one.of, []).append(one)
    return {
        figure: {of: Spread(tuple(m.value for m in ms), ms[0].unit) for of, ms in by.items()}
        for figure, by in values.items()
    }


def number(value: float) -> str:
    """Give a number with three digits, or all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"

"""Measurements of each proxy, their medians, and targets for them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.common.results import Result

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        figure: The name of the measurement.
        of: The name of the proxy.
        value: In the unit.
        unit: Such as "µs". Empty for a plain number.
    """

    figure: str
    of: str
    value: float
    unit: str


@dataclass(frozen=True)
class Spread:
    """Repeated measurements.

    Attributes:
        values: At least one.
        unit: Such as "µs". Empty for a plain number.
    """

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The median of the values."""
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
    """A limit for a figure of one proxy, or for its ratio to another proxy.

    Attributes:
        figure: The name of the measurement.
        of: The name of the proxy.
        to: The proxy to divide by. None: the limit is for the median itself.
        limit: The largest good value, or the smallest one with `at_least`.
        at_least: Whether more is better.
    """

    figure: str
    of: str
    to: str | None
    limit: float
    at_least: bool = False

    def result(self, figures: Figures) -> Result | None:
        """Compare the medians with the limit. None: the figure was not measured."""
        spreads = figures.get(self.figure, {})
        if self.of not in spreads or (self.to is not None and self.to not in spreads):
            return None
        value, unit = spreads[self.of].median, spreads[self.of].unit
        what = f"{self.figure}: {self.of}"
        if self.to is not None:
            # Where the other median is 0, compare the value itself.
            value, unit = value / (spreads[self.to].median or 1), "times"
            what += f" / {self.to}"
        sign = ">=" if self.at_least else "<="
        ok = value >= self.limit if self.at_least else value <= self.limit
        return Result(what, f"{number(value)} {unit}", f"{sign} {self.limit:g}", ok)


def gathered(measurements: Iterable[Measured]) -> Figures:
    """Group the measurements by figure and proxy."""
    values: dict[str, dict[str, list[Measured]]] = {}
    for one in measurements:
        values.setdefault(one.figure, {}).setdefault(one.of, []).append(one)
    return {
        figure: {of: Spread(tuple(m.value for m in ms), ms[0].unit) for of, ms in by.items()}
        for figure, by in values.items()
    }


def number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"

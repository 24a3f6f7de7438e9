"""Results against their targets, tables of them, and progress on standard error."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Result:
    """One line of the results table.

    Attributes:
        figure: The name of the measurement.
        measured: The measured value, as text.
        target: The value to reach, as text.
        ok: Whether the target is reached. None: shown for comparison only.
    """

    figure: str
    measured: str
    target: str
    ok: bool | None


def below(figure: str, values: Sequence[float], target: float, unit: str) -> Result:
    """Require that the largest of the values is below the target. Show their median as well."""
    worst = max(values)
    measured = f"{statistics.median(values):.1f} / {worst:.1f} {unit}"
    if len(values) == 1:
        measured = f"{worst:.1f} {unit}"
    return Result(figure, measured, f"< {target:g} {unit}", worst < target)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that is at least as large as `percent` percent of the values."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


_VERDICTS: Final = {True: "ok", False: "NOT", None: ""}


def table(results: Iterable[Result], measured: str) -> str:
    """Format the results as a table. `measured` is the heading of its second column."""
    rows = [("figure", measured, "target", "")]
    rows += [(r.figure, r.measured, r.target, _VERDICTS[r.ok]) for r in results]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def progress(text: str) -> None:
    """Print one line of progress to standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)

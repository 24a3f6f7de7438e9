"""The plot of the CPU time per small answer, for the README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.speed.proxies import OURS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.speed.measured import Spread

# Readable on white and on GitHub's dark grey (#0d1117); the background is transparent.
_OURS: Final = "#2f81f7"
_OTHERS: Final = "#9aa4af"
_INK: Final = "#768390"
_WHISKERS: Final = "#57606a"
_ROW_INCHES: Final = 0.42


def plot(file: Path, spreads: dict[str, Spread]) -> None:
    """Draw the medians as bars, the cheapest on top, and the range of the values as lines."""
    ordered = sorted(spreads.items(), key=lambda item: item[1].median, reverse=True)
    names = [name for name, _ in ordered]
    medians = [spread.median for _, spread in ordered]
    below = [spread.median - min(spread.values) for _, spread in ordered]
    above = [max(spread.values) - spread.median for _, spread in ordered]
    mpl.rcParams |= {
        "font.size": 11,
        "svg.fonttype": "none",
        # So that equal figures make equal files.
        "svg.hashsalt": "speed",
    }
    figure = Figure(figsize=(9, 1.1 + _ROW_INCHES * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        names,
        medians,
        xerr=[below, above],
        color=[_OURS if name in OURS else _OTHERS for name in names],
        ecolor=_WHISKERS,
        capsize=3,
        height=0.68,
    )
    for row, (median, more) in enumerate(zip(medians, above, strict=True)):
        axes.annotate(
            f"{median:,.0f}",
            (median + more, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
        )
    axes.set_xlabel("CPU time per relayed small POST, µs, at 16 at a time: less is better")
    axes.xaxis.label.set_color(_INK)
    axes.tick_params(colors=_INK, length=0)
    axes.margins(x=0.1)
    axes.spines[:].set_visible(False)
    figure.savefig(file, transparent=True, metadata={"Date": None})

"""The report of the speed benchmark: tables for the terminal, and files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.common.results import Result, columns, progress, table
from benchmarks.speed.plot import plot
from benchmarks.speed.proxies import EXPRESS, PEERS
from benchmarks.speed.targets import SMALL_CPU, TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.speed.measured import Figures


@dataclass(frozen=True)
class Report:
    """All measurements of a run.

    Attributes:
        figures: The measurements.
        failures: The figures that could not be measured.
    """

    figures: Figures
    failures: tuple[Result, ...]

    @property
    def results(self) -> list[Result]:
        """The measured figures against their targets, and the failures."""
        compared = (target.result(self.figures) for target in TARGETS)
        return [*(result for result in compared if result is not None), *self.failures]

    def text(self) -> str:
        """Format a table for each figure, and one of the targets."""
        parts = [
            f"{figure}\n" + columns([(f"  {of}", str(spread)) for of, spread in spreads.items()])
            for figure, spreads in self.figures.items()
        ]
        parts.append(table(self.results, "measured (ratio of medians)"))
        return "\n\n".join(parts)

    def write(self, directory: Path) -> None:
        """Write speed.md, speed.json, and the plot if small answers were measured."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "speed.md").write_text(self._markdown(), encoding="utf-8")
        (directory / "speed.json").write_text(self._json(), encoding="utf-8")
        written = "speed.md and speed.json"
        if SMALL_CPU in self.figures:
            plot(directory / "speed.svg", self.figures[SMALL_CPU])
            written = "speed.md, speed.json and speed.svg"
        progress(f"wrote {written} to {directory}")

    def _markdown(self) -> str:
        """Format the medians as one table with a row for each proxy."""
        shown = {figure: spreads for figure, spreads in self.figures.items() if EXPRESS in spreads}
        lines = [
            "| | " + " | ".join(shown) + " |",
            "|---|" + "---:|" * len(shown),
        ]
        for name in PEERS:
            cells = [
                spread.short if (spread := spreads.get(name)) else "" for spreads in shown.values()
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def _json(self) -> str:
        values = {
            figure: {
                of: asdict(spread) | {"median": spread.median} for of, spread in spreads.items()
            }
            for figure, spreads in self.figures.items()
        }
        targets = [asdict(result) for result in self.results]
        content = {"figures": values, "targets": targets}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

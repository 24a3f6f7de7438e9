"""Measure what relaying costs, against fal's own proxy, and others that one might write.

    python benchmarks/speed.py [--quick] [--only NAME] [--output DIRECTORY]

Everything runs on this machine and is stopped at the end: nginx as the upstream over TLS, the
proxies, and wrk as their clients. Needs Linux, what `pip install '.[benchmarks]'` installs, and
nginx, wrk, node and npm. The proxies have one core, all else another, so quote nothing from a
machine that is busy with other work. Each proxy is warmed up until its cost is flat, and they are
then measured in turn, round after round; medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    from benchmarks.required import require

    # Before the imports below, which else fail of it.
    require()

from benchmarks import answers, events, imports
from benchmarks.answers import CONNECTIONS, Proxies, started
from benchmarks.events import Streams
from benchmarks.harness import Result, allow_many_files, columns, end_in_order, progress, table
from benchmarks.measured import Target, gathered
from benchmarks.peers import (
    DIRECTORY,
    EXPRESS,
    FASTAPI,
    FLASK,
    GEVENT,
    GRANIAN,
    GTHREAD,
    HONO,
    PEERS,
)
from benchmarks.plot import plot
from benchmarks.processes import share_the_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measured import Figures, Measured


# As the steps of a picture come: at longer intervals, more of what an event needs is cold.
_HUNDRED_SLOWER: Final = Streams(100, 30, 1 / 5, 2)
_HUNDRED: Final = Streams(100, 100, 1 / 20, 3)
# As fast as a language model writes, and so long that what stops a proxy for a moment now and then,
# such as collecting garbage, happens in each.
_HUNDRED_FASTER: Final = Streams(100, 240, 1 / 30, 2)
_THOUSAND: Final = Streams(1_000, 16, 1 / 2, 2)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        repeats: Of small answers, at the concurrency to quote.
        seconds: Of each.
        other_connections: At a time, for small answers besides.
        other_repeats: Of those, a second each.
        warm_rounds: Of each proxy's warm-up, at most, a second each.
        until_flat: Whether the warm-up goes on until the cost is flat.
        warm_again: Whether the work that comes after is begun unmeasured, for a second.
        large_repeats: Of large answers, a second each.
        streams: Kinds of event streams.
        memory_seconds: Of load, for the memory that it takes.
        imports: In interpreters of their own.
        peers: The names of the proxies.
    """

    repeats: int = 5
    seconds: int = 2
    other_connections: tuple[int, ...] = (1, 64)
    other_repeats: int = 3
    warm_rounds: int = 10
    until_flat: bool = True
    warm_again: bool = True
    large_repeats: int = 3
    streams: tuple[Streams, ...] = (
        Streams(1, 3_000, 0.001, 2),
        _HUNDRED_SLOWER,
        _HUNDRED,
        _HUNDRED_FASTER,
        _THOUSAND,
    )
    memory_seconds: int = 3
    imports: int = 21
    peers: tuple[str, ...] = tuple(PEERS)


_QUICK: Final = Scale(
    repeats=3,
    seconds=1,
    other_connections=(),
    warm_rounds=6,
    until_flat=False,
    warm_again=False,
    large_repeats=1,
    streams=(replace(_HUNDRED, events=24, repeats=1),),
    memory_seconds=1,
    imports=7,
)

ANSWERS: Final[dict[str, Callable[[Proxies], Iterator[Measured]]]] = {
    "small": Proxies.small,
    "memory": Proxies.memory,
    "large": Proxies.large,
}
"""The figures of proxies that all run for as long as it takes."""
FIGURES: Final[dict[str, Callable[[Scale], Iterator[Measured]]]] = {
    "streams": events.streams,
    "imports": imports.imports,
}
_NAMES: Final = (*ANSWERS, *FIGURES)

_SMALL_CPU: Final = answers.SMALL_CPU.format(CONNECTIONS)
_SMALL_RATE: Final = answers.SMALL_RATE.format(CONNECTIONS)

TARGETS: Final = (
    Target(_SMALL_CPU, GTHREAD, EXPRESS, 0.45),
    Target(_SMALL_CPU, GTHREAD, HONO, 0.60),
    Target(_SMALL_CPU, GTHREAD, FLASK, 0.27),
    Target(_SMALL_CPU, GTHREAD, FASTAPI, 0.15),
    Target(_SMALL_CPU, GRANIAN, EXPRESS, 0.22),
    Target(_SMALL_RATE, GTHREAD, EXPRESS, 2.0, at_least=True),
    Target(_SMALL_RATE, GRANIAN, EXPRESS, 2.0, at_least=True),
    Target(answers.LARGE_CPU, GTHREAD, EXPRESS, 0.65),
    Target(_HUNDRED_SLOWER.figure(events.CPU), GTHREAD, EXPRESS, 0.65),
    Target(_HUNDRED.figure(events.CPU), GTHREAD, EXPRESS, 0.65),
    Target(_HUNDRED_FASTER.figure(events.DELAY), GTHREAD, EXPRESS, 0.33),
    Target(_HUNDRED_FASTER.figure(events.DELAY), GEVENT, EXPRESS, 0.33),
    Target(answers.IDLE, GTHREAD, EXPRESS, 0.5),
    Target(_THOUSAND.figure(events.MEMORY), GEVENT, EXPRESS, 0.6),
    Target(answers.OPENED, GTHREAD, None, 0),
    Target(answers.OPENED, GEVENT, None, 0),
    Target(answers.OPENED, GRANIAN, None, 0),
    Target(imports.IMPORT_AFTER_WERKZEUG, imports.PACKAGE, None, 10),
)


@dataclass(frozen=True)
class _Report:
    """What came of it all.

    Attributes:
        figures: What was measured.
        failures: What could not be.
    """

    figures: Figures
    failures: tuple[Result, ...]

    @property
    def results(self) -> list[Result]:
        """What is compared with a target, and what failed."""
        compared = (target.result(self.figures) for target in TARGETS)
        return [*(result for result in compared if result is not None), *self.failures]


def _measure(names: Sequence[str], scale: Scale) -> _Report:
    begun = monotonic()
    proxies: Proxies | None = None
    measurements: list[Measured] = []
    failures: list[Result] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                if name in ANSWERS:
                    # Started by the first of these figures, for all of them.
                    proxies = proxies or stack.enter_context(started(scale))
                    measurements += ANSWERS[name](proxies)
                else:
                    stack.close()
                    measurements += FIGURES[name](scale)
            except Exception as error:  # noqa: BLE001 - shown in the table, which goes on
                what = f"{type(error).__name__}: {error}"
                progress(f"{name}: {what}")
                failures.append(Result(name, what.splitlines()[0], "to be measured", False))
            progress(f"{name}: after {monotonic() - begun:.0f} s")
    return _Report(gathered(measurements), tuple(failures))


def _text(report: _Report) -> str:
    """Give all that was measured, as a table for each figure, and then one of the targets."""
    parts = [
        f"{figure}\n" + columns([(f"  {of}", str(spread)) for of, spread in spreads.items()])
        for figure, spreads in report.figures.items()
    ]
    parts.append(table(report.results, "measured (ratio of medians)"))
    return "\n\n".join(parts)


def _markdown(figures: Figures) -> str:
    """Give the medians as one table, a row for each proxy."""
    shown = {figure: spreads for figure, spreads in figures.items() if EXPRESS in spreads}
    lines = [
        "| | " + " | ".join(shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for name in PEERS:
        cells = [
            f"{spread.short}" if (spread := spreads.get(name)) else "" for spreads in shown.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _write(directory: Path, report: _Report) -> None:
    figures = report.figures
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "speed.md").write_text(_markdown(figures), encoding="utf-8")
    values = {
        figure: {of: asdict(spread) | {"median": spread.median} for of, spread in spreads.items()}
        for figure, spreads in figures.items()
    }
    targets = [asdict(result) for result in report.results]
    made = json.dumps({"figures": values, "targets": targets}, indent=2, ensure_ascii=False)
    (directory / "speed.json").write_text(made + "\n", encoding="utf-8")
    if _SMALL_CPU in figures:
        plot(directory / "speed.svg", figures[_SMALL_CPU])
    progress(f"written: speed.md, speed.json and the plot, into {directory}")


def _install_peers() -> None:
    npm = shutil.which("npm")
    assert npm is not None  # it is required
    if not (DIRECTORY / "node_modules").is_dir():
        progress("installing fal's proxy, Express and Hono: npm ci")
        subprocess.run([npm, "ci"], cwd=DIRECTORY, check=True, stdout=sys.stderr)


def main() -> int:
    """Measure, print the tables, and give 0 if every target is reached."""
    parser = argparse.ArgumentParser(description="What relaying costs, measured.")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--only", choices=_NAMES, metavar="NAME", help=", ".join(_NAMES))
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="for speed.md, speed.json, speed.svg"
    )
    arguments = parser.parse_args()
    end_in_order()
    share_the_machine()
    allow_many_files()
    names = [arguments.only] if arguments.only else _NAMES
    try:
        _install_peers()
        report = _measure(names, _QUICK if arguments.quick else Scale())
    except KeyboardInterrupt:
        return 130
    print(_text(report))
    if arguments.output is not None:
        _write(arguments.output, report)
    return 0 if all(result.ok for result in report.results) else 1


if __name__ == "__main__":
    raise SystemExit(main())

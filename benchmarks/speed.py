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
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

_PROGRAMS: Final = {"nginx": "nginx", "wrk": "wrk", "node": "nodejs", "npm": "npm"}
_MODULES: Final = (
    *("fastapi", "flask", "gevent", "granian", "gunicorn", "httptools", "httpx", "matplotlib"),
    *("requests", "trustme", "uvicorn", "uvloop", "wsgi_fal_proxy"),
)


def _missing() -> list[str]:
    """Give a line for each kind of thing that is missing, with the command that installs it."""
    lines = []
    programs = [name for name in _PROGRAMS if shutil.which(name) is None]
    if programs:
        packages = " ".join(_PROGRAMS[name] for name in programs)
        lines.append(f"{', '.join(programs)} missing: apt-get install {packages}")
    modules = [name for name in _MODULES if find_spec(name) is None]
    if modules:
        lines.append(f"{', '.join(modules)} missing: pip install -e '.[benchmarks]'")
    return lines


if __name__ == "__main__" and (_lines := _missing()):
    # Before the imports below, which would fail of it.
    raise SystemExit("\n".join(_lines))

from benchmarks import answers, events, footprint
from benchmarks.answers import CONNECTIONS
from benchmarks.events import Streams
from benchmarks.harness import allow_many_files, columns, end_in_order, progress, table
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
    from collections.abc import Callable, Iterator

    from benchmarks.harness import Result
    from benchmarks.measured import Figures, Measured


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        repeats: Of small answers, at the concurrency to quote.
        seconds: Of each.
        other_connections: At a time, for small answers besides.
        other_repeats: Of those, a second each.
        warm_rounds: At most, a second each.
        large_repeats: Of large answers.
        large_seconds: Of each.
        streams: Kinds of event streams.
        memory_repeats: Of each proxy's memory.
        memory_seconds: Of load for it.
        imports: In interpreters of their own.
        peers: The names of the proxies.
    """

    repeats: int = 7
    seconds: int = 2
    other_connections: tuple[int, ...] = (1, 64)
    other_repeats: int = 3
    warm_rounds: int = 8
    large_repeats: int = 3
    large_seconds: int = 1
    streams: tuple[Streams, ...] = (
        Streams(1, 2_000, 0.001, 3),
        Streams(100, 60, 0.05, 3),
        Streams(1_000, 10, 1.0, 2),
    )
    memory_repeats: int = 2
    memory_seconds: int = 2
    imports: int = 21
    peers: tuple[str, ...] = tuple(PEERS)


_QUICK: Final = Scale(
    repeats=3,
    seconds=1,
    other_connections=(),
    warm_rounds=3,
    large_repeats=1,
    streams=(Streams(100, 20, 0.05, 1),),
    memory_repeats=1,
    memory_seconds=1,
    imports=7,
)

FIGURES: Final[dict[str, Callable[[Scale], Iterator[Measured]]]] = {
    "small": answers.small,
    "large": answers.large,
    "streams": events.streams,
    "memory": footprint.memory,
    "imports": footprint.imports,
}

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
    Target(events.CPU.format(100), GTHREAD, EXPRESS, 0.65),
    Target(events.CPU.format(100), GEVENT, EXPRESS, 0.65),
    Target(events.DELAY.format(100), GTHREAD, EXPRESS, 0.33),
    Target(events.DELAY.format(100), GEVENT, EXPRESS, 0.33),
    Target(footprint.IDLE, GTHREAD, EXPRESS, 0.5),
    Target(footprint.IDLE, GEVENT, EXPRESS, 0.5),
    Target(events.MEMORY.format(1_000), GEVENT, EXPRESS, 0.6),
    Target(answers.OPENED, GTHREAD, None, 0),
    Target(answers.OPENED, GEVENT, None, 0),
    Target(answers.OPENED, GRANIAN, None, 0),
    Target(footprint.IMPORT, footprint.PACKAGE, None, 10),
)


def _measure(names: list[str], scale: Scale) -> Iterator[Measured]:
    for name in names:
        begun = monotonic()
        progress(f"{name} ...")
        yield from FIGURES[name](scale)
        progress(f"{name}: {monotonic() - begun:.0f} s")


def _results(figures: Figures) -> list[Result]:
    return [result for target in TARGETS if (result := target.result(figures)) is not None]


def _text(figures: Figures) -> str:
    """Give all that was measured, as a table for each figure, and then one of the targets."""
    parts = [
        f"{figure}\n" + columns([(f"  {of}", str(spread)) for of, spread in spreads.items()])
        for figure, spreads in figures.items()
    ]
    parts.append(table(_results(figures), "measured (ratio of medians)"))
    return "\n\n".join(parts)


def _markdown(figures: Figures) -> str:
    """Give the medians as one table, a row for each proxy."""
    shown = {figure: spreads for figure, spreads in figures.items() if GTHREAD in spreads}
    lines = [
        "| | " + " | ".join(shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for name in PEERS:
        cells = [
            f"{spread.short}" if (spread := spreads.get(name)) else ""
            for spreads in shown.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _write(directory: Path, figures: Figures) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "speed.md").write_text(_markdown(figures), encoding="utf-8")
    values = {
        figure: {of: asdict(spread) | {"median": spread.median} for of, spread in spreads.items()}
        for figure, spreads in figures.items()
    }
    targets = [asdict(result) for result in _results(figures)]
    made = json.dumps({"figures": values, "targets": targets}, indent=2, ensure_ascii=False)
    (directory / "speed.json").write_text(made + "\n", encoding="utf-8")
    if _SMALL_CPU in figures:
        plot(directory / "speed.svg", figures[_SMALL_CPU])
    progress(f"written: speed.md, speed.json and the plot, into {directory}")


def _install_peers() -> None:
    if not (DIRECTORY / "node_modules").is_dir():
        progress("installing fal's proxy, Express and Hono: npm ci")
        subprocess.run(["npm", "ci"], cwd=DIRECTORY, check=True, stdout=sys.stderr)


def main() -> int:
    """Measure, print the tables, and give 0 if every target is reached."""
    parser = argparse.ArgumentParser(description="What relaying costs, measured.")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--only", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="for speed.md, speed.json, speed.svg"
    )
    arguments = parser.parse_args()
    end_in_order()
    share_the_machine()
    allow_many_files()
    names = [arguments.only] if arguments.only else list(FIGURES)
    try:
        _install_peers()
        figures = gathered(_measure(names, _QUICK if arguments.quick else Scale()))
    except KeyboardInterrupt:
        return 130
    print(_text(figures))
    if arguments.output is not None:
        _write(arguments.output, figures)
    return 0 if all(result.ok for result in _results(figures)) else 1


if __name__ == "__main__":
    raise SystemExit(main())

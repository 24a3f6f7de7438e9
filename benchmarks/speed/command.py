"""The command of the speed benchmark."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import allow_many_files, interrupt_on_signals
from benchmarks.common.results import Result, progress
from benchmarks.speed.answers import RunningProxies, started
from benchmarks.speed.events import streams
from benchmarks.speed.imports import imports
from benchmarks.speed.machine import share_the_machine
from benchmarks.speed.measured import gathered
from benchmarks.speed.proxies import PEERS_DIRECTORY
from benchmarks.speed.report import Report
from benchmarks.speed.scale import QUICK, Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.speed.measured import Measured

ANSWERS: Final[dict[str, Callable[[RunningProxies], Iterator[Measured]]]] = {
    "small": RunningProxies.small,
    "memory": RunningProxies.memory,
    "large": RunningProxies.large,
}
"""These share one start of all proxies."""
FIGURES: Final[dict[str, Callable[[Scale], Iterator[Measured]]]] = {
    "streams": streams,
    "imports": imports,
}
_NAMES: Final = (*ANSWERS, *FIGURES)


def _measure(names: Sequence[str], scale: Scale) -> Report:
    begun = monotonic()
    proxies: RunningProxies | None = None
    measurements: list[Measured] = []
    failures: list[Result] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                if name in ANSWERS:
                    proxies = proxies or stack.enter_context(started(scale))
                    measurements += ANSWERS[name](proxies)
                else:
                    # Stops the proxies, if they run.
                    stack.close()
                    measurements += FIGURES[name](scale)
            except Exception as error:  # noqa: BLE001 - the table shows it, and the others go on
                what = f"{type(error).__name__}: {error}"
                progress(f"{name}: {what}")
                failures.append(Result(name, what.splitlines()[0], "to be measured", False))
            progress(f"{name}: after {monotonic() - begun:.0f} s")
    return Report(gathered(measurements), tuple(failures))


def _install_peers() -> None:
    npm = shutil.which("npm")
    assert npm is not None  # `require` has checked it
    if not (PEERS_DIRECTORY / "node_modules").is_dir():
        progress("npm ci: installing fal's proxy, Express and Hono")
        subprocess.run([npm, "ci"], cwd=PEERS_DIRECTORY, check=True, stdout=sys.stderr)


def main() -> int:
    """Measure, print the tables, and return 0 if every target is reached."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Measure the cost of relaying, against fal's own proxy and others.",
    )
    parser.add_argument("--quick", action="store_true", help="measure less: two minutes")
    parser.add_argument("--only", choices=_NAMES, metavar="NAME", help=", ".join(_NAMES))
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="for speed.md, speed.json and speed.svg"
    )
    arguments = parser.parse_args()
    interrupt_on_signals()
    share_the_machine()
    allow_many_files()
    names = [arguments.only] if arguments.only else _NAMES
    try:
        _install_peers()
        report = _measure(names, QUICK if arguments.quick else Scale())
    except KeyboardInterrupt:
        return 130
    print(report.text())
    if arguments.output is not None:
        report.write(arguments.output)
    return 0 if all(result.ok for result in report.results) else 1

"""Measure behaviour under load and under faults, against targets.

    python -m benchmarks.robustness [--quick] [--only NAME]
        [--soak-minutes MINUTES] [--soak-calls CALLS]

Everything runs on this machine and is stopped at the end: an upstream over TLS, gunicorn with
several kinds of workers, and clients. It needs Linux and what `pip install '.[test]'` installs; the
soak also needs `redis-server`, and takes twenty minutes for each kind of workers.
If a figure has several measurements, the table shows their median and the worst; the target is
for the worst.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import interrupt_on_signals
from benchmarks.common.results import Result, progress, table
from benchmarks.common.upstream import Upstream
from benchmarks.robustness.forks import forks
from benchmarks.robustness.in_process import closing, deadlines, duplicates, faults
from benchmarks.robustness.leaving import leaving
from benchmarks.robustness.memory import down, up
from benchmarks.robustness.scale import QUICK, Scale
from benchmarks.robustness.slots import slots
from benchmarks.robustness.soak.measure import soak
from benchmarks.robustness.streams import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIGURES: Final[dict[str, Callable[[Upstream, Scale], Iterator[Result]]]] = {
    "deadlines": deadlines,
    "closing": closing,
    "leaving": leaving,
    "streams": streams,
    "down": down,
    "up": up,
    "forks": forks,
    "faults": faults,
    "duplicates": duplicates,
    "slots": slots,
    "soak": soak,
}

_MEASURED: Final = "measured (median / worst)"


def _measure(names: list[str], scale: Scale) -> list[Result]:
    results = []
    for name in names:
        begun = monotonic()
        progress(f"{name} ...")
        try:
            # A new upstream for each, so that no figure loads the next one's upstream.
            with Upstream() as upstream:
                for result in FIGURES[name](upstream, scale):
                    results.append(result)
                    progress(table([result], _MEASURED).splitlines()[1])
        except Exception as error:  # noqa: BLE001 - the table shows it, and the others go on
            results.append(
                Result(name, f"{type(error).__name__}: {error}", "to be measured", False)
            )
        progress(f"{name}: {monotonic() - begun:.0f} s")
    return results


def _scale(arguments: argparse.Namespace) -> Scale:
    scale = replace(QUICK if arguments.quick else Scale(), soak_logs=arguments.soak_logs)
    if arguments.soak_minutes is not None:
        # At the same rate, unless the calls are given, too.
        calls = round(scale.soak_calls * arguments.soak_minutes / scale.soak_minutes)
        scale = replace(scale, soak_minutes=arguments.soak_minutes, soak_calls=calls)
    if arguments.soak_calls is not None:
        scale = replace(scale, soak_calls=arguments.soak_calls)
    return scale


def main() -> int:
    """Measure, print the table, and return 0 if every target is reached."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description="Measure behaviour under load and under faults, against targets.",
    )
    parser.add_argument("--quick", action="store_true", help="measure less: four minutes")
    parser.add_argument("--only", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--soak-minutes", type=float, help="of the soak, for each kind of workers")
    parser.add_argument("--soak-calls", type=int, help="in this time")
    parser.add_argument("--soak-logs", metavar="DIRECTORY", help="keep the servers' logs there")
    arguments = parser.parse_args()
    # The upstream fails on purpose here.
    logging.getLogger("wsgi_fal_proxy").setLevel(logging.CRITICAL)
    interrupt_on_signals()
    names = [arguments.only] if arguments.only else list(FIGURES)
    try:
        results = _measure(names, _scale(arguments))
    except KeyboardInterrupt:
        return 130
    print(table(results, _MEASURED))
    return 0 if all(result.ok is not False for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())

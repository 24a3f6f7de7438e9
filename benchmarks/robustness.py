"""Measure what the proxy promises under load and under faults, against targets.

    python benchmarks/robustness.py [--quick] [--only NAME]

Everything runs on this machine and is stopped at the end: an upstream over TLS, gunicorn with
several kinds of workers, clients. Needs Linux, and what `pip install '.[test]'` installs. Where
several measurements make one figure, its median and its worst are shown, and the worst counts.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.forks import forks
from benchmarks.harness import MEGABYTE, Result, Upstream, end_in_order, progress, table
from benchmarks.in_process import closing, deadlines, duplicates, faults
from benchmarks.leaving import leaving
from benchmarks.memory import down, up
from benchmarks.slots import slots
from benchmarks.streams import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        repeats: Of each way to let a deadline pass.
        leavings: Of each way to leave.
        streams: At a time.
        period_seconds: From one event of a stream to the next.
        answer_bytes: In a large answer.
        body_bytes: In a large request body.
        requests: In all, for duplicates and for crossed answers.
        faults: In all.
        rounds: With the relay full, and without.
        others: Requests to other routes in each round.
    """

    repeats: int = 10
    leavings: int = 30
    streams: int = 1_000
    period_seconds: float = 2.0
    answer_bytes: int = 32 * MEGABYTE
    body_bytes: int = 16 * MEGABYTE
    requests: int = 10_000
    faults: int = 10_000
    rounds: int = 12
    others: int = 3_000


_QUICK: Final = Scale(
    repeats=1,
    leavings=5,
    streams=200,
    period_seconds=0.8,
    answer_bytes=8 * MEGABYTE,
    body_bytes=4 * MEGABYTE,
    requests=1_000,
    faults=1_000,
    rounds=5,
    others=1_000,
)

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
}

_MEASURED: Final = "measured (median / worst)"


def _measure(names: list[str], scale: Scale) -> list[Result]:
    results = []
    for name in names:
        begun = monotonic()
        progress(f"{name} ...")
        try:
            # An upstream for each, so that what one leaves undone does not weigh on the next.
            with Upstream() as upstream:
                for result in FIGURES[name](upstream, scale):
                    results.append(result)
                    progress(table([result], _MEASURED).splitlines()[1])
        except Exception as error:  # noqa: BLE001 - shown in the table, which goes on
            results.append(
                Result(name, f"{type(error).__name__}: {error}", "to be measured", False)
            )
        progress(f"{name}: {monotonic() - begun:.0f} s")
    return results


def main() -> int:
    """Measure, print the table, and give 0 if every target is reached."""
    parser = argparse.ArgumentParser(description="What the proxy promises, measured.")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--only", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    arguments = parser.parse_args()
    # What goes wrong with the upstream is meant to, here.
    logging.getLogger("wsgi_fal_proxy").setLevel(logging.CRITICAL)
    end_in_order()
    names = [arguments.only] if arguments.only else list(FIGURES)
    try:
        results = _measure(names, _QUICK if arguments.quick else Scale())
    except KeyboardInterrupt:
        return 130
    print(table(results, _MEASURED))
    return 0 if all(result.ok is not False for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())

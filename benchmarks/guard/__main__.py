"""Check that a relayed request does not cost more than before.

    python -m benchmarks.guard [--update]

valgrind counts the instructions of one request, whatever else the machine does meanwhile: one
proxy in one process, called with a fixed environ, relays to an upstream over TLS on one
connection. The cost is a multiple of the instructions of a fixed piece of Python, so that it is
comparable between builds of a Python version. It is compared with the value in `guard.json` for
this version of Python. `--update` writes the measured cost to that file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.common.processes import interrupt_on_signals
from benchmarks.common.results import progress
from benchmarks.guard.count import Cost, measure

KEPT: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = 0.03
"""The share by which a request may cost more than the value in `guard.json`."""

_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


def _kept() -> dict[str, float]:
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return kept


def _update(cost: Cost) -> int:
    kept = {**_kept(), _VERSION: round(cost.ratio, 3)}
    KEPT.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"Written to {KEPT}.")
    return 0


def _compare(cost: Cost) -> int:
    kept = _kept().get(_VERSION)
    if kept is None:
        print("guard.json has no value for this version of Python. Write one with --update.")
        return 1
    change = cost.ratio / kept - 1
    print(f"guard.json has {kept:.3f}: {change:+.1%}. Up to {TOLERANCE:+.0%} is accepted.")
    if change > TOLERANCE:
        print("A request costs more. Find out why. If it is worth it, accept it with --update.")
        return 1
    if change < -TOLERANCE:
        print("A request costs less. Write that down with --update, so that it stays.")
    return 0


def main() -> int:
    """Measure, then compare or update; return 0 if a request does not cost more."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description="Count the instructions of one relayed request, and compare.",
    )
    parser.add_argument("--update", action="store_true", help="write the cost to guard.json")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("Missing: valgrind. apt-get install valgrind")
    interrupt_on_signals()
    progress("counting the instructions of three runs: a minute")
    try:
        cost = measure()
    except KeyboardInterrupt:
        return 130
    print(
        f"A request takes {cost.request:,.0f} instructions: {cost.ratio:.3f} times the"
        f" {cost.reference:,.0f} of the reference work, on Python {_VERSION}."
    )
    return _update(cost) if arguments.update else _compare(cost)


if __name__ == "__main__":
    raise SystemExit(main())

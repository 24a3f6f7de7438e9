"""See that a relayed request does not come to cost more than it did.

    python benchmarks/guard.py [--update]

Counts the instructions of one request by valgrind, whatever else the machine does meanwhile: one
proxy in one process, called with a fixed environ, that relays to an upstream over TLS, on one
connection. They are given as a multiple of those of a fixed piece of Python, so that the figure
carries over from one build of a Python version to another. It is compared with the one that is
kept in `guard.json` for this version of Python; `--update` keeps what is measured instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.harness import Upstream, end_in_order, progress
from tests.support.serving import ROOT, running

KEPT: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = 0.03
"""By how much a request may be dearer than the one that is kept."""

_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_FEW: Final = 100
_REQUESTS: Final = 1_100
_REFERENCES: Final = 2_100
_SECONDS: Final = 600.0
_COUNTED: Final = re.compile(r"I +refs: +([0-9,]+)")


def _instructions(requests: int, references: int) -> int:
    """Count all instructions of the program that does so much."""
    command = [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, "-m", "benchmarks.guarded", str(requests), str(references)),
    ]
    # An upstream for each, so that none waits for another's.
    with Upstream() as upstream:
        environment = {
            # Sets and dicts in the same order, each time.
            "PYTHONHASHSEED": "0",
            "UPSTREAM_PORT": str(upstream.port),
            "SSL_CERT_FILE": str(upstream.ca_file),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks" / "dialling"), str(ROOT))),
        }
        with running(command, environment) as (process, log):
            status = process.wait(_SECONDS)
            text = log.read_text()
    found = _COUNTED.search(text)
    if status or found is None:
        raise RuntimeError(f"the program that is measured failed:\n{text}")
    return int(found[1].replace(",", ""))


def measure() -> tuple[float, float]:
    """Give the instructions of one request, and of one piece of work to compare with."""
    # What comes before and after is in all three, and falls out.
    runs = ((_FEW, _FEW), (_REQUESTS, _FEW), (_FEW, _REFERENCES))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        least, requests, references = threads.map(lambda run: _instructions(*run), runs)
    return (
        (requests - least) / (_REQUESTS - _FEW),
        (references - least) / (_REFERENCES - _FEW),
    )


def _kept() -> dict[str, float]:
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return kept


def main() -> int:
    """Measure, compare or keep, and give 0 if a request has not become dearer."""
    parser = argparse.ArgumentParser(description="What a relayed request costs, guarded.")
    parser.add_argument("--update", action="store_true", help="keep what is measured")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("Missing: valgrind. apt-get install valgrind")
    end_in_order()
    progress("counting the instructions of three runs")
    try:
        request, reference = measure()
    except KeyboardInterrupt:
        return 130
    cost = request / reference
    print(
        f"A request takes {request:,.0f} instructions: {cost:.3f} times the {reference:,.0f}"
        f" of the work that it is compared with, on Python {_VERSION}."
    )
    kept = _kept()
    if arguments.update:
        kept[_VERSION] = round(cost, 3)
        KEPT.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        print(f"Kept in {KEPT}.")
        return 0
    if _VERSION not in kept:
        print("None is kept for this version of Python: keep it with --update.")
        return 1
    change = cost / kept[_VERSION] - 1
    print(f"{kept[_VERSION]:.3f} is kept: {change:+.1%}; up to {TOLERANCE:+.0%} is let pass.")
    if change > TOLERANCE:
        print("A request has become dearer. Find out why; if it is worth it, keep it: --update.")
        return 1
    if change < -TOLERANCE:
        print("It has become cheaper: keep that with --update, so that it stays.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

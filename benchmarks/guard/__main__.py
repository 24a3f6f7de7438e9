"""Check that a relayed request does not cost more than before.

    python -m benchmarks.guard [--update | --against CHECKOUT [--repeats N]]

valgrind counts the instructions of one request, whatever else the machine does meanwhile: one
proxy in one process, called with a fixed environ, relays to an upstream over TLS on one
connection. The cost is a multiple of the instructions of a fixed piece of Python, so that it is
comparable between builds of a Python version. It is compared with the value in `guard.json` for
this version of Python. `--update` writes the measured cost to that file.

`--against` compares with the package of another checkout instead, side by side on this machine.
The measured program is this tree's for both, and it uses the public API alone, so that the other
checkout may be of any version. The trees are measured in turns, three times unless `--repeats`
says otherwise. On a busy machine, single measurements differ by up to 1%, and the ratio by up to
0.5%, because it is from the smallest counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.common.processes import ROOT, interrupt_on_signals
from benchmarks.common.results import progress
from benchmarks.guard.count import Cost, Counts, measure

KEPT: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = 0.03
"""How much more a request may cost, as a fraction of the value in `guard.json`."""
SIDE_BY_SIDE_TOLERANCE: Final = 0.01
"""How much more a request may cost, as a fraction of the cost with another checkout."""

_REPEATS: Final = 3
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


def _measure_kept(*, update: bool) -> int:
    progress("counting the instructions of three runs: a minute")
    cost = measure()
    print(
        f"A request takes {cost.request:,.0f} instructions: {cost.ratio:.3f} times the"
        f" {cost.reference:,.0f} of the reference work, on Python {_VERSION}."
    )
    return _update(cost) if update else _compare(cost)


def _measure_against(other: Path, repeats: int) -> int:
    trees = Counts(ROOT), Counts(other)
    progress(f"counting the instructions of a request {repeats} times with each tree")
    for number in range(repeats):
        for tree in trees:
            progress(f"{number + 1} of {repeats}: {tree.project}: {tree.repeat():,.0f}")
    for tree in trees:
        print(f"{tree.project}: {tree.request:,.0f} instructions per request")
    ratio = trees[0].request / trees[1].request
    print(
        f"This tree takes {ratio:.4f} times the instructions of the other: {ratio - 1:+.2%}."
        f" Up to {SIDE_BY_SIDE_TOLERANCE:+.0%} is accepted."
    )
    return 0 if ratio - 1 <= SIDE_BY_SIDE_TOLERANCE else 1


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "wsgi_fal_proxy" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} has no package wsgi_fal_proxy")
    if path == ROOT:
        raise argparse.ArgumentTypeError(f"{text} is this tree")
    return path


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def main() -> int:
    """Measure, then compare or update; return 0 if a request does not cost more."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description="Count the instructions of one relayed request, and compare.",
    )
    alternatives = parser.add_mutually_exclusive_group()
    alternatives.add_argument("--update", action="store_true", help="write the cost to guard.json")
    alternatives.add_argument(
        "--against",
        type=_checkout,
        metavar="CHECKOUT",
        help="compare with the package of another checkout instead of guard.json",
    )
    parser.add_argument(
        "--repeats",
        type=_positive,
        metavar="N",
        help=f"measurements of each tree with --against, a minute each (default: {_REPEATS})",
    )
    arguments = parser.parse_args()
    if arguments.repeats is not None and arguments.against is None:
        parser.error("--repeats needs --against")
    if shutil.which("valgrind") is None:
        raise SystemExit("Missing: valgrind. apt-get install valgrind")
    interrupt_on_signals()
    try:
        if arguments.against is not None:
            return _measure_against(arguments.against, arguments.repeats or _REPEATS)
        return _measure_kept(update=arguments.update)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

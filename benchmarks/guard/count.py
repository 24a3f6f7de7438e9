"""Counts the instructions of one relayed request by valgrind."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import ROOT, running
from benchmarks.common.servers import dialling
from benchmarks.common.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM: Final = Path(__file__).with_name("program.py")
_FEW: Final = 100
_REQUESTS: Final = 1_100
_REFERENCES: Final = 2_100
_SECONDS: Final = 600.0
_COUNTED: Final = re.compile(r"I +refs: +([0-9,]+)")


@dataclass(frozen=True)
class Cost:
    """The cost of one request.

    Attributes:
        request: Instructions of one request.
        reference: Instructions of the reference work, a fixed piece of Python.
    """

    request: float
    reference: float

    @property
    def ratio(self) -> float:
        """The cost as a multiple of the reference work."""
        return self.request / self.reference


def measure() -> Cost:
    """Count the instructions of one request and of the reference work.

    Raises:
        RuntimeError: The measured program failed. The message has its output.
    """
    # All three runs start and end alike, so that the differences have only requests and work.
    least, requests, references = _count(
        [(ROOT, _FEW, _FEW), (ROOT, _REQUESTS, _FEW), (ROOT, _FEW, _REFERENCES)]
    )
    return Cost(
        (requests - least) / (_REQUESTS - _FEW),
        (references - least) / (_REFERENCES - _FEW),
    )


@dataclass
class Counts:
    """Repeated counts of runs with the package of one checkout.

    A run that waits for the upstream more often takes more instructions, up to 0.3%. So the
    smallest counts are the most repeatable ones.

    Attributes:
        project: The root of the checkout.
        few: Instructions of runs with few requests.
        many: Instructions of runs with many requests.
    """

    project: Path
    few: list[int] = field(default_factory=list)
    many: list[int] = field(default_factory=list)

    def repeat(self) -> float:
        """Run once more, and return the instructions of one request in this repeat.

        Raises:
            RuntimeError: The measured program failed. The message has its output.
        """
        few, many = _count([(self.project, _FEW, 0), (self.project, _REQUESTS, 0)])
        self.few.append(few)
        self.many.append(many)
        return (many - few) / (_REQUESTS - _FEW)

    @property
    def request(self) -> float:
        """Instructions of one request, from the smallest counts."""
        return (min(self.many) - min(self.few)) / (_REQUESTS - _FEW)


def _count(runs: Sequence[tuple[Path, int, int]]) -> list[int]:
    """Count the instructions of runs of the program with these arguments."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda run: _instructions(*run), runs))


def _instructions(project: Path, requests: int, references: int) -> int:
    """Count all instructions of one run of the program."""
    command = [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, str(_PROGRAM), str(project), str(requests), str(references)),
    ]
    # Each run has its own upstream, so that none waits for another's.
    with Upstream() as upstream:
        environment = {
            **dialling(upstream.port, upstream.ca_file, project),
            # The order of sets is the same in every run.
            "PYTHONHASHSEED": "0",
        }
        with running(command, environment) as (process, log):
            status = process.wait(_SECONDS)
            output = log.read_text()
    found = _COUNTED.search(output)
    if status or found is None:
        raise RuntimeError(f"the measured program failed:\n{output}")
    return int(found[1].replace(",", ""))

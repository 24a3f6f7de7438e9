"""The figures of memory, and of the time that an import takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.answers import PATH
from benchmarks.harness import progress
from benchmarks.load import check, load
from benchmarks.measured import Measured
from benchmarks.nginx import SMALL, serve_nginx_upstream
from benchmarks.peers import KEY, PEERS, Dial
from benchmarks.processes import memory_bytes, on_the_proxies_core
from tests.serving import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.speed import Scale

IDLE: Final = "memory after one request"
UNDER_LOAD: Final = "memory, 64 at a time"
PEAK: Final = "memory, 64 at a time, peak"
IMPORT: Final = "import after urllib3"
IMPORT_AFTER_WERKZEUG: Final = "import after urllib3 and Werkzeug"
PACKAGE: Final = "wsgi-fal-proxy"

_CONNECTIONS: Final = 64
_SETTLING_SECONDS: Final = 0.5
_SAMPLING_SECONDS: Final = 0.1
_MEGA: Final = 1e6
# The package imports urllib3, and nothing of Werkzeug, which its development server uses. So the
# first figure is what an import adds; the second is what it adds in an app that has both, and
# with them most of the standard library that the package needs.
_IMPORTS: Final = {IMPORT: "urllib3", IMPORT_AFTER_WERKZEUG: "urllib3, werkzeug"}
_TIMED: Final = """
import {before}
from time import perf_counter
begun = perf_counter()
import wsgi_fal_proxy
print((perf_counter() - begun) * 1e3)
"""


def memory(scale: Scale) -> Iterator[Measured]:
    """How much memory a proxy takes."""
    with serve_nginx_upstream(KEY) as upstream:
        dial = Dial(upstream.port, upstream.ca_file)
        for repeat in range(scale.memory_repeats):
            for name in scale.peers:
                with on_the_proxies_core(PEERS[name].serve(dial)) as served:
                    check(name, served, PATH, b"{}", SMALL.encode())
                    sleep(_SETTLING_SECONDS)
                    idle = memory_bytes(served.process.pid) / _MEGA
                    sampler = _Sampler(served.process.pid)
                    with sampler:
                        load(
                            served.port,
                            PATH,
                            "POST",
                            connections=_CONNECTIONS,
                            seconds=scale.memory_seconds,
                        )
                progress(
                    f"{repeat + 1} of {scale.memory_repeats}: {name}: {idle:.1f} MB,"
                    f" at most {max(sampler.samples):.1f} MB"
                )
                yield Measured(IDLE, name, idle, "MB")
                yield Measured(UNDER_LOAD, name, statistics.median(sampler.samples), "MB")
                yield Measured(PEAK, name, max(sampler.samples), "MB")


class _Sampler:
    """Reads on a thread how much memory a process tree takes, for as long as the block lasts."""

    def __init__(self, pid: int) -> None:
        self.samples: list[float] = []
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        self.samples.append(memory_bytes(self._pid) / _MEGA)
        while not self._over.wait(_SAMPLING_SECONDS):
            self.samples.append(memory_bytes(self._pid) / _MEGA)


def imports(scale: Scale) -> Iterator[Measured]:
    """How long it takes to import the package, in an interpreter of its own each time."""
    progress(f"importing the package {scale.imports} times")
    # Once unmeasured, which compiles what has not been.
    for repeat in range(scale.imports + 1):
        for figure, before in _IMPORTS.items():
            command = [sys.executable, "-c", _TIMED.format(before=before)]
            took = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            if repeat:
                yield Measured(figure, PACKAGE, float(took.stdout), "ms")

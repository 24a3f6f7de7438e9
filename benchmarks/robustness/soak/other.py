"""Another route of the server, called at a gentle rate."""

from __future__ import annotations

import contextlib
import os
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import connected, read_answer
from benchmarks.common.results import percentile

if TYPE_CHECKING:
    from collections.abc import Callable

_RATE: Final = 100
_WINDOW_SECONDS: Final = 5
_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_NICE: Final = -10


def measure(ready: Callable[[], None], port: int, seconds: float) -> float:
    """Return the p99 latency in milliseconds; `processes.child` runs this in its own process.

    It is the median of the p99s of five seconds each: other work on this machine comes in bursts.

    Args:
        ready: Called before the first request.
        port: The server's.
        seconds: How long to measure.
    """
    # The clients, on the same core, must not delay it.
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    taken: list[float] = []
    ready()
    begun = monotonic()
    with connected(port) as client:
        while (due := begun + len(taken) / _RATE) < begun + seconds:
            sleep(max(0.0, due - monotonic()))
            sent = perf_counter()
            client.sendall(_REQUEST)
            read_answer(client)
            taken.append((perf_counter() - sent) * 1e3)
    size = min(len(taken), _RATE * _WINDOW_SECONDS)
    windows = [taken[i : i + size] for i in range(0, len(taken) - size + 1, size)]
    return median(percentile(window, 99) for window in windows)

"""An app's other routes while every slot of the relay waits for fal."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from itertools import count as naturals
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import call, connected, in_threads, read_answer
from benchmarks.common.processes import child
from benchmarks.common.results import Result, percentile, progress
from benchmarks.robustness.apps import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale

_OTHER: Final = b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n"
_CLIENTS: Final = 4
_REFUSED_PER_SECOND: Final = 20
_TARGET: Final = 1.2


def slots(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the p99 latency of the other routes with the relay full, against without."""
    quiet, stuck = [], []
    options = ("--threads", "16")
    with upstream.gunicorn("gthread", *options, app="benchmarks.robustness.apps:full()") as served:
        _measured(served.port, scale.others)
        for number in range(scale.rounds):
            progress(f"other routes, round {number + 1} of {scale.rounds}")
            # Alternately first, so that other work on this machine affects both alike.
            if number % 2:
                quiet.append(_measured(served.port, scale.others))
            with _stuck(upstream, served.port, f"round-{number}"):
                stuck.append(_measured(served.port, scale.others))
            if not number % 2:
                quiet.append(_measured(served.port, scale.others))
    ratio = median(stuck) / median(quiet)
    yield Result(
        f"10 p99 of other routes, relay full ({_REFUSED_PER_SECOND} calls/s refused), keep-alive",
        f"{ratio:.2f} ({median(stuck):.2f} / {median(quiet):.2f} ms)",
        f"< {_TARGET}",
        ratio < _TARGET,
    )


def _measured(port: int, count: int) -> float:
    with child("benchmarks.robustness.slots:measure", port=port, count=count) as result:
        milliseconds: float = result()
    return milliseconds


def measure(ready: Callable[[], None], port: int, count: int) -> float:
    """Return the p99 latency in milliseconds; `processes.child` runs this in its own process.

    Several clients make requests at a time, each one after another on one connection.

    Args:
        ready: Called before the first request.
        port: The server's.
        count: Requests in total.
    """
    taken: list[float] = []

    def some() -> None:
        with connected(port) as client:
            for _ in range(count // _CLIENTS):
                begun = perf_counter()
                client.sendall(_OTHER)
                read_answer(client)
                taken.append((perf_counter() - begun) * 1e3)

    ready()
    in_threads([some] * _CLIENTS)
    return percentile(taken, 99)


@contextlib.contextmanager
def _stuck(upstream: Upstream, port: int, name: str) -> Iterator[None]:
    """Keep every slot busy with a call without an answer, and make more calls, to be refused."""
    ids = [f"{name}-{number}" for number in range(SLOTS)]
    with contextlib.ExitStack() as stack:
        for request_id in ids:
            client = stack.enter_context(connected(port))
            client.sendall(call(f"/silent/{request_id}"))
            upstream.time("arrived", request_id)
        with child("benchmarks.robustness.slots:be_refused", port=port):
            yield
    for request_id in ids:
        upstream.time("closed", request_id)


def be_refused(ready: Callable[[], None], port: int) -> None:
    """Make calls to a full relay at a steady rate, until the process is stopped.

    Args:
        ready: Called after the first refusal.
        port: The server's.
    """
    begun = monotonic()
    with connected(port) as client:
        for number in naturals():
            sleep(max(0.0, begun + number / _REFUSED_PER_SECOND - monotonic()))
            client.sendall(call("/silent/refused"))
            status, _ = read_answer(client)
            if status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise AssertionError(f"a call beyond the slots was answered {status}")
            if not number:
                ready()

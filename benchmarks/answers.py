"""The figures of small and of large answers: CPU time, requests per second, latency."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.harness import progress
from benchmarks.load import Load, check, load
from benchmarks.measured import Measured
from benchmarks.nginx import LARGE, LARGE_PATH, SMALL, serve_nginx_upstream
from benchmarks.peers import KEY, PEERS, Dial
from benchmarks.processes import cpu_seconds, on_the_proxies_core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.nginx import NginxUpstream
    from benchmarks.speed import Scale
    from tests.serving import Served

PATH: Final = "/fal-ai/flux/dev"
CONNECTIONS: Final = 16
"""At a time, for the figure to quote."""
SMALL_CPU: Final = "CPU per small answer, {} at a time"
SMALL_RATE: Final = "requests per second, {} at a time"
SMALL_P50: Final = "latency p50, {} at a time"
SMALL_P99: Final = "latency p99, {} at a time"
OPENED: Final = f"upstream connections per 1,000 requests, {CONNECTIONS} at a time"
LARGE_CPU: Final = "CPU per 1 MB answer"

_LARGE_CONNECTIONS: Final = 4
# Two rounds after one another that differ by less have the same cost.
_FLAT: Final = 0.05
_MARGIN_SECONDS: Final = 0.2
_BODY: Final = b'{"prompt": "a red fox in the snow"}'


@dataclass(frozen=True)
class _Round:
    """What a round showed: the upstream's new connections are per 1,000 requests."""

    load: Load
    cpu_microseconds: float
    opened: float


@dataclass(frozen=True)
class _Work:
    """One kind of load.

    Attributes:
        path: Of the target.
        method: Of the request.
        connections: At a time.
    """

    path: str
    method: str
    connections: int


def small(scale: Scale) -> Iterator[Measured]:
    """What a small answer to a POST costs, and how long it takes."""
    with _started(scale, PATH, _BODY, SMALL.encode()) as (upstream, proxies):
        for connections in (CONNECTIONS, *scale.other_connections):
            work = _Work(PATH, "POST", connections)
            again = scale.repeats if connections == CONNECTIONS else scale.other_repeats
            seconds = scale.seconds if connections == CONNECTIONS else 1
            for name, one in _rounds(scale, upstream, proxies, work, again, seconds):
                by = {
                    SMALL_CPU: (one.cpu_microseconds, "µs"),
                    SMALL_RATE: (one.load.requests / one.load.seconds, ""),
                    SMALL_P50: (one.load.p50, "ms"),
                    SMALL_P99: (one.load.p99, "ms"),
                }
                for figure, (value, unit) in by.items():
                    yield Measured(figure.format(connections), name, value, unit)
                if connections == CONNECTIONS:
                    yield Measured(OPENED, name, one.opened, "")


def large(scale: Scale) -> Iterator[Measured]:
    """What an answer of a megabyte costs."""
    with _started(scale, LARGE_PATH, None, LARGE) as (upstream, proxies):
        work = _Work(LARGE_PATH, "GET", _LARGE_CONNECTIONS)
        for name, one in _rounds(
            scale, upstream, proxies, work, scale.large_repeats, scale.large_seconds
        ):
            yield Measured(LARGE_CPU, name, one.cpu_microseconds, "µs")


@contextlib.contextmanager
def _started(
    scale: Scale, path: str, body: bytes | None, expected: bytes
) -> Iterator[tuple[NginxUpstream, dict[str, Served]]]:
    """Start an upstream and all proxies, and see that each answers as it should."""
    progress("starting the proxies")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(serve_nginx_upstream(KEY))
        dial = Dial(upstream.port, upstream.ca_file)
        proxies = {
            name: stack.enter_context(on_the_proxies_core(PEERS[name].serve(dial)))
            for name in scale.peers
        }
        for name, served in proxies.items():
            check(name, served, path, body, expected)
        yield upstream, proxies


def _rounds(  # noqa: PLR0913, PLR0917 - what a round is made of
    scale: Scale,
    upstream: NginxUpstream,
    proxies: dict[str, Served],
    work: _Work,
    repeats: int,
    seconds: int,
) -> Iterator[tuple[str, _Round]]:
    """Warm each proxy up, then give rounds of all in turn, so that what changes meets them all."""
    for name, served in proxies.items():
        progress(f"warming up, {work.connections} at a time: {name}")
        _warm_up(scale, upstream, name, served, work)
    for repeat in range(repeats):
        for name, served in proxies.items():
            one = _round(upstream, served, work, seconds)
            rate = one.load.requests / one.load.seconds
            progress(
                f"{repeat + 1} of {repeats}, {work.connections} at a time: {name}:"
                f" {one.cpu_microseconds:.0f} µs, {rate:.0f} a second"
            )
            yield name, one


def _warm_up(
    scale: Scale, upstream: NginxUpstream, name: str, served: Served, work: _Work
) -> None:
    requests, before = 0, 0.0
    # More work at a time warms up no more than connections.
    needed = PEERS[name].warm_requests if work.connections == CONNECTIONS else 0
    for _ in range(scale.warm_rounds if needed else 1):
        one = _round(upstream, served, work, 1)
        requests += one.load.requests
        change = abs(one.cpu_microseconds - before) / one.cpu_microseconds
        before = one.cpu_microseconds
        if requests >= needed and change < _FLAT:
            return


def _round(upstream: NginxUpstream, served: Served, work: _Work, seconds: int) -> _Round:
    """Load for so long, and measure in the midst of it.

    What happens at its ends is not counted: connections that are made, and those that the proxy
    closes because the clients are gone in mid-request.
    """
    samples: list[tuple[float, int, int]] = []

    def sample() -> None:
        for pause in (_MARGIN_SECONDS, seconds - 2 * _MARGIN_SECONDS):
            sleep(pause)
            samples.append((cpu_seconds(served.process.pid), *upstream.counts()))

    done = load(
        served.port,
        work.path,
        work.method,
        connections=work.connections,
        seconds=seconds,
        meanwhile=sample,
    )
    cpu, accepted, requests = (after - before for before, after in zip(*samples, strict=True))
    # Less the one that asked.
    requests -= 1
    return _Round(done, cpu * 1e6 / requests, accepted * 1_000 / requests)

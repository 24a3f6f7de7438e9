"""Small and large answers: CPU time, rate, latency, and memory."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.results import progress
from benchmarks.speed.load import Load, check, load
from benchmarks.speed.machine import cpu_seconds, memory_bytes, on_the_proxies_core
from benchmarks.speed.measured import Measured
from benchmarks.speed.nginx import LARGE, LARGE_PATH, SMALL, serve_nginx_upstream
from benchmarks.speed.proxies import KEY, PEERS, Dial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.common.servers import Served
    from benchmarks.speed.nginx import NginxUpstream
    from benchmarks.speed.scale import Scale

PATH: Final = "/fal-ai/flux/dev"
CONNECTIONS: Final = 16
"""The main concurrency: its figures are the ones to quote."""
SMALL_CPU: Final = "CPU per small answer, {} at a time"
SMALL_RATE: Final = "requests per second, {} at a time"
SMALL_P50: Final = "latency p50, {} at a time"
SMALL_P99: Final = "latency p99, {} at a time"
OPENED: Final = f"upstream connections per 1,000 requests, {CONNECTIONS} at a time"
LARGE_CPU: Final = "CPU per 1 MB answer"

IDLE: Final = "memory after one request"
UNDER_LOAD: Final = "memory, 64 at a time"
PEAK: Final = "memory, 64 at a time, peak"

_MEMORY_CONNECTIONS: Final = 64
_SETTLING_SECONDS: Final = 0.5
_SAMPLING_SECONDS: Final = 0.1
_LARGE_CONNECTIONS: Final = 4
# The cost is flat if two consecutive rounds differ by less than this share.
_FLAT: Final = 0.05
_MARGIN_SECONDS: Final = 0.2
_BODY: Final = b'{"prompt": "a red fox in the snow"}'


@dataclass(frozen=True)
class _Round:
    """The result of one round of load.

    Attributes:
        load: Rate and latency.
        cpu_microseconds: Per request.
        opened: Connections to the upstream per 1,000 requests.
    """

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


class RunningProxies:
    """An upstream and all proxies, running.

    Args:
        scale: How much is measured.
        upstream: The proxies dial it.
        served: The proxies, by name. A first request checks each.

    Raises:
        RuntimeError: A proxy's answer is wrong.
    """

    def __init__(self, scale: Scale, upstream: NginxUpstream, served: dict[str, Served]) -> None:
        self.scale = scale
        self.upstream = upstream
        self.served = served
        for name, one in served.items():
            check(name, one, PATH, _BODY, SMALL.encode())
        sleep(_SETTLING_SECONDS)
        self._idle = {name: _megabytes(one) for name, one in served.items()}
        for name, one in served.items():
            check(name, one, LARGE_PATH, None, LARGE)

    def memory(self) -> Iterator[Measured]:
        """Measure the memory of each proxy after one request and under load."""
        work = _Work(PATH, "POST", _MEMORY_CONNECTIONS)
        for name, served in self.served.items():
            samples: list[float] = []
            _round(self.upstream, served, work, self.scale.memory_seconds, samples)
            most = max(samples)
            progress(f"memory: {name}: {self._idle[name]:.1f} MB, at most {most:.1f} MB")
            yield Measured(IDLE, name, self._idle[name], "MB")
            yield Measured(UNDER_LOAD, name, statistics.median(samples), "MB")
            yield Measured(PEAK, name, most, "MB")

    def small(self) -> Iterator[Measured]:
        """Measure the cost and the latency of a small answer to a POST."""
        scale = self.scale
        for connections in (CONNECTIONS, *scale.other_connections):
            work = _Work(PATH, "POST", connections)
            again = scale.repeats if connections == CONNECTIONS else scale.other_repeats
            seconds = scale.seconds if connections == CONNECTIONS else 1
            for name, one in self._rounds(work, again, seconds):
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

    def large(self) -> Iterator[Measured]:
        """Measure the cost of an answer of 1 MiB."""
        work = _Work(LARGE_PATH, "GET", _LARGE_CONNECTIONS)
        for name, one in self._rounds(work, self.scale.large_repeats, 1):
            yield Measured(LARGE_CPU, name, one.cpu_microseconds, "µs")

    def _rounds(self, work: _Work, repeats: int, seconds: int) -> Iterator[tuple[str, _Round]]:
        """Warm all up, then measure in turns, so that other work on this machine affects all."""
        thorough = work == _Work(PATH, "POST", CONNECTIONS)
        if thorough or self.scale.warm_again:
            for name, served in self.served.items():
                self._warm_up(name, served, work, thorough=thorough)
        for repeat in range(repeats):
            for name, served in self.served.items():
                one = _round(self.upstream, served, work, seconds)
                rate = one.load.requests / one.load.seconds
                progress(
                    f"{repeat + 1} of {repeats}, {work.connections} at a time: {name}:"
                    f" {one.cpu_microseconds:.0f} µs, {rate:.0f} a second"
                )
                yield name, one

    def _warm_up(self, name: str, served: Served, work: _Work, *, thorough: bool) -> None:
        """Load until the cost is flat. If not `thorough`, load for one round."""
        requests, before = 0, 0.0
        for number in range(1, self.scale.warm_rounds + 1):
            one = _round(self.upstream, served, work, 1)
            requests += one.load.requests
            cost = one.cpu_microseconds
            progress(f"warming up, {number}: {name}: {cost:.0f} µs")
            flat = abs(cost - before) < _FLAT * cost or not self.scale.until_flat
            if not thorough or (flat and requests >= PEERS[name].warm_requests):
                return
            before = cost


@contextlib.contextmanager
def started(scale: Scale) -> Iterator[RunningProxies]:
    """Start an upstream and all proxies, and check an answer of each."""
    progress("starting the proxies")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(serve_nginx_upstream(KEY))
        dial = Dial(upstream.port, upstream.ca_file)
        served = {
            name: stack.enter_context(on_the_proxies_core(PEERS[name].serve(dial)))
            for name in scale.peers
        }
        yield RunningProxies(scale, upstream, served)


def _megabytes(served: Served) -> float:
    return memory_bytes(served.process.pid) / 1e6


def _round(
    upstream: NginxUpstream,
    served: Served,
    work: _Work,
    seconds: int,
    memory: list[float] | None = None,
) -> _Round:
    """Load for some seconds, and measure in the middle.

    The margins do not count: there, clients connect, and the proxy closes connections to the
    upstream because clients left in mid-request.

    Args:
        upstream: For its counts.
        served: The proxy.
        work: The kind of load.
        seconds: The duration of the load.
        memory: A list to append samples of the proxy's memory to, in megabytes. None: no samples.
    """
    samples: list[tuple[float, int, int]] = []

    def sample() -> None:
        sleep(_MARGIN_SECONDS)
        samples.append((cpu_seconds(served.process.pid), *upstream.counts()))
        end = monotonic() + seconds - 2 * _MARGIN_SECONDS
        while memory is not None and monotonic() < end - _SAMPLING_SECONDS:
            memory.append(_megabytes(served))
            sleep(_SAMPLING_SECONDS)
        sleep(max(end - monotonic(), 0))
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
    # The request for the second counts is among them.
    requests -= 1
    if requests <= 0:
        raise RuntimeError("nothing was answered in time: is this machine busy with other work?")
    return _Round(done, cpu * 1e6 / requests, accepted * 1_000 / requests)

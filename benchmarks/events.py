"""The figures of event streams: CPU time per event, delay, and memory while they are open."""

from __future__ import annotations

from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.harness import Upstream, child, progress
from benchmarks.measured import Measured
from benchmarks.peers import PEERS, Dial
from benchmarks.processes import cpu_seconds, memory_bytes, on_the_proxies_core
from benchmarks.streams import opening_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.speed import Scale

CPU: Final = "CPU per event"
DELAY: Final = "delay p99"
MEMORY: Final = "memory"
DIRECT: Final = "without a proxy"

# Threads for what else comes, above one for each stream.
_SPARE_THREADS: Final = 16
# More streams than that are not for proxies that take a thread for each.
_MOST_THREADS: Final = 200
# Before the first event is due; what is read of the proxy is read in this time.
_READING_SECONDS: Final = 0.5
_MEGA: Final = 1e6


@dataclass(frozen=True)
class Streams:
    """Event streams at a time.

    Attributes:
        count: How many.
        events: Of each; the first half of them warms the proxy up.
        period_seconds: From one event of a stream to the next.
        repeats: How often that is measured.
    """

    count: int
    events: int
    period_seconds: float
    repeats: int

    def figure(self, what: str) -> str:
        """Name what is measured of them."""
        streams = f"{self.count:,} event stream{'s' * (self.count != 1)}"
        return f"{what}, {streams} at {1 / self.period_seconds:,.0f} a second"


@dataclass(frozen=True)
class _Received:
    """What came of one round of streams: delay in milliseconds, memory in megabytes."""

    p99: float
    cpu_microseconds: float
    memory: float


def streams(scale: Scale) -> Iterator[Measured]:
    """What an event costs, and how late it is."""
    for size in scale.streams:
        names = [
            name
            for name in scale.peers
            if PEERS[name].streams
            and not (PEERS[name].one_per_thread and size.count > _MOST_THREADS)
        ]
        for repeat in range(size.repeats):
            of = f"{repeat + 1} of {size.repeats}, {size.figure('events')}"
            with Upstream() as upstream:
                direct = _received(DIRECT, upstream.port, size, ca_file=upstream.ca_file)
                yield Measured(size.figure(DELAY), DIRECT, direct.p99, "ms")
                dial = Dial(upstream.port, upstream.ca_file, size.count + _SPARE_THREADS)
                for name in names:
                    with on_the_proxies_core(PEERS[name].serve(dial)) as served:
                        one = _received(name, served.port, size, pid=served.process.pid)
                    progress(f"{of}: {name}: {one.cpu_microseconds:.0f} µs, {one.p99:.1f} ms")
                    yield Measured(size.figure(CPU), name, one.cpu_microseconds, "µs")
                    yield Measured(size.figure(DELAY), name, one.p99, "ms")
                    yield Measured(size.figure(MEMORY), name, one.memory, "MB")


def _received(
    name: str, port: int, size: Streams, *, ca_file: Path | None = None, pid: int | None = None
) -> _Received:
    memory = cpu = 0.0
    with child(
        "benchmarks.streams:receive",
        port=port,
        ca_file=None if ca_file is None else str(ca_file),
        streams=size.count,
        events=size.events,
        warming=size.events // 2,
        period_seconds=size.period_seconds,
    ) as result:
        # All streams are open then, and none has begun.
        sleep(opening_seconds(size.count) - _READING_SECONDS)
        if pid is not None:
            memory = memory_bytes(pid)
        sleep(_READING_SECONDS + size.events // 2 * size.period_seconds)
        if pid is not None:
            cpu = cpu_seconds(pid)
        received = result()
        if pid is not None:
            cpu = cpu_seconds(pid) - cpu
    expected = size.count * size.events
    if received["good"] != expected:
        raise RuntimeError(f"{name}: {received['good']:.0f} of {expected} events came in order")
    return _Received(received["p99"], cpu * _MEGA / (expected / 2), memory / _MEGA)

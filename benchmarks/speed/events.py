"""Event streams: CPU time per event, delay, and memory while the streams are open."""

from __future__ import annotations

from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.event_streams import opening_seconds
from benchmarks.common.processes import child
from benchmarks.common.results import progress
from benchmarks.common.upstream import Upstream
from benchmarks.speed.machine import cpu_seconds, memory_bytes, on_the_proxies_core
from benchmarks.speed.measured import Measured
from benchmarks.speed.proxies import PEERS, Dial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.speed.scale import Scale, Streams

CPU: Final = "CPU per event"
DELAY: Final = "delay p99"
MEMORY: Final = "memory"
DIRECT: Final = "without a proxy"

# Threads for other calls, besides one for each stream.
_SPARE_THREADS: Final = 16
# With more streams, proxies with a thread for each are left out.
_MAX_THREADS: Final = 200
# The benchmark reads the proxy's memory within this time before the first event.
_READING_SECONDS: Final = 0.5
_MEGA: Final = 1e6


@dataclass(frozen=True)
class _Received:
    """The result of one round.

    Attributes:
        p99: Delay, in milliseconds.
        cpu_microseconds: Per event.
        memory: In megabytes.
    """

    p99: float
    cpu_microseconds: float
    memory: float


def streams(scale: Scale) -> Iterator[Measured]:
    """Measure the cost and the delay of an event."""
    for size in scale.streams:
        names = [
            name
            for name in scale.peers
            if PEERS[name].streams
            and not (PEERS[name].one_per_thread and size.count > _MAX_THREADS)
        ]
        for repeat in range(size.repeats):
            of = f"{repeat + 1} of {size.repeats}, {size.figure('events')}"
            with Upstream() as upstream:
                direct = _receive(DIRECT, upstream.port, size, ca_file=upstream.ca_file)
                yield Measured(size.figure(DELAY), DIRECT, direct.p99, "ms")
                dial = Dial(upstream.port, upstream.ca_file, size.count + _SPARE_THREADS)
                for name in names:
                    with on_the_proxies_core(PEERS[name].serve(dial)) as served:
                        one = _receive(name, served.port, size, pid=served.process.pid)
                    progress(f"{of}: {name}: {one.cpu_microseconds:.0f} µs, {one.p99:.1f} ms")
                    yield Measured(size.figure(CPU), name, one.cpu_microseconds, "µs")
                    yield Measured(size.figure(DELAY), name, one.p99, "ms")
                    yield Measured(size.figure(MEMORY), name, one.memory, "MB")


def _receive(
    name: str, port: int, size: Streams, *, ca_file: Path | None = None, pid: int | None = None
) -> _Received:
    memory = cpu = 0.0
    with child(
        "benchmarks.common.event_streams:receive",
        port=port,
        ca_file=None if ca_file is None else str(ca_file),
        streams=size.count,
        events=size.events,
        warming=size.events // 2,
        period_seconds=size.period_seconds,
    ) as result:
        # By the end of this sleep, all streams are open and none has an event.
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

"""How much the speed benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from benchmarks.speed.proxies import PEERS


@dataclass(frozen=True)
class Streams:
    """Event streams at a time.

    Attributes:
        count: At a time.
        events: Of each stream. The first half of them warms the proxy up.
        period_seconds: Between two events of a stream.
        repeats: Measurements.
    """

    count: int
    events: int
    period_seconds: float
    repeats: int

    def figure(self, what: str) -> str:
        """Name a figure of these streams."""
        streams = f"{self.count:,} event stream{'s' * (self.count != 1)}"
        return f"{what}, {streams} at {1 / self.period_seconds:,.0f} a second"


# At the pace of the steps of a picture: at longer intervals, the CPU's caches are colder.
HUNDRED_SLOWER: Final = Streams(100, 30, 1 / 5, 2)
HUNDRED: Final = Streams(100, 100, 1 / 20, 3)
# At the pace of a language model, and long enough that each run has the occasional pauses of a
# proxy, such as those of garbage collection.
HUNDRED_FASTER: Final = Streams(100, 240, 1 / 30, 2)
THOUSAND: Final = Streams(1_000, 16, 1 / 2, 2)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        repeats: Measurements of small answers, at the main concurrency.
        seconds: The duration of each.
        other_connections: Other concurrencies for small answers.
        other_repeats: Measurements at each of those, a second each.
        warm_rounds: At most as many rounds warm up a proxy, a second each.
        until_flat: Whether the warm-up continues until the cost is flat.
        warm_again: Whether an unmeasured second precedes each later kind of load.
        large_repeats: Measurements of large answers, a second each.
        streams: Kinds of event streams.
        memory_seconds: The duration of the load for memory.
        imports: Measurements of an import.
        peers: The names of the proxies.
    """

    repeats: int = 5
    seconds: int = 2
    other_connections: tuple[int, ...] = (1, 64)
    other_repeats: int = 3
    warm_rounds: int = 10
    until_flat: bool = True
    warm_again: bool = True
    large_repeats: int = 3
    streams: tuple[Streams, ...] = (
        Streams(1, 3_000, 0.001, 2),
        HUNDRED_SLOWER,
        HUNDRED,
        HUNDRED_FASTER,
        THOUSAND,
    )
    memory_seconds: int = 3
    imports: int = 21
    peers: tuple[str, ...] = tuple(PEERS)


QUICK: Final = Scale(
    repeats=3,
    seconds=1,
    other_connections=(),
    warm_rounds=6,
    until_flat=False,
    warm_again=False,
    large_repeats=1,
    streams=(replace(HUNDRED, events=24, repeats=1),),
    memory_seconds=1,
    imports=7,
)

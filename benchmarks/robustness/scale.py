"""How much the robustness benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.common.calls import MEGABYTE


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        repeats: Calls for each way to miss a deadline.
        leavings: Calls for each way to leave.
        streams: At a time.
        period_seconds: Between two events of a stream.
        answer_bytes: In a large answer.
        body_bytes: In a large request body.
        requests: In total, for duplicates and for crossed answers.
        faults: In total.
        rounds: With the relay full, and as many without.
        others: Requests to other routes in each round.
        soak_minutes: Of the soak, for each class of workers.
        soak_calls: In this time, for each class of workers.
        soak_logs: The directory for the servers' logs. None: they are not kept.
    """

    repeats: int = 10
    leavings: int = 30
    streams: int = 1_000
    period_seconds: float = 2.0
    answer_bytes: int = 32 * MEGABYTE
    body_bytes: int = 16 * MEGABYTE
    requests: int = 10_000
    faults: int = 10_000
    rounds: int = 12
    others: int = 3_000
    soak_minutes: float = 20.0
    soak_calls: int = 200_000
    soak_logs: str | None = None


QUICK: Final = Scale(
    repeats=1,
    leavings=5,
    streams=200,
    period_seconds=0.8,
    answer_bytes=8 * MEGABYTE,
    body_bytes=4 * MEGABYTE,
    requests=1_000,
    faults=1_000,
    rounds=5,
    others=1_000,
    soak_minutes=0.3,
    soak_calls=2_500,
)

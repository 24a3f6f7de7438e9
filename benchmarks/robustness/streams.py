"""Many event streams at a time on one gevent worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common.event_streams import EVENTS
from benchmarks.common.processes import allow_many_files, child
from benchmarks.common.results import Result, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale


def streams(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure whether every event arrives, and the delay that the proxy adds."""
    allow_many_files()
    progress(f"{scale.streams} streams without the proxy")
    size = {"streams": scale.streams, "period_seconds": scale.period_seconds}
    direct = _receive(port=upstream.port, ca_file=str(upstream.ca_file), **size)
    progress(f"{scale.streams} streams through one gevent worker")
    with upstream.gunicorn("gevent", "--worker-connections", "2000") as served:
        proxied = _receive(port=served.port, ca_file=None, **size)
    expected = scale.streams * EVENTS
    yield Result(
        f"4 {scale.streams} event streams: events delivered",
        f"{proxied['good']} of {expected}",
        "all",
        proxied["good"] == expected == direct["good"],
    )
    added = proxied["p99"] - direct["p99"]
    yield Result(
        f"4 {scale.streams} event streams: added delay, p99",
        f"{added:.1f} ms ({proxied['p99']:.1f} less {direct['p99']:.1f} direct;"
        f" worst {proxied['worst']:.1f})",
        "< 50 ms",
        added < 50,
    )


def _receive(**arguments: Any) -> dict[str, float]:
    with child("benchmarks.common.event_streams:receive", **arguments) as result:
        received: dict[str, float] = result()
    return received

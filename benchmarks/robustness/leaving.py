"""Clients that leave while fal is silent."""

from __future__ import annotations

from time import monotonic_ns, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import call, connected
from benchmarks.common.results import Result, below, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale

_WORKERS: Final = {"gthread": ("--threads", "8"), "gevent": ()}
_SETTLING_SECONDS: Final = 0.02


def leaving(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the time from the client's close to the close of the upstream connection."""
    for worker_class, options in _WORKERS.items():
        with upstream.gunicorn(worker_class, *options) as served:
            for behaviour, what in (("open", "a silent stream"), ("silent", "no answer yet")):
                progress(f"{worker_class}, {what}, {scale.leavings} times")
                delays = [
                    _delay(upstream, served.port, behaviour, f"{worker_class}-{behaviour}-{number}")
                    for number in range(scale.leavings)
                ]
                figure = f"3 client gone to upstream closed: {worker_class}, {what}"
                yield below(figure, delays, 10, "ms")


def _delay(upstream: Upstream, port: int, behaviour: str, request_id: str) -> float:
    with connected(port) as client:
        client.sendall(call(f"/{behaviour}/{request_id}"))
        if behaviour == "silent":
            upstream.time("arrived", request_id)
        else:
            received = b""
            while b"data: 1" not in received:
                received += client.recv(65_536)
        sleep(_SETTLING_SECONDS)
        left = monotonic_ns()
    return (upstream.time("closed", request_id) - left) / 1e6

"""Memory of a worker while it relays large answers down and large bodies up."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import MEGABYTE, call, connected, in_threads, read_answer
from benchmarks.common.results import Result, below, progress
from benchmarks.common.servers import STAND_ALONE, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.common.servers import Served
    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale

_WORKERS: Final = {"gthread": ("--threads", "40"), "gevent": ()}
_ANSWERS: Final = 32
_BODIES: Final = 16
_BODY_TARGETS: Final = {"gthread": 16, "gevent": 8}
_BODY_APPS: Final = {
    STAND_ALONE: "",
    "benchmarks.robustness.apps:reading": ", without the proxy",
}
_SMALL: Final = 1_000
_WARMING_ROUNDS: Final = 3
_PAUSE_SECONDS: Final = 3.0
_IDLE_SECONDS: Final = 0.5
_PIECE: Final = bytes(262_144)
# Written to /proc/PID/clear_refs, resets the peak VmHWM (proc(5)).
_RESET_PEAK: Final = "5"


def down(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the growth of a worker while it relays large answers."""
    size = scale.answer_bytes
    for worker_class, options in _WORKERS.items():
        for pause, what in ((0.0, "read fast"), (_PAUSE_SECONDS, "paused 3 s")):
            progress(f"{_ANSWERS} answers of {size // MEGABYTE} MB, {what}, {worker_class}")
            with upstream.gunicorn(worker_class, *options) as served:

                def small(port: int = served.port) -> None:
                    _download(port, _SMALL, 0)

                def large(port: int = served.port, pause: float = pause) -> None:
                    _download(port, size, pause)

                more = _more_memory(served, _ANSWERS, small, large)
            figure = f"5 memory, {_ANSWERS} x {size // MEGABYTE} MB down: {worker_class}, {what}"
            yield below(figure, [more], 8, "MB")


def up(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the growth of a worker while it relays large bodies.

    For comparison: its growth with an app that reads them in pieces and keeps nothing.
    """
    size = scale.body_bytes
    for worker_class, target in _BODY_TARGETS.items():
        for app, what in _BODY_APPS.items():
            progress(f"{_BODIES} bodies of {size // MEGABYTE} MB, {worker_class}{what}")
            more = _more_for_bodies(upstream, worker_class, app, size)
            figure = f"6 memory, {_BODIES} x {size // MEGABYTE} MB up: {worker_class}{what}"
            if app == STAND_ALONE:
                yield below(figure, [more], target, "MB")
            else:
                yield Result(figure, f"{more:.1f} MB", "(to compare)", None)


def _more_for_bodies(upstream: Upstream, worker_class: str, app: str, size: int) -> float:
    with upstream.gunicorn(worker_class, *_WORKERS[worker_class], app=app) as served:
        port = served.port
        return _more_memory(
            served, _BODIES, lambda: _upload(port, _SMALL), lambda: _upload(port, size)
        )


def _more_memory(
    served: Served, count: int, small: Callable[[], None], large: Callable[[], None]
) -> float:
    """Return the peak during `count` large calls, less the memory after small ones, in MiB."""
    (worker,) = workers(served)
    for _ in range(_WARMING_ROUNDS):
        # All at a time, so that all threads and connections exist before the measurement.
        in_threads([small] * count)
    sleep(_IDLE_SECONDS)
    Path(f"/proc/{worker}/clear_refs").write_text(_RESET_PEAK)
    idle = _status(worker, "VmRSS")
    in_threads([large] * count)
    return (_status(worker, "VmHWM") - idle) / MEGABYTE


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    value = next(line for line in lines if line.startswith(f"{field}:"))
    return int(value.split()[1]) * 1_024


def _download(port: int, size: int, pause: float) -> None:
    buffer = bytearray(262_144)
    with connected(port) as client:
        client.sendall(call(f"/down/{size}"))
        received = client.recv(65_536)
        while b"\r\n\r\n" not in received:
            received += client.recv(65_536)
        sleep(pause)
        left = size - len(received.partition(b"\r\n\r\n")[2])
        while left > 0:
            count = client.recv_into(buffer)
            if not count:
                raise ConnectionError(f"an answer was cut off {left} bytes before its end")
            left -= count


def _upload(port: int, size: int) -> None:
    with connected(port) as client:
        client.sendall(call("/up", size))
        left = size
        while left > 0:
            client.sendall(_PIECE[:left])
            left -= min(left, len(_PIECE))
        status, content = read_answer(client)
    if (status, content) != (200, b"%d" % size):
        raise AssertionError(f"a body arrived as {status} {content[:200]!r}")

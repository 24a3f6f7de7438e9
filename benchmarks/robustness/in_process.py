"""A proxy in this process: deadlines, closing, faults, duplicates."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from benchmarks.common.calls import MEGABYTE, Answer, in_threads
from benchmarks.common.processes import child
from benchmarks.common.results import Result, below, progress
from benchmarks.common.upstream import in_process_proxy
from wsgi_fal_proxy import FalProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale
    from wsgi_fal_proxy import FalProxy

_READ_TIMEOUT: Final = 0.5
_STALLS: Final = ("stall/before", "stall/head", "stall/body")
_DRIPS: Final = ("drip/head", "drip/continue", "drip/trailers", "drip/extension")
_FAULTS: Final = ("reset", "cut", "cut-chunk", "garbage", "bad-chunk", "stall", "good", "good")
_THREADS: Final = 16


def deadlines(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure how long after its deadline a call ends, for each way to miss it."""
    proxy = upstream.proxy(read_timeout=_READ_TIMEOUT)
    for kind, behaviours, target in (("stall", _STALLS, 100), ("drip or storm", _DRIPS, 500)):
        overruns = []
        for behaviour in behaviours:
            progress(f"{behaviour}, {scale.repeats} times")
            overruns += [_overrun(proxy, f"/{behaviour}") for _ in range(scale.repeats)]
        yield below(f"1 deadline overrun: {kind}", overruns, target, "ms")


def _overrun(proxy: FalProxy, path: str) -> float:
    """Return the milliseconds between the deadline of a call and its end."""
    begun = monotonic()
    with Answer(proxy, path) as answer:
        try:
            for piece in answer.content:
                # The deadline starts again at each piece of content.
                begun = monotonic() if piece and answer.status == "200" else begun
        except FalProxyError:
            pass
        else:
            if answer.status != "504":
                raise AssertionError(f"{path} was answered {answer.status} instead of 504")
    return (monotonic() - begun - _READ_TIMEOUT) * 1e3


def closing(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the time from the server's close() to the close of the upstream connection."""
    proxy = upstream.proxy()
    progress(f"close(), {scale.leavings} times")
    delays = []
    for number in range(scale.leavings):
        answer = Answer(proxy, f"/open/close-{number}")
        while not next(iter(answer.content)):
            pass
        begun = monotonic_ns()
        answer.close()
        delays.append((upstream.time("closed", f"close-{number}") - begun) / 1e6)
    yield below("2 close() to upstream closed", delays, 50, "ms")


def faults(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure the sockets, threads and memory that remain after many failed calls."""
    progress(f"{scale.faults} mixed faults on {_THREADS} threads")
    with child(
        "benchmarks.robustness.in_process:fail",
        port=upstream.port,
        ca_file=str(upstream.ca_file),
        count=scale.faults,
    ) as result:
        left = result()
    progress(f"answers: {left['outcomes']}")
    sockets, threads, memory = left["sockets"], left["threads"], left["memory"]
    yield Result(
        f"8 {scale.faults} faults: sockets left (the pool's)",
        f"{sockets}",
        f"<= {_THREADS}",
        sockets <= _THREADS,
    )
    yield Result(f"8 {scale.faults} faults: threads left", f"{threads:+d}", "+0", threads == 0)
    yield below(f"8 {scale.faults} faults: more memory", [memory], 5, "MB")


def fail(ready: Callable[[], None], port: int, ca_file: str, count: int) -> dict[str, Any]:
    """Make calls that fail; `processes.child` runs this in its own process.

    Args:
        ready: Called after the warm-up.
        port: The upstream's.
        ca_file: The authority that signed the upstream's certificate.
        count: Calls.

    Returns:
        "outcomes": calls by status. "sockets", "threads": how many more than before.
        "memory": growth in MiB.
    """
    proxy = in_process_proxy(port, ca_file, read_timeout=0.2)
    sockets = _sockets()
    _fail(proxy, _THREADS * len(_FAULTS) * 4)
    threads, memory = _threads(), _resident()
    ready()
    outcomes = _fail(proxy, count)
    return {
        "outcomes": outcomes,
        "sockets": _sockets() - sockets,
        "threads": _threads() - threads,
        "memory": (_resident() - memory) / MEGABYTE,
    }


def _fail(proxy: FalProxy, count: int) -> dict[str, int]:
    outcomes: dict[str, int] = {}
    counting = threading.Lock()

    def some(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - chance, not a secret
        for _ in range(count // _THREADS):
            with Answer(proxy, f"/fault/{chance.choice(_FAULTS)}") as answer:
                outcome = answer.status
                try:
                    b"".join(answer.content)
                except FalProxyError:
                    outcome = "truncated"
            with counting:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

    in_threads(lambda seed=seed: some(seed) for seed in range(_THREADS))  # type: ignore[misc]
    return outcomes


def _sockets() -> int:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and "socket:" in os.readlink(link) for link in links)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def duplicates(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Count POSTs that arrive twice at an upstream that closes connections at random."""
    progress(f"{scale.requests} requests, half of them POSTs, to connections closed at random")
    proxy = upstream.proxy()
    statuses: dict[str, int] = {}
    counting = threading.Lock()

    def some(first: int) -> None:
        for number in range(first, scale.requests, _THREADS):
            method, body = ("POST", b'{"prompt": "a fox"}') if number % 2 else ("GET", None)
            with Answer(proxy, f"/fickle/{method}-{number}", body) as answer:
                b"".join(answer.content)
            with counting:
                statuses[answer.status] = statuses.get(answer.status, 0) + 1

    in_threads(lambda first=first: some(first) for first in range(_THREADS))  # type: ignore[misc]
    progress(f"answers: {statuses}")
    posts = upstream.counts("head", "POST-")
    twice = sum(count > 1 for count in posts)
    yield Result(
        f"9 duplicate POSTs in {scale.requests} requests",
        f"{twice} of {len(posts)} that arrived",
        "0",
        twice == 0 and len(posts) > scale.requests // 4,
    )

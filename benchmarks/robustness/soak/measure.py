"""Runs the soak on each class of workers, and yields its results."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from benchmarks.common.calls import connected, read_answer
from benchmarks.common.processes import allow_many_files, child, running
from benchmarks.common.results import Result, below, progress
from benchmarks.common.servers import STAND_ALONE, dialling, serve_gunicorn, workers
from benchmarks.common.upstream import Upstream
from benchmarks.robustness.soak.clients import Attempt, Clients, hold
from benchmarks.robustness.soak.fates import CONNECT_TIMEOUT, READ_TIMEOUT, TOTAL_TIMEOUT
from benchmarks.robustness.soak.monitor import Held, Monitor, held
from benchmarks.robustness.soak.verdict import judge, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from benchmarks.common.servers import Served
    from benchmarks.robustness.scale import Scale

_THREADS: Final = 56
_SLOTS: Final = 40
# fal.run and queue.fal.run, and the backup of each.
_HOSTS: Final = 4
_CLASSES: Final = {
    "gthread": ("--threads", str(_THREADS)),
    "gevent": ("--worker-connections", "1000"),
}
_PROGRAM: Final = "benchmarks.robustness.soak.upstream_program"
_REDIS_SECONDS: Final = 10.0
# As long as no limit is ever reached.
_LIMIT: Final = "1000000/9000 days"
_KEYS: Final = "wsgi-fal-proxy:{limits}:"
_CLOSE_WAIT_SECONDS: Final = 2.0
_RATIO: Final = 1.2
_LOSSES: Final = 6
_FILL_SECONDS: Final = 10.0
# Longer than fal's idle connections live here, and than a call may take.
_QUIET_SECONDS: Final = 10.0
_LOST_PART: Final = 0.15
_PROGRESS_SECONDS: Final = 10.0
_CORES: Final = os.sched_getaffinity(0)


def soak(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure what a long time full of faults does, for each class of workers.

    Args:
        upstream: Not used: this one is well-behaved.
        scale: How long, and how many calls.
    """
    allow_many_files()
    try:
        for worker_class in _CLASSES:
            yield from _Soak(worker_class, scale).run()
    finally:
        os.sched_setaffinity(0, _CORES)


_Soaked = tuple[list[Attempt], list[tuple[float, float]]]


class _Soak:
    """The soak of one class of workers.

    Args:
        worker_class: gunicorn's.
        scale: How long, and how many calls.
    """

    def __init__(self, worker_class: str, scale: Scale) -> None:
        self._class = worker_class
        self._seconds = scale.soak_minutes * 60
        self._rate = scale.soak_calls / self._seconds
        # Before it, the same for a while, and the same calls without faults.
        self._short = min(60.0, max(5.0, self._seconds / 8))
        self._quiet = min(60.0, max(_QUIET_SECONDS, self._seconds / 8))
        self._logs = scale.soak_logs
        self._worker = self._port = 0
        self._attempts: list[Attempt] = []
        self._crossed: list[str] = []
        self._cut: list[str] = []

    def run(self) -> Iterator[Result]:
        """Run it on one core, with clients and upstream on another one."""
        name = f"12 soak, {self._class}"
        with contextlib.ExitStack() as stack:
            _use_core(1)
            upstream = stack.enter_context(Upstream(_PROGRAM))
            redis, uri = stack.enter_context(_redis())
            _use_core(0)
            served = stack.enter_context(self._server(upstream, uri))
            self._worker, self._port = workers(served)[0], served.port
            _use_core(1)
            with Monitor(upstream.port) as monitor:
                soaked, losses = yield from self._measure(name, upstream)
            log = served.log.read_text()
            if self._logs is not None:
                Path(self._logs, f"soak-{self._class}.log").write_text(log)
            is_same = workers(served) == [self._worker]
            counted = _counted(redis)
        self._report(f"answers: {summary(soaked)}")
        found = judge(self._attempts, upstream, counted)
        found.crossed += self._crossed
        found.cut += self._cut
        self._report(f"in doubt: {found.doubtful[:20]}")
        yield from found.results(name)
        yield _lost_result(name, soaked, losses)
        yield from _sockets_results(name, monitor)
        bugs = log.count("please report this")
        yield Result(
            f"{name}: workers that ended, and errors to report in the log",
            f"{0 if is_same else 1}, {bugs}",
            "0, 0",
            is_same and not bugs,
        )

    def _measure(self, name: str, upstream: Upstream) -> Generator[Result, None, _Soaked]:
        """Make all calls, and measure what the worker holds, and another route's latency."""
        lost, is_calm = (upstream.ca_file.with_name(file) for file in ("lost", "calm"))
        self._fill()
        self._report(f"warming up for {self._short:.0f} s")
        with _losing(lost, upstream, self._short):
            self._calls("warm", self._short)
        self._free_slots("warm-hold")
        self._report(f"quiet for {self._quiet:.0f} s")
        with self._other(self._quiet) as p99:
            alone = p99()
        start = held(self._worker, upstream.port)
        self._report(f"the same calls without faults for {self._short:.0f} s")
        is_calm.touch()
        with self._other(self._short) as p99:
            self._calls("calm", self._short, is_calm=True)
            calm = p99()
        is_calm.unlink()
        self._report(f"{self._rate * self._seconds:.0f} calls in {self._seconds:.0f} s")
        with self._other(self._seconds) as p99, self._showing(upstream.port):
            with _losing(lost, upstream, self._seconds) as losses:
                soaked = self._calls("soak", self._seconds)
            under_load = p99()
        self._report(f"quiet for {self._quiet:.0f} s")
        sleep(self._quiet)
        end = held(self._worker, upstream.port)
        self._report(f"at the start: {start}")
        self._report(f"at the end: {end}")
        is_calm.touch()
        free = self._free_slots("hold")
        yield Result(
            f"{name}: slots free at the end", f"{free} of {_SLOTS}", f"{_SLOTS}", free == _SLOTS
        )
        yield from _held_results(name, start, end)
        for other, what in ((calm, "the same calls without faults"), (alone, "no call at all")):
            yield Result(
                f"{name}: p99 of another route, against {what}",
                f"{under_load / other:.2f} ({under_load:.2f} / {other:.2f} ms)",
                f"< {_RATIO}",
                under_load / other < _RATIO,
            )
        return soaked, losses

    def _server(self, upstream: Upstream, uri: str) -> contextlib.AbstractContextManager[Served]:
        return serve_gunicorn(
            STAND_ALONE,
            *("--graceful-timeout", "1", "--backlog", "2048", "--keep-alive", "120"),
            *_CLASSES[self._class],
            worker_class=self._class,
            environment={
                "FAL_KEY": "k",
                "FAL_PROXY_LIMITS": _LIMIT,
                "FAL_PROXY_LIMITS_STORAGE": uri,
                "FAL_PROXY_CONNECT_TIMEOUT": str(CONNECT_TIMEOUT),
                "FAL_PROXY_READ_TIMEOUT": str(READ_TIMEOUT),
                "FAL_PROXY_TOTAL_TIMEOUT": str(TOTAL_TIMEOUT),
                "FAL_PROXY_MAX_CONCURRENT": str(_SLOTS),
                "UPSTREAM_LOST": str(upstream.ca_file.with_name("lost")),
                **dialling(upstream.port, upstream.ca_file),
            },
        )

    def _fill(self) -> None:
        """Have the server start all threads that it may have."""
        is_full = threading.Event()

        def one() -> None:
            with connected(self._port) as client:
                # The thread waits for the rest.
                client.sendall(b"GET /healthz HTTP/1.1\r\n")
                is_full.wait(_FILL_SECONDS)
                client.sendall(b"Host: localhost\r\n\r\n")
                read_answer(client)

        threads = [threading.Thread(target=one, daemon=True) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        end = monotonic() + _FILL_SECONDS
        wanted = _THREADS if self._class == "gthread" else 0
        while len(os.listdir(f"/proc/{self._worker}/task")) <= wanted and monotonic() < end:
            sleep(0.05)
        is_full.set()
        for thread in threads:
            thread.join()

    def _free_slots(self, what: str) -> int:
        """Take all slots, and return how many there were."""
        held_calls = hold(self._port, f"{what}-{self._class}", _SLOTS)
        self._attempts += held_calls
        return _SLOTS - sum(one.reason == "relay_full" for one in held_calls)

    def _calls(self, what: str, seconds: float, *, is_calm: bool = False) -> list[Attempt]:
        clients = Clients(self._port, f"{what}-{self._class}", self._rate, is_calm=is_calm)
        clients.run(round(self._rate * seconds))
        self._attempts += clients.attempts
        self._crossed += clients.crossed
        self._cut += clients.cut
        return clients.attempts

    @contextlib.contextmanager
    def _showing(self, port: int) -> Iterator[None]:
        """Show progress during the block."""
        over, begun = threading.Event(), monotonic()

        def show() -> None:
            while not over.wait(max(_PROGRESS_SECONDS, self._seconds / 40)):
                now = held(self._worker, port)
                self._report(f"{monotonic() - begun:.0f} s: {now}")

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _other(self, seconds: float) -> contextlib.AbstractContextManager[Callable[[], Any]]:
        name = "benchmarks.robustness.soak.other:measure"
        return child(name, port=self._port, seconds=seconds)

    def _report(self, text: str) -> None:
        progress(f"soak, {self._class}: {text}")


def _held_results(name: str, start: Held, end: Held) -> Iterator[Result]:
    threads = end.threads - start.threads
    yield Result(
        f"{name}: more threads", f"{threads:+d} ({end.threads} in all)", "+0", threads <= 0
    )
    there = end.descriptors
    more = {kind: there[kind] - start.descriptors[kind] for kind in ("clients", "others")}
    yield Result(
        f"{name}: more descriptors after a quiet time: clients', others; dead, Redis's",
        f"{more['clients']:+d}, {more['others']:+d}; {there['dead']}, {there['local']}",
        f"+0, +0; 0, <= {_THREADS}",
        max(more.values()) <= 0 and not there["dead"] and there["local"] <= _THREADS,
    )
    yield below(f"{name}: more memory", [end.memory - start.memory], 5, "MB")


def _sockets_results(name: str, monitor: Monitor) -> Iterator[Result]:
    bound = _SLOTS * _HOSTS
    yield Result(
        f"{name}: sockets to fal, most at a time",
        f"{monitor.most}",
        f"<= {bound}",
        monitor.most <= bound,
    )
    long = [seconds for seconds in monitor.waits if seconds > _CLOSE_WAIT_SECONDS]
    yield Result(
        f"{name}: sockets to fal in CLOSE_WAIT for more than {_CLOSE_WAIT_SECONDS:.0f} s",
        f"{len(long)} of {len(monitor.waits)} (longest {max(monitor.waits, default=0):.1f} s)",
        "0",
        not long,
    )


def _lost_result(name: str, soaked: list[Attempt], losses: list[tuple[float, float]]) -> Result:
    begun = [one for one in soaked if any(first <= one.begun <= last for first, last in losses)]
    failed = [
        one for one in begun if one.reason in {"upstream_unresolvable", "upstream_unreachable"}
    ]
    return Result(
        f"{name}: calls failed for want of fal's main domain",
        f"{len(failed)} of {len(begun)} meanwhile",
        "(to compare)",
        None,
    )


def _use_core(number: int) -> None:
    """Let this thread, and all that it starts from now on, run on one core."""
    cores = sorted(_CORES)
    os.sched_setaffinity(0, {cores[number % len(cores)]})


@contextlib.contextmanager
def _redis() -> Iterator[tuple[Any, str]]:
    """Run a Redis of our own."""
    import redis  # noqa: PLC0415 - the other figures do without

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "redis")
        command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""]
        with running(command, directory=Path(directory)) as (_, log):
            end = monotonic() + _REDIS_SECONDS
            while not path.exists():
                if monotonic() > end:
                    raise RuntimeError(f"Redis did not start:\n{log.read_text()}")
                sleep(0.01)
            yield redis.Redis(unix_socket_path=str(path)), f"redis+unix://{path}"


def _counted(redis: Any) -> dict[str, int]:
    """Return what the limits have counted, by caller."""
    return {
        key.decode().rpartition(":")[2]: int(redis.hget(key, "taken") or 0)
        for key in redis.scan_iter(match=f"{_KEYS}*", count=1_000)
    }


@contextlib.contextmanager
def _losing(lost: Path, upstream: Upstream, seconds: float) -> Iterator[list[tuple[float, float]]]:
    """Take fal's main names away now and then: they do not resolve, or lead to a closed port."""
    over, losses = threading.Event(), []
    (dead,) = upstream.reported("dead")
    period = seconds / _LOSSES

    def lose() -> None:
        number = 0
        while not over.wait(period * (1 - _LOST_PART)):
            begun = monotonic()
            new = lost.with_name("lost.new")
            new.write_text(dead if number % 2 else "")
            new.replace(lost)
            over.wait(period * _LOST_PART)
            lost.unlink()
            losses.append((begun, monotonic()))
            number += 1

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    try:
        yield losses
    finally:
        over.set()
        thread.join()

"""Workers that are forked from a process with connections open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import call, connected, in_threads, read_answer
from benchmarks.common.results import Result, progress
from benchmarks.common.servers import workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.scale import Scale

_WORKERS: Final = 4
_CLIENTS: Final = 16


def forks(upstream: Upstream, scale: Scale) -> Iterator[Result]:
    """Measure whether each call gets its own answer if the pool was filled before the fork."""
    progress(f"{scale.requests} calls to {_WORKERS} workers forked from one with a filled pool")
    options = ("--preload", "--workers", str(_WORKERS), "--threads", "4")
    app = "benchmarks.robustness.apps:preloaded()"
    with upstream.gunicorn("gthread", *options, app=app) as served:
        workers(served, _WORKERS)
        tally = _Tally()
        in_threads(
            lambda client=client: tally.call(  # type: ignore[misc]
                served.port, range(client, scale.requests, _CLIENTS)
            )
            for client in range(_CLIENTS)
        )
        log = served.log.read_text()
    figure = f"7 {scale.requests} calls after a fork with connections open"
    yield Result(
        figure,
        f"{tally.errors} errors, {tally.crossed} crossed",
        "0, 0",
        not tally.errors and not tally.crossed and "Traceback" not in log,
    )


class _Tally:
    """Counts wrong answers; several threads share it.

    Attributes:
        errors: Calls with no answer, or with a status other than 200.
        crossed: Answers to another call.
    """

    def __init__(self) -> None:
        self.errors = 0
        self.crossed = 0
        self._counting = threading.Lock()

    def call(self, port: int, numbers: range) -> None:
        """Make a call for each number, over one connection, and check its answer."""
        client = connected(port)
        for number in numbers:
            tag = f"tag-{number}"
            body = f'{{"tag": "{tag}"}}'.encode() if number % 2 else None
            try:
                client.sendall(call(f"/echo/{tag}", body))
                status, content = read_answer(client)
            except OSError:
                status, content = 0, b""
                client.close()
                client = connected(port)
            with self._counting:
                self.errors += status != 200
                self.crossed += status == 200 and content != f"{tag} ".encode() + (body or b"")
        client.close()

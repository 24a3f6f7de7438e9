"""The upstream of the benchmarks: its process, its reports, and proxies that dial it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.common.calls import WAIT_SECONDS
from benchmarks.common.processes import running
from benchmarks.common.servers import STAND_ALONE, dialling, serve_gunicorn
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy.testing import FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from benchmarks.common.servers import Served


class Upstream:
    """The process of `upstream_program`, or of one like it; a context manager.

    Args:
        program: Its module.

    Attributes:
        port: On 127.0.0.1, over TLS.
        ca_file: The authority that signed its certificate.
    """

    def __init__(self, program: str = "benchmarks.common.upstream_program") -> None:
        self._program = program
        self._stack = contextlib.ExitStack()
        self._reported = threading.Condition()
        self._times: dict[tuple[str, str], int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self.ca_file = Path()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            self.ca_file = Path(directory, "ca.pem")
            command = [sys.executable, "-m", self._program, directory]
            process, log = stack.enter_context(running(command, stdout=subprocess.PIPE))
            assert process.stdout is not None
            first = process.stdout.readline().split()
            if not first:
                raise RuntimeError(f"the upstream did not start:\n{log.read_text()}")
            self.port = int(first[1])
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def time(self, word: str, request_id: str) -> int:
        """Wait for a report about a request, and return its monotonic time in nanoseconds.

        Args:
            word: The kind of report: "arrived", "head" or "closed".
            request_id: As in the path of the request.

        Raises:
            TimeoutError: No report within 60 s.
        """
        with self._reported:
            if not self._reported.wait_for(lambda: (word, request_id) in self._times, WAIT_SECONDS):
                raise TimeoutError(f"the upstream never reported {word} {request_id}")
            return self._times[word, request_id]

    def counts(self, word: str, id_prefix: str) -> list[int]:
        """Return the number of reports of this kind, for each request id with this prefix."""
        with self._reported:
            reported = [(i, count) for (w, i), count in self._counts.items() if w == word]
        return [count for request_id, count in reported if request_id.startswith(id_prefix)]

    def reported(self, word: str) -> dict[str, tuple[int, int]]:
        """Return the reports of this kind: for each request id their number and the last time."""
        with self._reported:
            return {
                request_id: (count, self._times[kind, request_id])
                for (kind, request_id), count in self._counts.items()
                if kind == word
            }

    def proxy(self, **options: Any) -> FalProxy:
        """Make a proxy in this process that dials the upstream."""
        return in_process_proxy(self.port, str(self.ca_file), **options)

    def gunicorn(
        self, worker_class: str, *options: str, app: str = STAND_ALONE
    ) -> AbstractContextManager[Served]:
        """Serve an application by gunicorn. Its proxies dial the upstream.

        Args:
            worker_class: gunicorn's `--worker-class`.
            options: More command-line options.
            app: As on gunicorn's command line.
        """
        return serve_gunicorn(
            app,
            *("--graceful-timeout", "1", "--backlog", "2048", *options),
            worker_class=worker_class,
            environment={"FAL_KEY": "k", **dialling(self.port, self.ca_file)},
        )

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            word, request_id, time = line.decode().split()
            with self._reported:
                self._times[word, request_id] = int(time)
                self._counts[word, request_id] += 1
                self._reported.notify_all()


def in_process_proxy(port: int, ca_file: str, **options: Any) -> FalProxy:
    """Make a proxy in this process that dials the upstream on this port."""
    return FalProxy(key="k", pool_manager=FakeFalPoolManager(port, ca_file), **options)

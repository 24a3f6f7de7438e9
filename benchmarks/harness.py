"""What the figures have in common: the upstream's process, servers, clients, results."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.util import setup_testing_defaults

from tests.support.serving import ROOT, running, serve_gunicorn, wait_for_port
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy.testing import FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from wsgiref.types import WSGIEnvironment

    from tests.support.serving import Served

PREFIX: Final = "/api/fal/proxy"
WAIT_SECONDS: Final = 60.0
MEGABYTE: Final = 1_048_576
STAND_ALONE: Final = "wsgi_fal_proxy.wsgi"

_MOST_FILES: Final = 10_000
_EMPTY_LINE: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        figure: What was measured.
        measured: What came out, as it is shown.
        target: What it should be, as it is shown.
        ok: Whether it is; None where it is only shown to compare with.
    """

    figure: str
    measured: str
    target: str
    ok: bool | None


def below(figure: str, values: Sequence[float], target: float, unit: str) -> Result:
    """Compare the worst of several measurements with what each should be under."""
    worst = max(values)
    measured = f"{statistics.median(values):.1f} / {worst:.1f} {unit}"
    if len(values) == 1:
        measured = f"{worst:.1f} {unit}"
    return Result(figure, measured, f"< {target:g} {unit}", worst < target)


def percentile(values: Iterable[float], percent: float) -> float:
    """Give the value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


_VERDICTS: Final = {True: "ok", False: "NOT", None: ""}


def table(results: Iterable[Result], measured: str) -> str:
    """Give the results as lines with columns, the second of which is so headed."""
    rows = [("figure", measured, "target", "")]
    rows += [(r.figure, r.measured, r.target, _VERDICTS[r.ok]) for r in results]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Give rows as lines, each column as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def end_in_order() -> None:
    """Have a signal that ends this process end first what it has started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def allow_many_files() -> None:
    """Let this process, and what it starts, have as many connections as are needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def progress(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(f"  {text}", file=sys.stderr, flush=True)


class Upstream:
    """The upstream's process, and what it reports; a context manager."""

    def __init__(self) -> None:
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
            command = [sys.executable, "-m", "benchmarks.upstream", directory]
            process, _ = stack.enter_context(running(command, stdout=subprocess.PIPE))
            assert process.stdout is not None
            _, port, _ = process.stdout.readline().split()
            self.port = int(port)
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
        """Wait for the upstream's word on this request, and give its time in nanoseconds."""
        with self._reported:
            if not self._reported.wait_for(lambda: (word, request_id) in self._times, WAIT_SECONDS):
                raise TimeoutError(f"the upstream never reported {word} {request_id}")
            return self._times[word, request_id]

    def counts(self, word: str, beginning: str) -> list[int]:
        """Give how often the upstream said this word, of each request whose id so begins."""
        with self._reported:
            said = [(i, count) for (w, i), count in self._counts.items() if w == word]
        return [count for request_id, count in said if request_id.startswith(beginning)]

    def proxy(self, **options: Any) -> FalProxy:
        """Make a proxy, in this process, that dials the upstream."""
        return in_process_proxy(self.port, str(self.ca_file), **options)

    def gunicorn(
        self,
        worker_class: str,
        *options: str,
        app: str = STAND_ALONE,
        environment: dict[str, str] | None = None,
    ) -> AbstractContextManager[Served]:
        """Serve an application by gunicorn, the proxies in which dial the upstream."""
        return serve_gunicorn(
            app,
            *("--graceful-timeout", "1", "--backlog", "2048", *options),
            worker_class=worker_class,
            environment={
                "FAL_KEY": "k",
                "FAKE_FAL_PORT": str(self.port),
                "FAKE_FAL_CA_FILE": str(self.ca_file),
                "PYTHONPATH": os.pathsep.join(
                    (str(ROOT / "tests" / "support" / "dialling"), str(ROOT))
                ),
                **(environment or {}),
            },
        )

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            word, request_id, time = line.decode().split()
            with self._reported:
                self._times[word, request_id] = int(time)
                self._counts[word, request_id] += 1
                self._reported.notify_all()


def in_process_proxy(port: int, ca_file: str, **options: Any) -> FalProxy:
    """Make a proxy that dials the upstream on this port."""
    return FalProxy(key="k", pool_manager=FakeFalPoolManager(port, ca_file), **options)


def environ(path: str, body: bytes | None = None) -> WSGIEnvironment:
    """Make the environ of a call to this path of the target: a POST, if there is a body."""
    made: WSGIEnvironment = {"SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": PREFIX}
    if body is not None:
        made |= {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
        }
    setup_testing_defaults(made)
    return {**made, "HTTP_X_FAL_TARGET_URL": f"https://fal.run{path}"}


class Answer:
    """What a proxy in this process answers to one call; a context manager that closes it.

    Attributes:
        status: The three digits.
        content: To be iterated over.
    """

    def __init__(self, proxy: FalProxy, path: str, body: bytes | None = None) -> None:
        self.status = ""
        self.content = proxy(environ(path, body), self._start_response)

    def _start_response(self, status: str, headers: object, exc_info: object = None) -> Any:
        self.status = status[:3]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the content, as a server does."""
        close = getattr(self.content, "close", None)
        if close is not None:
            close()


def call(path: str, body: bytes | int | None = None) -> bytes:
    """Give the bytes of a call by a client; of a body, perhaps only its length is given."""
    lines = [
        f"{'GET' if body is None else 'POST'} {PREFIX} HTTP/1.1",
        "Host: localhost",
        f"x-fal-target-url: https://fal.run{path}",
    ]
    if body is not None:
        length = body if isinstance(body, int) else len(body)
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + body if isinstance(body, bytes) else head


def connected(port: int) -> socket.socket:
    """Connect to a server on this machine."""
    sock = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Read an answer that has a Content-Length; give its status and its content."""
    received = b""
    while (end := received.find(_EMPTY_LINE)) < 0:
        received += _received(sock)
    length = _CONTENT_LENGTH.search(received[: end + 2])
    if length is None:
        raise ValueError(f"an answer without Content-Length: {received!r}")
    content = received[end + 4 :]
    while len(content) < int(length[1]):
        content += _received(sock)
    return int(received[9:12]), content


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def wait_until_served(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a program listens there.

    Raises:
        RuntimeError: It does not; with what it wrote.
    """
    try:
        wait_for_port(port)
    except AssertionError as error:
        raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()}") from error


def in_threads(functions: Iterable[Callable[[], None]]) -> None:
    """Run each on a thread, wait for all, and raise the first error of theirs."""
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def workers(served: Served, count: int = 1) -> list[int]:
    """Give the process ids of gunicorn's workers, once there are so many."""
    end = monotonic() + WAIT_SECONDS
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    while len(found := children.read_text().split()) < count:
        if monotonic() > end:
            raise TimeoutError(f"gunicorn has not started {count} workers")
    return [int(pid) for pid in found]


@contextlib.contextmanager
def child(function: str, **arguments: Any) -> Iterator[Callable[[], Any]]:
    """Run a function of the benchmarks' in a process of its own, which is ended with the block.

    Args:
        function: Such as "benchmarks.streams:receive". It is given a first argument to call when
            it is ready; and the block begins then.
        arguments: The function's, as JSON knows them.

    Returns:
        What waits for the function's result, and gives it.
    """
    command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
    with running(command, stdout=subprocess.PIPE) as (process, log):
        stdout = process.stdout
        assert stdout is not None

        def line() -> Any:
            text = stdout.readline()
            if not text:
                raise RuntimeError(f"{function} failed:\n{log.read_text()}")
            return json.loads(text)

        line()
        yield line

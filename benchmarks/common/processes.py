"""Processes that the benchmarks start and always stop."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
"""The project's root, where child processes run and find the project's modules."""

_MAX_FILES: Final = 10_000
_END_SECONDS: Final = 10.0


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGTERM as on SIGINT, so that child processes are stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def allow_many_files() -> None:
    """Raise the limit of open files, for this process and for those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


@contextlib.contextmanager
def running(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    directory: Path = ROOT,
    stdout: int | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command in its own process group, and end the whole group with the block.

    Args:
        command: The program and its arguments. It can import the project's modules.
        environment: Variables to add to the inherited ones. None: no others.
        directory: Its working directory.
        stdout: `subprocess.PIPE` to read its standard output. None: the output goes to the log.
        pass_fds: File descriptors that it inherits.

    Returns:
        The process, and the log file with its output.
    """
    with tempfile.TemporaryDirectory() as own:
        log = Path(own, "log")
        # gunicorn puts its control socket into XDG_RUNTIME_DIR.
        inherited = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": own}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**inherited, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        try:
            yield process, log
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # SIGKILL also ends members of the group that outlive their leader.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def child(function: str, **arguments: Any) -> Iterator[Callable[[], Any]]:
    """Run a function of the benchmarks in its own process, which ends with the block.

    Args:
        function: Such as "benchmarks.common.event_streams:receive". Its first parameter is a
            callable `ready`. The block begins when the function calls it.
        arguments: The function's keyword arguments, as JSON values.

    Returns:
        A callable that waits for the function's result and returns it.

    Raises:
        RuntimeError: The process ended early. The message has its log.
    """
    command = [
        *(sys.executable, "-m", "benchmarks.common.child_program"),
        *(function, json.dumps(arguments)),
    ]
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

"""CPU time, memory and cores of process trees."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_Started = TypeVar("_Started")

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# The proxies have one core; the upstream, the load and the benchmark share another.
_CORES: Final = sorted(os.sched_getaffinity(0))
_PROXY_CORE: Final = _CORES[-1]
_LOAD_CORE: Final = _CORES[0]


def share_the_machine() -> None:
    """Move this thread, and all that it starts from now on, off the proxies' core."""
    os.sched_setaffinity(0, {_LOAD_CORE})


@contextlib.contextmanager
def on_the_proxies_core(starting: AbstractContextManager[_Started]) -> Iterator[_Started]:
    """Enter a context manager that starts a proxy, with its processes on the proxies' core."""
    with contextlib.ExitStack() as stack:
        # Processes inherit the affinity of this thread: sched_setaffinity(2).
        os.sched_setaffinity(0, {_PROXY_CORE})
        try:
            started = stack.enter_context(starting)
        finally:
            os.sched_setaffinity(0, {_LOAD_CORE})
        yield started


def tree(pid: int) -> list[int]:
    """Return the ids of this process and of all its descendants."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of the process tree so far, in user and kernel mode."""
    return sum(map(_ticks, tree(pid))) / _TICKS_PER_SECOND


def _ticks(pid: int) -> int:
    # proc(5): fields 14 and 15 are utime and stime. Field 2, the name, may contain spaces and
    # parentheses, so count from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory_bytes(pid: int) -> int:
    """Return the memory of the process tree, each page counted once.

    That is the sum of the anonymous and shared pages, divided among the processes that share them
    (PSS, smaps_rollup, proc(5)), and the file pages of the process that has most of them. File
    pages are not divided: other programs share them, this benchmark among them.
    """
    own = files = 0
    for one in tree(pid):
        sizes = _sizes(Path(f"/proc/{one}/smaps_rollup")) | _sizes(Path(f"/proc/{one}/status"))
        own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        files = max(files, sizes["RssFile"])
    return own + files


def _sizes(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1_024 for line in lines if line[-1:] == ["kB"]}

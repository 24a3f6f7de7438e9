"""Processes and all that they have started: their CPU time, their memory, their core."""

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
# A proxy has one core to itself; the upstream, the load and the benchmark have another.
_CORES: Final = sorted(os.sched_getaffinity(0))
_PROXY_CORE: Final = _CORES[-1]
_LOAD_CORE: Final = _CORES[0]


def share_the_machine() -> None:
    """Leave the proxies' core to them: what this thread starts from now on runs on the other."""
    os.sched_setaffinity(0, {_LOAD_CORE})


@contextlib.contextmanager
def on_the_proxies_core(starting: AbstractContextManager[_Started]) -> Iterator[_Started]:
    """Enter a block that starts a proxy, and have what it starts stay on the proxies' core."""
    with contextlib.ExitStack() as stack:
        # Of this thread, from which processes inherit it: sched_setaffinity(2).
        os.sched_setaffinity(0, {_PROXY_CORE})
        try:
            started = stack.enter_context(starting)
        finally:
            os.sched_setaffinity(0, {_LOAD_CORE})
        yield started


def tree(pid: int) -> list[int]:
    """Give this process and all that descend from it."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """Give the CPU time that the process tree has taken, in user mode and in the kernel's."""
    return sum(map(_ticks, tree(pid))) / _TICKS_PER_SECOND


def _ticks(pid: int) -> int:
    # proc(5): fields 14 and 15 are utime and stime; the name, field 2, may hold anything but
    # its own end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory_bytes(pid: int) -> int:
    """Give the memory that the process tree takes, each page counted once.

    What it has for itself, divided where a fork shares it (PSS, smaps_rollup, proc(5)); and of
    what comes from files, as much as the process has that has most. A file's pages are not
    divided: that would be with other programs on this machine, such as this benchmark, which
    runs on the same Python.
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

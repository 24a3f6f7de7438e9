"""What a worker holds: its sockets to fal over time, its threads, descriptors and memory."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from benchmarks.common.calls import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

# As in Linux' include/net/tcp_states.h.
_CLOSE_WAIT: Final = "08"
# The process holds a descriptor.
_OPEN: Final = frozenset({"01", "02", _CLOSE_WAIT})
_PERIOD_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment.

    Attributes:
        threads: How many.
        memory: Resident, in MiB.
        descriptors: How many of each kind: "fal" and "clients" are TCP connections, "dead" are
            connections that the other side has reset, "local" are sockets of another kind (such as
            those to Redis), "others" are no sockets.
    """

    threads: int
    memory: float
    descriptors: Mapping[str, int]

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.descriptors.items()))
        return f"{self.threads} threads, {self.memory:.1f} MB, descriptors: {kinds}"


def held(pid: int, port: int) -> Held:
    """Return what a process holds now.

    Args:
        pid: Of the process.
        port: The upstream's.
    """
    kinds: Counter[str] = Counter(fal=0, clients=0, dead=0, local=0, others=0)
    # In this order, so that every socket that is found has been there before the table was read.
    links = [_link(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    remote = {fields[9]: fields[2] for fields in _connections()}
    unix = Path("/proc/net/unix").read_text()
    for link in links:
        inode = link.removeprefix("socket:[").removesuffix("]")
        if inode == link:
            kinds["others"] += 1
        elif inode in remote:
            kinds["fal" if remote[inode].endswith(f":{port:04X}") else "clients"] += 1
        else:
            kinds["local" if f" {inode}" in unix else "dead"] += 1
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
    return Held(len(os.listdir(f"/proc/{pid}/task")), memory, dict(kinds))


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def _connections() -> Iterator[list[str]]:
    """Yield the fields of each TCP connection of this machine; proc(5) has their meaning."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        yield line.split()


class Monitor:
    """Looks at the sockets to a port four times a second; a context manager.

    Args:
        port: The upstream's.

    Attributes:
        most: The most sockets at a time.
        waits: For each socket that was in CLOSE_WAIT: for how many seconds, as far as was seen.
    """

    def __init__(self, port: int) -> None:
        self._remote = f":{port:04X}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._since: dict[str, float] = {}
        self.most = 0
        self.waits: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.waits += [monotonic() - begun for begun in self._since.values()]

    def _look_on(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            self._look()

    def _look(self) -> None:
        sockets = {
            local: state
            for _, local, remote, state, *_ in _connections()
            if remote.endswith(self._remote) and state in _OPEN
        }
        now = monotonic()
        waiting = {local for local, state in sockets.items() if state == _CLOSE_WAIT}
        for local in self._since.keys() - waiting:
            self.waits.append(now - self._since.pop(local))
        for local in waiting - self._since.keys():
            self._since[local] = now
        self.most = max(self.most, len(sockets))

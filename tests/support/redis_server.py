"""A real Redis server, on a Unix socket of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, Self

from tests.support.raw_server import WAIT_SECONDS


class RedisServer:
    """Runs within its block; can be stopped and started in it, as in an outage.

    It keeps what it knows over a stop.
    """

    program: ClassVar = shutil.which("redis-server")

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._socket = Path(self._directory.name, "socket")
        self.uri = f"redis+unix://{self._socket}"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert self.program is not None
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "dir": self._directory.name,
            "appendonly": "yes",
            "appendfsync": "no",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self.program, *options], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:  # pragma: no branch - it says so, or the test fails
            if "eady to accept connections" in line:
                break

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            process.communicate(timeout=WAIT_SECONDS)

    def kept(self) -> bytes:
        """Give all that it has written to disk, as it came."""
        log = Path(self._directory.name, "appendonlydir")
        return b"".join(file.read_bytes() for file in sorted(log.iterdir()))

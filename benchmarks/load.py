"""The load of small and large answers, by wrk, and a check of what it will get."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.harness import PREFIX, WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.serving import Served

_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
_TIMEOUT: Final = "60s"


@dataclass(frozen=True)
class Load:
    """What came of some seconds of load.

    Attributes:
        requests: Answered, all of them well.
        seconds: It took.
        p50: Milliseconds that half of them were answered within.
        p99: Likewise, of all but one in a hundred.
    """

    requests: int
    seconds: float
    p50: float
    p99: float


def load(  # noqa: PLR0913 - what a load is made of
    port: int,
    path: str,
    method: str,
    *,
    connections: int,
    seconds: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> Load:
    """Ask for a path of the target's, by as many connections at a time, for so long.

    Args:
        port: The proxy's.
        path: Of the target.
        method: Of the requests.
        connections: At a time.
        seconds: How long.
        meanwhile: Called once the load has begun.

    Raises:
        RuntimeError: Not every answer was a good one.
    """
    command = [
        *("wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds}s", "--timeout", _TIMEOUT, "--script", str(_SCRIPT)),
        *(f"http://127.0.0.1:{port}", "--", f"https://fal.run{path}", method),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as wrk:
        try:
            meanwhile()
            _, told_by_script = wrk.communicate()
        finally:
            wrk.kill()
    if wrk.returncode:
        raise RuntimeError(f"wrk failed: {told_by_script}")
    told = json.loads(told_by_script.splitlines()[-1])
    if told["errors"] or not told["requests"]:
        raise RuntimeError(f"{told['errors']} errors in {told['requests']} answers")
    return Load(told["requests"], told["microseconds"] / 1e6, told["p50"] / 1e3, told["p99"] / 1e3)


def check(name: str, served: Served, path: str, body: bytes | None, expected: bytes) -> None:
    """Make one call, and see that the answer is what the upstream gave to who has the key.

    Raises:
        RuntimeError: It is not.
    """
    headers = {"x-fal-target-url": f"https://fal.run{path}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    with contextlib.closing(
        HTTPConnection("127.0.0.1", served.port, timeout=WAIT_SECONDS)
    ) as client:
        client.request("GET" if body is None else "POST", PREFIX, body, headers)
        response = client.getresponse()
        status, content = response.status, response.read()
    if (status, content) != (200, expected):
        raise RuntimeError(f"{name} answered {status} {content[:200]!r}\n{served.log.read_text()}")

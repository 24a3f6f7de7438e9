"""Load by wrk, and a check of a proxy before the load."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import PREFIX, WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.common.servers import Served

_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
_TIMEOUT: Final = "60s"


@dataclass(frozen=True)
class Load:
    """The result of some seconds of load.

    Attributes:
        requests: All of them had good answers.
        seconds: The duration.
        p50: Median latency, in milliseconds.
        p99: Latency of the 99th percentile, in milliseconds.
    """

    requests: int
    seconds: float
    p50: float
    p99: float


def load(  # noqa: PLR0913 - the parameters of a load
    port: int,
    path: str,
    method: str,
    *,
    connections: int,
    seconds: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> Load:
    """Send requests over several connections, one request after another on each.

    Args:
        port: The proxy's.
        path: Of the target.
        method: Of the requests.
        connections: At a time.
        seconds: The duration.
        meanwhile: Called after the load has begun.

    Raises:
        RuntimeError: wrk failed, or an answer was not good.
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
            _, output = wrk.communicate()
        finally:
            wrk.kill()
    if wrk.returncode:
        raise RuntimeError(f"wrk failed: {output}")
    summary = json.loads(output.splitlines()[-1])
    if summary["errors"] or not summary["requests"]:
        raise RuntimeError(f"{summary['errors']} errors in {summary['requests']} answers")
    return Load(
        summary["requests"],
        summary["microseconds"] / 1e6,
        summary["p50"] / 1e3,
        summary["p99"] / 1e3,
    )


def check(name: str, served: Served, path: str, body: bytes | None, expected: bytes) -> None:
    """Make one call, and check that the upstream's answer comes back.

    Args:
        name: The proxy's, for the message.
        served: The proxy.
        path: Of the target.
        body: JSON to POST. None: a GET.
        expected: The upstream's answer to a call with the key.

    Raises:
        RuntimeError: The answer is another one.
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

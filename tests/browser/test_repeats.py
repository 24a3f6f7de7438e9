"""No call is paid twice: what fal's own clients send again, and what fal then gets.

Four versions of the JavaScript client run in Node, against gunicorn with threads in front of an
upstream that counts what arrives. 1.5.0 repeats nothing. From 1.6 on, the client repeats a call
after 429, 502, 503 and 504. 1.10 does so after a lost connection, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.raw_server import Connection, RawServer
from tests.support.serving import JS, dialling_raw, serve_gunicorn

if TYPE_CHECKING:
    from pathlib import Path

NODE_SECONDS: Final = 60
VERSIONS: Final = ("1.5.0", "1.6.1", "1.8.3", "1.10.1")
SPENDING: Final = ("run", "get", "subscribe", "stream")


def answer(content: dict[str, str]) -> bytes:
    """Give a whole answer, which is the last on its connection."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    text = json.dumps(content)
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def hanging_up(connection: Connection) -> None:
    """Close the connection in good order, once the request is here."""


def resetting(connection: Connection) -> None:
    connection.reset()


def cutting_the_head(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def talking_nonsense(connection: Connection) -> None:
    connection.send(b"nonsense\r\n\r\n")


def never_answering(connection: Connection) -> None:
    connection.wait_for_close()


FAULTS: Final = {
    "closes": hanging_up,
    "resets": resetting,
    "cuts": cutting_the_head,
    "nonsense": talking_nonsense,
    "silent": never_answering,
}


class Upstream:
    """Counts the requests, and fails them as their endpoints' names say.

    `fal-ai/closes-1.5.0-run` is what version 1.5.0 runs, and is answered by closing the connection.

    Attributes:
        arrived: How often each call arrived: by what it did, and the name after the fault.
    """

    def __init__(self) -> None:
        self.arrived: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        method, target, _ = connection.read_request()[0].decode().split(" ", 2)
        _, _, endpoint, *rest = target.partition("?")[0].split("/")
        fault, _, name = endpoint.partition("-")
        did = f"{method} {'/'.join(rest)}".strip()
        with self._lock:
            self.arrived[did, name] += 1
            nth = self.arrived[did, name]
        if fault == "polls":
            self._poll(connection, method, endpoint, rest, nth)
        else:
            FAULTS[fault](connection)

    def _poll(
        self, connection: Connection, method: str, endpoint: str, rest: list[str], nth: int
    ) -> None:
        """Take the call, and fail the first poll for its status and for its result."""
        if method == "POST":
            connection.send(answer({"request_id": "1", "status": "IN_QUEUE"}))
        elif nth == 1:
            hanging_up(connection)
        elif rest[-1] == "status":
            connection.send(answer({"request_id": "1", "status": "COMPLETED"}))
        else:
            connection.send(answer({"ran": endpoint}))


def outcomes(
    node: str, upstream: Upstream, directory: Path, *arguments: str, **options: str
) -> dict[str, Any]:
    """Have each version make these calls through the proxy, and give what came of each.

    Args:
        node: The program.
        upstream: What answers in fal's place.
        directory: For its certificate.
        arguments: The fault, and the names of the calls.
        options: Variables with the proxy's options.
    """
    with RawServer(upstream) as server:
        environment = dialling_raw(server, directory) | options
        threads = ("--threads", "32")
        with serve_gunicorn("wsgi_fal_proxy.wsgi", *threads, environment=environment) as served:
            done = subprocess.run(
                [node, str(JS / "repeats.mjs"), *arguments],
                env={**os.environ, "PROXY_URL": f"{served.url}/api/fal/proxy"},
                capture_output=True,
                timeout=NODE_SECONDS,
                check=False,
            )
    assert done.returncode == 0, done.stderr.decode()
    given: dict[str, Any] = json.loads(done.stdout)
    return given


@pytest.mark.parametrize(
    ("fault", "options", "reason"),
    [
        pytest.param("closes", {}, "upstream_closed", id="closes"),
        pytest.param("resets", {}, "upstream_closed", id="resets"),
        pytest.param("cuts", {}, "upstream_closed", id="cuts-its-head"),
        pytest.param("nonsense", {}, "upstream_malformed", id="talks-nonsense"),
        pytest.param("silent", {"FAL_PROXY_READ_TIMEOUT": "1"}, "read_timeout", id="read-timeout"),
        pytest.param(
            "silent", {"FAL_PROXY_TOTAL_TIMEOUT": "2"}, "total_timeout", id="total-timeout"
        ),
    ],
)
def test_javascript_clients_send_a_call_that_spends_only_once(
    node: str, tmp_path: Path, fault: str, options: dict[str, str], reason: str
) -> None:
    upstream = Upstream()
    given = outcomes(node, upstream, tmp_path, fault, *SPENDING, **options)
    calls = [f"{version}-{call}" for version in VERSIONS for call in SPENDING]
    arrivals = dict.fromkeys(calls, 0)
    for (_, name), count in upstream.arrived.items():
        arrivals[name] += count
    assert arrivals == dict.fromkeys(calls, 1)
    assert given == {name: [500, reason] for name in calls}


def test_javascript_clients_repeat_a_poll_and_get_the_result(node: str, tmp_path: Path) -> None:
    upstream = Upstream()
    given = outcomes(node, upstream, tmp_path, "polls", "subscribe")
    repeating = [f"{version}-subscribe" for version in VERSIONS[1:]]
    assert given == {
        "1.5.0-subscribe": [502, "upstream_closed"],
        **{name: ["resolved", {"ran": f"polls-{name}"}] for name in repeating},
    }
    assert upstream.arrived == {
        ("POST", "1.5.0-subscribe"): 1,
        ("GET requests/1/status", "1.5.0-subscribe"): 1,
        **{("POST", name): 1 for name in repeating},
        **{("GET requests/1/status", name): 2 for name in repeating},
        **{("GET requests/1", name): 2 for name in repeating},
    }

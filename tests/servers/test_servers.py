"""Every server that the README names, run for real: what it can do, and what it cannot."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, Script
from tests.support.servers import PROXY_PASS, SERVERS, Cut, Server, Shutdown, nginx
from tests.support.serving import JS, Served, dialling_raw, other_end, wait_for_close

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wsgi_fal_proxy.testing import FakeFal

HOSTS = ("fal.run", "*.fal.run", "fal.ai", "*.fal.ai")
MAX_BODY_BYTES = 1_000_000
# Each connection to the upstream serves one request.
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
HEAD = OK + b"Content-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: 1\n\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream:
    """Fal to a server that runs: by the path a script of the test's, or else the fake fal.

    Args:
        fal: The fake fal.
    """

    def __init__(self, fal: FakeFal) -> None:
        self.scripts: dict[bytes, Script] = {}
        self._fal_port = int(fal.url.rpartition(":")[2])

    def __call__(self, connection: Connection) -> None:
        head = connection.read_head()
        script = self.scripts.get(head.split()[1])
        if script is not None:
            script(connection)
            return
        connection.received[:] = head + connection.received
        head, content = connection.read_request()
        with socket.create_connection(("127.0.0.1", self._fal_port), WAIT_SECONDS) as fal:
            fal.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + content)
            while data := fal.recv(65_536):
                connection.send(data)


@dataclass(frozen=True)
class Running:
    """A server that runs, and what it can do."""

    server: Server
    served: Served
    upstream: Upstream

    @property
    def url(self) -> str:
        return f"{self.served.url}/api/fal/proxy"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.served.port), WAIT_SECONDS)


def run(name: str, fal: FakeFal, directory: Path) -> Iterator[Running]:
    upstream = Upstream(fal)
    with RawServer(upstream, hosts=HOSTS) as raw:
        environment = {
            **dialling_raw(raw, directory),
            "FAL_KEY": fal.key,
            "FAL_PROXY_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        }
        with SERVERS[name].serve(environment) as served:
            yield Running(SERVERS[name], served, upstream)


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, _shared_fal: FakeFal, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    yield from run(request.param, _shared_fal, tmp_path_factory.mktemp("ca"))


@pytest.fixture(params=SERVERS)
def running_once(
    request: pytest.FixtureRequest, _shared_fal: FakeFal, tmp_path: Path
) -> Iterator[Running]:
    yield from run(request.param, _shared_fal, tmp_path)


def call(path: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    method = b"POST" if headers else b"GET"
    target = b"x-fal-target-url: https://fal.run" + path
    lines = [method + b" /api/fal/proxy " + version, b"Host: localhost", target, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    received = b""
    while wanted not in received:
        data = client.recv(65_536)
        assert data, received
        received += data
    return received


def read_to_end(client: socket.socket) -> bytes | None:
    """Read until the other side has closed; None if it has reset the connection."""
    received = b""
    try:
        while data := client.recv(65_536):
            received += data
    except ConnectionResetError:
        return None
    return received


# A client of fal's


def test_server_lets_fals_own_client_run_stream_and_subscribe(
    running: Running, node: str, fal: FakeFal
) -> None:
    environment = {**os.environ, "PROXY_URL": running.url, "FAKE_URL": fal.url}
    command = [node, str(JS / "client.mjs"), "essence"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["run"]["data"]["prompt"] == "a fox"
    # The fake fal sends each event only after the client had the one before.
    assert [event["progress"] for event in answer["stream"]["events"]] == [0.2, 0.4, 0.6, 0.8, 1.0]
    updates = [update["status"] for update in answer["subscribe"]["updates"]]
    assert updates == ["IN_QUEUE"] * 3 + ["IN_PROGRESS"] * 3 + ["COMPLETED"]
    assert answer["subscribe"]["result"]["data"]["prompt"] == "a fox"


# A client that leaves


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "between two events"])
def test_server_lets_fal_stop_when_the_client_leaves(running: Running, begun: bool) -> None:
    arrived, left, closed = threading.Event(), threading.Event(), threading.Event()
    noticed_at_once = []

    def script(connection: Connection) -> None:
        if begun:
            connection.send(CHUNKED + chunk(EVENT))
        arrived.set()
        assert left.wait(WAIT_SECONDS)
        if running.server.at_once:
            connection.wait_for_close()
            closed.set()
            return
        # Nothing comes from the other side but its end.
        noticed_at_once.extend(select.select([connection.sock], [], [], 0)[0])
        try:
            connection.send(b"" if begun else CHUNKED)
            while True:
                connection.send(chunk(EVENT))
        finally:
            closed.set()

    running.upstream.scripts[b"/silent"] = script
    with running.connect() as client:
        client.sendall(call(b"/silent"))
        assert arrived.wait(WAIT_SECONDS)
        if begun:
            read_until(client, EVENT)
        servers_end = other_end(client)
    # By the time that another request has been answered, what notices at once has.
    running.upstream.scripts[b"/ok"] = answering
    with running.connect() as client:
        client.sendall(call(b"/ok"))
        read_until(client, b"ok")
    left.set()
    assert closed.wait(WAIT_SECONDS)
    assert noticed_at_once == []
    # Then the log has what the server says of it.
    wait_for_close(servers_end)
    log = running.served.log.read_text()
    assert "Traceback" not in log or not running.server.at_once
    assert "upstream_closed" not in log


# An answer that breaks off after its head

BROKEN_OFF = {
    "/length": HEAD + b"Content-Length: 100\r\n\r\n" + EVENT,
    "/chunks": CHUNKED + chunk(EVENT),
    "/chunk": CHUNKED + b"99\r\n" + EVENT,
    "/malformed": CHUNKED + chunk(EVENT) + b"nix\r\n",
    "/close": HEAD + b"\r\n" + EVENT,
    "/nothing": CHUNKED,
}
WHOLE = {"/whole": CHUNKED + chunk(EVENT) + END}


def sending(data: bytes) -> Script:
    return lambda connection: connection.send(data)


def read_by_fetch(node: str, url: str, paths: list[str]) -> dict[str, bool]:
    targets = [f"https://fal.run{path}" for path in paths]
    command = [node, str(JS / "read.mjs"), url, *targets]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_SECONDS, check=True)
    outcomes = json.loads(done.stdout)
    return {
        path: outcomes[target]["complete"] and outcomes[target]["status"] == 200
        for path, target in zip(paths, targets, strict=True)
    }


def read_by_curl(_node: str, url: str, paths: list[str]) -> dict[str, bool]:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")  # pragma: no cover - not everywhere
    command = [curl, "--silent", "--no-buffer", "--fail", url, "--header"]
    return {
        path: subprocess.run(
            [*command, f"x-fal-target-url: https://fal.run{path}"], capture_output=True, check=False
        ).returncode
        == 0
        for path in paths
    }


@pytest.mark.parametrize("read", [read_by_fetch, read_by_curl])
def test_server_does_not_let_a_broken_answer_look_complete(
    running: Running, node: str, read: Callable[[str, str, list[str]], dict[str, bool]]
) -> None:
    for path, data in (BROKEN_OFF | WHOLE).items():
        running.upstream.scripts[path.encode()] = sending(data)
    complete = read(node, running.url, [*BROKEN_OFF, *WHOLE])
    assert complete["/whole"]
    cut = running.server.cut
    if cut is Cut.WITH_LENGTH or (cut is Cut.BY_RESET and read is read_by_fetch):
        assert (complete["/length"], complete["/chunks"], complete["/close"]) == (False, True, True)
    else:
        assert not any(complete[path] for path in BROKEN_OFF)


@pytest.mark.parametrize("path", ["/chunks", "/close"])
def test_server_resets_a_broken_answer_of_http_1_0_or_not(running: Running, path: str) -> None:
    running.upstream.scripts[path.encode()] = sending(BROKEN_OFF[path])
    with running.connect() as client:
        client.sendall(call(path.encode(), version=b"HTTP/1.0"))
        is_reset = read_to_end(client) is None
    assert is_reset is (running.server.cut in {Cut.ALL, Cut.BY_RESET})


# A request that is refused, and the connection after it

# More than is accepted, and little enough to be read and dropped.
LARGE = 1_040_000
JSON = b"Content-Type: application/json"
BODY = b'{"prompt": "GET / HTTP/1.1\\r\\nHost: smuggled\\r\\n\\r\\n"}'
LENGTH = b"Content-Length: %d" % len(BODY)
REFUSED = {
    "method": (405, call(b"/ok", JSON, LENGTH).replace(b"POST", b"DELETE", 1) + BODY),
    "no target": (400, call(b"/ok", JSON, LENGTH).replace(b"x-fal-target", b"x-no") + BODY),
    "hostile target": (412, call(b"/ok", JSON, LENGTH).replace(b"fal.run", b"x\\.fal.run") + BODY),
    "not JSON": (415, call(b"/ok", LENGTH) + BODY),
    "too large": (413, call(b"/ok", JSON, b"Content-Length: %d" % LARGE) + b"x" * LARGE),
    "by fal": (404, call(b"/nix", JSON, LENGTH).replace(b"fal.run", b"rest.fal.ai") + BODY),
}


def answering(connection: Connection) -> None:
    connection.send(OK + b"Content-Length: 2\r\n\r\nok")


@pytest.mark.parametrize(("status", "request_"), REFUSED.values(), ids=REFUSED.keys())
def test_server_keeps_the_connection_in_step_or_closes_it_after_a_refusal(
    running: Running, status: int, request_: bytes
) -> None:
    running.upstream.scripts[b"/ok"] = answering
    with running.connect() as client:
        connection = Connection(client, 1)
        client.sendall(request_)
        head, content = connection.read_request()
        assert int(head.split()[1]) == status
        assert json.loads(content)["detail"]
        # Only a client that does not listen would send another request.
        is_closed = b"connection: close" in head.lower()
        if not is_closed:
            try:
                client.sendall(call(b"/ok"))
                head, content = connection.read_request()
            except ConnectionError:
                is_closed = True
            else:
                assert (int(head.split()[1]), content) == (200, b"ok")
    assert is_closed is (status in running.server.closes_after)


def test_server_lets_two_targets_be_refused_or_only_one_be_seen(running: Running) -> None:
    for path in (b"/ok", b"/other"):
        running.upstream.scripts[path] = answering
    with running.connect() as client:
        client.sendall(call(b"/ok", b"x-fal-target-url: https://fal.run/other"))
        status = int(read_until(client, b"\r\n\r\n").split()[1])
    assert status == 412 or (status == 200 and not running.server.joins)


# A refused client that stalls, or says that it has much more to send

STALLS = ["gunicorn sync", "gunicorn gthread", "gunicorn gevent", "werkzeug", "uwsgi"]
"""Servers that hand over the connection, and do not read a body before the application does."""


@pytest.fixture
def handing_over(
    request: pytest.FixtureRequest, _shared_fal: FakeFal, tmp_path: Path
) -> Iterator[Running]:
    yield from run(request.param, _shared_fal, tmp_path)


@pytest.mark.parametrize("handing_over", STALLS, indirect=True)
@pytest.mark.parametrize("sent", [b"{", b"x" * 200_000], ids=["at once", "later"])
def test_server_does_not_wait_forever_for_the_body_of_a_refused_request(
    handing_over: Running, sent: bytes
) -> None:
    request_ = call(b"/ok", JSON, b"Content-Length: 1000000").replace(b"fal.run", b"x\\.fal.run")
    with handing_over.connect() as client:
        client.sendall(request_ + sent)
        received = read_to_end(client) or b""
    assert received.startswith((b"HTTP/1.1 412 ", b"HTTP/1.0 412 "))


@pytest.mark.parametrize("handing_over", [*STALLS, "granian"], indirect=True)
def test_server_refuses_a_declared_64_gib_without_waiting_for_it(handing_over: Running) -> None:
    with handing_over.connect() as client:
        client.sendall(call(b"/ok", JSON, b"Content-Length: %d" % (64 << 30)) + b"x" * 100_000)
        received = read_until(client, b"\r\n\r\n")
    assert received.split()[1] == b"413"


# A request body in chunks


@pytest.mark.parametrize("content_type", [JSON, b"Content-Type: text/plain"], ids=["JSON", "text"])
def test_server_relays_a_chunked_body_or_refuses_it(running: Running, content_type: bytes) -> None:
    bodies = []

    def script(connection: Connection) -> None:
        bodies.append(connection.read(len(BODY)))
        answering(connection)

    running.upstream.scripts[b"/chunked"] = script
    accepted, server = content_type == JSON, running.server
    with running.connect() as client:
        body = chunk(BODY[:10]) + chunk(BODY[10:]) + END
        client.sendall(call(b"/chunked", content_type, b"Transfer-Encoding: chunked") + body)
        status = int(read_until(client, b"\r\n\r\n").split()[1])
    assert status == (415 if server.chunked == 200 and not accepted else server.chunked)
    assert bodies == ([BODY] if status == 200 else [])


# The end of the server


def test_server_shutdown_lets_a_stream_come_to_its_end_or_cuts_it(running_once: Running) -> None:
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.send(CHUNKED + chunk(b"first"))
        assert go_on.wait(WAIT_SECONDS)
        connection.send(chunk(b"second") + END)

    running_once.upstream.scripts[b"/stream"] = script
    served = running_once.served
    with running_once.connect() as client:
        client.sendall(call(b"/stream"))
        read_until(client, b"first")
        os.kill(served.process.pid, signal.SIGTERM)
        if running_once.server.shutdown is Shutdown.IS_CUT:
            # In chunks, or by a reset: not an answer's end.
            received = read_to_end(client)
            assert received is None or END not in received
            go_on.set()
            served.process.wait(WAIT_SECONDS)
        else:
            # It has begun to end, and has not cut the stream.
            assert select.select([client], [], [], 0.2)[0] == []
            go_on.set()
            read_until(client, b"second")
            assert served.process.wait(WAIT_SECONDS) == 0


# nginx


@pytest.mark.parametrize(
    ("location", "comes"),
    [
        pytest.param(PROXY_PASS, True, id="as in the README"),
        pytest.param("location / { proxy_pass http://127.0.0.1:8000; }", False, id="as it comes"),
    ],
)
def test_nginx_passes_an_event_on_when_it_does_not_buffer(location: str, comes: bool) -> None:
    sent, done = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        # In answer to HTTP/1.0, which nginx speaks by default, a server does not send chunks.
        in_chunks = b" HTTP/1.1\r\n" in connection.read_head()
        connection.send(CHUNKED + chunk(EVENT) if in_chunks else HEAD + b"\r\n" + EVENT)
        sent.set()
        assert done.wait(WAIT_SECONDS)
        connection.send(END if in_chunks else b"")

    with (
        RawServer(script, tls=False) as behind,
        nginx(location, behind.port) as served,
        socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as client,
    ):
        client.sendall(b"GET /api/fal/proxy HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sent.wait(WAIT_SECONDS)
        if comes:
            read_until(client, EVENT)
            done.set()
        else:
            assert select.select([client], [], [], 0.2)[0] == []
            done.set()
            assert EVENT in read_until(client, END)

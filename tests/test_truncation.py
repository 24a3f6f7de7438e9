"""An answer that breaks off after its head never looks complete, whatever serves and whoever reads.

For each server: an answer with a length, one in chunks, and one that ends with its connection.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.serving import ROOT, SERVERS, Served, dialling_raw

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CUT = {
    b"/length": TYPE + b"Content-Length: 100\r\n\r\ndata: 1\n\n",
    b"/chunks": TYPE + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    b"/chunk": TYPE + b"Transfer-Encoding: chunked\r\n\r\n99\r\ndata: 1\n\n",
    b"/malformed": TYPE + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\nnix\r\n",
    b"/close": TYPE + b"\r\ndata: 1\n\n",
    b"/nothing": TYPE + b"Transfer-Encoding: chunked\r\n\r\n",
}
WHOLE = TYPE + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n"


def script(connection: Connection) -> None:
    path = connection.read_head().split()[1]
    connection.send(CUT.get(path, WHOLE))


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with (
        RawServer(script) as upstream,
        SERVERS[request.param](dialling_raw(upstream, tmp_path_factory.mktemp("ca"))) as served,
    ):
        yield served


def fetch_is_complete(served: Served, path: str) -> bool:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")  # pragma: no cover - not everywhere
    url = f"{served.url}/api/fal/proxy"
    command = [node, str(ROOT / "tests" / "js" / "read.mjs"), url, f"https://fal.run{path}"]
    done = subprocess.run(command, capture_output=True, check=True)
    outcome = json.loads(done.stdout)
    return bool(outcome["complete"] and outcome["status"] == 200)


def curl_is_complete(served: Served, path: str) -> bool:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")  # pragma: no cover - not everywhere
    command = [
        *(curl, "--silent", "--no-buffer", "--fail", f"{served.url}/api/fal/proxy"),
        *("--header", f"x-fal-target-url: https://fal.run{path}"),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


READERS = {"fetch": fetch_is_complete, "curl": curl_is_complete}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", [path.decode() for path in CUT])
def test_what_broke_off_does_not_look_complete(served: Served, reader: str, path: str) -> None:
    assert not READERS[reader](served, path)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_whole_looks_complete(served: Served, reader: str) -> None:
    assert READERS[reader](served, "/whole")


@pytest.mark.parametrize("path", ["/chunks", "/close"])
def test_what_broke_off_is_reset_for_a_client_of_http_1_0(served: Served, path: str) -> None:
    if "cheroot" in served.process.args:  # type: ignore[operator]
        return  # it hands over no socket; the README says so
    with socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as client:
        request = (
            "GET /api/fal/proxy HTTP/1.0\r\nHost: localhost\r\n"
            f"x-fal-target-url: https://fal.run{path}\r\n\r\n"
        )
        client.sendall(request.encode())
        with pytest.raises(ConnectionResetError):
            all(iter(lambda: client.recv(65_536), b""))

"""What the other tests stand on: it must be able to fail them."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from tests.support import raw_server
from tests.support.raw_server import Connection, RawServer


def test_raw_server_whose_script_fails_fails_its_test() -> None:
    def script(connection: Connection) -> None:
        message = "not what was expected"
        raise ValueError(message)

    with (
        pytest.raises(AssertionError, match="not what was expected"),
        RawServer(script, tls=False) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        assert client.recv(1) == b""


def connect_and_wait(client: socket.socket, server: RawServer, started: threading.Event) -> None:
    client.connect(("127.0.0.1", server.port))
    assert started.wait(10)


def test_raw_server_that_waits_for_the_other_side_in_vain_fails_its_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raw_server, "WAIT_SECONDS", 0.1)
    started = threading.Event()

    def script(connection: Connection) -> None:
        started.set()
        connection.read_head()

    with (
        socket.socket() as client,
        pytest.raises(AssertionError, match="timed out"),
        RawServer(script, tls=False) as server,
    ):
        connect_and_wait(client, server, started)


def test_raw_server_whose_script_does_not_end_fails_its_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raw_server, "WAIT_SECONDS", 0.1)
    started, end = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        started.set()
        end.wait()

    with (
        socket.socket() as client,
        pytest.raises(AssertionError, match="did not end"),
        RawServer(script, tls=False) as server,
    ):
        connect_and_wait(client, server, started)
    end.set()


def test_network_guard_lets_no_test_reach_another_machine() -> None:
    with socket.socket() as client, pytest.raises(OSError, match="no network in tests"):
        client.connect(("192.0.2.1", 443))


def test_network_guard_lets_no_test_look_up_a_name() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("fal.run", 443)


def test_coverage_traces_all_threads_that_begin_at_once() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            go_on = threading.Event()
            threads = [threading.Thread(target=go_on.wait) for _ in range(40)]
            for thread in threads:
                thread.start()
            go_on.set()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)

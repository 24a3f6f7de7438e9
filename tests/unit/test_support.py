"""What the other tests stand on: it must be able to fail them."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from tests.support.raw_server import Connection, RawServer


def test_a_script_of_a_raw_server_that_fails_fails_its_test() -> None:
    def script(connection: Connection) -> None:
        message = "not what was expected"
        raise ValueError(message)

    with (
        pytest.raises(AssertionError, match="not what was expected"),
        RawServer(script, tls=False) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        assert client.recv(1) == b""


def test_no_test_reaches_another_machine() -> None:
    with socket.socket() as client, pytest.raises(OSError, match="no network in tests"):
        client.connect(("192.0.2.1", 443))


def test_no_test_looks_up_a_name() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("fal.run", 443)


def test_threads_that_begin_at_once_are_all_traced() -> None:
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

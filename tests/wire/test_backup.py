"""fal's backup domains: tried once, and only while nothing can have been sent."""

from __future__ import annotations

import io
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import urllib3

from tests.support.environs import RUN, answer_to
from tests.support.raw_server import Connection, RawServer
from tests.support.serving import free_port
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._upstream import backup

if TYPE_CHECKING:
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
POLL = "https://queue.fal.run/fal-ai/flux/requests/1/status"
BACKUPS = ("falrun.com", "queue.falrun.com")


class Names:
    """What each name resolves to: a port of this machine. Without one, it does not resolve."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ports: int) -> None:
        self.ports = {name.replace("_", "."): port for name, port in ports.items()}
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        if host not in self.ports:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        where = ("127.0.0.1", self.ports[host])
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]


class Recording:
    """Answers requests, and keeps their heads."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.heads: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        for _ in range(self.count):
            head, _ = connection.read_request()
            self.heads.append(head)
            connection.send(OK)


def trusting(directory: Path, *servers: RawServer, **options: Any) -> FalProxy:
    proxy = FalProxy(key="k", **options)
    trusted = proxy._upstream._pools._manager.connection_pool_kw["ssl_context"]
    for server in servers:
        assert server.authority is not None
        trusted.load_verify_locations(cadata=server.authority.cert_pem.bytes().decode())
    return proxy


def call(proxy: FalProxy, target: str = RUN, **environ: Any) -> tuple[str, str | None]:
    status, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=target, **environ)
    return status, headers.get("x-fal-proxy-error")


def post(proxy: FalProxy) -> tuple[str, str | None]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "wsgi.input": io.BytesIO(b"{}"),
    }
    return call(proxy, **environ)


@pytest.mark.parametrize("main", ["unresolvable", "refusing", "tls"])
@pytest.mark.parametrize(
    ("target", "host"), [(RUN, b"falrun.com"), (POLL, b"queue.falrun.com")], ids=["run", "queue"]
)
def test_backup_domain_is_called_if_the_main_one_does_not_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: str, target: str, host: bytes
) -> None:
    script = Recording()
    with (
        RawServer(script, hosts=BACKUPS) as server,
        RawServer(Recording(), authority=trustme.CA()) as untrusted,
    ):
        names = Names(monkeypatch, falrun_com=server.port, queue_falrun_com=server.port)
        if main != "unresolvable":
            port = untrusted.port if main == "tls" else free_port()
            names.ports.update({"fal.run": port, "queue.fal.run": port})
        assert call(trusting(tmp_path, server), target) == ("200 OK", None)
    (head,) = script.heads
    line, host_line, *rest = head.split(b"\r\n")
    assert host_line == b"Host: " + host
    assert line.split()[1].decode() == target.partition(".run")[2]
    assert b"Authorization: Key k" in rest


def test_backup_domain_has_to_prove_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(Recording(), hosts=("fal.run", "*.fal.run")) as server:
        Names(monkeypatch, falrun_com=server.port)
        # The error is the main domain's.
        assert call(trusting(tmp_path, server))[1] == "upstream_unresolvable"


def test_backup_domain_gets_nothing_after_something_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closing(connection: Connection) -> None:
        connection.read_request()

    script = Recording()
    with RawServer(script, hosts=BACKUPS) as server, RawServer(closing) as main:
        Names(monkeypatch, fal_run=main.port, falrun_com=server.port)
        assert post(trusting(tmp_path, server, main))[1] == "upstream_closed"
    assert (main.connections, server.connections) == (1, 0)


def test_backup_domains_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    assert call(FalProxy(key="k", backup_domains=False))[1] == "upstream_unresolvable"
    assert names.asked == ["fal.run"]


def test_backup_domains_are_for_two_hosts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    call(FalProxy(key="k"), "https://rest.fal.ai/storage/upload/initiate")
    assert names.asked == ["rest.fal.ai"]


@pytest.mark.parametrize("host", BACKUPS)
def test_backup_domain_cannot_be_a_target(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    names = Names(monkeypatch)
    assert call(FalProxy(key="k"), f"https://{host}/fal-ai/flux")[1] == "target_host_not_allowed"
    assert names.asked == []


def test_backup_domain_goes_first_for_a_while_and_then_one_call_tries_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with (
        RawServer(Recording(2), hosts=BACKUPS) as server,
        RawServer(Recording()) as main,
    ):
        names = Names(monkeypatch, falrun_com=server.port)
        proxy = trusting(tmp_path, server, main)
        assert [post(proxy), post(proxy)] == [("200 OK", None)] * 2
        # The second one does not even look up the main domain, and uses the same connection.
        assert names.asked == ["fal.run", "falrun.com"]
        assert server.connections == 1
        names.ports["fal.run"] = main.port
        backups: Any = proxy._upstream._backups
        backups._down_until["fal.run"] = 0.0
        assert backups.domains("fal.run") == ("fal.run", "falrun.com")
        assert backups.domains("fal.run") == ("falrun.com", "fal.run")
        backups._down_until["fal.run"] = 0.0
        assert post(proxy) == ("200 OK", None)
        assert main.connections == 1
        assert backups.domains("fal.run") == ("fal.run", "falrun.com")
    told = [record.getMessage() for record in caplog.records if "connections go" in record.msg]
    assert told == [
        "fal.run could not be reached (upstream_unresolvable)."
        " New connections go to fal's backup domain falrun.com.",
        "New connections go to fal.run again.",
    ]


def test_backup_domain_that_fails_in_turn_is_followed_by_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(Recording()) as main:
        names = Names(monkeypatch, fal_run=main.port)
        proxy = trusting(tmp_path, main)
        backups: Any = proxy._upstream._backups
        backups.main_failed("fal.run", "test")
        assert post(proxy) == ("200 OK", None)
        assert names.asked == ["falrun.com", "fal.run"]
        assert backups.domains("fal.run") == ("fal.run", "falrun.com")


def test_backup_domain_that_fails_with_the_main_one_is_no_return_to_the_main_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(monkeypatch)
    proxy = FalProxy(key="k")
    backups: Any = proxy._upstream._backups
    backups.main_failed("fal.run", "test")
    caplog.clear()
    assert call(proxy)[1] == "upstream_unresolvable"
    assert names.asked == ["falrun.com", "fal.run"]
    assert backups.domains("fal.run") == ("fal.run", "falrun.com")
    assert "New connections go" not in caplog.text


def test_backup_domain_is_not_tried_after_the_end_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch)
    monkeypatch.setattr("wsgi_fal_proxy._upstream.call.Call.has_timed_out", lambda _: True)
    assert call(FalProxy(key="k"))[1] == "upstream_unresolvable"
    assert names.asked == ["fal.run"]


def test_backup_domain_is_not_tried_through_an_egress_proxy(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def refusing(connection: Connection) -> None:
        asked.append(connection.read_head().split(b"\r\n")[0])
        connection.send(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    with RawServer(refusing, tls=False) as egress:
        manager = urllib3.ProxyManager(f"http://127.0.0.1:{egress.port}")
        assert call(FalProxy(key="k", pool_manager=manager))[1] == "upstream_unreachable"
    assert asked == [b"CONNECT fal.run:443 HTTP/1.1"]


def test_backup_domain_and_the_main_one_have_five_seconds_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._upstream.upstream.CONNECT_SECONDS", 1.0)

    def stalling(connection: Connection) -> None:
        connection.wait_for_close()

    with (
        RawServer(stalling, plain={1}) as main,
        RawServer(Recording(), hosts=BACKUPS) as server,
    ):
        Names(monkeypatch, fal_run=main.port, falrun_com=server.port)
        assert call(trusting(tmp_path, server, connect_timeout=None)) == ("200 OK", None)
    assert backup.CONNECT_SECONDS == 5


def test_backup_domain_is_logged_once_while_the_main_one_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backups = backup.Backups()
    for _ in range(2):
        backups.main_failed("fal.run", "refused")
    assert len(caplog.messages) == 1
    assert backups.domains("fal.run")[1] == "fal.run"

"""The way out through an egress proxy: real ones on loopback, and what each may do wrong."""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.environs import RUN, answer_to
from tests.support.raw_server import (
    Connection,
    RawServer,
    Script,
    answering,
)
from tests.wire.test_upstream import readable_of, tunnelling
from wsgi_fal_proxy import FalProxy, SettingsError
from wsgi_fal_proxy._core.standalone import StandaloneProxy
from wsgi_fal_proxy._upstream import manager as managers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import NetworkGuard

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
QUEUE = "https://queue.fal.run/fal-ai/flux/dev/requests/1/status"


def get(proxy: FalProxy, target: str = RUN) -> tuple[str, dict[str, str], bytes]:
    return answer_to(proxy, HTTP_X_FAL_TARGET_URL=target)


def close(proxy: FalProxy) -> None:
    for pool in proxy._upstream._pools.connected.values():
        pool.close()


def always_ok(connection: Connection) -> None:
    while True:
        connection.read_request()
        connection.send(OK)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Who issues all certificates here. The default manager trusts it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def upstream(authority: trustme.CA) -> Iterator[RawServer]:
    with RawServer(always_ok, authority=authority) as server:
        yield server


def plain(script: Script) -> RawServer:
    return RawServer(script, tls=False)


def saying(answer: bytes) -> Script:
    """An egress proxy that answers CONNECT with these bytes, and ends."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(answer)

    return script


# The option.


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "http://127.0.0.1:{}/"])
def test_egress_proxy_is_asked_to_tunnel_and_sees_no_key(upstream: RawServer, form: str) -> None:
    requests: list[bytes] = []
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        proxy = FalProxy(key="sk-secret", egress_proxy=form.format(egress.port))
        assert get(proxy)[::2] == ("200 OK", b"{}")
        close(proxy)
    assert requests == [b"CONNECT fal.run:443 HTTP/1.1\r\nhost: fal.run:443\r\n\r\n"]


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        pytest.param("me:secret", b"me:secret", id="plain"),
        pytest.param("m%40e:s%3Ae%2Fc", b"m@e:s:e/c", id="percent-encoded"),
        pytest.param("me:p@ss", b"me:p@ss", id="at-sign"),
        pytest.param("j%C3%BCrgen:gr%C3%BCn", "jürgen:grün".encode(), id="utf-8"),
        pytest.param("jürgen:grün", "jürgen:grün".encode(), id="as-it-is"),
        pytest.param("gr%FCn:", b"gr\xfcn:", id="latin-1"),
        pytest.param("token", b"token:", id="user-alone"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_egress_proxy_gets_the_login_of_its_url(
    upstream: RawServer, authority: trustme.CA, login: str, sent: bytes, scheme: str
) -> None:
    requests: list[bytes] = []
    script = tunnelling(upstream.port, requests, CONNECTED)
    with RawServer(
        script, tls=scheme == "https", hosts=("127.0.0.1",), authority=authority
    ) as egress:
        proxy = FalProxy(key="k", egress_proxy=f"{scheme}://{login}@127.0.0.1:{egress.port}")
        assert get(proxy)[0] == "200 OK"
        close(proxy)
    (line,) = (line for line in requests[0].split(b"\r\n") if b"basic" in line.lower())
    assert line.lower().startswith(b"proxy-authorization: basic ")
    assert base64.b64decode(line.split()[2]) == sent


def test_pool_manager_of_the_owner_logs_in_by_its_url_and_stays_unchanged(
    upstream: RawServer, tmp_path: Path
) -> None:
    requests: list[bytes] = []
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        context = upstream.pool_manager(tmp_path).connection_pool_kw["ssl_context"]
        url = f"http://me:s%26cret@127.0.0.1:{egress.port}"
        manager = urllib3.ProxyManager(url, ssl_context=context)
        before = vars(manager) | {"connection_pool_kw": dict(manager.connection_pool_kw)}
        proxy = FalProxy(key="k", pool_manager=manager)
        assert get(proxy)[0] == "200 OK"
        assert vars(manager) == before
        assert not manager.proxy_headers
        close(proxy)
    assert base64.b64encode(b"me:s&cret") in requests[0]


def test_pool_manager_of_the_owner_keeps_its_own_login(upstream: RawServer, tmp_path: Path) -> None:
    requests: list[bytes] = []
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        context = upstream.pool_manager(tmp_path).connection_pool_kw["ssl_context"]
        url = f"http://me:secret@127.0.0.1:{egress.port}"
        headers = {"Proxy-Authorization": "Bearer t"}
        manager = urllib3.ProxyManager(url, ssl_context=context, proxy_headers=headers)
        proxy = FalProxy(key="k", pool_manager=manager)
        assert get(proxy)[0] == "200 OK"
        close(proxy)
    assert b"proxy-authorization: Bearer t\r\n" in requests[0]
    assert b"Basic" not in requests[0]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://secret@h:1",
        "http://",
        "http://me:secret@",
        "http://me:secret@h:0",
        "http://me:secret@h:99999",
        "http://me:secret@h:x",
        "http://me:secret@h h",
        "http://me:secret@h\r\nx: y",
        "http://me:secret@[::1",
        "me:secret@h:port",
        "",
        7,
    ],
)
def test_egress_proxy_that_is_no_url_is_refused_and_not_shown(url: Any) -> None:
    with pytest.raises(SettingsError, match="it must be the URL of a proxy, such as") as caught:
        FalProxy(key="k", egress_proxy=url)
    assert "secret" not in str(caught.value)


def test_egress_proxy_by_socks_has_a_login_that_is_text() -> None:
    with pytest.raises(SettingsError, match="its login is not UTF-8"):
        FalProxy(key="k", egress_proxy="socks5h://gr%FCn:x@127.0.0.1:1")


def test_egress_proxy_and_a_pool_manager_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="either egress_proxy or pool_manager"):
        FalProxy(key="k", egress_proxy="http://h:1", pool_manager=urllib3.PoolManager())


def test_egress_proxy_by_socks_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._upstream.egress.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match="pip install pysocks"):
        FalProxy(key="k", egress_proxy="socks5h://127.0.0.1:1")


def socks5(upstream_port: int, seen: list[bytes]) -> Script:
    """A SOCKS5 proxy that wants a login (RFC 1928, RFC 1929)."""

    def script(connection: Connection) -> None:
        methods = connection.read(connection.read(2)[1])
        connection.send(b"\x05\x02" if 2 in methods else b"\x05\xff")
        user = connection.read(connection.read(2)[1])
        password = connection.read(connection.read(1)[0])
        connection.send(b"\x01\x00")
        kind = connection.read(4)[3]
        assert kind == 3  # a name
        name = connection.read(connection.read(1)[0])
        seen.extend([user, password, name, connection.read(2)])
        connection.send(b"\x05\x00\x00\x01" + bytes(6))
        with socket.create_connection(("127.0.0.1", upstream_port)) as there:
            others = {connection.sock: there, there: connection.sock}
            while data := (source := readable_of(*others)).recv(65_536):
                others[source].sendall(data)

    return script


def test_egress_proxy_may_speak_socks(upstream: RawServer, network: NetworkGuard) -> None:
    seen: list[bytes] = []
    with plain(socks5(upstream.port, seen)) as egress:
        url = f"socks5h://m%40e:gr%C3%BCn@127.0.0.1:{egress.port}"
        proxy = FalProxy(key="k", egress_proxy=url)
        assert [get(proxy)[0] for _ in range(2)] == ["200 OK", "200 OK"]
        close(proxy)
    assert seen == [b"m@e", "grün".encode(), b"fal.run", (443).to_bytes(2, "big")]
    assert "fal.run" not in network.lookups


def test_egress_proxy_by_socks_is_blamed_when_it_refuses() -> None:
    with plain(answering()) as egress:
        pass
    proxy = FalProxy(key="k", egress_proxy=f"socks5h://127.0.0.1:{egress.port}")
    _, headers, content = get(proxy)
    assert headers["x-fal-proxy-error"] == "upstream_unreachable"
    assert b"through the egress proxy" in content


def test_egress_proxy_by_socks_is_not_blamed_for_a_certificate(
    upstream: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain(socks5(upstream.port, [])) as egress:
        monkeypatch.delenv("SSL_CERT_FILE")
        proxy = FalProxy(key="k", egress_proxy=f"socks5h://a:b@127.0.0.1:{egress.port}")
        _, headers, content = get(proxy)
    assert headers["x-fal-proxy-error"] == "upstream_tls_failed"
    assert b"egress" not in content


# Connections are kept.


@pytest.mark.parametrize("by", ["option", "manager"])
def test_egress_proxy_is_asked_once_for_each_thread(
    upstream: RawServer, tmp_path: Path, by: str
) -> None:
    requests: list[bytes] = []
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        url = f"http://127.0.0.1:{egress.port}"
        context = upstream.pool_manager(tmp_path).connection_pool_kw["ssl_context"]
        proxy = (
            FalProxy(key="k", egress_proxy=url)
            if by == "option"
            else FalProxy(key="k", pool_manager=urllib3.ProxyManager(url, ssl_context=context))
        )
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda _: get(proxy)[0], range(160)))
        close(proxy)
    assert answers == ["200 OK"] * 160
    assert len(requests) <= 16


# The environment.


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "https_proxy", "Https_Proxy", "ALL_PROXY", "all_proxy"]
)
@pytest.mark.parametrize("method", [{}, {"REQUEST_METHOD": "GET"}], ids=["server", "cgi"])
def test_standalone_goes_through_what_the_environment_names(
    upstream: RawServer, monkeypatch: pytest.MonkeyPatch, name: str, method: dict[str, str]
) -> None:
    requests: list[bytes] = []
    for variable, value in method.items():
        monkeypatch.setenv(variable, value)
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        monkeypatch.setenv(name, f" http://127.0.0.1:{egress.port}\n")
        standalone = StandaloneProxy(key="k")
        assert get(standalone.proxy)[0] == "200 OK"
        close(standalone.proxy)
    assert len(requests) == 1


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="none"),
        pytest.param({"HTTP_PROXY": "http://127.0.0.1:1"}, id="http-alone"),
        pytest.param({"HTTPS_PROXY": ""}, id="empty"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": ""}, id="lower-empty"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}, id="star"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "no_proxy": "fal.run"}, id="name"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": ".fal.run"}, id="suffix"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "x, RUN"}, id="upper"),
        pytest.param({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "fal.run:443"}, id="port"),
    ],
)
def test_standalone_goes_directly_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, network: NetworkGuard, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    headers = get(StandaloneProxy(key="k", backup_domains=False).proxy)[1]
    assert network.lookups == ["fal.run"]
    assert headers["x-fal-proxy-error"] == "upstream_unresolvable"


def test_standalone_excepts_single_hosts(
    upstream: RawServer, monkeypatch: pytest.MonkeyPatch, network: NetworkGuard
) -> None:
    requests: list[bytes] = []
    with plain(tunnelling(upstream.port, requests, CONNECTED)) as egress:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{egress.port}")
        monkeypatch.setenv("NO_PROXY", "localhost,queue.fal.run,.internal,fal.run:80")
        standalone = StandaloneProxy(key="k", backup_domains=False)
        assert get(standalone.proxy)[0] == "200 OK"
        assert get(standalone.proxy, QUEUE)[1]["x-fal-proxy-error"] == "upstream_unresolvable"
        close(standalone.proxy)
    assert network.lookups == ["queue.fal.run"]
    assert len(requests) == 1


def test_standalone_excepts_hosts_from_socks_too(
    upstream: RawServer, monkeypatch: pytest.MonkeyPatch, network: NetworkGuard
) -> None:
    with plain(socks5(upstream.port, [])) as egress:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://a:b@127.0.0.1:{egress.port}")
        monkeypatch.setenv("NO_PROXY", "queue.fal.run")
        standalone = StandaloneProxy(key="k")
        assert get(standalone.proxy)[0] == "200 OK"
        assert get(standalone.proxy, QUEUE)[1]["x-fal-proxy-error"] == "upstream_unresolvable"
        close(standalone.proxy)


def test_standalone_has_an_option_that_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, network: NetworkGuard
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    get(StandaloneProxy(key="k", egress_proxy="none", backup_domains=False).proxy)
    assert network.lookups == ["fal.run"]


def test_standalone_refuses_a_proxy_in_the_environment_that_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "ftp://me:secret@egress:1")
    with pytest.raises(SettingsError, match=r"^HTTPS_PROXY='ftp://\.\.\.' cannot") as caught:
        StandaloneProxy(key="k")
    assert "secret" not in str(caught.value)
    assert "none" not in str(caught.value)


# The log.


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "wsgi_fal_proxy")
    managers._warn_of_unused.cache_clear()
    return caplog


@pytest.mark.parametrize(
    ("options", "variables", "way"),
    [
        ({}, {}, "Calls to fal go there directly, without an egress proxy."),
        (
            {"egress_proxy": "https://me:secret@Egress.internal:3128/x"},
            {},
            "Calls to fal go through the egress proxy https://egress.internal:3128 (the option"
            " egress_proxy).",
        ),
        (
            {"egress_proxy": "environment"},
            {"ALL_PROXY": "me:secret@h"},
            "Calls to fal go through the egress proxy http://h:80 (ALL_PROXY).",
        ),
        (
            {"egress_proxy": "environment"},
            {"https_proxy": "http://[::1]:8080", "no_proxy": "localhost"},
            "Calls to fal go through the egress proxy http://[::1]:8080 (HTTPS_PROXY, except to"
            " hosts that NO_PROXY names).",
        ),
        (
            {"egress_proxy": "environment"},
            {"https_proxy": "http://h:1", "no_proxy": "*"},
            "Calls to fal go there directly: NO_PROXY excepts it.",
        ),
        (
            {"egress_proxy": "environment"},
            {},
            "Calls to fal go there directly: HTTPS_PROXY is not set.",
        ),
        (
            {"pool_manager": urllib3.ProxyManager("http://me:secret@h:1")},
            {},
            "Calls to fal go through the egress proxy http://h:1 (the option pool_manager).",
        ),
    ],
)
def test_proxy_logs_at_the_start_which_way_calls_go(
    said: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    variables: dict[str, str],
    way: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    FalProxy(key="k", **options)
    assert [(one.levelname, one.getMessage()) for one in said.records] == [("INFO", way)]


def test_proxy_warns_once_of_an_egress_proxy_that_it_does_not_use(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@egress.internal:3128")
    for _ in range(2):
        FalProxy(key="k")
    (warning,) = (one for one in said.records if one.levelno == logging.WARNING)
    assert 'set egress_proxy="environment"' in warning.getMessage()
    assert "secret" not in said.text


@pytest.mark.parametrize(
    ("options", "excepted"),
    [
        ({"egress_proxy": "none"}, ""),
        ({"egress_proxy": "environment"}, ""),
        ({"pool_manager": urllib3.PoolManager()}, ""),
        ({}, "fal.run"),
    ],
)
def test_proxy_does_not_warn_of_what_the_owner_has_decided(
    said: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    excepted: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", excepted)
    FalProxy(key="k", **options)
    assert [one for one in said.records if one.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"HTTPS_PROXY": "http://me:secret@egress:3128"}, "http://egress:3128 (HTTPS_PROXY)"),
        ({"FAL_PROXY_EGRESS_PROXY": "http://me:secret@h:1"}, "http://h:1 (the option egress_proxy"),
        ({"HTTPS_PROXY": "http://h:1", "FAL_PROXY_EGRESS_PROXY": "none"}, "go there directly"),
    ],
)
def test_standalone_says_on_any_server_which_way_calls_go(
    variables: dict[str, str], way: str
) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import wsgi_fal_proxy.wsgi"],
        env=os.environ | {"FAL_KEY": "a:b"} | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    (line,) = (line for line in said.splitlines() if "Calls to fal" in line)
    assert way in line
    assert "secret" not in said


# A company that opens TLS on the way.


def older_authority(directory: Path) -> ssl.SSLContext:
    """Make an authority as before RFC 5280, `ca.pem`, and the context of a server for fal.run.

    It has no key identifiers, and its constraints are not marked as critical.
    """
    now = datetime.now(UTC)

    def made(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        subject, issued_by = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer)
        )
        return (
            x509.CertificateBuilder(issued_by, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = made("Company", "Company", authority_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=False
    )
    server = made("fal.run", "Company", key).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("fal.run")]), critical=False
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(
        authority.sign(authority_key, hashes.SHA256()).public_bytes(pem)
    )
    (directory / "server.pem").write_bytes(
        server.sign(authority_key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


@pytest.mark.parametrize("names_it", [True, False])
def test_egress_proxy_may_open_tls_by_an_older_authority_that_the_owner_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_it: bool
) -> None:
    made = ssl.create_default_context

    def as_python_3_13() -> ssl.SSLContext:
        context = made(cafile=None if names_it else str(tmp_path / "ca.pem"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13)
    server = older_authority(tmp_path)

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(CONNECTED)
        connection.start_tls(server)
        always_ok(connection)

    if names_it:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with plain(script) as egress:
        proxy = FalProxy(key="k", egress_proxy=f"http://127.0.0.1:{egress.port}")
        assert get(proxy)[0] == ("200 OK" if names_it else "502 Bad Gateway")
        close(proxy)


# Faults of the egress proxy.


def assert_blamed(
    egress_proxy: str,
    caplog: pytest.LogCaptureFixture,
    reason: str,
    sentence: str,
    **options: Any,
) -> str:
    _, headers, content = get(FalProxy(key="k", egress_proxy=egress_proxy, **options))
    assert (headers["x-fal-proxy-error"], sentence in content.decode()) == (reason, True)
    assert "secret" not in caplog.text + content.decode()
    return caplog.text


def test_egress_proxy_is_blamed_for_its_name(caplog: pytest.LogCaptureFixture) -> None:
    assert_blamed(
        "http://me:secret@egress.invalid:3128",
        caplog,
        "upstream_unresolvable",
        "The host name of the egress proxy could not be resolved.",
    )


def test_egress_proxy_is_blamed_when_it_refuses(caplog: pytest.LogCaptureFixture) -> None:
    with plain(answering()) as egress:
        pass
    assert_blamed(
        f"http://me:secret@127.0.0.1:{egress.port}",
        caplog,
        "upstream_unreachable",
        "No connection to the egress proxy could be made.",
    )


def test_egress_proxy_is_blamed_for_its_certificate(
    caplog: pytest.LogCaptureFixture, authority: trustme.CA
) -> None:
    with RawServer(answering(), hosts=("127.0.0.1",)) as egress:
        assert_blamed(
            f"https://me:secret@127.0.0.1:{egress.port}",
            caplog,
            "upstream_tls_failed",
            "No secure connection to the egress proxy could be made.",
        )


def test_egress_proxy_is_not_blamed_for_the_targets_certificate(
    upstream: RawServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with plain(tunnelling(upstream.port, [], CONNECTED)) as egress:
        monkeypatch.delenv("SSL_CERT_FILE")
        assert_blamed(
            f"http://127.0.0.1:{egress.port}",
            caplog,
            "upstream_tls_failed",
            "No secure connection to the target could be made.",
        )


@pytest.mark.parametrize(
    ("answer", "login", "sentence"),
    [
        pytest.param(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "",
            "The egress proxy asks for a login, and the fal proxy has none for it.",
            id="407-without",
        ),
        pytest.param(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "me:secret@",
            "The egress proxy does not accept the fal proxy's login.",
            id="407",
        ),
        pytest.param(
            b"HTTP/1.0 403 Forbidden\nContent-Length: 0\n\n",
            "",
            "The egress proxy does not allow connections to the target.",
            id="403",
        ),
        pytest.param(
            b"HTTP/1.1 503\r\nTransfer-Encoding: x\r\n\r\n",
            "",
            "The egress proxy did not connect to the target: it answered 503.",
            id="503",
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n",
            "",
            "The egress proxy did not connect to the target: it answered 302.",
            id="302",
        ),
        pytest.param(
            b"", "", "The egress proxy closed the connection before it answered.", id="nothing"
        ),
        pytest.param(
            b"HTTP/1.1 200 Con",
            "",
            "The egress proxy closed the connection before it answered.",
            id="half",
        ),
        pytest.param(
            b"SSH-2.0-x\r\n", "", "The egress proxy's answer is not valid HTTP.", id="ssh"
        ),
        pytest.param(
            b"HTTP/1.1 2xx Ok\r\n\r\n", "", "The egress proxy's answer is not valid HTTP.", id="2xx"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000,
            "",
            "The egress proxy's answer is not valid HTTP.",
            id="endless",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n\r\n<html>",
            "",
            "The egress proxy's answer is not valid HTTP.",
            id="content",
        ),
    ],
)
def test_egress_proxy_is_blamed_for_its_answer(
    caplog: pytest.LogCaptureFixture, answer: bytes, login: str, sentence: str
) -> None:
    with plain(saying(answer)) as egress:
        url = f"http://{login}127.0.0.1:{egress.port}"
        assert_blamed(url, caplog, "upstream_unreachable", sentence)


def test_egress_proxy_does_not_write_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    phrase = b"No\rway\x1b[31m\x85\xe2\x80\xae" + b"x" * 5_000
    with plain(saying(b"HTTP/1.1 403 " + phrase + b"\r\n\r\n")) as egress:
        assert_blamed(f"http://127.0.0.1:{egress.port}", caplog, "upstream_unreachable", "allow")
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.ERROR)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 400
    assert "[403 " in line


def test_egress_proxy_may_send_interim_answers_and_fields(upstream: RawServer) -> None:
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.0 200 Connection established\r\nVia: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: 5\r\n\r\n"
    )
    with plain(tunnelling(upstream.port, [], answer)) as egress:
        proxy = FalProxy(key="k", egress_proxy=f"http://127.0.0.1:{egress.port}")
        assert get(proxy)[0] == "200 OK"
        close(proxy)


def dripping(answer: bytes) -> Script:
    """An egress proxy that answers byte by byte, until the other side leaves."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.sock.settimeout(0.05)
        bytes_left = iter(answer)
        with suppress(ConnectionError):
            while True:
                connection.send(bytes([next(bytes_left)]))
                with suppress(TimeoutError):
                    connection.read(1)

    return script


ENDLESS = b"HTTP/1.1 200 Connection established\r\n" + b"x: y\r\n" * 1_000


@pytest.mark.parametrize("answer", [ENDLESS, b"HTTP/1.1 100 Continue\r\n\r\n" * 500])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"connect_timeout": 0.4}, "connect_timeout"),
        ({"total_timeout": 0.4}, "total_timeout"),
    ],
)
def test_egress_proxy_that_drips_does_not_outlive_the_timeouts(
    answer: bytes, options: dict[str, Any], reason: str
) -> None:
    with plain(dripping(answer)) as egress:
        proxy = FalProxy(key="k", egress_proxy=f"http://127.0.0.1:{egress.port}", **options)
        _, headers, content = get(proxy)
    assert headers["x-fal-proxy-error"] == reason
    assert (b"egress proxy" in content) is (reason == "connect_timeout")


def test_egress_proxy_that_is_silent_leaves_time_for_nothing_more(
    upstream: RawServer,
) -> None:
    with plain(lambda connection: connection.wait_for_close()) as egress:
        proxy = FalProxy(
            key="k", egress_proxy=f"http://127.0.0.1:{egress.port}", connect_timeout=0.3
        )
        _, headers, content = get(proxy)
    assert headers["x-fal-proxy-error"] == "connect_timeout"
    assert b"The egress proxy did not connect to the target in time." in content

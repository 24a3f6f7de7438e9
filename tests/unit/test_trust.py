"""The certificates that calls trust, and what is said if there are none."""

from __future__ import annotations

import logging
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import urllib3
import webtest

from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._core.standalone import StandaloneProxy
from wsgi_fal_proxy._upstream.trust import trust_problem, trusting_context

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files and directories that a company may name, and a system without any store."""
    pem, directory = trustme.CA().cert_pem.bytes(), tmp_path / "directory"
    directory.mkdir()
    (tmp_path / "good.pem").write_bytes(pem)
    (tmp_path / "der.crt").write_bytes(ssl.PEM_cert_to_DER_cert(pem.decode()))
    (tmp_path / "empty.pem").touch()
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (directory / "not-hashed.pem").write_bytes(pem)
    hashed = tmp_path / "hashed"
    hashed.mkdir()
    (hashed / "good.pem").write_bytes(pem)
    name = subprocess.check_output(
        ["openssl", "x509", "-hash", "-noout", "-in", str(hashed / "good.pem")], text=True
    )
    (hashed / f"{name.strip()}.0").symlink_to(hashed / "good.pem")
    missing: Any = ssl.get_default_verify_paths()._replace(openssl_capath=str(tmp_path / "none"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: missing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


UNUSABLE = [
    pytest.param({"SSL_CERT_FILE": "missing.pem"}, "a file that does not exist", id="missing"),
    pytest.param({"SSL_CERT_FILE": "empty.pem"}, "a file without certificates in", id="empty"),
    pytest.param({"SSL_CERT_FILE": "key.pem"}, "a file without certificates in", id="key"),
    pytest.param({"SSL_CERT_FILE": "der.crt"}, "a file without certificates in PEM", id="der"),
    pytest.param({"SSL_CERT_FILE": "directory"}, "a directory", id="directory"),
    pytest.param({"SSL_CERT_FILE": "good.pem/x"}, "a file that cannot be read", id="unreadable"),
    pytest.param(
        {"SSL_CERT_FILE": "missing.pem", "SSL_CERT_DIR": "hashed"},
        "a file that does not exist",
        id="missing-beside-a-directory",
    ),
    pytest.param({"SSL_CERT_DIR": "missing"}, "no directory with certificates", id="no-directory"),
    pytest.param({"SSL_CERT_DIR": "good.pem"}, "no directory with certificates", id="dir-is-file"),
    pytest.param({"SSL_CERT_DIR": "directory"}, "no directory with certificates", id="not-hashed"),
    pytest.param({"SSL_CERT_FILE": ""}, "The system has no trusted certificates.", id="nothing"),
    pytest.param(
        {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""},
        "The system has no trusted certificates.",
        id="emptied",
    ),
]


@pytest.mark.parametrize(("variables", "why"), UNUSABLE)
def test_proxy_says_at_the_start_that_nothing_is_trusted(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    why: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = webtest.TestApp(StandaloneProxy(key="k"), lint=True)

    (error,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert error.getMessage().startswith("trust_unusable: ")
    assert why in error.getMessage()
    health = app.get("/healthz", status=500)
    assert health.json["reason"] == "trust_unusable"
    assert health.headers["x-fal-proxy-error"] == "trust_unusable"
    assert "SSL_CERT_FILE" in health.json["detail"]


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"SSL_CERT_FILE": "good.pem"}, id="file"),
        pytest.param({"SSL_CERT_DIR": "hashed"}, id="directory"),
        pytest.param({"SSL_CERT_DIR": "missing:hashed"}, id="one-of-several"),
        pytest.param({"SSL_CERT_FILE": "", "SSL_CERT_DIR": "hashed"}, id="file-empty"),
        pytest.param({"SSL_CERT_FILE": "good.pem", "SSL_CERT_DIR": ""}, id="directory-empty"),
    ],
)
def test_proxy_is_healthy_with_what_the_owner_names(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    webtest.TestApp(StandaloneProxy(key="k"), lint=True).get("/healthz", status=200)
    assert [one for one in caplog.records if one.levelno == logging.ERROR] == []


def test_trust_of_the_system_may_be_in_a_directory_alone(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: Any = ssl.get_default_verify_paths()
    there = paths._replace(openssl_capath=str(store / "hashed"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: there)
    assert trust_problem(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) == ""


def test_trust_is_the_owners_to_decide_in_a_pool_manager(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "missing.pem")
    proxy = FalProxy(key="k", pool_manager=urllib3.PoolManager(ssl_context=trusting_context()))
    proxy.check_trust()
    assert [one for one in caplog.records if one.levelno == logging.ERROR] == []


def as_python_3_13(*arguments: Any, **options: Any) -> ssl.SSLContext:
    context = CREATE_DEFAULT_CONTEXT(*arguments, **options)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


CREATE_DEFAULT_CONTEXT = ssl.create_default_context


@pytest.mark.parametrize(
    ("variables", "is_strict"),
    [
        ({}, True),
        ({"SSL_CERT_FILE": ""}, True),
        ({"SSL_CERT_FILE": "good.pem"}, False),
        ({"SSL_CERT_DIR": "hashed"}, False),
    ],
)
def test_trust_in_an_older_authority_is_for_the_owner_to_name(
    store: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_strict: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13)
    context = trusting_context()
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is is_strict
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name

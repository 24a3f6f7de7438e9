"""`wsgi_fal_proxy.wsgi`: as it is imported, and as gunicorn runs it."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import webtest

import wsgi_fal_proxy
from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import Served, serve_gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULE = "wsgi_fal_proxy.wsgi"


def forget() -> None:
    sys.modules.pop(MODULE, None)
    vars(wsgi_fal_proxy).pop("wsgi", None)


@pytest.fixture
def imported() -> Iterator[Callable[[], Any]]:
    """Gives what imports the module anew, and gives its application."""
    forget()
    yield lambda: importlib.import_module(MODULE).application
    forget()


def test_wsgi_application_is_configured_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, imported: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAL_KEY", "id:secret")
    monkeypatch.setenv("FAL_PROXY_PREFIX", "/fal")

    app = webtest.TestApp(imported(), lint=True)

    assert app.get("/healthz").json == {"status": "ok"}
    assert app.post("/fal", status=400).json["reason"] == "target_missing"
    assert app.post("/api/fal/proxy", status=404).json["reason"] == "not_found"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        pytest.param("", "key_missing", id="missing"),
        pytest.param("id:se cret", "key_malformed", id="malformed"),
    ],
)
def test_wsgi_application_logs_a_key_that_cannot_be_used_and_takes_it_later(
    monkeypatch: pytest.MonkeyPatch,
    imported: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
    key: str,
    reason: str,
) -> None:
    monkeypatch.setenv("FAL_KEY", key)
    app = webtest.TestApp(imported(), lint=True)

    ((logger, _, message),) = caplog.record_tuples
    assert logger == "wsgi_fal_proxy"
    assert message.startswith(f"{reason}: The fal ")
    assert "cret" not in message
    assert app.get("/healthz", status=500).json["reason"] == reason

    monkeypatch.setenv("FAL_KEY", "id:secret")

    assert app.get("/healthz").json == {"status": "ok"}


def test_wsgi_import_ends_at_a_bad_variable_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    imported: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAL_PROXY_READ_TIMEOUT", "soon")

    with pytest.raises(SystemExit) as caught:
        imported()

    assert caught.value.code == 4
    assert capsys.readouterr() == (
        "",
        "wsgi-fal-proxy: FAL_PROXY_READ_TIMEOUT='soon' cannot be used:"
        " it must be a number of seconds above 0, or none for no limit\n",
    )


# gunicorn


@pytest.fixture(scope="module")
def gunicorn() -> Iterator[Served]:
    with serve_gunicorn(MODULE, environment={"FAL_KEY": "id:secret"}) as served:
        yield served


def ask(
    method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        method, url, body=body, headers=headers, retries=False, timeout=WAIT_SECONDS
    )


def test_wsgi_in_gunicorn_serves_the_state_of_health(gunicorn: Served) -> None:
    response = ask("GET", f"{gunicorn.url}/healthz")

    assert response.status == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        pytest.param("/api/fal/proxy", 400, "target_missing", id="proxy"),
        pytest.param("/", 404, "not_found", id="beside"),
    ],
)
def test_wsgi_in_gunicorn_serves_refusals_with_their_reason(
    gunicorn: Served, path: str, status: int, reason: str
) -> None:
    body, headers = b'{"prompt": "a fox"}', {"Content-Type": "application/json"}

    response = ask("POST", gunicorn.url + path, body, headers)

    assert response.status == status
    assert response.headers["x-fal-proxy-error"] == reason
    assert response.json()["reason"] == reason


@pytest.mark.parametrize("path", ["/api/fal/proxy", "/elsewhere", "/healthz"])
def test_wsgi_in_gunicorn_lets_no_unwanted_content_become_the_next_request(
    gunicorn: Served, path: str
) -> None:
    with urllib3.HTTPConnectionPool("127.0.0.1", gunicorn.port, maxsize=1) as pool:
        hidden = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
        pool.request("POST", path, body=hidden, retries=False, timeout=WAIT_SECONDS)
        response = pool.request("GET", "/nowhere", retries=False, timeout=WAIT_SECONDS)

    assert response.json()["reason"] == "not_found"


def test_wsgi_in_gunicorn_serves_without_a_key_and_says_so() -> None:
    with serve_gunicorn(MODULE) as served:
        response = ask("GET", f"{served.url}/healthz")

    assert response.status == 500
    assert response.json()["reason"] == "key_missing"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="one-worker"),
        pytest.param(("--preload",), id="preload"),
    ],
)
def test_wsgi_in_gunicorn_ends_by_itself_at_a_bad_variable(options: tuple[str, ...]) -> None:
    environment = {"FAL_PROXY_PREFIX": "fal"}

    with serve_gunicorn(MODULE, *options, environment=environment) as served:
        status = served.process.wait(WAIT_SECONDS)
        log = served.log.read_text()

    assert status == 4
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if line.startswith("wsgi-fal-proxy: ")]
    assert lines == [
        "wsgi-fal-proxy: FAL_PROXY_PREFIX='fal' cannot be used: it must be a path that begins"
        " with '/' and does not end with one, such as '/api/fal/proxy'"
    ]


def test_wsgi_in_gunicorn_with_several_workers_ends_by_itself_too() -> None:
    environment = {"FAL_PROXY_PREFIX": "fal"}

    with serve_gunicorn(MODULE, "--workers", "3", environment=environment) as served:
        status = served.process.wait(WAIT_SECONDS)
        log = served.log.read_text()

    # gunicorn may print a traceback of its own for the second worker that ends like this.
    assert status != 0
    assert "wsgi-fal-proxy: FAL_PROXY_PREFIX='fal' cannot be used: " in log
    assert "SettingsError" not in log


def test_running_ends_what_serves_with_the_block() -> None:
    with serve_gunicorn(MODULE, "--workers", "2") as served:
        ask("GET", f"{served.url}/healthz")
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        ask("GET", f"{served.url}/healthz")
    assert served.process.returncode == 0

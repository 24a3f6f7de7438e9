"""The stand-alone proxy: the relay under its prefix, and its state of health."""

from __future__ import annotations

import io
import runpy
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest
import webtest

from wsgi_fal_proxy import FalProxyMiddleware, SettingsError
from wsgi_fal_proxy._core.standalone import StandaloneProxy

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy.testing import FakeFal


def served(site: StandaloneProxy) -> webtest.TestApp:
    return webtest.TestApp(site, lint=True)


def test_standalone_health_is_ok_with_a_key() -> None:
    response = served(StandaloneProxy(key="id:secret")).get("/healthz")

    assert response.status == "200 OK"
    assert response.json == {"status": "ok"}
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert response.headers["Cache-Control"] == "no-store"


def test_standalone_health_looks_up_a_key_in_the_environment_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = served(StandaloneProxy())
    assert app.get("/healthz", status=500).json["reason"] == "key_missing"

    monkeypatch.setenv("FAL_KEY", "id:secret")

    assert app.get("/healthz").json == {"status": "ok"}


def test_standalone_health_says_that_there_is_no_key() -> None:
    response = served(StandaloneProxy()).get("/healthz", status=500)

    detail = "The fal proxy has no key: set FAL_KEY on the server."
    assert response.json == {"detail": detail, "message": detail, "reason": "key_missing"}
    assert response.headers["x-fal-proxy-error"] == "key_missing"
    assert response.headers["Cache-Control"] == "no-store"


def test_standalone_health_tells_a_malformed_key_by_position() -> None:
    response = served(StandaloneProxy(key="id:se cret")).get("/healthz", status=500)

    assert response.json["reason"] == "key_malformed"
    assert "at position 6 is a space" in response.json["detail"]
    assert b"cret" not in response.body
    assert "cret" not in str(response.headers)


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        pytest.param("id:secret", "/healthz", 200, id="well"),
        pytest.param(" ", "/healthz", 500, id="unwell"),
        pytest.param("id:secret", "/", 404, id="nothing"),
    ],
)
def test_standalone_answers_head_like_get_without_the_content(
    key: str, path: str, status: int
) -> None:
    app = served(StandaloneProxy(key=lambda environ: key))

    got, head = app.get(path, status=status), app.head(path, status=status)

    assert got.body
    assert head.body == b""
    assert head.headerlist == got.headerlist


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthzz", "/api/fal/proxyfoo", "/api"])
def test_standalone_has_nothing_else(path: str) -> None:
    response = served(StandaloneProxy(key="id:secret")).get(path, status=404)

    assert response.json["reason"] == "not_found"
    assert response.headers["x-fal-proxy-error"] == "not_found"


def test_standalone_has_nothing_without_a_path_either() -> None:
    environ: WSGIEnvironment = {}
    setup_testing_defaults(environ)
    del environ["PATH_INFO"]
    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append(status)

    StandaloneProxy(key="id:secret")(environ, start_response)

    assert started == ["404 Not Found"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/healthz", 200, id="well"),
        pytest.param("/", 404, id="nothing"),
        pytest.param("/api/fal/proxy", 400, id="proxy"),
    ],
)
def test_standalone_reads_content_away_that_is_not_wanted(path: str, status: int) -> None:
    content = io.BytesIO(b"x" * 100_000)
    request = webtest.TestRequest.blank(path, method="POST")
    request.body_file = content
    request.content_length = 100_000

    served(StandaloneProxy(key="id:secret")).do_request(request, status=status)

    assert content.tell() == 100_000


@pytest.mark.parametrize("path", ["/api/fal/proxy", "/api/fal/proxy/", "/api/fal/proxy/below"])
def test_standalone_relays_under_its_prefix(path: str) -> None:
    response = served(StandaloneProxy(key="id:secret")).post(path, status=400)

    assert response.json["reason"] == "target_missing"


def test_standalone_prefix_can_be_chosen() -> None:
    app = served(StandaloneProxy(prefix="/fal", key="id:secret"))

    assert app.post("/fal", status=400).json["reason"] == "target_missing"
    assert app.post("/api/fal/proxy", status=404).json["reason"] == "not_found"


def test_standalone_refuses_a_prefix_over_the_health_path() -> None:
    with pytest.raises(SettingsError, match="prefix='/healthz' cannot be used"):
        StandaloneProxy(prefix="/healthz", key="id:secret")


def test_standalone_takes_the_options_of_the_proxy(fal: FakeFal) -> None:
    app = served(StandaloneProxy(key=fal.key, pool_manager=fal.pool_manager()))

    response = app.post_json(
        "/api/fal/proxy",
        {"prompt": "Why?"},
        headers={"x-fal-target-url": "https://fal.run/fal-ai/any-llm"},
    )

    assert response.json["partial"] is False
    assert [record.host for record in fal.requests] == ["fal.run"]


def test_standalone_refuses_a_wrong_option() -> None:
    with pytest.raises(SettingsError, match="did you mean read_timeout"):
        StandaloneProxy(read_timeouts=1)  # type: ignore[call-arg]


def test_standalone_can_be_wrapped() -> None:
    app = webtest.TestApp(
        FalProxyMiddleware(StandaloneProxy(key="id:secret"), prefix="/other"), lint=True
    )

    assert app.get("/healthz").json == {"status": "ok"}


def test_standalone_application_says_its_route_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAL_KEY", "k")
    with caplog.at_level("INFO", "wsgi_fal_proxy"):
        runpy.run_module("wsgi_fal_proxy.wsgi")
    assert [line for line in caplog.messages if line.startswith("Calls to fal go there directly")]
    assert "Calls to fal" not in capsys.readouterr().err

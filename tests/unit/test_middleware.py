"""What is the proxy's and what is the application's, and that the latter is left alone."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults

import pytest
import webtest

from wsgi_fal_proxy import FalProxyMiddleware, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tests.support.network import NetworkGuard
    from wsgi_fal_proxy.testing import FakeFal


class Content:
    """An application's iterable that counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"the "
        yield b"app"

    def close(self) -> None:
        self.closed += 1


class App:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[WSGIEnvironment, StartResponse]] = []
        self.content = Content()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls.append((environ, start_response))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return self.content


def not_called(  # type: ignore[empty-body]
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]: ...


def run(application: FalProxyMiddleware, path: str, script_name: str = "") -> bytes:
    """Serve one request as wsgiref's servers do; give the whole answer."""
    environ: WSGIEnvironment = {"PATH_INFO": path, "SCRIPT_NAME": script_name}
    setup_testing_defaults(environ)
    answer = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), answer, io.StringIO(), environ)
    handler.run(application)
    return answer.getvalue()


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        pytest.param("/api/fal/proxy", "/api/fal/proxy", id="itself"),
        pytest.param("/api/fal/proxy", "/api/fal/proxy/", id="slash"),
        pytest.param("/api/fal/proxy", "/api/fal/proxy/x/y", id="below"),
        pytest.param("/fal", "/fal//x", id="two-slashes"),
        pytest.param("/a b", "/a b", id="space"),
        pytest.param("/ü", "/Ã¼", id="non-ascii"),
        pytest.param("/ü", "/Ã¼/x", id="below-non-ascii"),
        pytest.param("/狐", "/狐".encode().decode("latin-1"), id="beyond-latin-1"),
    ],
)
@pytest.mark.parametrize("script_name", ["", "/mounted", "/api/fal/proxy"])
def test_middleware_answers_at_and_below_its_prefix(
    script_name: str, prefix: str, path: str
) -> None:
    answer = run(FalProxyMiddleware(not_called, prefix=prefix), path, script_name)

    assert b"x-fal-proxy-error: target_missing" in answer


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        pytest.param("/api/fal/proxy", "/api/fal/proxyfoo", id="longer-segment"),
        pytest.param("/api/fal/proxy", "/api/fal/prox", id="shorter-segment"),
        pytest.param("/api/fal/proxy", "/api/fal", id="above"),
        pytest.param("/api/fal/proxy", "/", id="root"),
        pytest.param("/api/fal/proxy", "", id="empty"),
        pytest.param("/api/fal/proxy", "/x/api/fal/proxy", id="within"),
        pytest.param("/api/fal/proxy", "/API/fal/proxy", id="case"),
        pytest.param("/api/fal/proxy", "//api/fal/proxy", id="two-slashes"),
        pytest.param("/ü", "/ü", id="latin-1"),
        pytest.param("/ü", "/Ã", id="half-a-character"),
    ],
)
@pytest.mark.parametrize("script_name", ["", "/mounted", "/api/fal/proxy"])
def test_middleware_leaves_all_else_to_the_application(
    script_name: str, prefix: str, path: str
) -> None:
    app = App()
    environ = {"SCRIPT_NAME": script_name, "PATH_INFO": path}

    answer = FalProxyMiddleware(app, prefix=prefix)(environ, lambda *_: bytes)

    assert answer is app.content


def test_middleware_leaves_a_request_without_a_path_to_the_application() -> None:
    app = App()

    assert FalProxyMiddleware(app)({}, lambda *_: bytes) is app.content


def test_middleware_does_not_touch_what_passes_through() -> None:
    app = App()
    environ: dict[str, Any] = {"PATH_INFO": "/x", "HTTP_X_FAL_TARGET_URL": "https://fal.run/"}
    before = dict(environ)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        assert (status, headers, exc_info) == ("200 OK", [("Content-Type", "text/plain")], None)

    answer = FalProxyMiddleware(app)(environ, start_response)

    ((seen_environ, seen_start_response),) = app.calls
    assert seen_environ is environ
    assert environ == before
    assert seen_start_response is start_response
    assert answer is app.content
    assert app.content.closed == 0


def test_middleware_leaves_close_of_what_passes_through_to_the_server() -> None:
    app = App()

    answer = run(FalProxyMiddleware(app), "/x")

    assert answer.endswith(b"\r\n\r\nthe app")
    assert app.content.closed == 1


def test_middleware_lets_an_application_replace_its_answer_by_exc_info() -> None:
    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            int("no number")
        except ValueError:
            start_response("503 Sorry", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = run(FalProxyMiddleware(failing), "/x")

    assert answer.startswith(b"HTTP/1.0 503 Sorry\r\n")
    assert answer.endswith(b"\r\n\r\nsorry")


def test_middleware_leaves_an_exception_of_the_application_to_the_server() -> None:
    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        FalProxyMiddleware(failing)({"PATH_INFO": "/x"}, lambda *_: bytes)


def test_middleware_relays_under_its_prefix(fal: FakeFal) -> None:
    middleware = FalProxyMiddleware(not_called, key=fal.key, pool_manager=fal.pool_manager())
    app = webtest.TestApp(middleware, lint=True)

    response = app.post_json(
        "/api/fal/proxy/below",
        {"prompt": "Why?"},
        headers={"x-fal-target-url": "https://fal.run/fal-ai/any-llm"},
    )

    assert response.json["partial"] is False
    assert [record.request_target for record in fal.requests] == ["/fal-ai/any-llm"]


def test_middleware_can_wrap_another(network: NetworkGuard) -> None:
    inner = FalProxyMiddleware(App(), prefix="/inner", key="id:secret")
    app = webtest.TestApp(FalProxyMiddleware(inner, prefix="/outer"), lint=True)

    assert app.post("/outer", status=400).json["reason"] == "target_missing"
    assert app.post("/inner", status=400).json["reason"] == "target_missing"
    assert app.get("/x").body == b"the app"
    assert network.dialled == []


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param("", id="empty"),
        pytest.param("/", id="slash"),
        pytest.param("fal", id="relative"),
        pytest.param("/fal/", id="ends-in-a-slash"),
        pytest.param("/fal?x", id="query"),
        pytest.param("/fal#x", id="fragment"),
        pytest.param("https://example.com/fal", id="url"),
        pytest.param("/\ud800", id="first-surrogate"),
        pytest.param("/\udfff", id="last-surrogate"),
        pytest.param(b"/fal", id="bytes"),
        pytest.param(None, id="none"),
        pytest.param(1, id="number"),
    ],
)
def test_middleware_refuses_a_prefix_that_cannot_be_used(prefix: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxyMiddleware(not_called, prefix=prefix)

    assert str(caught.value) == (
        f"prefix={prefix!r} cannot be used: it must be a path that begins with '/' and does not end"
        " with one, such as '/api/fal/proxy'"
    )


@pytest.mark.parametrize("prefix", ["/\ud7ff", "/\ue000"])
def test_middleware_takes_a_prefix_beside_the_surrogates(prefix: str) -> None:
    path = prefix.encode().decode("latin-1")

    answer = run(FalProxyMiddleware(not_called, prefix=prefix), path)

    assert b"x-fal-proxy-error: target_missing" in answer


@pytest.mark.parametrize(
    "app", [pytest.param(None, id="none"), pytest.param("module:app", id="text")]
)
def test_middleware_cannot_wrap_what_is_no_application(app: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxyMiddleware(app)

    assert (
        str(caught.value)
        == f"app={app!r} cannot be used: it must be a WSGI application, which can be called"
    )


def test_middleware_refuses_an_unknown_option() -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxyMiddleware(not_called, read_timeouts=5)  # type: ignore[call-arg]

    assert str(caught.value) == (
        "read_timeouts=5 cannot be used: there is no such option; did you mean read_timeout?"
    )


def test_middleware_takes_options_by_name_alone() -> None:
    with pytest.raises(TypeError, match="positional"):
        FalProxyMiddleware(not_called, "/fal")  # type: ignore[call-arg]


def test_middleware_tells_of_the_prefix_where_it_is_misspelled() -> None:
    with pytest.raises(SettingsError, match="did you mean prefix"):
        FalProxyMiddleware(lambda environ, start_response: [], prefixx="/fal")  # type: ignore[call-arg]

"""Decisions in their order, the header rules on the wire, keys, and what is never said."""

from __future__ import annotations

import io
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import webtest

from tests.support.environs import JSON, RUN, TARGET, answer_to
from tests.support.raw_server import RawServer
from wsgi_fal_proxy import FalProxy, KeyFile, SettingsError, __version__
from wsgi_fal_proxy._core.exchange import Exchange
from wsgi_fal_proxy._core.recorder import NullRecorder
from wsgi_fal_proxy._fal.key import Hidden, Key
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy.errors import FalProxyError

if TYPE_CHECKING:
    from pathlib import Path
    from wsgiref.types import WSGIEnvironment

    from tests.support.network import NetworkGuard
    from wsgi_fal_proxy.testing import FakeFal


# Each request here is wrong in this respect and in all those after it.
_ORDER: list[tuple[int, str, dict[str, Any]]] = [
    (405, "method_not_allowed", {"REQUEST_METHOD": "DELETE"}),
    (400, "target_missing", {"HTTP_X_FAL_TARGET_URL": ""}),
    (412, "target_host_not_allowed", {"HTTP_X_FAL_TARGET_URL": "https://example.com/"}),
    (415, "unsupported_media_type", {"CONTENT_TYPE": "text/plain"}),
    (413, "body_too_large", {"CONTENT_LENGTH": "5", "CONTENT_TYPE": "application/json"}),
    (500, "key_missing", {}),
]


@pytest.mark.parametrize("step", range(len(_ORDER)), ids=[reason for _, reason, _ in _ORDER])
def test_proxy_decides_in_the_contracts_order(
    fal: FakeFal, network: NetworkGuard, step: int
) -> None:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "HTTP_X_FAL_TARGET_URL": RUN,
        "CONTENT_LENGTH": "0",
    }
    for _, _, wrong in reversed(_ORDER[step:]):
        environ |= wrong
    proxy = FalProxy(max_body_bytes=4, pool_manager=fal.pool_manager())
    status, headers, _ = answer_to(proxy, **environ)
    assert (status[:3], headers["x-fal-proxy-error"]) == (str(_ORDER[step][0]), _ORDER[step][1])
    assert fal.requests == []
    assert network.dialled == []


def test_error_response_is_json_with_fals_field_the_clients_and_a_reason(
    app: webtest.TestApp,
) -> None:
    answer = app.get("/", status=400)
    detail = "The header x-fal-target-url is missing or empty. It must name the fal URL to call."
    assert answer.json == {"detail": detail, "message": detail, "reason": "target_missing"}
    assert answer.headers["x-fal-proxy-error"] == "target_missing"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


def test_proxy_lets_no_answer_of_fals_pass_for_one_of_ours(
    app: webtest.TestApp, fal: FakeFal
) -> None:
    fal.answer_next(500, "{}", x_fal_proxy_error="key_missing")
    assert "x-fal-proxy-error" not in app.get("/", headers={TARGET: RUN}, status=500).headers


@pytest.mark.parametrize(
    "target",
    [
        "https://fal.run@evil.example/",
        "https://user:password@fal.run/",
        "https://evil.example\\.fal.run/",
        "https://evil.example/.fal.run",
        "https://evil.example?.fal.run",
        "https://evil.example#.fal.run",
        "https://fal.run.evil.example/",
        "https://evilfal.run/",
        "https://fal.run:8443/",
        "https://fal.run:443:443/",
        "https://fal.run:/",
        "http://fal.run/",
        "ftp://fal.run/",
        "javascript:alert(1)",
        "//fal.run/",
        "https:/fal.run/",
        "https:fal.run/",
        "https:\\\\fal.run/",
        "https://fal.run./",
        "https://.fal.run/",
        "https://a..fal.run/",
        "https://-a.fal.run/",
        "https://a-.fal.run/",
        "https://xn--fal-9ja.fal.run/",
        "https://f\u00e4l.run/",
        "https://fal\u3002run/",
        "https://%66al.run/",
        "https://fal%2erun/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::1].fal.run/",
        "https://0x7f000001/",
        "https://fal.run/a b",
        "https://fal.run/\x00",
        "https://fal.run/\x7f",
        "https://fal.run/\t",
        "https://fal.run/\r\nX-Injected: 1",
        " https://fal.run/",
        "https://fal.run/ ",
        "https://fal.run/\u00e9",
        "https://fal.run/#fragment",
        "https://fal.run/a\\b",
        "https://" + "a" * 64 + ".fal.run/",
        "https://" + "a." * 125 + "fal.run/",
        "https://fal.run/" + "a" * 8_000,
        "https://fal.run/a,https://fal.run/b",
        "https://fal.run/a, https://fal.run/b",
        "https://fal.run/?a,https://evil.example/",
        "https://fal.run/?a,//evil.example/",
        "https://fal.run/?a,",
        "https://evil.example/,https://fal.run/",
        "\ud800",
        "\U0001f600",
    ],
)
def test_proxy_answers_412_to_a_hostile_target_and_looks_up_no_name(
    proxy: FalProxy, fal: FakeFal, network: NetworkGuard, target: str
) -> None:
    status, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=target)
    assert status == "412 Precondition Failed"
    assert headers["x-fal-proxy-error"] in {"target_invalid", "target_host_not_allowed"}
    assert fal.requests == []
    assert network.lookups == []
    assert network.dialled == []


@pytest.mark.parametrize(
    "request_target",
    [
        "/?a=%c3&b=%C3",
        "/?a[0]=1",
        "/?a=1+2;b",
        "/?a=1&a=2&&=&a",
        "/?'|\"<>`{}^",
        "/?",
        "/?a?b?c",
        "/a/../b/./c",
        "/a//b",
        "/%2e%2F%5c",
        "/a'b|c\"d<e>f^g`h{i}j[k]l",
        "/?a=https://example.com/x",
    ],
)
def test_proxy_sends_path_and_query_byte_for_byte(
    app: webtest.TestApp, fal: FakeFal, request_target: str
) -> None:
    app.get("/", headers={TARGET: f"https://fal.run{request_target}"}, status="*")
    assert [request.request_target for request in fal.requests] == [request_target]


def test_proxy_sends_exactly_these_headers_up(app: webtest.TestApp, fal: FakeFal) -> None:
    app.post(
        "/",
        b'{"prompt": "x"}',
        headers={
            TARGET: RUN,
            **JSON,
            "Accept": "text/event-stream",
            "Accept-Encoding": "gzip, br",
            "Authorization": "Bearer mine",
            "Connection": "keep-alive, X-Fal-Private",
            "Cookie": "session=1",
            "Forwarded": "for=1.2.3.4",
            "Keep-Alive": "timeout=5",
            "Origin": "https://app.example",
            "Proxy-Authorization": "Basic eA==",
            "Referer": "https://app.example/",
            "TE": "trailers",
            "Upgrade": "h2c",
            "User-Agent": "@fal-ai/client/1.10.1",
            "X-Custom": "1",
            "X-Fal-Client-Proxy": "mine",
            "X-Fal-Private": "1",
            "X-Fal-Queue-Priority": "low",
            "X-Forwarded-For": "1.2.3.4",
        },
    )
    assert fal.requests[0].headers == {
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "authorization": f"Key {fal.key}",
        "content-length": "15",
        "content-type": "application/json",
        "host": "fal.run",
        "user-agent": "@fal-ai/client/1.10.1",
        "x-fal-client-proxy": f"wsgi-fal-proxy/{__version__}",
        "x-fal-queue-priority": "low",
    }


def test_proxy_asks_for_json_without_an_accept(app: webtest.TestApp, fal: FakeFal) -> None:
    app.get("/", headers={TARGET: RUN}, status=422)
    assert fal.requests[0].headers["accept"] == "application/json"
    assert "user-agent" not in fal.requests[0].headers


def test_forward_headers_adds_names(fal: FakeFal) -> None:
    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), forward_headers=["X-Request-ID"])
    headers = {TARGET: RUN, "X-Request-Id": "7", "X-Other": "8"}
    webtest.TestApp(proxy, lint=True).get("/", headers=headers, status=422)
    assert fal.requests[0].headers["x-request-id"] == "7"
    assert "x-other" not in fal.requests[0].headers


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\x00", "\x7f", "\u20ac"])
@pytest.mark.parametrize("name", ["HTTP_ACCEPT", "HTTP_USER_AGENT", "HTTP_X_FAL_HINT"])
def test_proxy_answers_400_to_a_header_that_no_header_may_be(
    proxy: FalProxy, fal: FakeFal, name: str, value: str
) -> None:
    status, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN, **{name: value})
    assert (status, headers["x-fal-proxy-error"]) == ("400 Bad Request", "header_invalid")
    assert fal.requests == []


def test_proxy_answers_400_to_a_header_name_that_no_header_may_have(
    proxy: FalProxy, fal: FakeFal
) -> None:
    environ = {"HTTP_X_FAL_A B\r\nX-INJECTED": "1"}
    _, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN, **environ)
    assert headers["x-fal-proxy-error"] == "header_invalid"
    assert fal.requests == []


@pytest.mark.parametrize(
    ("key", "position"),
    [
        ("Key abc", 4),
        ('"abc"', 1),
        ("abc'", 4),
        ("abc\tdef", 4),
        ("\u00e9bc", 1),
        ("ab\x00", 3),
        ("ab\u2003c", 3),
    ],
)
def test_proxy_answers_500_to_a_key_with_a_stray_character_by_its_position(
    fal: FakeFal, caplog: pytest.LogCaptureFixture, key: str, position: int
) -> None:
    app = webtest.TestApp(FalProxy(key=key, pool_manager=fal.pool_manager()), lint=True)
    answer = app.get("/", headers={TARGET: RUN}, status=500)
    assert answer.json["reason"] == "key_malformed"
    assert f"at position {position} " in answer.json["detail"]
    assert key not in answer.text + caplog.text
    assert fal.requests == []


def test_proxy_strips_white_space_around_the_key(fal: FakeFal, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f" {fal.key}\r\n")
    app = webtest.TestApp(FalProxy(key=KeyFile(file), pool_manager=fal.pool_manager()), lint=True)
    app.post_json("/", {"prompt": "x"}, headers={TARGET: RUN})


def test_proxy_takes_a_key_per_request_from_a_callable(fal: FakeFal) -> None:
    keys = {"a": fal.key, "b": "other"}
    app = webtest.TestApp(
        FalProxy(
            key=lambda environ: keys[environ["HTTP_X_TENANT"]], pool_manager=fal.pool_manager()
        ),
        lint=True,
    )
    for tenant in ("a", "b", "a"):
        app.get("/", headers={TARGET: RUN, "X-Tenant": tenant}, status="*")
    assert [request.headers["authorization"] for request in fal.requests] == [
        f"Key {fal.key}",
        "Key other",
        f"Key {fal.key}",
    ]


def test_proxy_answers_500_to_a_key_callable_that_fails(
    fal: FakeFal, caplog: pytest.LogCaptureFixture
) -> None:
    def key(environ: WSGIEnvironment) -> str:
        message = "no good: sk-secret"
        raise RuntimeError(message)

    app = webtest.TestApp(FalProxy(key=key, pool_manager=fal.pool_manager()), lint=True)
    answer = app.get("/", headers={TARGET: RUN}, status=500)
    assert answer.json["reason"] == "key_missing"
    assert "RuntimeError" in caplog.text
    assert "sk-secret" not in answer.text + caplog.text


def test_proxy_answers_500_to_a_key_callable_that_gives_no_text(fal: FakeFal) -> None:
    proxy = FalProxy(key=lambda _: b"abc", pool_manager=fal.pool_manager())  # type: ignore[arg-type,return-value]
    answer = webtest.TestApp(proxy, lint=True).get("/", headers={TARGET: RUN}, status=500)
    assert answer.json["reason"] == "key_malformed"
    assert fal.requests == []


def test_proxy_answers_500_in_json_without_a_traceback_to_a_bug_of_ours(
    proxy: FalProxy, caplog: pytest.LogCaptureFixture
) -> None:
    # An environ that breaks PEP 3333: header values are text.
    status, headers, content = answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN, HTTP_X_FAL_HINT=object())
    assert (status, headers["x-fal-proxy-error"]) == (
        "500 Internal Server Error",
        "internal_error",
    )
    assert b"Traceback" not in content
    assert "TypeError" in caplog.text


def test_proxy_logs_no_refusals_but_what_the_owner_should_know(
    fal: FakeFal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsgi_fal_proxy")
    app = webtest.TestApp(FalProxy(pool_manager=fal.pool_manager()), lint=True)
    caplog.clear()
    app.get("/", status=400)
    assert caplog.messages == []
    app.get("/", headers={TARGET: RUN}, status=500)
    assert caplog.messages == ["key_missing: The fal proxy has no key: set FAL_KEY on the server."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": 1}, "colour=1 cannot be used: there is no such option; there is"),
        ({"read_timout": 1}, "read_timout=1 cannot be used: there is no such option; did you"),
        (
            {"read_timeout": True},
            "read_timeout=True cannot be used: it must be a number of seconds",
        ),
        ({"pool_manager": 1}, "pool_manager=1 cannot be used: it must be a urllib3.PoolManager"),
        ({"key": 17}, "key=<redacted> cannot be used: "),
    ],
)
def test_proxy_refuses_a_wrong_option_and_says_what_is_accepted(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxy(**options)
    assert str(caught.value).startswith(message)


def test_proxy_does_not_show_the_key_in_a_repr(fal: FakeFal) -> None:
    proxy = FalProxy(key="sk-secret", pool_manager=fal.pool_manager())
    assert "sk-secret" not in repr(vars(proxy))
    credentials = Key("sk-secret")
    assert "sk-secret" not in repr(credentials.authorization({}))
    assert "sk-secret" not in repr(vars(credentials))
    assert repr(Hidden("x")) == "<redacted>"


def test_proxy_shows_the_key_in_no_frame_of_an_error(tmp_path: Path) -> None:
    with RawServer(lambda connection: connection.reset()) as server:
        proxy = FalProxy(key="sk-secret", pool_manager=server.pool_manager(tmp_path))
        environ: WSGIEnvironment = {
            "HTTP_X_FAL_TARGET_URL": RUN,
            "REQUEST_METHOD": "GET",
            "wsgi.input": io.BytesIO(),
        }
        body = RequestBody(environ, 10)
        exchange = Exchange(environ, lambda *_: lambda data: None, body, NullRecorder(), None)
        with pytest.raises(FalProxyError) as caught:
            proxy._send(exchange)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "sk-secret" not in "".join(shown.format())

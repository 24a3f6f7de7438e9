"""The eight points of fal's proxy formula, each by its number (../README.md names the source)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest

from wsgi_fal_proxy import FalProxy, FalProxyMiddleware
from wsgi_fal_proxy.testing import FakeFal, FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

RUN = "https://fal.run/fal-ai/flux/dev"
STATUS = "https://queue.fal.run/fal-ai/flux/requests/1/status"
TARGET = "x-fal-target-url"


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_formula_point_1_one_endpoint_takes_all_requests_at_api_fal_proxy_by_default(
    fal: FakeFal,
) -> None:
    app = webtest.TestApp(
        FalProxyMiddleware(hello, key=fal.key, pool_manager=fal.pool_manager()), lint=True
    )
    for target in (RUN, "https://rest.fal.ai/tokens/"):
        app.post_json("/api/fal/proxy", {}, headers={TARGET: target}, status="*")
    assert [request.host for request in fal.requests] == ["fal.run", "rest.fal.ai"]
    assert app.get("/").text == "hello"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_formula_point_2_get_and_post_are_supported(
    app: webtest.TestApp, fal: FakeFal, method: str
) -> None:
    app.request("/", method=method, headers={TARGET: RUN}, status="*")
    assert [request.method for request in fal.requests] == [method]


@pytest.mark.parametrize("method", ["DELETE", "HEAD", "OPTIONS", "PATCH", "PUT", "TRACE", "FOO"])
def test_formula_point_2_any_other_method_is_405_with_allow(
    proxy: FalProxy, fal: FakeFal, method: str
) -> None:
    # Without the lint, which does not know every method.
    app = webtest.TestApp(proxy, lint=False)
    answer = app.request("/", method=method, headers={TARGET: RUN}, status=405)
    assert answer.headers["Allow"] == "GET, POST"
    assert answer.headers["x-fal-proxy-error"] == "method_not_allowed"
    assert fal.requests == []


@pytest.mark.parametrize("prefix", ["", "workflows/", "comfy/"])
def test_formula_point_2_put_is_relayed_for_a_queue_cancel(
    app: webtest.TestApp, fal: FakeFal, prefix: str
) -> None:
    target = f"https://queue.fal.run/{prefix}fal-ai/flux/requests/1/cancel"
    # As fal's client does it: no content, and a content type all the same.
    headers = {TARGET: target, "Content-Type": "application/json"}
    app.put("/", headers=headers, status=404)
    assert [(request.method, request.body) for request in fal.requests] == [("PUT", b"")]


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        RUN,
        "https://evil.example/",
        f"{STATUS}",
        "https://rest.fal.ai/a/b/requests/1/cancel",
    ],
)
def test_formula_point_2_every_other_put_is_405(
    app: webtest.TestApp, fal: FakeFal, target: str | None
) -> None:
    headers = {} if target is None else {TARGET: target}
    answer = app.put("/", headers=headers, status=405)
    assert answer.json["reason"] == "method_not_allowed"
    assert fal.requests == []


@pytest.mark.parametrize(
    "headers", [{}, {TARGET: ""}, {TARGET: " "}], ids=["none", "empty", "blank"]
)
def test_formula_point_3_no_target_is_400(
    app: webtest.TestApp, fal: FakeFal, headers: dict[str, str]
) -> None:
    assert app.get("/", headers=headers, status=400).json["reason"] == "target_missing"
    assert fal.requests == []


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("not a url", "target_invalid"),
        ("http://fal.run/x", "target_invalid"),
        ("https://example.com/", "target_host_not_allowed"),
        ("https://fal.run.example.com/", "target_host_not_allowed"),
        ("https://evilfal.run/", "target_host_not_allowed"),
    ],
)
def test_formula_point_3_a_target_that_is_no_url_or_not_fals_is_412(
    app: webtest.TestApp, fal: FakeFal, target: str, reason: str
) -> None:
    assert app.get("/", headers={TARGET: target}, status=412).json["reason"] == reason
    assert fal.requests == []


@pytest.mark.parametrize(
    "host", ["fal.ai", "fal.run", "queue.fal.run", "rest.alpha.fal.ai", "a.b.c.fal.run"]
)
def test_formula_point_3_fals_domains_are_accepted_at_any_depth(fal: FakeFal, host: str) -> None:
    # In plain text, since the fake fal's certificate does not name every host there could be.
    plain = FakeFalPoolManager(int(fal.url.rpartition(":")[2]))
    app = webtest.TestApp(FalProxy(key=fal.key, pool_manager=plain))
    app.get("/", headers={TARGET: f"https://{host}/"}, status=404)
    assert [request.host for request in fal.requests] == [host]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="utf-8"',
    ],
)
def test_formula_point_4_a_json_body_is_relayed(
    app: webtest.TestApp, fal: FakeFal, content_type: str
) -> None:
    headers = {TARGET: RUN, "Content-Type": content_type}
    app.post("/", b'{"prompt": "x"}', headers=headers)
    assert [request.body for request in fal.requests] == [b'{"prompt": "x"}']
    assert fal.requests[0].headers["content-type"] == content_type


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/json5",
        "application/x-www-form-urlencoded",
        "application/json, text/plain",
        "multipart/form-data; boundary=application/json",
    ],
)
def test_formula_point_4_any_other_body_is_415(
    proxy: FalProxy, fal: FakeFal, content_type: str
) -> None:
    headers = {TARGET: RUN, "Content-Type": content_type}
    answer = webtest.TestApp(proxy, lint=False).post("/", b"{}", headers=headers, status=415)
    assert answer.json["reason"] == "unsupported_media_type"
    assert fal.requests == []


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_formula_point_4_without_a_body_the_content_type_does_not_matter(
    app: webtest.TestApp, fal: FakeFal, method: str, content_type: str
) -> None:
    headers = {TARGET: RUN, "Content-Type": content_type}
    app.request("/", method=method, headers=headers, status="*")
    assert [request.body for request in fal.requests] == [b""]


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"FAL_KEY": "a:b"}, "a:b"),
        ({"FAL_KEY_ID": "a", "FAL_KEY_SECRET": "b"}, "a:b"),
        ({"FAL_KEY": "k", "FAL_KEY_ID": "a", "FAL_KEY_SECRET": "b"}, "k"),
    ],
    ids=["FAL_KEY", "FAL_KEY_ID and FAL_KEY_SECRET", "FAL_KEY comes first"],
)
def test_formula_point_5_the_key_comes_from_the_environment(
    fal: FakeFal, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], key: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = webtest.TestApp(FalProxy(pool_manager=fal.pool_manager()), lint=True)
    app.get("/", headers={TARGET: RUN, "Authorization": "Bearer the caller's own"}, status=401)
    assert [request.headers["authorization"] for request in fal.requests] == [f"Key {key}"]


def test_formula_point_6_the_body_comes_back_unchanged(app: webtest.TestApp, fal: FakeFal) -> None:
    content = '{"a": [1, 2.50, "é\\u00e9"],\n "b": null}\n\n'
    fal.answer_next(200, content)
    assert app.get("/", headers={TARGET: RUN}).body == content.encode()


@pytest.mark.parametrize(
    "status", [200, 201, 202, 204, 301, 304, 400, 401, 404, 422, 429, 500, 503]
)
def test_formula_point_7_the_status_comes_back_unchanged(
    proxy: FalProxy, fal: FakeFal, status: int
) -> None:
    fal.answer_next(status, location="https://fal.run/elsewhere")
    # Without the lint, which wants no content type on 204 and 304.
    answer = webtest.TestApp(proxy, lint=False).get("/", headers={TARGET: RUN}, status=status)
    assert "x-fal-proxy-error" not in answer.headers
    assert len(fal.requests) == 1


def test_formula_point_8_the_headers_come_back_but_for_length_and_coding(
    proxy: FalProxy, fal: FakeFal
) -> None:
    fal.answer_next(
        200, "{}", x_fal_request_id="abc", etag='"1"', access_control_allow_origin="*",
        set_cookie="a=1; Path=/", content_encoding="identity",
    )  # fmt: skip
    headers = webtest.TestApp(proxy, lint=True).get("/", headers={TARGET: RUN}).headers
    assert headers["x-fal-request-id"] == "abc"
    assert headers["etag"] == '"1"'
    assert headers["set-cookie"] == "a=1; Path=/"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["content-length"] == "2"
    assert "content-encoding" not in headers


def test_proxy_is_a_wsgi_application_by_the_reference_validator(fal: FakeFal) -> None:
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(), "HTTP_X_FAL_TARGET_URL": RUN}
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = ""
    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append(status)
        return lambda data: None

    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager())
    iterable = validator(proxy)(environ, start_response)
    content = b"".join(iterable)
    iterable.close()  # type: ignore[attr-defined]
    assert started == ["422 UNPROCESSABLE ENTITY"]
    assert content.startswith(b'{"detail": [{')

"""The public API as a program with types uses it: mypy reads this file, and pytest runs it.

A mistake has its `type: ignore`, of which mypy reports those that are not needed: so each shows
that the mistake is found before the program runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import pytest
import urllib3
from werkzeug.test import Client

from wsgi_fal_proxy import (
    STRICT_URLS,
    Allow,
    CallRecord,
    FalProxy,
    FalProxyError,
    FalProxyMiddleware,
    FalRequest,
    KeyFile,
    Refuse,
    SettingsError,
    __version__,
    allow_anyone,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_fal_proxy.testing import FakeFal


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def key_of(environ: WSGIEnvironment) -> str:
    return str(environ["tenant.fal_key"])


def authorize(request: FalRequest) -> Allow | Refuse:
    assert_type(request.environ, dict[str, Any])
    assert_type(request.method, str)
    assert_type(request.target.host, str)
    assert_type(request.endpoint, str | None)
    assert_type(request.operation.spends, bool)
    if request.endpoint is None:
        return Refuse(403, "Not this.")
    return Allow(identity=request.environ["REMOTE_USER"])


def observe(record: CallRecord) -> None:
    assert_type(record.identity, str | None)
    assert_type(record.status, int | None)
    assert_type(record.seconds, float)
    assert_type(record.truncated, bool)


def test_types_make_the_proxy_a_wsgi_application() -> None:
    wrapped: WSGIApplication = FalProxyMiddleware(hello, prefix="/fal", key=KeyFile("key"))
    twice: WSGIApplication = FalProxyMiddleware(wrapped, authorize=allow_anyone)
    mounted: WSGIApplication = FalProxy(
        key=key_of,
        authorize=authorize,
        observer=observe,
        allowed_urls=STRICT_URLS,
        allowed_endpoints=["fal-ai/flux/dev"],
        limits=["20/minute", "1000/day global"],
        costs={"fal-ai/veo3/**": 20},
        cors_origins=("https://app.example.com",),
        connect_timeout=5,
        read_timeout=None,
        total_timeout=600.0,
        max_concurrent=48,
        max_body_bytes=1_000_000,
        forward_headers={"x-request-id"},
        pool_manager=urllib3.PoolManager(),
    )
    assert callable(twice)
    assert callable(mounted)
    assert_type(__version__, str)


def test_types_fit_a_callable_with_types(fal: FakeFal) -> None:
    proxy = FalProxy(
        key=key_of, authorize=authorize, observer=observe, pool_manager=fal.pool_manager()
    )
    client = Client(FalProxyMiddleware(hello, prefix="/other"))
    assert client.get("/").data == b"hello"
    client = Client(proxy)
    of_the_app = {"tenant.fal_key": fal.key, "REMOTE_USER": "ada"}

    def status(target: str) -> int:
        headers = {"x-fal-target-url": target}
        answer = client.post("/", json={}, headers=headers, environ_overrides=of_the_app)
        return answer.status_code

    assert status("https://fal.run/") == 403
    assert status("https://fal.run/fal-ai/flux/dev") == 422


def test_types_of_errors_are_there() -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxy(read_timeout=0)
    assert_type(caught.value.name, str)
    assert_type(caught.value.accepted, str)
    with pytest.raises(FalProxyError) as missing:
        FalProxy().check_key({})
    assert_type(missing.value.reason, str)
    assert_type(missing.value.detail, str)


def test_types_find_mistakes_before_the_program_runs() -> None:
    with pytest.raises(SettingsError):
        FalProxy(read_timeouts=5)  # type: ignore[call-arg]
    with pytest.raises(SettingsError):
        FalProxy(read_timeout="5")  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        FalProxyMiddleware("app")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        FalProxyMiddleware(hello, "/fal")  # type: ignore[call-arg]
    with pytest.raises(SettingsError):
        FalProxy(authorize=True)  # type: ignore[arg-type]

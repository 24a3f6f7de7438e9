from __future__ import annotations

from typing import Any

import pytest

from wsgi_fal_proxy._fal.headers import (
    CLIENT_PROXY,
    request_headers,
    response_headers,
)
from wsgi_fal_proxy._http.fields import Fields, environ_key, nominated
from wsgi_fal_proxy._version import __version__
from wsgi_fal_proxy.errors import HeaderInvalid

OURS = [
    ("Host", "queue.fal.run"),
    ("Authorization", "Key k"),
    ("Accept-Encoding", "identity"),
    ("X-Fal-Client-Proxy", CLIENT_PROXY),
]
ACCEPT = ("Accept", "application/json")


def sent(environ: dict[str, Any], *forwarded: str) -> list[tuple[str, str]]:
    return request_headers(
        environ, host="queue.fal.run", authorization="Key k", forwarded=frozenset(forwarded)
    )


def test_request_headers_always_have_our_own() -> None:
    assert sent({}) == [*OURS, ACCEPT]


def test_client_proxy_header_names_the_package_and_its_version() -> None:
    assert f"wsgi-fal-proxy/{__version__}" == CLIENT_PROXY


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        pytest.param({"HTTP_ACCEPT": "image/*"}, [("Accept", "image/*")], id="accept"),
        pytest.param({"HTTP_ACCEPT": ""}, [ACCEPT], id="accept-empty"),
        pytest.param(
            {"CONTENT_TYPE": "application/json; charset=utf-8"},
            [ACCEPT, ("Content-Type", "application/json; charset=utf-8")],
            id="content-type",
        ),
        pytest.param({"CONTENT_TYPE": ""}, [ACCEPT], id="content-type-empty"),
        pytest.param({"HTTP_USER_AGENT": "a/1"}, [ACCEPT, ("User-Agent", "a/1")], id="user-agent"),
        pytest.param({"HTTP_USER_AGENT": ""}, [ACCEPT], id="user-agent-empty"),
        pytest.param(
            {"HTTP_X_FAL_QUEUE_PRIORITY": "low", "HTTP_X_FAL_NO_RETRY": "1"},
            [ACCEPT, ("X-Fal-Queue-Priority", "low"), ("X-Fal-No-Retry", "1")],
            id="x-fal",
        ),
        pytest.param({"HTTP_X_FAL_A": ""}, [ACCEPT, ("X-Fal-A", "")], id="x-fal-empty"),
        pytest.param({"HTTP_X_FAL_A": "\xe9\tb"}, [ACCEPT, ("X-Fal-A", "\xe9\tb")], id="latin-1"),
        pytest.param(
            {"HTTP_X_FAL_TARGET_URL_2": "a"},
            [ACCEPT, ("X-Fal-Target-Url-2", "a")],
            id="longer-name",
        ),
    ],
)
def test_request_headers_have_those_of_the_client(
    environ: dict[str, Any], headers: list[tuple[str, str]]
) -> None:
    assert sent(environ) == [*OURS, *headers]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("HTTP_X_FAL_TARGET_URL", id="target"),
        pytest.param("HTTP_X_FAL_CLIENT_PROXY", id="client-proxy"),
        pytest.param("HTTP_AUTHORIZATION", id="authorization"),
        pytest.param("HTTP_COOKIE", id="cookie"),
        pytest.param("HTTP_HOST", id="host"),
        pytest.param("HTTP_ORIGIN", id="origin"),
        pytest.param("HTTP_REFERER", id="referer"),
        pytest.param("HTTP_X_FORWARDED_FOR", id="x-forwarded-for"),
        pytest.param("HTTP_FORWARDED", id="forwarded"),
        pytest.param("HTTP_X_REAL_IP", id="x-real-ip"),
        pytest.param("HTTP_VIA", id="via"),
        pytest.param("HTTP_ACCEPT_ENCODING", id="accept-encoding"),
        pytest.param("HTTP_CONTENT_ENCODING", id="content-encoding"),
        pytest.param("HTTP_CONNECTION", id="connection"),
        pytest.param("HTTP_KEEP_ALIVE", id="keep-alive"),
        pytest.param("HTTP_TE", id="te"),
        pytest.param("HTTP_TRAILER", id="trailer"),
        pytest.param("HTTP_TRANSFER_ENCODING", id="transfer-encoding"),
        pytest.param("HTTP_UPGRADE", id="upgrade"),
        pytest.param("HTTP_EXPECT", id="expect"),
        pytest.param("HTTP_PROXY_AUTHORIZATION", id="proxy-authorization"),
        pytest.param("HTTP_X_FALSE", id="x-false"),
        pytest.param("HTTP_FAL_KEY", id="fal-key"),
        pytest.param("CONTENT_LENGTH", id="content-length"),
        pytest.param("REMOTE_ADDR", id="remote-addr"),
        pytest.param("X_FAL_A", id="not-a-header"),
    ],
)
def test_request_headers_have_no_other(key: str) -> None:
    assert sent({key: "1"}) == [*OURS, ACCEPT]


def test_request_headers_have_those_that_the_option_names() -> None:
    environ = {"HTTP_X_REQUEST_ID": "7", "HTTP_X_OTHER": "8"}
    assert sent(environ, "HTTP_X_REQUEST_ID") == [*OURS, ACCEPT, ("X-Request-Id", "7")]


def test_request_headers_have_none_that_the_client_does_not_send() -> None:
    assert sent({}, "HTTP_X_REQUEST_ID") == [*OURS, ACCEPT]


def test_request_headers_never_have_the_target() -> None:
    environ = {"HTTP_X_FAL_TARGET_URL": "https://fal.run/"}
    assert sent(environ, "HTTP_X_FAL_TARGET_URL") == [*OURS, ACCEPT]


@pytest.mark.parametrize(
    ("connection", "headers"),
    [
        pytest.param("x-fal-a", [("X-Fal-B", "2")], id="one"),
        pytest.param("X-FAL-A", [("X-Fal-B", "2")], id="any-case"),
        pytest.param("close, x-fal-b ,\tx-fal-a", [], id="list"),
        pytest.param("x-fal", [("X-Fal-A", "1"), ("X-Fal-B", "2")], id="shorter-name"),
        pytest.param("", [("X-Fal-A", "1"), ("X-Fal-B", "2")], id="empty"),
    ],
)
def test_request_headers_have_none_that_connection_nominates(
    connection: str, headers: list[tuple[str, str]]
) -> None:
    environ = {"HTTP_X_FAL_A": "1", "HTTP_X_FAL_B": "2", "HTTP_CONNECTION": connection}
    assert sent(environ) == [*OURS, ACCEPT, *headers]


def test_request_headers_keep_our_own_whatever_connection_nominates() -> None:
    nominating = {"HTTP_CONNECTION": "host, authorization, accept-encoding, x-fal-client-proxy"}
    assert sent(nominating) == [*OURS, ACCEPT]


def test_request_headers_have_no_forwarded_one_that_connection_nominates() -> None:
    environ = {"HTTP_X_REQUEST_ID": "7", "HTTP_CONNECTION": "x-request-id"}
    assert sent(environ, "HTTP_X_REQUEST_ID") == [*OURS, ACCEPT]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a\r\nX-Evil: 1", id="line"),
        pytest.param("a\r", id="carriage-return"),
        pytest.param("a\n", id="newline"),
        pytest.param("\n", id="newline-alone"),
        pytest.param("\x00", id="null"),
        pytest.param("a\x1fb", id="control"),
        pytest.param("\x7f", id="delete"),
        pytest.param("\u0100", id="beyond-latin-1"),
        pytest.param("\u010a", id="newline-when-cut-to-eight-bits"),
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param(" " * 100_000 + "\n", id="spaces-then-newline"),
    ],
)
@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param("HTTP_ACCEPT", "Accept", id="accept"),
        pytest.param("CONTENT_TYPE", "Content-Type", id="content-type"),
        pytest.param("HTTP_USER_AGENT", "User-Agent", id="user-agent"),
        pytest.param("HTTP_X_FAL_A", "X-Fal-A", id="x-fal"),
        pytest.param("HTTP_X_REQUEST_ID", "X-Request-Id", id="forwarded"),
    ],
)
def test_request_headers_refuse_a_value_that_no_header_may_hold(
    key: str, name: str, value: str
) -> None:
    with pytest.raises(HeaderInvalid) as caught:
        sent({key: value}, "HTTP_X_REQUEST_ID")
    assert (caught.value.reason, caught.value.status[:3]) == ("header_invalid", "400")
    assert f" {name} " in caught.value.detail


def test_request_headers_do_not_check_a_header_that_stays_here() -> None:
    assert sent({"HTTP_COOKIE": "a\r\nb"}) == [*OURS, ACCEPT]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("x-request-id", "HTTP_X_REQUEST_ID", id="lower-case"),
        pytest.param("X-Request-ID", "HTTP_X_REQUEST_ID", id="mixed-case"),
        pytest.param("priority", "HTTP_PRIORITY", id="one-word"),
    ],
)
def test_environ_key_is_that_of_a_header(name: str, key: str) -> None:
    assert environ_key(name) == key


@pytest.mark.parametrize(
    ("values", "names"),
    [
        pytest.param([], set(), id="none"),
        pytest.param([""], set(), id="empty"),
        pytest.param([" ,, "], set(), id="commas"),
        pytest.param(["a"], {"a"}, id="one"),
        pytest.param(["a, b ,\tc"], {"a", "b", "c"}, id="list"),
        pytest.param(["a", "b, a"], {"a", "b"}, id="two-fields"),
    ],
)
def test_nominated_are_the_names_that_connection_has(values: list[str], names: set[str]) -> None:
    assert nominated(*values) == names


def test_response_headers_are_in_order_with_repeats() -> None:
    headers = [
        ("Set-Cookie", "a=1"),
        ("content-type", "application/json"),
        ("set-cookie", "b=2"),
        ("X-Fal-Request-Id", "7"),
        ("Set-Cookie", "a=1"),
        ("Location", "https://evil.example/"),
        ("Empty", ""),
        ("Date", "x"),
        ("Vary", "Accept-Encoding"),
    ]
    assert response_headers(Fields(headers)) == headers


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Connection", id="connection"),
        pytest.param("Keep-Alive", id="keep-alive"),
        pytest.param("Proxy-Authenticate", id="proxy-authenticate"),
        pytest.param("Proxy-Authentication-Info", id="proxy-authentication-info"),
        pytest.param("Proxy-Authorization", id="proxy-authorization"),
        pytest.param("Proxy-Connection", id="proxy-connection"),
        pytest.param("TE", id="te"),
        pytest.param("Trailer", id="trailer"),
        pytest.param("Transfer-Encoding", id="transfer-encoding"),
        pytest.param("Upgrade", id="upgrade"),
        pytest.param("Content-Length", id="content-length"),
        pytest.param("Content-Encoding", id="content-encoding"),
        pytest.param("Status", id="status"),
        pytest.param("X-Fal-Proxy-Error", id="our-error-header"),
        pytest.param("cOnTeNt-LeNgTh", id="any-case"),
    ],
)
def test_response_headers_have_none_that_is_not_end_to_end(name: str) -> None:
    assert response_headers(Fields([("A", "1"), (name, "2"), ("B", "3")])) == [
        ("A", "1"),
        ("B", "3"),
    ]


@pytest.mark.parametrize(
    ("connection", "headers"),
    [
        pytest.param([("Connection", "x-a")], [("X-B", "2")], id="one"),
        pytest.param([("CONNECTION", "X-A , close")], [("X-B", "2")], id="any-case"),
        pytest.param([("Connection", "x-a"), ("Connection", "x-b")], [], id="two-fields"),
        pytest.param([("Connection", "x")], [("X-A", "1"), ("X-B", "2")], id="shorter-name"),
    ],
)
def test_response_headers_have_none_that_connection_nominates(
    connection: list[tuple[str, str]], headers: list[tuple[str, str]]
) -> None:
    assert response_headers(Fields([("X-A", "1"), ("X-B", "2"), *connection])) == headers


def test_fields_are_read_once() -> None:
    assert response_headers(Fields([("Connection", "a"), ("A", "1"), ("B", "2")])) == [("B", "2")]

"""For a front end on another origin: what the proxy says, and what a browser makes of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import pytest
import webtest

from tests.support.environs import answer_to
from wsgi_fal_proxy import FalProxy, SettingsError
from wsgi_fal_proxy._settings.environment import options_from_environment
from wsgi_fal_proxy._settings.ini import options_from_ini

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_fal_proxy.testing import FakeFal

    Shared = Callable[..., webtest.TestApp]

APP: Final = "https://app.example.com"
RUN: Final = "https://fal.run/fal-ai/flux/dev"
TARGET: Final = "x-fal-target-url"
ASK: Final = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-fal-target-url",
}


def cors_headers(answer: webtest.TestResponse) -> dict[str, str]:
    shown = {"vary", "allow"}
    return {
        name.lower(): value
        for name, value in answer.headerlist
        if name.lower() in shown or name.lower().startswith("access-control-")
    }


@pytest.fixture
def shared(fal: FakeFal) -> Shared:
    """Make the relay for these origins, in front of the fake fal."""

    def shared(*origins: str, **options: Any) -> webtest.TestApp:
        options = {"key": fal.key, "pool_manager": fal.pool_manager(), **options}
        return webtest.TestApp(FalProxy(cors_origins=origins, **options), lint=True)

    return shared


# The option


@pytest.mark.parametrize(
    "origin",
    [
        APP,
        "https://app.example.com:8443",
        "http://10.0.0.1:3000",
        "http://[fd00::1]:3000",
        "http://intranet",
        "https://xn--fal-9ja.example",
        "http://app.example.com:443",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnop",
        "localhost",
    ],
)
def test_cors_origin_is_accepted_as_browsers_write_it(origin: str) -> None:
    FalProxy(cors_origins=[origin])


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://App.example.com",
        "HTTPS://app.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://app.example.com:",
        "https://app.example.com:080",
        "https://*.example.com",
        "https://user@app.example.com",
        "https://app.example.com\n",
        "https://\u00e4pp.example.com",
        "https://app..example.com",
        "https://",
        "null",
        "",
        "Localhost",
        b"https://app.example.com",
        None,
    ],
)
def test_cors_origin_that_is_none_is_refused_at_construction(origin: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxy(cors_origins=[origin])
    assert (caught.value.name, caught.value.value) == ("cors_origins", repr(origin))
    assert caught.value.accepted.startswith(
        "each must be 'localhost' or an origin as browsers write it"
    )


def test_cors_refuses_every_origin_at_once_with_the_reason() -> None:
    with pytest.raises(SettingsError, match="any page on the internet could spend your money"):
        FalProxy(cors_origins=[APP, "*"])


@pytest.mark.parametrize("origins", [APP, "*", None, {APP: 1}])
def test_cors_refuses_what_is_no_list_of_origins(origins: Any) -> None:
    with pytest.raises(SettingsError, match="a list of origins"):
        FalProxy(cors_origins=origins)


def test_cors_origins_are_named_in_the_environment_and_in_ini_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAL_PROXY_CORS_ORIGINS", f"{APP}, localhost")
    assert options_from_environment() == {"cors_origins": [APP, "localhost"]}
    assert options_from_ini({"cors_origins": f"{APP}\nlocalhost"}) == options_from_environment()


def test_cors_origin_that_is_bad_in_the_environment_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAL_PROXY_CORS_ORIGINS", "*")
    with pytest.raises(SettingsError) as caught:
        options_from_environment()
    assert str(caught.value) == (
        "FAL_PROXY_CORS_ORIGINS='*' cannot be used: name each origin, such as"
        " 'https://app.example.com': with '*', any page on the internet could spend your money"
    )


# Preflights


def test_cors_answers_a_preflight_of_an_allowed_origin(shared: Shared, fal: FakeFal) -> None:
    answer = shared(APP).options("/", headers=ASK, status=204)
    assert cors_headers(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, POST, PUT",
        "access-control-allow-headers": "content-type, x-fal-target-url",
        "access-control-max-age": "7200",
        "vary": "Origin, Access-Control-Request-Headers",
    }
    assert answer.body == b""
    assert "content-length" not in answer.headers
    assert fal.requests == []


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://APP.example.com",
        "http://localhost:3000",
        "localhost",
        "null",
        "",
    ],
)
def test_cors_allows_nothing_to_a_preflight_of_another_origin(shared: Shared, origin: str) -> None:
    answer = shared(APP).options("/", headers={**ASK, "Origin": origin}, status=204)
    assert cors_headers(answer) == {"vary": "Origin, Access-Control-Request-Headers"}


@pytest.mark.parametrize(
    "requested",
    ["", "a b", "x-a,,x-b", "x-a\u00e9", ",".join(["x-fal-a"] * 600)],
    ids=["none", "space", "empty", "non-ascii", "long"],
)
def test_cors_does_not_allow_header_names_that_are_none(shared: Shared, requested: str) -> None:
    headers = {**ASK, "Access-Control-Request-Headers": requested}
    answer = shared(APP).options("/", headers=headers, status=204)
    assert "access-control-allow-headers" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == APP


def test_cors_does_not_allow_a_preflight_into_a_private_network(shared: Shared) -> None:
    headers = {**ASK, "Access-Control-Request-Private-Network": "true"}
    answer = shared(APP).options("/", headers=headers, status=204)
    assert "access-control-allow-private-network" not in answer.headers


@pytest.mark.parametrize("absent", ["Origin", "Access-Control-Request-Method"])
def test_cors_leaves_405_to_options_that_is_no_preflight(shared: Shared, absent: str) -> None:
    headers = {name: value for name, value in ASK.items() if name != absent}
    answer = shared(APP).options("/", headers=headers, status=405)
    assert answer.headers["allow"] == "GET, POST"


def test_cors_preflight_with_content_leaves_the_connection_in_step(fal: FakeFal) -> None:
    content = io.BytesIO(b"{}GET")
    environ = {
        "REQUEST_METHOD": "OPTIONS",
        "HTTP_ORIGIN": APP,
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": "2",
        "wsgi.input": content,
    }
    proxy = FalProxy(cors_origins=[APP], pool_manager=fal.pool_manager())
    status, _, _ = answer_to(proxy, **environ)
    assert (status, content.read()) == ("204 No Content", b"GET")


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:8080"],
)
def test_cors_takes_localhost_for_this_machine_on_any_port(shared: Shared, origin: str) -> None:
    answer = shared("localhost").options("/", headers={**ASK, "Origin": origin}, status=204)
    assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost.evil.example",
        "http://evil.example:80",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.2",
        "http://localhost:3000/",
        "ftp://localhost",
        "http://localhost:123456",
        "localhost",
    ],
)
def test_cors_takes_localhost_for_no_other_machine(shared: Shared, origin: str) -> None:
    answer = shared("localhost").options("/", headers={**ASK, "Origin": origin}, status=204)
    assert "access-control-allow-origin" not in answer.headers


# Answers


def test_cors_shares_an_answer_of_fals_in_our_words_alone(shared: Shared, fal: FakeFal) -> None:
    fal.answer_next(
        429,
        "{}",
        x_fal_request_id="1",
        retry_after="3",
        x_ratelimit_remaining="0",
        vary="Accept-Encoding",
        access_control_allow_origin="*",
        access_control_expose_headers="x-other",
        set_cookie="a=b",
    )
    answer = shared(APP).get("/", headers={TARGET: RUN, "Origin": APP}, status=429)
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-fal-request-id", "retry-after", "x-ratelimit-remaining"} <= set(exposed)
    assert not {"set-cookie", "content-type", "vary"} & set(exposed)
    assert not [name for name in exposed if name.startswith("access-control-")]
    assert {
        name: value
        for name, value in cors_headers(answer).items()
        if name != "access-control-expose-headers"
    } == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "vary": "Accept-Encoding, Origin",
    }
    names = [name.lower() for name, _ in answer.headerlist]
    assert len(set(names)) == len(names)


def test_cors_shares_an_answer_of_our_own(shared: Shared) -> None:
    answer = shared(APP).get("/", headers={"Origin": APP}, status=400)
    assert cors_headers(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "x-fal-proxy-error",
        "vary": "Origin",
    }


def test_cors_shares_the_answer_to_another_origin_with_nobody(shared: Shared, fal: FakeFal) -> None:
    fal.answer_next(200, "{}", access_control_allow_origin="*")
    headers = {TARGET: RUN, "Origin": "https://evil.example"}
    assert cors_headers(shared(APP).get("/", headers=headers)) == {"vary": "Origin"}


def test_cors_answer_varies_by_origin_even_without_one(shared: Shared) -> None:
    answer = shared(APP).get("/", headers={TARGET: RUN}, status=422)
    assert cors_headers(answer) == {"vary": "Origin"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Accept, Origin", "Accept, Origin"),
        ("origin", "origin"),
        ("*", "*"),
        ("Accept-Origin", "Accept-Origin, Origin"),
    ],
)
def test_cors_merges_vary(shared: Shared, fal: FakeFal, theirs: str, ours: str) -> None:
    fal.answer_next(200, "{}", vary=theirs)
    answer = shared(APP).get("/", headers={TARGET: RUN, "Origin": APP})
    assert answer.headers.getall("vary") == [ours]


def test_cors_that_is_off_says_nothing_and_takes_nothing_away(
    app: webtest.TestApp, fal: FakeFal
) -> None:
    assert cors_headers(app.options("/", headers=ASK, status=405)) == {"allow": "GET, POST"}
    fal.answer_next(200, "{}", access_control_allow_origin="*")
    answer = app.get("/", headers={TARGET: RUN, "Origin": APP})
    assert cors_headers(answer) == {"access-control-allow-origin": "*"}

"""The allowlists: what they let through, what they refuse and why, and what they only report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import webtest

from tests.support.allowlists import body_of, check, request_of
from tests.support.environs import answer_to
from wsgi_fal_proxy import STRICT_URLS, Allow, FalProxy, FalRequest, Refuse, SettingsError
from wsgi_fal_proxy._core.proxy import _allowlist
from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy._policy.allowlist import Allowlist
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy.errors import (
    BodyAmbiguous,
    BodyIncomplete,
    EndpointNotAllowed,
    Refusal,
    TargetAmbiguous,
    TargetNotAllowed,
)

if TYPE_CHECKING:
    from wsgi_fal_proxy.testing import FakeFal

TARGET = "x-fal-target-url"
RUN = "https://fal.run/fal-ai/flux/dev"
TOKENS = "https://rest.fal.ai/tokens/"
SESSION = "https://wma.fal.run/session"


def test_policy_without_patterns_has_no_allowlist() -> None:
    assert _allowlist(Settings()) is None
    assert _allowlist(Settings(allowed_urls=[], allowed_endpoints=())) is None


# What fal's clients call: https://github.com/fal-ai/fal-js, fal-swift, fal-java, fal-dart.
CLIENTS = [
    ("POST", RUN),
    ("GET", f"{RUN}?prompt=a+fox%2c"),
    ("POST", f"{RUN}/stream"),
    ("POST", "https://queue.fal.run/fal-ai/flux/dev?fal_webhook=https%3A%2F%2Fexample.com"),
    ("GET", "https://queue.fal.run/fal-ai/flux/requests/1/status?logs=0"),
    ("GET", "https://queue.fal.run/fal-ai/flux/requests/1/status/stream?logs=1"),
    ("GET", "https://queue.fal.run/fal-ai/flux/requests/1"),
    ("PUT", "https://queue.fal.run/fal-ai/flux/requests/1/cancel"),
    ("POST", "https://fal.run/workflows/me/mine"),
    ("POST", "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"),
    ("POST", "https://rest.fal.ai/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"),
    ("POST", "https://rest.alpha.fal.ai/storage/upload/initiate"),
    ("POST", TOKENS),
    ("POST", "https://rest.alpha.fal.ai/tokens/"),
    ("POST", "https://wma.fal.run/ice"),
    ("POST", SESSION),
    ("POST", "https://wma.fal.run/session/heartbeat"),
]


@pytest.mark.parametrize(("method", "url"), CLIENTS)
def test_strict_urls_allow_what_fals_clients_call(method: str, url: str) -> None:
    check(Allowlist(STRICT_URLS, None), method, url)


@pytest.mark.parametrize(
    "url",
    [
        "https://fal.ai/",
        "https://api.fal.ai/v1/models",
        "https://rest.fal.ai/",
        "https://rest.fal.ai/billing/user_balance",
        "https://rest.fal.ai/storage/upload/initiate?storage_type=gcs",
        "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3&x=1",
        "https://rest.fal.ai/storage/upload/initiate/",
        "https://rest.fal.ai/tokens/x",
        "https://rest.fal.ai/tokens/?x",
        "https://rest.beta.fal.ai/tokens/",
        "https://wma.fal.run/",
        "https://wma.fal.run/session?x",
        "https://other.fal.run/fal-ai/flux",
    ],
)
def test_strict_urls_allow_no_more(url: str) -> None:
    with pytest.raises(TargetNotAllowed):
        check(Allowlist(STRICT_URLS, None), "POST", url)


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", RUN),
        ("POST", f"{RUN}/"),
        ("GET", f"{RUN}?prompt=x"),
        ("POST", "https://queue.fal.run/fal-ai/flux/dev"),
        ("GET", "https://queue.fal.run/any/app/requests/1/status"),
        ("PUT", "https://queue.fal.run/any/app/requests/1/cancel"),
        ("POST", "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"),
        ("POST", "https://wma.fal.run/session/heartbeat"),
    ],
)
def test_allowed_endpoints_let_through_what_they_name_and_what_is_free(
    method: str, url: str
) -> None:
    check(Allowlist(None, ["fal-ai/flux/dev"]), method, url)


def test_allowlist_of_both_options_needs_both_to_match() -> None:
    both = Allowlist(["fal.run/**"], ["fal-ai/flux/dev"])
    check(both, "POST", RUN)
    with pytest.raises(TargetNotAllowed):
        check(both, "POST", "https://queue.fal.run/fal-ai/flux/dev")
    with pytest.raises(EndpointNotAllowed):
        check(both, "POST", "https://fal.run/fal-ai/flux/pro")


@pytest.mark.parametrize("lists", [(["fal.run/**"], None), (None, ["fal-ai/**"])])
def test_allowlist_of_either_option_refuses_an_ambiguous_path(lists: tuple[Any, Any]) -> None:
    with pytest.raises(TargetAmbiguous):
        check(Allowlist(*lists), "POST", "https://fal.run/fal-ai/x/../flux")


@pytest.mark.parametrize(
    ("patterns", "content"),
    [
        (["*/flux/**"], b'{"allowed_apps": ["flux"], "token_expiration": 120}'),
        (["*/flux/**"], b'{"allowed_apps": ["fal-ai/flux", "flux"]}'),
        (["fal-ai/flux/**"], b'{"allowed_apps": ["fal-ai/flux"]}'),
        (["fal-ai/**"], b' {"allowed\\u005fapps":\r\n\t["fal-ai/flux", "fal-ai/veo3"] } '),
        (["**"], b'{"allowed_apps": ["flux"]}'),
        (["*/flux/**", "*/lora/**"], b'{"allowed_apps": ["flux", "lora"]}'),
    ],
)
def test_allowlist_lets_through_a_token_for_apps_that_are_allowed_as_a_whole(
    patterns: list[str], content: bytes
) -> None:
    check(Allowlist(None, patterns), "POST", TOKENS, content)


@pytest.mark.parametrize(
    ("patterns", "content"),
    [
        # The token would open all of the app, and that of every owner.
        (["fal-ai/flux/dev"], b'{"allowed_apps": ["flux"]}'),
        (["fal-ai/flux/**"], b'{"allowed_apps": ["flux"]}'),
        (["*/flux/dev"], b'{"allowed_apps": ["flux"]}'),
        (["*/flux/*"], b'{"allowed_apps": ["flux"]}'),
        (["*/flux"], b'{"allowed_apps": ["flux"]}'),
        (["fal-ai/flux/dev/**"], b'{"allowed_apps": ["fal-ai/flux"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["flux", "veo3"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["veo3", "flux"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["Flux"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["fal-ai/flux/dev"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["workflows/flux"]}'),
        # What is below one app must not name, by its first two segments, all of another.
        (["**/flux/**"], b'{"allowed_apps": ["fal-ai/veo3/flux"]}'),
        (["**"], b'{"allowed_apps": ["workflows/me"]}'),
        (["*/flux/**"], b'{"allowed_apps": ["1234-flux"]}'),
    ],
)
def test_allowlist_refuses_a_token_for_more_than_is_allowed(
    patterns: list[str], content: bytes
) -> None:
    with pytest.raises(EndpointNotAllowed, match="have a token"):
        check(Allowlist(None, patterns), "POST", TOKENS, content)


@pytest.mark.parametrize("kind", ["run", "session", "token"])
@pytest.mark.parametrize(
    ("endpoint", "named"),
    [
        pytest.param("fal-ai/veo3", "fal-ai/veo3", id="short"),
        pytest.param("a/" + "b" * 98, "a/" + "b" * 98, id="longest"),
        pytest.param("a/" + "b" * 99, "a/" + "b" * 98 + "...", id="longer"),
        pytest.param("a/" + "b" * 7_000, "a/" + "b" * 98 + "...", id="as-long-as-can-be"),
    ],
)
def test_allowlist_refusal_names_what_is_not_allowed(kind: str, endpoint: str, named: str) -> None:
    url, content = {
        "run": (f"https://fal.run/{endpoint}", b""),
        "session": (SESSION, b'{"app_id": "%b"}' % endpoint.encode()),
        "token": (TOKENS, b'{"allowed_apps": ["%b"]}' % endpoint.encode()),
    }[kind]
    with pytest.raises(EndpointNotAllowed) as caught:
        check(Allowlist(None, ["fal-ai/flux/dev"]), "POST", url, content)
    asked = "have a token for" if kind == "token" else "run"
    assert caught.value.detail.startswith(f"This app does not let you {asked} {named}: ")


@pytest.mark.parametrize("app_id", ["<script>", "a b", "\\u0000", "\u2026", "a//b", "a/", ""])
def test_allowlist_refusal_does_not_name_what_is_not_plain(app_id: str) -> None:
    content = f'{{"app_id": "{app_id}"}}'.encode()
    with pytest.raises(EndpointNotAllowed) as caught:
        check(Allowlist(None, ["fal-ai/flux/dev"]), "POST", SESSION, content)
    assert caught.value.detail == EndpointNotAllowed.default_detail


@pytest.mark.parametrize("path", ["session", "ice"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"app_id": "fal-ai/flux/dev"}',
        b'{"type": "offer", "sdp": "v=0\\r\\n", "app_id": "fal-ai/flux/dev"}',
    ],
)
def test_allowlist_lets_through_a_session_with_an_endpoint_that_is_allowed(
    path: str, content: bytes
) -> None:
    check(Allowlist(None, ["fal-ai/flux/dev"]), "POST", f"https://wma.fal.run/{path}", content)


@pytest.mark.parametrize(
    "app_id",
    [
        *(
            "fal-ai/veo3",
            "fal-ai/flux",
            "fal-ai/flux/dev/x",
            "fal-ai/flux/dev/",
            "/fal-ai/flux/dev",
        ),
        *("fal-ai/flux/../flux/dev", "fal-ai//flux/dev", "fal-ai/fl%75x/dev", "fal-ai/flux/dev?x"),
        *(
            "FAL-AI/flux/dev",
            "",
            " fal-ai/flux/dev",
            "fal-ai/flux/dev\\n",
            "https://fal.run/x",
            "*",
        ),
    ],
)
def test_allowlist_refuses_a_session_with_another_endpoint(app_id: str) -> None:
    content = f'{{"app_id": "{app_id}", "sdp": "", "type": "offer"}}'.encode()
    with pytest.raises(EndpointNotAllowed):
        check(Allowlist(None, ["fal-ai/flux/dev"]), "POST", SESSION, content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"flux"',
        b"{}",
        b'{"allowed_apps": []}',
        b'{"allowed_apps": null}',
        b'{"allowed_apps": "flux"}',
        b'{"allowed_apps": {"flux": 1}}',
        b'{"allowed_apps": [["flux"]]}',
        b'{"allowed_apps": ["flux", 1]}',
        b'{"allowed_apps": ["flux", null]}',
        b'{"allowed_apps": [""]}',
        b'{"allowed_apps": ["*"]}',
        b'{"allowed_apps": ["flux "]}',
        b'{"allowed_apps": ["flux/"]}',
        b'{"allowed_apps": ["/flux"]}',
        b'{"allowed_apps": ["x/../flux"]}',
        b'{"allowed_apps": ["fl%75x"]}',
        b'{"allowed_apps": ["flux,veo3"]}',
        b'{"allowed_apps": ["flux\\u0000"]}',
        b'{"allowed_apps": ["\\ud800"]}',
        b'{"allowed_apps": ["flux"], "allowed_apps": ["veo3"]}',
        b'{"allowed_apps": ["veo3"], "allowed_apps": ["flux"]}',
        b'{"allowed_apps": ["flux"], "allowed\\u005fapps": ["veo3"]}',
        b'{"allowed_apps": ["flux"], "Allowed_Apps": ["veo3"]}',
        b'{"allowed_apps": ["flux"], "allowedApps": ["veo3"]}',
        b'{"allowed_apps": ["flux"], "app_id": "fal-ai/veo3"}',
        b'{"app_id": "fal-ai/flux"}',
        b'{"allowed_apps": ["flux"], "token_expiration": {"a": 1, "a": 2}}',
        b'{"allowed_apps": ["flux"], "token_expiration": NaN}',
        b'{"allowed_apps": ["flux"], "token_expiration": -Infinity}',
        b'{"allowed_apps": ["flux"], "token_expiration": ' + b"9" * 5_000 + b"}",
        b'{"allowed_apps": ["flux"], "token_expiration": ' + b"[" * 50_000 + b"]}",
        b'{"allowed_apps": ["flux"]} {"allowed_apps": ["veo3"]}',
        b'{"allowed_apps": ["flux"]}\x00',
        b'{"allowed_apps": ["flux"],}',
        b'{"allowed_apps": ["flux" /* all */]}',
        b"{'allowed_apps': ['flux']}",
        b'{"allowed_apps": ["flux\n"]}',
        b'{"allowed_apps": ["flux"]',
        b'\xef\xbb\xbf{"allowed_apps": ["flux"]}',
        b'{"allowed_apps": ["flux"], "token_expiration": "\xff"}',
        b'{"allowed_apps": ["flux"], "token_expiration": "\xc0\xaf"}',
        '{"allowed_apps": ["flux"]}'.encode("utf-16"),
        '{"allowed_apps": ["flux"]}'.encode("utf-16-le"),
        '{"allowed_apps": ["flux"]}'.encode("utf-32-be"),
        b'{"allowed_apps": ["flux"]}' + b" " * PIECE_BYTES,
    ],
)
def test_allowlist_refuses_a_body_that_parsers_may_differ_about(content: bytes) -> None:
    with pytest.raises(BodyAmbiguous):
        check(Allowlist(None, ["*/flux/**"]), "POST", TOKENS, content)


@pytest.mark.parametrize(
    ("content_type", "plain"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json;", True),
        ("application/json; charset=utf-7", False),
        ("application/json; charset=utf-16", False),
        ("application/json; charset=utf-16le", False),
        ("application/json; charset=latin-1", False),
        ('application/json; charset="utf-8, utf-7"', False),
        ("application/json; charset=utf-8; charset=utf-7", False),
        ("application/json; x=y", False),
    ],
)
def test_request_body_text_is_none_in_another_charset(content_type: str, plain: bool) -> None:
    body = body_of(b'{"allowed_apps": ["flux"]}', content_type)
    assert (body.text() is not None) is plain


def test_request_body_text_of_no_declared_length_is_at_most_a_piece() -> None:
    chunked: dict[str, Any] = {
        "CONTENT_LENGTH": "",
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input_terminated": True,
    }
    assert body_of(b"{}", **chunked).text() == "{}"
    assert body_of(b" " * PIECE_BYTES, **chunked).text() is None


def test_allowlist_answers_400_to_a_body_that_is_not_finished() -> None:
    allowlist = Allowlist(None, ["*/flux/**"], report_only=True)
    with pytest.raises(BodyIncomplete):
        allowlist.check_body(request_of("POST", TOKENS), body_of(b"{}", CONTENT_LENGTH="10"))


@pytest.mark.parametrize(
    ("allowlist", "url"),
    [
        (Allowlist(["rest.fal.ai/**"], None), TOKENS),
        (Allowlist(None, ["fal-ai/flux/dev"]), RUN),
        (Allowlist(None, ["fal-ai/flux/dev"]), "https://wma.fal.run/session/heartbeat"),
    ],
)
def test_allowlist_does_not_read_a_body_without_need(allowlist: Allowlist, url: str) -> None:
    body = body_of(b"{}")
    allowlist.check_body(request_of("POST", url), body)
    assert body.first is None


# Through the proxy


def proxy_for(fal: FakeFal, **options: Any) -> webtest.TestApp:
    options = {"key": fal.key, "pool_manager": fal.pool_manager(), **options}
    return webtest.TestApp(FalProxy(**options), lint=True)


def test_allowlist_relays_the_very_same_bytes_of_a_token_request(fal: FakeFal) -> None:
    app = proxy_for(fal, allowed_endpoints=["*/flux/**"])
    content = b' {"token_expiration":1.20e2,\n"allowed_apps":["fl\\u0075x"]}  '
    headers = {TARGET: TOKENS, "content-type": "application/json"}
    app.post("/", content, headers=headers, status=200)
    assert [request.body for request in fal.requests] == [content]


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        (RUN, 200, None),
        ("https://fal.run/fal-ai/veo3", 412, "endpoint_not_allowed"),
        ("https://queue.fal.run/fal-ai/flux/dev", 412, "target_not_allowed"),
        ("https://fal.run/fal-ai//flux/dev", 412, "target_ambiguous"),
        (TOKENS, 412, "body_ambiguous"),
    ],
)
def test_allowlist_refuses_with_reasons_and_does_not_tell_the_list(
    fal: FakeFal, url: str, status: int, reason: str | None
) -> None:
    app = proxy_for(
        fal, allowed_urls=["fal.run/**", "rest.fal.ai/**"], allowed_endpoints=["fal-ai/flux/dev"]
    )
    answer = app.post_json("/", {"prompt": "x"}, headers={TARGET: url}, status=status)
    assert answer.headers.get("x-fal-proxy-error") == reason
    if reason is not None:
        assert "flux/dev" not in answer.text
        assert "fal.run" not in answer.text
        assert fal.requests == []


def test_allowed_endpoints_let_only_known_headers_of_fal_go_up(fal: FakeFal) -> None:
    app = proxy_for(fal, allowed_endpoints=["fal-ai/flux/dev"], forward_headers=["x-mine"])
    headers = {
        TARGET: RUN,
        "x-fal-queue-priority": "low",
        "X-Fal-Runner-Hint": "a",
        "x-fal-endpoint": "fal-ai/veo3",
        "x-fal-caller-user-id": "someone",
        "x-fal-target-host": "x",
        "x-mine": "1",
    }
    app.post_json("/", {"prompt": "x"}, headers=headers)
    (request,) = fal.requests
    names = {name.lower() for name in request.headers if name.lower().startswith("x-")}
    assert names == {"x-fal-queue-priority", "x-fal-runner-hint", "x-fal-client-proxy", "x-mine"}


@pytest.mark.parametrize(
    "options",
    [
        {"allowed_urls": ["fal.run/**"]},
        {"allowed_endpoints": ["fal-ai/flux/dev"], "report_only": True},
    ],
)
def test_allowlist_that_refuses_no_endpoint_lets_all_headers_of_fal_go_up(
    fal: FakeFal, options: dict[str, Any]
) -> None:
    headers = {TARGET: RUN, "x-fal-something": "1"}
    proxy_for(fal, **options).post_json("/", {"prompt": "x"}, headers=headers)
    assert fal.requests[0].headers["x-fal-something"] == "1"


# Each request here is wrong in this respect and in all those after it.
_ORDER: list[tuple[int, str, dict[str, Any]]] = [
    (412, "target_host_not_allowed", {"HTTP_X_FAL_TARGET_URL": "https://example.com/a//b"}),
    (412, "target_ambiguous", {"HTTP_X_FAL_TARGET_URL": "https://fal.ai/a//b"}),
    (412, "target_not_allowed", {"HTTP_X_FAL_TARGET_URL": "https://fal.ai/a/b"}),
    (412, "endpoint_not_allowed", {"HTTP_X_FAL_TARGET_URL": "https://rest.fal.ai/a"}),
    (415, "unsupported_media_type", {"CONTENT_TYPE": "text/plain"}),
    (413, "body_too_large", {"CONTENT_LENGTH": "9", "CONTENT_TYPE": "application/json"}),
    (403, "forbidden", {"HTTP_COOKIE": "guest"}),
    (412, "body_ambiguous", {"CONTENT_LENGTH": "0"}),
    (500, "key_missing", {}),
]


@pytest.mark.parametrize(
    "step", range(len(_ORDER) - 1), ids=[reason for _, reason, _ in _ORDER[:-1]]
)
def test_proxy_with_an_allowlist_decides_in_order(fal: FakeFal, step: int) -> None:
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "HTTP_X_FAL_TARGET_URL": TOKENS}
    for _, _, wrong in reversed(_ORDER[step:]):
        environ |= wrong

    def authorize(request: FalRequest) -> Allow | Refuse:
        return Refuse() if "HTTP_COOKIE" in request.environ else Allow()

    proxy = FalProxy(
        max_body_bytes=4,
        authorize=authorize,
        allowed_urls=["rest.fal.ai/**"],
        allowed_endpoints=["*/flux/**"],
        pool_manager=fal.pool_manager(),
    )
    status, headers, _ = answer_to(proxy, **environ)
    assert (status[:3], headers["x-fal-proxy-error"]) == (str(_ORDER[step][0]), _ORDER[step][1])
    assert fal.requests == []


def test_proxy_with_authorize_alone_needs_no_allowlist(fal: FakeFal) -> None:
    app = proxy_for(fal, authorize=lambda request: Allow())
    app.post_json("/", {"prompt": "x"}, headers={TARGET: RUN}, status=200)


def test_report_only_logs_what_would_be_refused_and_relays_it(
    fal: FakeFal, caplog: pytest.LogCaptureFixture
) -> None:
    app = proxy_for(
        fal,
        allowed_urls=["fal.run/**", "rest.fal.ai/**"],
        allowed_endpoints=["fal-ai/flux/dev"],
        report_only=True,
    )
    caplog.set_level(logging.DEBUG, "wsgi_fal_proxy")
    app.post_json("/", {"prompt": "private"}, headers={TARGET: RUN}, status=200)
    assert caplog.messages == []
    for url in (
        "https://fal.run/fal-ai/veo3?private=1",
        "https://queue.fal.run/fal-ai/flux/dev",
        "https://fal.run/fal-ai/flux/%64ev",
    ):
        app.post_json("/", {"prompt": "private"}, headers={TARGET: url}, status="*")
    app.post_json("/", {"allowed_apps": ["private"]}, headers={TARGET: TOKENS}, status=200)
    app.post_json("/", {"private": 1}, headers={TARGET: TOKENS}, status="*")
    would = "would be refused without report_only:"
    assert caplog.messages == [
        f"endpoint_not_allowed: {would} POST fal.run/fal-ai/veo3, endpoint fal-ai/veo3",
        f"target_not_allowed: {would} POST queue.fal.run/fal-ai/flux/dev, endpoint fal-ai/flux/dev",
        f"target_ambiguous: {would} POST fal.run/fal-ai/flux/%64ev, endpoint fal-ai/flux/%64ev",
        f"endpoint_not_allowed: {would} POST rest.fal.ai/tokens/, endpoint None",
        f"body_ambiguous: {would} POST rest.fal.ai/tokens/, endpoint None",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert len(fal.requests) == 6


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"allowed_urls": "strict"},
            "allowed_urls='strict' cannot be used: it must be a list of patterns, or",
        ),
        (
            {"allowed_urls": ["fal.run/**", 1]},
            "allowed_urls=1 cannot be used: each pattern must be text",
        ),
        (
            {"allowed_urls": ["fal.run/**", "https://fal.run/x"]},
            "allowed_urls='https://fal.run/x' cannot be used: each pattern must begin with a host",
        ),
        (
            {"allowed_endpoints": ["/fal-ai/flux"]},
            "allowed_endpoints='/fal-ai/flux' cannot be used: a pattern must have no slash at",
        ),
        (
            {"allowed_endpoints": ["flux"]},
            "allowed_endpoints='flux' cannot be used: each pattern must begin with an owner and an",
        ),
        ({"report_only": 1}, "report_only=1 cannot be used: it must be True or False"),
        (
            {"report_only": True, "allowed_urls": []},
            "report_only=True cannot be used: there is nothing to report without allowed_urls or",
        ),
    ],
)
def test_allowlist_option_that_cannot_be_used_fails_at_construction(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxy(**options)
    assert str(caught.value).startswith(message)


def test_allowlist_refusals_say_what_to_do() -> None:
    for refusal in (TargetNotAllowed, EndpointNotAllowed, TargetAmbiguous, BodyAmbiguous):
        assert issubclass(refusal, Refusal)
        assert refusal.status == "412 Precondition Failed"
    assert f"at most {PIECE_BYTES:,} bytes" in BodyAmbiguous.default_detail

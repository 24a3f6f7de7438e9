"""Who may call: what `authorize` is given, what its answers mean, and what comes before it."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
import webtest

from tests.support.environs import answer_to
from wsgi_fal_proxy import Allow, FalProxy, FalRequest, Refuse, allow_anyone
from wsgi_fal_proxy._fal.operations import Kind, operation_of
from wsgi_fal_proxy._fal.target import Target
from wsgi_fal_proxy._policy.authorize import identity_of
from wsgi_fal_proxy._policy.policy import Policy
from wsgi_fal_proxy.errors import AuthorizeFailed, Forbidden, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.network import NetworkGuard
    from wsgi_fal_proxy.testing import FakeFal

RUN: Final = "https://fal.run/fal-ai/flux/dev"
TARGET: Final = "x-fal-target-url"


def request_for(url: str = RUN, method: str = "POST", **environ: Any) -> FalRequest:
    target = Target.parse(url)
    return FalRequest(environ, method, target, operation_of(method, target))


# What it is given


def test_fal_request_tells_what_it_asks_of_fal() -> None:
    request = request_for("https://queue.fal.run/fal-ai/flux/requests/1/status", "GET")
    assert (request.method, request.endpoint) == ("GET", "fal-ai/flux")
    assert (request.operation.kind, request.operation.spends) == (Kind.POLL, False)
    assert (request.target.host, request.target.path) == (
        "queue.fal.run",
        "/fal-ai/flux/requests/1/status",
    )


def test_fal_request_without_an_endpoint_has_none() -> None:
    assert request_for("https://rest.fal.ai/tokens/").endpoint is None


def test_fal_request_repr_shows_neither_the_environ_nor_the_query() -> None:
    request = request_for(RUN + "?secret=1", HTTP_COOKIE="secret")
    assert "secret" not in repr(request)


def test_authorize_is_given_the_environ_as_the_apps_middleware_left_it(fal: FakeFal) -> None:
    seen: list[FalRequest] = []

    def authorize(request: FalRequest) -> Allow:
        seen.append(request)
        return Allow()

    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), authorize=authorize)
    user = object()
    answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN, **{"my.user": user})
    (request,) = seen
    assert request.environ["my.user"] is user
    assert (request.method, request.endpoint) == ("GET", "fal-ai/flux/dev")


# What its answers mean


@pytest.mark.parametrize("identity", [None, "someone", "\u00e4"])
def test_identity_of_allow_is_its_identity(identity: str | None) -> None:
    assert identity_of(lambda _: Allow(identity), request_for()) == identity


def test_identity_of_allow_anyone_is_none() -> None:
    assert identity_of(allow_anyone, request_for()) is None


@pytest.mark.parametrize(
    ("decision", "error", "detail"),
    [
        (Refuse(), Forbidden, "This app does not let you make this call."),
        (Refuse(403, "Not you."), Forbidden, "Not you."),
        (
            Refuse(401),
            Unauthenticated,
            "This app needs to know who you are. Sign in, then try again.",
        ),
        (Refuse(401, "Who?"), Unauthenticated, "Who?"),
    ],
)
def test_identity_of_refuse_raises_with_its_message(
    decision: Refuse, error: type[Forbidden], detail: str
) -> None:
    with pytest.raises(error) as caught:
        identity_of(lambda _: decision, request_for())
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    "decision",
    [
        None,
        True,
        False,
        1,
        "yes",
        Allow,
        Refuse,
        Allow(""),
        Allow(7),  # type: ignore[arg-type]
        Allow(True),  # type: ignore[arg-type]
        Allow(b"someone"),  # type: ignore[arg-type]
        Refuse(200),  # type: ignore[arg-type]
        Refuse(500),  # type: ignore[arg-type]
        SimpleNamespace(identity="someone"),
        (Allow(),),
    ],
    ids=repr,
)
def test_identity_of_any_other_answer_raises_and_logs_it(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AuthorizeFailed):
        identity_of(lambda _: decision, request_for())
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.ERROR
    name = type(decision).__name__
    assert message.startswith((f"authorize returned {name}(", f"authorize returned <{name}>; "))
    # What it holds may be private.
    assert "someone" not in message


IDENTITY: Final = "identity must be a non-empty str or None"
STATUS: Final = "status must be 401 or 403"


@pytest.mark.parametrize(
    ("decision", "what"),
    [
        (Allow(7_654_321), f"Allow(identity=<int>); {IDENTITY} (use str(...))"),  # type: ignore[arg-type]
        (Allow(b"someone"), f"Allow(identity=<bytes>); {IDENTITY} (use .decode())"),  # type: ignore[arg-type]
        (Allow(""), f"Allow(identity=''); {IDENTITY}"),
        (Refuse(500), f"Refuse(status=500); {STATUS}"),  # type: ignore[arg-type]
        (Refuse(True), f"Refuse(status=<bool>); {STATUS}"),  # type: ignore[arg-type]
        (Refuse(7_654_321), f"Refuse(status=<int>); {STATUS}"),  # type: ignore[arg-type]
        (
            Refuse("someone"),  # type: ignore[arg-type]
            f"Refuse(status=<str>); {STATUS} (the message is the second argument)",
        ),
        (None, "<NoneType>; it must return Allow or Refuse"),
        (Allow, "<type>; it must return Allow or Refuse"),
    ],
    ids=repr,
)
def test_identity_of_a_wrong_answer_logs_what_is_wrong(
    decision: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AuthorizeFailed):
        identity_of(lambda _: decision, request_for())
    assert caplog.messages == [f"authorize returned {what}. Request refused."]
    assert "7654321" not in caplog.text


@pytest.mark.parametrize(("status", "error"), [(401, Unauthenticated), (403, Forbidden)])
def test_identity_of_refuse_does_not_tell_a_message_that_is_no_text(
    status: Any, error: type[Forbidden], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(error) as caught:
        identity_of(lambda _: Refuse(status, 7_654_321), request_for())  # type: ignore[arg-type]
    assert caught.value.detail == error.default_detail
    assert caplog.messages == [
        "authorize returned Refuse(message=<int>); message must be a str or None (use str(...))."
        " Request refused with the default message."
    ]


def test_authorize_that_raises_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def authorize(_: FalRequest) -> Allow:
        users: dict[str, str] = {}
        return Allow(users["user"])

    with pytest.raises(AuthorizeFailed):
        identity_of(authorize, request_for())
    assert caplog.messages == ["authorize raised. Request refused."]
    assert "KeyError: 'user'" in caplog.text


def test_authorize_does_not_hold_up_what_ends_the_process() -> None:
    def authorize(_: FalRequest) -> Allow:
        raise SystemExit

    with pytest.raises(SystemExit):
        identity_of(authorize, request_for())


# The policy


@pytest.mark.parametrize("authorize", [None, allow_anyone])
def test_policy_identifies_nobody_if_there_is_nobody_to_ask(
    authorize: Callable[..., Allow] | None,
) -> None:
    assert Policy(authorize).identify(request_for()) is None


def test_policy_asks_authorize_for_the_identity() -> None:
    policy = Policy(lambda request: Allow(request.endpoint))
    assert policy.identify(request_for()) == "fal-ai/flux/dev"


# On the wire


@pytest.mark.parametrize(
    ("decision", "status", "reason"),
    [
        (Refuse(401, "Sign in."), 401, "unauthenticated"),
        (Refuse(403, "Sign in."), 403, "forbidden"),
        (None, 403, "authorize_failed"),
    ],
)
def test_authorize_refusal_is_an_answer_of_ours_and_nothing_is_sent(
    fal: FakeFal, network: NetworkGuard, decision: Any, status: int, reason: str
) -> None:
    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), authorize=lambda _: decision)
    app = webtest.TestApp(proxy, lint=True)
    answer = app.post_json("/", {"prompt": "x"}, headers={TARGET: RUN}, status=status)
    assert answer.json["reason"] == answer.headers["x-fal-proxy-error"] == reason
    if decision is not None:
        assert answer.json["message"] == answer.json["detail"] == "Sign in."
    # RFC 9110 section 11.6.1: a 401 has a challenge, and nothing else needs one.
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert (fal.requests, network.lookups, network.dialled) == ([], [], [])


# Each request here is wrong in this respect and in all those after it.
_BEFORE: Final[list[tuple[str, dict[str, Any]]]] = [
    ("method_not_allowed", {"REQUEST_METHOD": "DELETE"}),
    ("target_missing", {"HTTP_X_FAL_TARGET_URL": ""}),
    ("target_host_not_allowed", {"HTTP_X_FAL_TARGET_URL": "https://example.com/"}),
    ("unsupported_media_type", {"CONTENT_TYPE": "text/plain"}),
    ("body_too_large", {"CONTENT_LENGTH": "5", "CONTENT_TYPE": "application/json"}),
]


@pytest.mark.parametrize("step", range(len(_BEFORE)), ids=[reason for reason, _ in _BEFORE])
def test_authorize_is_not_asked_about_what_is_not_fit_to_be_relayed(step: int) -> None:
    asked: list[FalRequest] = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "HTTP_X_FAL_TARGET_URL": RUN,
        "CONTENT_LENGTH": "0",
    }
    for _, wrong in reversed(_BEFORE[step:]):
        environ |= wrong
    proxy = FalProxy(max_body_bytes=4, authorize=asked.append)  # type: ignore[arg-type]
    _, headers, _ = answer_to(proxy, **environ)
    assert headers["x-fal-proxy-error"] == _BEFORE[step][0]
    assert asked == []


def test_authorize_refusal_does_not_tell_of_a_missing_key() -> None:
    called: list[Any] = []
    proxy = FalProxy(key=called.append, authorize=lambda _: Refuse(403))
    _, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)
    assert headers["x-fal-proxy-error"] == "forbidden"
    assert called == []


def test_authorize_lets_the_caller_learn_of_a_missing_key() -> None:
    proxy = FalProxy(key=lambda _: None, authorize=lambda _: Allow("someone"))
    _, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)
    assert headers["x-fal-proxy-error"] == "key_missing"


def test_authorize_is_asked_when_the_body_is_whole(fal: FakeFal) -> None:
    content = io.BytesIO(b'{"prompt": "x"}')
    at: list[int] = []

    def authorize(_: FalRequest) -> Allow:
        at.append(content.tell())
        return Allow()

    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), authorize=authorize)
    answer_to(
        proxy,
        HTTP_X_FAL_TARGET_URL=RUN,
        REQUEST_METHOD="POST",
        CONTENT_TYPE="application/json",
        CONTENT_LENGTH="15",
        **{"wsgi.input": content},
    )
    # The first piece has been read: a client that owes it does not hold up the owner's code.
    assert at == [15]
    assert fal.requests[0].json() == {"prompt": "x"}

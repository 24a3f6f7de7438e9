"""How much: who is counted for what, what is given back, and ways round that lead nowhere."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest

from tests.support.environs import answer_to
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.support.serving import ROOT
from wsgi_fal_proxy import Allow, FalProxy, Refuse, SettingsError
from wsgi_fal_proxy._fal.operations import may_be_billed
from wsgi_fal_proxy._policy.limits import redis_store
from wsgi_fal_proxy._policy.limits.caller import caller_name
from wsgi_fal_proxy._policy.limits.costs import Costs
from wsgi_fal_proxy._policy.limits.limiter import _describe_refusal, _duration
from wsgi_fal_proxy._policy.limits.notation import parse_limit
from wsgi_fal_proxy._policy.limits.outage import Outage
from wsgi_fal_proxy._policy.limits.store import StoreFailed
from wsgi_fal_proxy.errors import LimitExceeded

if TYPE_CHECKING:
    from pathlib import Path
    from wsgiref.types import WSGIEnvironment

    from tests.support.redis_server import RedisServer
    from wsgi_fal_proxy.testing import FakeFal

LLM = "https://fal.run/fal-ai/any-llm"
BODY = b'{"prompt": "a fox"}'


def limited(fal: FakeFal, *limits: str, **options: Any) -> FalProxy:
    pool_manager = fal.pool_manager()
    return FalProxy(**{"key": fal.key, "pool_manager": pool_manager, "limits": limits, **options})


def call(proxy: FalProxy, target: str = LLM, **environ: Any) -> str:
    """Make a call, and give the reason of a refusal, or fal's status."""
    status, headers, _ = answer(proxy, target, **environ)
    return headers.get("x-fal-proxy-error", status[:3])


def answer(proxy: FalProxy, target: str = LLM, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    full = {
        "REQUEST_METHOD": "POST",
        "HTTP_X_FAL_TARGET_URL": target,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.input": io.BytesIO(BODY),
        **environ,
    }
    return answer_to(proxy, **full)


# What a refusal says.


def test_limiter_answers_429_over_a_limit_and_nothing_is_sent(fal: FakeFal) -> None:
    proxy = limited(fal, "2/day", "100/7 days global")
    assert [call(proxy) for _ in range(4)] == ["200", "200", "limit_exceeded", "limit_exceeded"]
    assert len(fal.requests) == 2


def test_limiter_refusal_says_which_limit_and_when_again(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day", "2/day global")
    call(proxy)
    status, headers, content = answer(proxy)
    seconds = int(headers["Retry-After"])
    assert 0 < seconds <= 86_400
    assert status == "429 Too Many Requests"
    assert headers["RateLimit-Policy"] == '"1/day";q=1;w=86400'
    assert headers["RateLimit"] == f'"1/day";r=0;t={seconds}'
    detail = "The limit of 1/day for each caller is reached. Try again in "
    assert json.loads(content)["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("text", "cost", "detail"),
    [
        ("9/minute", 1, "The limit of 9/minute for each caller is reached. Try again in 1 second."),
        (
            "9/day global",
            20,
            "The limit of 9/day for all callers together is reached. This call counts for 20, and 3"
            " are left. Try again in 1 second.",
        ),
    ],
)
def test_limiter_refusal_is_for_the_person_who_meets_it(text: str, cost: int, detail: str) -> None:
    refusal = _describe_refusal(parse_limit(text), 3, 1, cost)
    assert isinstance(refusal, LimitExceeded)
    assert refusal.detail == detail


def test_limiter_refusal_tells_the_longer_wait_of_two_limits(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day", "1/1000 days", "9/9999 days")
    call(proxy)
    assert answer(proxy)[1]["RateLimit"].startswith('"1/1000 days"')


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1, "1 second"),
        (120, "120 seconds"),
        (121, "3 minutes"),
        (7_200, "120 minutes"),
        (7_201, "3 hours"),
        (172_800, "48 hours"),
        (172_801, "3 days"),
    ],
)
def test_limiter_refusal_tells_a_time_in_a_unit_that_suits(seconds: int, told: str) -> None:
    assert _duration(seconds) == told


# What counts.

QUEUED = "https://queue.fal.run/fal-ai/flux/requests/x"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", QUEUED),
        ("GET", f"{QUEUED}/status?logs=1"),
        ("GET", f"{QUEUED}/status/stream"),
        ("PUT", f"{QUEUED}/cancel"),
        ("POST", "https://rest.fal.ai/storage/upload/initiate"),
    ],
)
def test_limiter_lets_free_calls_through_when_a_limit_is_reached(
    fal: FakeFal, method: str, target: str
) -> None:
    proxy = limited(fal, "1/day")
    call(proxy)
    assert call(proxy) == "limit_exceeded"
    fal.answer_next(200, "{}")
    assert call(proxy, target, REQUEST_METHOD=method) == "200"


def test_limiter_does_not_count_free_calls(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day")
    for _ in range(3):
        fal.answer_next(200, "{}")
        assert call(proxy, QUEUED, REQUEST_METHOD="GET") == "200"
    assert call(proxy) == "200"


@pytest.mark.parametrize(
    "target",
    [
        "https://rest.fal.ai/tokens/",
        "https://wma.fal.run/session",
        "https://queue.fal.run/fal-ai/flux",
        "https://x.fal.run/y",
    ],
)
def test_limiter_counts_calls_that_may_spend(fal: FakeFal, target: str) -> None:
    proxy = limited(fal, "1/day")
    fal.answer_next(200, "{}")
    assert call(proxy, target) == "200"
    assert call(proxy) == "limit_exceeded"


# What calls cost.

PRICES = {"fal-ai/veo3/**": 20, "fal-ai/veo3/fast": 10, "**/pro": 5, "fal-ai/*": 2}


@pytest.mark.parametrize(
    ("endpoint", "cost"),
    [
        pytest.param("other/model", 1, id="none-matches"),
        pytest.param("fal-ai/flux", 2, id="star"),
        pytest.param("fal-ai/flux/dev", 1, id="star-within-a-segment"),
        pytest.param("fal-ai/flux/dev/pro", 5, id="stars"),
        pytest.param("fal-ai/veo3", 20, id="what-is-above-the-stars"),
        pytest.param("fal-ai/veo3/fast", 20, id="dearest-of-several"),
        pytest.param("FAL-AI/Veo3", 20, id="other-case"),
        pytest.param("fal-ai/veo3/requests/x/cancel", 20, id="below"),
        pytest.param("fal-ai//flux", 20, id="empty-segment"),
        pytest.param("fal-ai/./flux", 20, id="dot"),
        pytest.param("fal-ai/x/../veo3", 20, id="dots"),
        pytest.param("fal-ai/%76eo3", 20, id="escape"),
        pytest.param("fal-ai/veo3;x", 20, id="parameter"),
        pytest.param(None, 20, id="not-in-the-path"),
    ],
)
def test_costs_are_those_of_the_endpoint(endpoint: str | None, cost: int) -> None:
    assert Costs(PRICES).cost_of(endpoint) == cost


@pytest.mark.parametrize("endpoint", ["workflows/ada/film", "comfy/ada/film", "123-film"])
def test_costs_of_what_may_run_any_model_are_the_highest(endpoint: str) -> None:
    assert Costs(PRICES).cost_of(endpoint) == 20


def test_costs_of_a_workflow_are_those_of_a_pattern_that_names_its_owner() -> None:
    costs = Costs({"workflows/ada/*": 3, "fal-ai/veo3": 20})
    assert costs.cost_of("workflows/ada/film") == 3


@pytest.mark.parametrize("endpoint", ["fal-ai/veo3", "%", None])
def test_costs_of_each_call_are_one_by_default(endpoint: str | None) -> None:
    assert Costs(None).cost_of(endpoint) == 1


def test_costs_refuse_a_dear_call_where_a_cheap_one_is_not(fal: FakeFal) -> None:
    proxy = limited(fal, "5/day", costs={"fal-ai/veo3/**": 5})
    assert call(proxy) == "200"
    assert call(proxy, "https://fal.run/fal-ai/veo3/fast") == "limit_exceeded"
    assert call(proxy) == "200"


# For whom it counts.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((None, "192.0.2.1"), (None, "::ffff:192.0.2.1"), id="mapped"),
        pytest.param((None, "2001:db8::1"), (None, "2001:DB8:0:0:ffff::2"), id="one-64"),
        pytest.param((None, "fe80::1%eth0"), (None, "fe80::2%eth1"), id="zones"),
        pytest.param((None, ""), (None, "unix:"), id="no-address"),
        pytest.param((None, "unknown"), (None, "192.0.2.1:80"), id="no-plain-address"),
        pytest.param(("a", "192.0.2.1"), ("a", "192.0.2.2"), id="identity-anywhere"),
    ],
)
def test_caller_name_is_the_same(
    one: tuple[str | None, str], other: tuple[str | None, str]
) -> None:
    assert caller_name(*one) == caller_name(*other)


def test_caller_name_is_another() -> None:
    known = [
        (None, "192.0.2.1"),
        (None, "192.0.2.2"),
        (None, "2001:db8::1"),
        (None, "2001:db8:0:1::1"),
        (None, ""),
        ("192.0.2.1", ""),
        ("address 192.0.2.1", ""),
        ("everybody", ""),
        ("none", ""),
        ("a", ""),
        ("A", ""),
        ("a ", ""),
        ("\ud800", ""),
        ("a/b:{c}\r\n", ""),
        ("a" * 100_000, ""),
    ]
    names = [caller_name(identity, address) for identity, address in known]
    assert len(set(names)) == len(known)
    assert {len(name) for name in names} == {32}


def test_limiter_counts_each_identity_alone_and_all_together(fal: FakeFal) -> None:
    proxy = limited(
        fal, "2/day", "3/day global", authorize=lambda request: Allow(request.environ["HTTP_X_WHO"])
    )
    calls = [call(proxy, HTTP_X_WHO=who) for who in ("a", "a", "a", "b", "b", "c")]
    over = "limit_exceeded"
    assert calls == ["200", "200", over, "200", over, over]


def test_limiter_tells_redis_nobodys_name(fal: FakeFal, redis: RedisServer) -> None:
    proxy = limited(fal, "2/day", limits_storage=redis.uri, authorize=lambda _: Allow("alice"))
    call(proxy)
    call(limited(fal, "2/day", limits_storage=redis.uri))
    redis.stop()
    kept = redis.kept()
    assert b"wsgi-fal-proxy:{limits}:86400:" in kept
    assert b"alice" not in kept
    assert b"192.0.2.1" not in kept


# Ways round. Each is a call by a caller who has none left.

Change = dict[str, Any]
WAYS_ROUND: list[Change] = [
    {"HTTP_X_FORWARDED_FOR": "198.51.100.7"},
    {"HTTP_X_REAL_IP": "198.51.100.7"},
    {"HTTP_FORWARDED": "for=198.51.100.7"},
    {"HTTP_CLIENT_IP": "198.51.100.7", "HTTP_TRUE_CLIENT_IP": "198.51.100.7"},
    {"HTTP_X_FAL_IDENTITY": "somebody else"},
    {"HTTP_REMOTE_ADDR": "198.51.100.7", "HTTP_REMOTE_USER": "x"},
    {"REMOTE_USER": "somebody else"},
    {"HTTP_AUTHORIZATION": "Bearer x", "HTTP_COOKIE": "session=x"},
    {"REMOTE_ADDR": "::ffff:192.0.2.1"},
    {"REMOTE_ADDR": "::FFFF:C000:201"},
    {"REMOTE_PORT": "9", "HTTP_USER_AGENT": "another"},
    {"REQUEST_METHOD": "GET", "CONTENT_LENGTH": "0"},
    {"REQUEST_METHOD": "PUT"},
    {"REQUEST_METHOD": "PATCH"},
    {"REQUEST_METHOD": "post"},
    {"HTTP_X_HTTP_METHOD_OVERRIDE": "GET"},
    {"QUERY_STRING": "x=1", "PATH_INFO": "/other", "SCRIPT_NAME": "/mounted"},
    {"SERVER_PROTOCOL": "HTTP/2.0"},
    *(
        {"HTTP_X_FAL_TARGET_URL": target}
        for target in [
            "HTTPS://FAL.RUN/fal-ai/any-llm",
            "https://fal.run:443/fal-ai/any-llm",
            "https://fal.run//fal-ai/any-llm",
            "https://fal.run/fal-ai/any-llm/",
            "https://fal.run/FAL-AI/any-llm",
            "https://fal.run/fal-ai/%61ny-llm",
            "https://fal.run/fal-ai/./any-llm",
            "https://fal.run/x/../fal-ai/any-llm",
            "https://fal.run/fal-ai/any-llm?x=/requests/1/status",
            "https://fal.run/fal-ai/any-llm/requests/1/status",
            "https://queue.fal.run/fal-ai/any-llm",
            "https://queue.fal.run/fal-ai/any-llm/requests/1/status",
            "https://queue.fal.run/fal-ai/any-llm/requests/1/cancel",
            "https://queue.fal.run/fal-ai/any-llm?x=/requests/1/cancel",
            "https://queue.fal.run/a/b/../fal-ai/any-llm/requests/1",
            "https://gateway.fal.ai/fal-ai/any-llm",
            "https://rest.fal.ai/tokens/",
            "https://rest.fal.ai/storage/upload/../../tokens/",
            "https://rest.fal.ai//storage/upload/initiate",
            "https://fal.run/storage/upload/initiate",
            "https://wma.fal.run/session",
        ]
    ),
]


@pytest.mark.parametrize("change", WAYS_ROUND, ids=lambda change: " ".join(change.values())[:60])
def test_limiter_is_not_passed_by_any_way_round(fal: FakeFal, change: Change) -> None:
    proxy = limited(fal, "1/day")
    assert call(proxy) == "200"
    assert call(proxy, **change) in {"limit_exceeded", "method_not_allowed"}
    assert len(fal.requests) == 1


def test_caller_name_moves_within_its_ipv6_network_in_vain(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day")
    calls = [call(proxy, REMOTE_ADDR=f"2001:db8::{host:x}") for host in range(1, 20)]
    assert calls == ["200"] + ["limit_exceeded"] * 18


# Given back: what fal does not charge for.


@pytest.mark.parametrize(
    ("status", "unbilled"),
    [
        *((status, False) for status in (200, 201, 202, 302, 400, 409, 413, 422)),
        *((status, True) for status in (401, 402, 403, 404, 405, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_refund_is_told_by_fals_answer(fal: FakeFal, status: int, unbilled: bool) -> None:
    proxy = limited(fal, "1/day")
    fal.answer_next(status, "{}")
    assert call(proxy) == str(status)
    assert may_be_billed(status) is not unbilled
    assert call(proxy) == ("200" if unbilled else "limit_exceeded")


def test_refund_of_50_calls_that_fal_fails_leaves_the_allowance_whole(fal: FakeFal) -> None:
    proxy = limited(fal, "10/day", "10/7 days global", costs={"**": 3})
    for _ in range(50):
        fal.answer_next(500, "{}")
    assert [call(proxy) for _ in range(50)] == ["500"] * 50
    assert [call(proxy) for _ in range(4)] == ["200"] * 3 + ["limit_exceeded"]


def raw(server: RawServer, directory: Path, **options: Any) -> FalProxy:
    pool_manager = server.pool_manager(directory)
    return FalProxy(key="k", pool_manager=pool_manager, limits=["1/day"], **options)


def silent(connection: Connection) -> None:
    connection.read_head()
    connection.wait_for_close()


def closing_at_once(connection: Connection) -> None:
    connection.read_head()


def talking_nonsense(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"nonsense\r\n\r\n")


def cutting(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")


def coding_strangely(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n1")


Script = Callable[[Connection], None]


@pytest.mark.parametrize(
    ("script", "options", "reason", "then"),
    [
        pytest.param(closing_at_once, {}, "upstream_closed", "limit_exceeded", id="closed"),
        pytest.param(talking_nonsense, {}, "upstream_malformed", "limit_exceeded", id="malformed"),
        pytest.param(
            silent, {"read_timeout": 0.05}, "read_timeout", "limit_exceeded", id="read-timeout"
        ),
        pytest.param(
            silent, {"total_timeout": 2}, "total_timeout", "limit_exceeded", id="total-timeout"
        ),
        pytest.param(
            coding_strangely, {}, "upstream_coding_unsupported", "limit_exceeded", id="coding"
        ),
    ],
)
def test_refund_is_not_for_a_failure_after_fal_may_have_received_the_call(
    tmp_path: Path, script: Script, options: Any, reason: str, then: str
) -> None:
    with RawServer(script) as server:
        proxy = raw(server, tmp_path, **options)
        assert call(proxy) == reason
        assert call(proxy) == then


def test_refund_of_a_call_that_no_connection_was_made_for(tmp_path: Path) -> None:
    with RawServer(silent) as server:
        proxy = raw(server, tmp_path)
    assert [call(proxy) for _ in range(3)] == ["upstream_unreachable"] * 3


def test_refund_is_not_for_an_answer_that_breaks_off(tmp_path: Path) -> None:
    with RawServer(cutting) as server:
        proxy = raw(server, tmp_path)
        with pytest.raises(Exception, match="broke off"):
            call(proxy)
        assert call(proxy) == "limit_exceeded"


def test_refund_is_not_for_a_call_that_the_client_leaves(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()

    def script(connection: Connection) -> None:
        connection.read_head()
        theirs.close()
        connection.wait_for_close()

    with ours, RawServer(script) as server:
        proxy = raw(server, tmp_path)
        environ: Any = {"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/1.1"}
        assert call(proxy, **environ) == "client_gone"
        assert call(proxy) == "limit_exceeded"


def test_refund_of_a_call_that_a_later_check_refuses(fal: FakeFal) -> None:
    keys = iter(["", "a b", fal.key, fal.key])
    proxy = limited(fal, "1/day", key=lambda _: next(keys))
    assert call(proxy) == "key_missing"
    assert call(proxy) == "key_malformed"
    assert call(proxy, HTTP_X_FAL_HINT="a\nb") == "header_invalid"
    assert call(proxy) == "200"


def test_refund_of_a_body_that_ends_too_soon(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day")
    assert call(proxy, CONTENT_LENGTH="100") == "body_incomplete"
    assert call(proxy) == "200"


def test_refund_of_a_call_that_the_full_relay_refuses(fal: FakeFal) -> None:
    proxy = limited(fal, "2/day", max_concurrent=1)
    assert proxy._slots is not None
    release = proxy._slots.take()
    assert call(proxy) == "relay_full"
    release()
    assert [call(proxy) for _ in range(3)] == ["200", "200", "limit_exceeded"]


def test_limiter_counts_a_call_before_it_is_answered_whole(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day")
    environ = {
        "REQUEST_METHOD": "POST",
        "HTTP_X_FAL_TARGET_URL": f"{LLM}/stream",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.input": io.BytesIO(BODY),
    }
    iterable: Any = proxy(environ, lambda *_: lambda data: None)
    with closing(iterable):
        assert call(proxy) == "limit_exceeded"
    assert call(proxy) == "limit_exceeded"


# In its place among the decisions.


def test_limiter_comes_after_authorize_and_before_the_key(fal: FakeFal) -> None:
    proxy = limited(fal, "1/day", key=lambda _: "")
    assert call(proxy) == "key_missing"
    answers = iter([Refuse(401), Refuse(403), Allow("a"), Allow("a"), Allow("b")])
    proxy = limited(fal, "1/day", authorize=lambda _: next(answers))
    calls = [call(proxy) for _ in range(5)]
    assert calls == ["unauthenticated", "forbidden", "200", "limit_exceeded", "200"]


def test_limiter_is_not_there_without_limits(fal: FakeFal) -> None:
    proxy = limited(fal, authorize=lambda _: Allow("a"))
    assert [call(proxy) for _ in range(3)] == ["200"] * 3


def test_limiter_gives_64_threads_no_more_than_the_limit(fal: FakeFal) -> None:
    proxy = limited(fal, "100/day")
    with ThreadPoolExecutor(64) as threads:
        calls = list(threads.map(lambda _: call(proxy), range(300)))
    assert sorted(set(calls)) == ["200", "limit_exceeded"]
    assert calls.count("200") == len(fal.requests) == 100


# When the store is down.


def test_limiter_without_its_store_refuses_what_spends_and_says_so_once(
    fal: FakeFal, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = limited(fal, "9/day", limits_storage=redis.uri)
    assert call(proxy) == "200"
    redis.stop()
    status, headers, _ = answer(proxy)
    assert (status, headers["Retry-After"]) == ("503 Service Unavailable", "5")
    assert [call(proxy) for _ in range(3)] == ["limits_unavailable"] * 3
    fal.answer_next(200, "{}")
    assert call(proxy, QUEUED, REQUEST_METHOD="GET") == "200"
    assert len(fal.requests) == 2
    redis.start()
    assert [call(proxy) for _ in range(3)] == ["200"] * 3
    begun, ended = caplog.messages
    assert begun.startswith(
        "limits_unavailable: the store of the limits failed. Until it answers, calls are refused"
    )
    assert "ConnectionError" in begun
    assert ended == "The store of the limits answers again."


def test_limiter_without_its_store_fails_open_and_says_so_once(
    fal: FakeFal, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = limited(fal, "1/day", limits_storage=redis.uri, limits_fail_open=True)
    redis.stop()
    assert [call(proxy) for _ in range(3)] == ["200"] * 3
    assert len(caplog.messages) == 1
    assert "Until it answers, calls are relayed uncounted" in caplog.messages[0]
    redis.start()
    assert [call(proxy) for _ in range(2)] == ["200", "limit_exceeded"]


def test_refund_that_cannot_be_made_leaves_the_charge(
    fal: FakeFal, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def key(_: WSGIEnvironment) -> str:
        redis.stop()
        return ""

    proxy = limited(fal, "1/day", limits_storage=redis.uri, key=key)
    assert call(proxy) == "key_missing"
    redis.start()
    assert call(proxy) == "limit_exceeded"
    assert caplog.messages[0].startswith("key_missing")
    assert caplog.messages[1].startswith("limits_unavailable")


def test_limiter_outage_is_not_ended_by_a_late_answer(caplog: pytest.LogCaptureFixture) -> None:
    outage, failure = Outage("refused"), StoreFailed()
    early = outage.generation
    outage.report_failure(outage.generation, failure)
    # Two that had asked before the store failed: one has its answer, one has none.
    outage.report_success(early)
    outage.report_failure(early, failure)
    late = outage.generation
    outage.report_success(outage.generation)
    # Two that had asked while it did.
    outage.report_failure(late, failure)
    outage.report_success(late)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_limiter_does_not_log_a_password_of_the_store(
    fal: FakeFal, caplog: pytest.LogCaptureFixture
) -> None:
    # Nothing listens there.
    proxy = limited(fal, "1/day", limits_storage="redis://u:s3cret@127.0.0.1:1/0")
    assert call(proxy) == "limits_unavailable"
    assert "s3cret" not in caplog.text + repr(vars(proxy))


# The options.

EACH = "each must be such as '20/minute'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"limits": "20/minute"},
            "limits='20/minute' cannot be used: it must be a list of limits",
        ),
        ({"limits": None}, "limits=None cannot be used: it must be a list of limits"),
        ({"limits": ["often"]}, f"limits='often' cannot be used: {EACH}"),
        (
            {"limits": ["0/minute"]},
            "limits='0/minute' cannot be used: no number in a limit may be 0",
        ),
        (
            {"limits": ["9/0 days"]},
            "limits='9/0 days' cannot be used: no number in a limit may be 0",
        ),
        ({"limits": [20]}, f"limits=20 cannot be used: {EACH}"),
        (
            {"limits": ["1/day", "2/24 hours"]},
            "limits='2/24 hours' cannot be used: there can be one limit for each window of time",
        ),
        (
            {"costs": {"a/b": 1}},
            "costs={'a/b': 1} cannot be used: costs have no effect without limits",
        ),
        (
            {"limits": ["9/day"], "costs": ["a"]},
            "costs=['a'] cannot be used: it must be costs by patterns",
        ),
        (
            {"limits": ["9/day"], "costs": {"": 2}},
            "costs='' cannot be used: each pattern must begin with an owner",
        ),
        (
            {"limits": ["9/day"], "costs": {"/a": 2}},
            "costs='/a' cannot be used: a pattern must have no slash at",
        ),
        ({"limits": ["9/day"], "costs": {1: 2}}, "costs=1 cannot be used: each must be a pattern"),
        (
            {"limits": ["9/day"], "costs": {"a/b": 0}},
            "costs=0 cannot be used: each must be a whole",
        ),
        ({"limits": ["9/day"], "costs": {"a/b": True}}, "costs=True cannot be used: each must be"),
        ({"limits": ["9/day"], "costs": {"a/b": 1.5}}, "costs=1.5 cannot be used: each must be a"),
        (
            {"limits": ["99/day", "9/hour"], "costs": {"a/b": 10}},
            "costs=10 cannot be used: it exceeds a limit, so no such call could pass: 9/h",
        ),
        (
            {"limits_storage": "memcached://s3cret"},
            "limits_storage='memcached://...' cannot be used: it must be memory://, or",
        ),
        (
            {"limits_storage": "sqlite:///x"},
            "limits_storage='sqlite://...' cannot be used: it must",
        ),
        ({"limits_storage": "redis://s3cret:x"}, "limits_storage='redis://...' cannot be used: it"),
        ({"limits_storage": "s3cret@host"}, "limits_storage=<redacted> cannot be used: it must be"),
        (
            {"limits_storage": "a:s3cret://h"},
            "limits_storage=<redacted> cannot be used: it must be",
        ),
        ({"limits_storage": None}, "limits_storage=None cannot be used: it must be memory://, or"),
        ({"limits_storage": 6379}, "limits_storage=6379 cannot be used: it must be memory://, or"),
        ({"limits_fail_open": 1}, "limits_fail_open=1 cannot be used: it must be True or False"),
    ],
)
def test_limits_option_that_cannot_be_used_is_refused(options: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        FalProxy(**options)
    assert str(caught.value).startswith(message)
    assert "s3cret" not in str(caught.value)


def test_limits_option_that_equals_none_but_is_no_list_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"limits=<ANY> cannot be used: it must be a list"):
        FalProxy(limits=ANY)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("limits", {"limits": ["1/day"]}),
        ("limits.storage", {"limits": ["1/day"], "limits_storage": "redis://h"}),
        ("redis.backoff", {"limits": ["1/day"], "limits_storage": "redis://h"}),
    ],
)
def test_limits_option_asks_for_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, options: Any
) -> None:
    monkeypatch.delitem(sys.modules, redis_store.__name__)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=r"more libraries: pip install 'limits\[redis\]'"):
        FalProxy(**options)


def test_limits_libraries_are_not_imported_without_limits() -> None:
    code = (
        "import sys; from wsgi_fal_proxy import FalProxy; FalProxy();"
        "sys.exit(bool({'limits', 'redis'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=WAIT_SECONDS)


def test_limits_in_memory_leave_no_thread_behind() -> None:
    code = (
        "import threading; from wsgi_fal_proxy import FalProxy; FalProxy(limits=['1/day']);"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=WAIT_SECONDS)

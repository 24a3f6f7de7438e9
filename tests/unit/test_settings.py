from __future__ import annotations

import ast
import inspect
import math
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest
import urllib3

from wsgi_fal_proxy import allow_anyone
from wsgi_fal_proxy._fal.key import KeyFile
from wsgi_fal_proxy._settings import options as settings
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy.errors import SettingsError


def test_settings_defaults_are_those_that_are_documented() -> None:
    assert asdict(Settings.build({})) == asdict(
        Settings(
            key=None,
            connect_timeout=10.0,
            read_timeout=300.0,
            max_body_bytes=33_554_432,
            forward_headers=(),
            pool_manager=None,
        )
    )


def test_settings_have_a_type_for_callers_for_every_option() -> None:
    # For type checkers alone, so it is not there to be asked.
    tree = ast.parse(inspect.getsource(settings))
    (typed,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Options"
    )
    types = {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in typed.body
        if isinstance(node, ast.AnnAssign)
    }
    assert types == {one.name: one.type for one in fields(Settings)}
    assert list(types) == Settings.names()


POOL_MANAGER = urllib3.PoolManager()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("key", "a:b", id="key"),
        pytest.param("key", " a:b\n", id="key-with-space-around"),
        pytest.param("key", lambda _: "k", id="key-callable"),
        pytest.param("key", KeyFile("/run/secrets/fal"), id="key-file"),
        pytest.param("key", None, id="key-none"),
        pytest.param("connect_timeout", 1, id="connect-timeout-whole"),
        pytest.param("connect_timeout", 0.001, id="connect-timeout-fraction"),
        pytest.param("connect_timeout", None, id="connect-timeout-none"),
        pytest.param("read_timeout", 3600, id="read-timeout-whole"),
        pytest.param("read_timeout", 0.5, id="read-timeout-fraction"),
        pytest.param("read_timeout", None, id="read-timeout-none"),
        pytest.param("max_body_bytes", 0, id="max-body-bytes-0"),
        pytest.param("max_body_bytes", 10**12, id="max-body-bytes-large"),
        pytest.param("forward_headers", ["x-request-id"], id="forward-headers-list"),
        pytest.param("forward_headers", ("X-A", "traceparent"), id="forward-headers-tuple"),
        pytest.param("forward_headers", {"x-a"}, id="forward-headers-set"),
        pytest.param("forward_headers", frozenset({"x-a"}), id="forward-headers-frozenset"),
        pytest.param(
            "forward_headers", ["x-falcon", "x-forwarded"], id="forward-headers-near-ours"
        ),
        pytest.param("pool_manager", POOL_MANAGER, id="pool-manager"),
        pytest.param("observer", print, id="observer"),
        pytest.param("authorize", allow_anyone, id="authorize"),
    ],
)
def test_settings_hold_a_usable_value(name: str, value: object) -> None:
    assert getattr(Settings.build({name: value}), name) is value


SECONDS = "a number of seconds above 0, up to 1000000, or None for no limit"


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("observer", "a callable that takes a CallRecord, or None"),
        ("authorize", "a callable that takes a FalRequest, or None to serve every caller"),
    ],
)
@pytest.mark.parametrize("value", [0, "print", True])
def test_settings_refuse_what_cannot_be_called(name: str, accepted: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({name: value})
    assert (caught.value.name, caught.value.accepted) == (name, accepted)


BYTES = "a whole number of bytes, 0 or more"
NAMES = "a list of header names"
NAME = "each must be a header name, such as x-request-id"
NEVER = "this header is never forwarded: it identifies the caller, or the proxy sets it"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(0, id="0"),
        pytest.param(0.0, id="0.0"),
        pytest.param(-1, id="negative"),
        pytest.param(math.inf, id="infinite"),
        pytest.param(-math.inf, id="minus-infinite"),
        pytest.param(math.nan, id="not-a-number"),
        pytest.param(1_000_001, id="more-than-a-socket-waits"),
        pytest.param(10**400, id="more-than-a-float-holds"),
        pytest.param(True, id="true"),
        pytest.param(False, id="false"),
        pytest.param("10", id="text"),
        pytest.param(1j, id="complex"),
        pytest.param([10], id="list"),
        pytest.param(urllib3.Timeout(10), id="urllib3-timeout"),
    ],
)
@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "total_timeout"])
def test_settings_refuse_a_value_that_is_no_time(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({name: value})
    assert (caught.value.name, caught.value.value) == (name, repr(value))
    assert caught.value.accepted == SECONDS


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-1, id="negative"),
        pytest.param(1.0, id="fraction"),
        pytest.param(True, id="true"),
        pytest.param(False, id="false"),
        pytest.param("10", id="text"),
        pytest.param(None, id="none"),
    ],
)
def test_settings_refuse_a_value_that_is_no_number_of_bytes(value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({"max_body_bytes": value})
    assert (caught.value.name, caught.value.accepted) == ("max_body_bytes", BYTES)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        pytest.param("x-request-id", NAMES, id="text"),
        pytest.param(b"x-request-id", NAMES, id="bytes"),
        pytest.param({"x-request-id": "1"}, NAMES, id="dict"),
        pytest.param(None, NAMES, id="none"),
        pytest.param(iter(["x-request-id"]), NAMES, id="iterator"),
        pytest.param([""], NAME, id="empty"),
        pytest.param([None], NAME, id="none-in-list"),
        pytest.param([b"x-a"], NAME, id="bytes-in-list"),
        pytest.param(["x a"], NAME, id="space"),
        pytest.param(["x-a:"], NAME, id="colon"),
        pytest.param(["x-a\r\nx-b"], NAME, id="newline"),
        pytest.param(["x-a\n"], NAME, id="newline-at-the-end"),
        pytest.param(["x-\xe9"], NAME, id="not-ascii"),
        pytest.param(["x-a", "x b"], NAME, id="second"),
        pytest.param(["Cookie"], NEVER, id="cookie"),
        pytest.param(["cookie2"], NEVER, id="cookie2"),
        pytest.param(["authorization"], NEVER, id="authorization"),
        pytest.param(["Proxy-Authorization"], NEVER, id="proxy-authorization"),
        pytest.param(["host"], NEVER, id="host"),
        pytest.param(["origin"], NEVER, id="origin"),
        pytest.param(["referer"], NEVER, id="referer"),
        pytest.param(["forwarded"], NEVER, id="forwarded"),
        pytest.param(["x-forwarded-for"], NEVER, id="x-forwarded-for"),
        pytest.param(["X-Forwarded-Anything"], NEVER, id="x-forwarded"),
        pytest.param(["x-real-ip"], NEVER, id="x-real-ip"),
        pytest.param(["via"], NEVER, id="via"),
        pytest.param(["Content-Length"], NEVER, id="content-length"),
        pytest.param(["content-type"], NEVER, id="content-type"),
        pytest.param(["content-encoding"], NEVER, id="content-encoding"),
        pytest.param(["accept-encoding"], NEVER, id="accept-encoding"),
        pytest.param(["accept"], NEVER, id="accept"),
        pytest.param(["user-agent"], NEVER, id="user-agent"),
        pytest.param(["expect"], NEVER, id="expect"),
        pytest.param(["connection"], NEVER, id="connection"),
        pytest.param(["keep-alive"], NEVER, id="keep-alive"),
        pytest.param(["te"], NEVER, id="te"),
        pytest.param(["trailer"], NEVER, id="trailer"),
        pytest.param(["Transfer-Encoding"], NEVER, id="transfer-encoding"),
        pytest.param(["upgrade"], NEVER, id="upgrade"),
        pytest.param(["x-fal-target-url"], NEVER, id="target"),
        pytest.param(["X-Fal-Client-Proxy"], NEVER, id="client-proxy"),
        pytest.param(["x-request-id", "cookie"], NEVER, id="second-never"),
    ],
)
def test_settings_refuse_a_header_that_cannot_be_forwarded(value: object, accepted: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({"forward_headers": value})
    assert (caught.value.name, caught.value.accepted) == ("forward_headers", accepted)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("transfer_encoding", id="transfer-encoding"),
        pytest.param("proxy_authorization", id="proxy-authorization"),
        pytest.param("x_forwarded_for", id="x-forwarded-for"),
        pytest.param("accept_encoding", id="accept-encoding"),
    ],
)
def test_settings_refuse_a_header_that_is_never_forwarded_with_underscores_too(name: str) -> None:
    with pytest.raises(SettingsError):
        Settings.build({"forward_headers": [name]})


def test_settings_refusal_of_a_header_shows_that_header_alone() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({"forward_headers": ["x-a", "Cookie", "x-b"]})
    assert caught.value.value == "'Cookie'"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="blank"),
        pytest.param(b"private", id="bytes"),
        pytest.param(12345, id="number"),
        pytest.param(["private"], id="list"),
    ],
)
def test_settings_refuse_a_value_that_is_no_key_and_do_not_show_it(value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({"key": value})
    empty = " (this text is empty)" if isinstance(value, str) else ""
    assert str(caught.value) == (
        f"key=<redacted> cannot be used: it must be the key as text{empty}, a callable that returns"
        " the key, or None to look in the environment"
    )


@pytest.mark.parametrize("value", ["http://me:secret@proxy:80", ["x", "redis://:secret@host/0"]])
def test_settings_do_not_show_a_password_in_a_uri(value: object) -> None:
    for name in ("pool_manager", "limits", "cors_origins", "store"):
        with pytest.raises(SettingsError, match=f"{name}=<redacted> ") as caught:
            raise SettingsError(name, value, "")
        assert "secret" not in str(caught.value)


def test_settings_refuse_a_number_that_python_does_not_write_down() -> None:
    with pytest.raises(SettingsError, match=r"max_concurrent=\.\.\. cannot be used: it must be"):
        Settings.build({"max_concurrent": -(10**5000)})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("read_timout", "did you mean read_timeout?", id="letter-missing"),
        pytest.param("readTimeout", "did you mean read_timeout?", id="camel-case"),
        pytest.param("forward_header", "did you mean forward_headers?", id="singular"),
        pytest.param("max_body", "did you mean max_body_bytes?", id="shorter"),
        pytest.param(
            "zzz",
            f"there is {', '.join(sorted(Settings.names()))}",
            id="like-none",
        ),
    ],
)
def test_settings_refuse_an_unknown_option_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({"key": "k", name: 5})
    assert caught.value.name == name
    assert str(caught.value) == f"{name}=5 cannot be used: there is no such option; {hint}"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("keys", id="key-at-the-start"),
        pytest.param("fal_key", id="key-at-the-end"),
        pytest.param("FAL_KEY", id="upper-case"),
        pytest.param("token", id="other-word"),
    ],
)
def test_settings_do_not_show_a_key_under_another_name(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({name: "private"})
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("authorize", True, "True"),
        ("authorize", 7, "7"),
        ("authorize", 0.5, "0.5"),
        ("authorize", "s3cret", "<redacted>"),
        ("authorize", ["s3cret"], "<redacted>"),
        ("key", True, "True"),
        ("key", False, "False"),
        ("api_key", None, "None"),
        # May be a part of one.
        ("key", 12_345, "<redacted>"),
        ("password", 12_345, "<redacted>"),
        ("token", "redis://s3cret", "<redacted>"),
        ("auth", "redis://s3cret", "<redacted>"),
    ],
)
def test_settings_show_what_cannot_be_a_secret(name: str, value: object, shown: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build({name: value})
    assert caught.value.value == shown


def test_settings_do_not_show_the_key_in_a_repr() -> None:
    assert "private" not in repr(Settings(key="private"))


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.read_timeout = 0  # type: ignore[misc]


def test_settings_are_keyword_only() -> None:
    positional: Any = Settings
    with pytest.raises(TypeError):
        positional("k")


@pytest.mark.parametrize(
    ("options", "why", "accepted"),
    [
        ({"max_body_bytes": -1}, f"it must be {BYTES}", BYTES),
        ({"forward_headers": ["x a"]}, NAME, NAME),
        ({"forward_headers": ["cookie"]}, NEVER, NEVER),
    ],
)
def test_settings_error_tells_what_it_must_be_apart_from_why_it_cannot_be(
    options: dict[str, Any], why: str, accepted: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.build(options)
    assert (caught.value.why, caught.value.accepted) == (why, accepted)
    assert str(caught.value).endswith(f" cannot be used: {why}")


def test_settings_error_is_a_value_error() -> None:
    assert issubclass(SettingsError, ValueError)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8"])
def test_settings_refuse_a_value_that_is_no_number_of_requests(value: object) -> None:
    with pytest.raises(
        SettingsError, match=r"max_concurrent=.*: it must be a whole number, 1 or more, or"
    ):
        Settings.build({"max_concurrent": value})

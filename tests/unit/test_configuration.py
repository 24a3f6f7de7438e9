"""Options written as text: in the environment, and in ini files."""

from __future__ import annotations

from typing import Any, Final

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_fal_proxy import STRICT_URLS, FalProxy, FalProxyMiddleware, KeyFile, SettingsError
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy._settings.text import (
    _IN_THE_ENVIRONMENT,
    _PARSERS,
    has_key,
    options_from_environment,
    options_from_ini,
)

_SECONDS: Final = "it must be a number of seconds above 0, or none for no limit"
_UP_TO: Final = "it must be a number of seconds above 0, up to 1000000, or none for no limit"
_BYTES: Final = "it must be a whole number of bytes, 0 or more"
_PATH: Final = (
    "it must be a path that begins with '/' and does not end with one, such as '/api/fal/proxy'"
)
_URL: Final = (
    "each pattern must begin with a host under fal.ai or fal.run in lower case and a slash, without"
    " https://, such as queue.fal.run/**"
)
_ENDPOINT: Final = (
    "each pattern must be of endpoints as fal names them, owner and app at least, such as"
    " fal-ai/flux/dev or fal-ai/flux/**"
)
_LIST: Final = "it must be patterns with commas between them"
_KEY: Final = "it must be the key as text, a callable that returns it, or None for the environment"
_LIMITS: Final = (
    "such as '20/minute', '200/day' or, for all callers together, '1000/day global'; per second,"
    " minute, hour or day, or several of these ('500/7 days')"
)
_ZERO: Final = "no number in a limit may be 0"
_NEVER: Final = "this header is never forwarded, or is the proxy's own to set"


# The environment


def test_environment_that_says_nothing_sets_no_option() -> None:
    assert options_from_environment() == {}


@pytest.mark.parametrize(
    ("variable", "text", "option", "value"),
    [
        pytest.param("FAL_PROXY_PREFIX", "/fal", "prefix", "/fal", id="prefix"),
        pytest.param("FAL_PROXY_PREFIX", " /fal\n", "prefix", "/fal", id="white-space-around"),
        pytest.param("FAL_PROXY_PREFIX", "/ü", "prefix", "/ü", id="non-ascii-prefix"),
        pytest.param("FAL_PROXY_CONNECT_TIMEOUT", "2.5", "connect_timeout", 2.5, id="connect"),
        pytest.param("FAL_PROXY_CONNECT_TIMEOUT", "none", "connect_timeout", None, id="no-connect"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "120", "read_timeout", 120.0, id="read"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "None", "read_timeout", None, id="no-read"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024, id="bytes"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "0", "max_body_bytes", 0, id="no-bytes"),
        pytest.param(
            "FAL_PROXY_ALLOWED_URLS",
            "fal.run/**, rest.fal.ai/a?b=*",
            "allowed_urls",
            ["fal.run/**", "rest.fal.ai/a?b=*"],
            id="urls",
        ),
        pytest.param(
            "FAL_PROXY_ALLOWED_URLS", "strict", "allowed_urls", list(STRICT_URLS), id="strict"
        ),
        pytest.param(
            "FAL_PROXY_ALLOWED_URLS",
            "api.fal.ai/**,strict",
            "allowed_urls",
            ["api.fal.ai/**", *STRICT_URLS],
            id="strict-and-more",
        ),
        pytest.param(
            "FAL_PROXY_ALLOWED_ENDPOINTS",
            "fal-ai/flux/dev,*/lora/**",
            "allowed_endpoints",
            ["fal-ai/flux/dev", "*/lora/**"],
            id="endpoints",
        ),
        pytest.param(
            "FAL_PROXY_LIMITS",
            "20/minute, 1000/day global,",
            "limits",
            ["20/minute", "1000/day global"],
            id="limits",
        ),
        pytest.param(
            "FAL_PROXY_LIMITS_STORAGE", "redis://r/1", "limits_storage", "redis://r/1", id="storage"
        ),
    ],
)
def test_environment_variable_sets_its_option(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, option: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)

    options = options_from_environment()

    assert options == {option: value}
    assert isinstance(FalProxyMiddleware(FalProxy(), **options), FalProxyMiddleware)


def test_environment_variables_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_PROXY_PREFIX", "/fal")
    monkeypatch.setenv("FAL_PROXY_READ_TIMEOUT", "5")

    assert options_from_environment() == {"prefix": "/fal", "read_timeout": 5.0}


@pytest.mark.parametrize(
    "variable",
    [
        "FAL_PROXY_PREFIX",
        "FAL_PROXY_ALLOWED_URLS",
        "FAL_PROXY_ALLOWED_ENDPOINTS",
        "FAL_PROXY_CONNECT_TIMEOUT",
        "FAL_PROXY_READ_TIMEOUT",
        "FAL_PROXY_MAX_BODY_BYTES",
    ],
)
def test_environment_variable_that_is_empty_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "")

    assert options_from_environment() == {}


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        pytest.param("FAL_PROXY_PREFIX", "fal", _PATH, id="prefix-without-slash"),
        pytest.param("FAL_PROXY_PREFIX", " ", _PATH, id="prefix-of-white-space"),
        pytest.param("FAL_PROXY_PREFIX", "/fal/", _PATH, id="prefix-that-ends-in-a-slash"),
        pytest.param("FAL_PROXY_PREFIX", "/", _PATH, id="prefix-of-a-slash"),
        pytest.param("FAL_PROXY_PREFIX", "/a?b", _PATH, id="prefix-with-a-query"),
        pytest.param("FAL_PROXY_PREFIX", "/\udcff", _PATH, id="prefix-that-is-not-utf-8"),
        pytest.param("FAL_PROXY_ALLOWED_URLS", "fal.run/**,https://fal.run/x", _URL, id="scheme"),
        pytest.param("FAL_PROXY_ALLOWED_URLS", "Strict", _URL, id="strict-in-upper-case"),
        pytest.param("FAL_PROXY_ALLOWED_URLS", " , ", _LIST, id="no-urls"),
        pytest.param("FAL_PROXY_ALLOWED_ENDPOINTS", ",", _LIST, id="no-endpoints"),
        pytest.param("FAL_PROXY_ALLOWED_ENDPOINTS", "strict", _ENDPOINT, id="strict-endpoints"),
        pytest.param(
            "FAL_PROXY_ALLOWED_ENDPOINTS",
            '["fal-ai/flux"]',
            "a pattern must be without brackets and quotation marks, such as fal-ai/flux/dev",
            id="a-list-of-python",
        ),
        pytest.param("FAL_PROXY_CONNECT_TIMEOUT", "10s", _SECONDS, id="unit"),
        pytest.param("FAL_PROXY_CONNECT_TIMEOUT", "0", _UP_TO, id="zero"),
        pytest.param("FAL_PROXY_CONNECT_TIMEOUT", "-1", _SECONDS, id="negative"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "inf", _SECONDS, id="infinite"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "nan", _SECONDS, id="not-a-number"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "true", _SECONDS, id="bool"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "1_0", _SECONDS, id="underscore-in-seconds"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", "1000001", _UP_TO, id="too-long"),
        pytest.param("FAL_PROXY_READ_TIMEOUT", " ", _SECONDS, id="white-space"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "1.5", _BYTES, id="part-of-a-byte"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "-1", _BYTES, id="negative-bytes"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "+1", _BYTES, id="signed-bytes"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "1_000", _BYTES, id="underscore"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "32MB", _BYTES, id="unit-of-bytes"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "٣٢", _BYTES, id="other-digits"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "none", _BYTES, id="no-limit-on-bytes"),
        pytest.param("FAL_PROXY_MAX_BODY_BYTES", "9" * 5_000, _BYTES, id="thousands-of-digits"),
        pytest.param("FAL_PROXY_LIMITS", "20/minute,often", f"each must be {_LIMITS}", id="often"),
        pytest.param("FAL_PROXY_LIMITS", "0/minute", _ZERO, id="none-at-all"),
        pytest.param(
            "FAL_PROXY_LIMITS",
            "1/minute,2/minute",
            "there can be one limit for each window of time",
            id="limit-twice",
        ),
    ],
)
def test_environment_value_that_cannot_be_used_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, why: str
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value) == f"{variable}={text!r} cannot be used: {why}"
    assert "\n" not in str(caught.value)
    assert (caught.value.name, caught.value.why) == (variable, why)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        pytest.param("FAL_PROXY_PREFX", "FAL_PROXY_PREFIX", id="prefix"),
        pytest.param("FAL_PROXY_CONNECT_TIME", "FAL_PROXY_CONNECT_TIMEOUT", id="connect"),
        pytest.param("FAL_PROXY_READ_TIMEOUTS", "FAL_PROXY_READ_TIMEOUT", id="read"),
        pytest.param("FAL_PROXY_MAX_BODY_SIZE", "FAL_PROXY_MAX_BODY_BYTES", id="bytes"),
    ],
)
@pytest.mark.parametrize("text", [pytest.param("x", id="set"), pytest.param("", id="empty")])
def test_environment_variable_misspelled_is_refused_with_the_right_one(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value) == (
        f"{variable}={text!r} cannot be used: there is no such option; did you mean {meant}?"
    )


def test_environment_variable_like_no_other_is_refused_with_all_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAL_PROXY_SOMETHING_ELSE_ALTOGETHER", "x")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    there_is = ", ".join(sorted(f"FAL_PROXY_{name.upper()}" for name in _IN_THE_ENVIRONMENT))
    assert str(caught.value) == (
        "FAL_PROXY_SOMETHING_ELSE_ALTOGETHER='x' cannot be used: there is no such option;"
        f" there is {there_is}"
    )


@pytest.mark.parametrize("variable", ["FAL_PROXY_KEY", "FAL_PROXY_API_KEY", "FAL_PROXY_key"])
def test_environment_does_not_show_a_secret_in_a_variable_that_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "s3cret")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value).startswith(f"{variable}=<redacted> cannot be used: there is no such")
    assert "s3cret" not in f"{caught.value!r} {vars(caught.value)}"


@pytest.mark.parametrize("option", sorted({*Settings.names()} - {*_IN_THE_ENVIRONMENT, "key"}))
def test_environment_says_which_option_is_not_for_it(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    variable = f"FAL_PROXY_{option.upper()}"
    monkeypatch.setenv(variable, "5")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    shown = "<redacted>" if option == "authorize" else "'5'"
    assert str(caught.value) == (
        f"{variable}={shown} cannot be used: {option} is an option that cannot be set in the"
        " environment; write a module of your own with FalProxyMiddleware (see the README,"
        " 'Stand-alone')"
    )


@pytest.mark.parametrize("name", ["KEY", "KEY_FILE", "KEY_ID", "KEY_SECRET"])
def test_environment_tells_where_a_key_under_the_prefix_of_options_belongs(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"FAL_PROXY_{name}", "s3cret")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value) == (
        f"FAL_PROXY_{name}=<redacted> cannot be used: there is no such option; did you mean"
        f" FAL_{name}?"
    )


def test_environment_does_not_show_a_long_text_set_where_it_does_not_belong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "Key 0123456789abcdef"
    monkeypatch.setenv("FAL_PROXY_OBSERVER", text)
    with pytest.raises(SettingsError, match=r"FAL_PROXY_OBSERVER='\.\.\.' cannot be used"):
        options_from_environment()
    with pytest.raises(SettingsError, match=r"observer='\.\.\.' cannot be used"):
        options_from_ini({"observer": text})


@pytest.mark.parametrize("option", ["total_timeout", "max_concurrent", "report_only", "costs"])
def test_ini_says_which_option_is_not_for_it(option: str) -> None:
    with pytest.raises(SettingsError) as caught:
        options_from_ini({option: "5"})

    assert str(caught.value) == (
        f"{option}='5' cannot be used: {option} is an option that cannot be set as text; set it in"
        " Python"
    )


@pytest.mark.parametrize(
    "variable", ["FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET", "FAL_OTHER", "PREFIX"]
)
def test_environment_variables_of_other_names_are_not_options(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")

    assert options_from_environment() == {}


# Whether there is a key


@pytest.mark.parametrize("variable", ["FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET"])
def test_has_key_knows_a_word_of_a_key(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "x")

    assert has_key()


def test_has_key_knows_what_is_no_word_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "")
    monkeypatch.setenv("FAL_PROXY_PREFIX", "/fal")

    assert not has_key()


# Ini files


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        pytest.param("prefix", "/fal", "/fal", id="prefix"),
        pytest.param("connect_timeout", "2.5", 2.5, id="connect"),
        pytest.param("read_timeout", "NONE", None, id="no-read"),
        pytest.param("max_body_bytes", "1024", 1024, id="bytes"),
        pytest.param("forward_headers", "x-one, X-Two", ["x-one", "X-Two"], id="headers"),
        pytest.param("forward_headers", "\nx-one,\nx-two,\n", ["x-one", "x-two"], id="lines"),
        pytest.param("forward_headers", "", [], id="no-headers"),
        pytest.param("allowed_urls", "\nstrict\n", list(STRICT_URLS), id="strict"),
        pytest.param("allowed_endpoints", "\na/b,\nc/*\n", ["a/b", "c/*"], id="endpoints"),
        pytest.param("key", " id:secret ", "id:secret", id="key"),
    ],
)
def test_ini_option_is_read(option: str, text: str, value: object) -> None:
    assert options_from_ini({option: text}) == {option: value}


def test_ini_limits_stand_one_to_a_line_too() -> None:
    assert options_from_ini({"limits": "\n20/minute\n1000/day global,\n"}) == {
        "limits": ["20/minute", "1000/day global"]
    }


def test_ini_does_not_show_a_storage_since_it_may_hold_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAL_PROXY_LIMITS_STORAGE", "memcached://u:s3cret@host")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value).startswith(
        "FAL_PROXY_LIMITS_STORAGE='memcached://...' cannot be used: it must be memory://, or redis"
    )
    assert "s3cret" not in str(caught.value)


def test_ini_key_file_is_a_key() -> None:
    options = options_from_ini({"key_file": " /run/secrets/fal "})

    assert set(options) == {"key"}
    assert isinstance(options["key"], KeyFile)
    assert options["key"].path == "/run/secrets/fal"


def test_ini_key_and_key_file_exclude_each_other() -> None:
    with pytest.raises(SettingsError) as caught:
        options_from_ini({"key": "id:s3cret", "key_file": "/run/secrets/fal"})

    assert str(caught.value) == (
        "key_file=<redacted> cannot be used: either key or key_file can be set, not both"
    )


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        pytest.param("prefix", "", f"prefix='' cannot be used: {_PATH}", id="prefix"),
        pytest.param(
            "connect_timeout",
            "soon",
            f"connect_timeout='soon' cannot be used: {_SECONDS}",
            id="connect",
        ),
        pytest.param("read_timeout", "", f"read_timeout='' cannot be used: {_SECONDS}", id="read"),
        pytest.param(
            "max_body_bytes", "", f"max_body_bytes='' cannot be used: {_BYTES}", id="bytes"
        ),
        pytest.param(
            "forward_headers",
            "x-one,cookie",
            f"forward_headers='x-one,cookie' cannot be used: {_NEVER}",
            id="headers",
        ),
        pytest.param("key", " ", f"key=<redacted> cannot be used: {_KEY}", id="key"),
        pytest.param(
            "key_file",
            " ",
            "key_file=<redacted> cannot be used: it must be the path of a file that holds the key",
            id="key-file",
        ),
        pytest.param(
            "preffix",
            "/fal",
            "preffix='/fal' cannot be used: there is no such option; did you mean prefix?",
            id="misspelled",
        ),
        pytest.param(
            "pool_manager",
            "x",
            "pool_manager='x' cannot be used: pool_manager is an option that cannot be set as"
            " text; set it in Python",
            id="not-as-text",
        ),
        pytest.param(
            "something_else",
            "x",
            "something_else='x' cannot be used: there is no such option; there is "
            + ", ".join(sorted(_PARSERS)),
            id="like-none",
        ),
    ],
)
def test_ini_option_that_cannot_be_used_is_refused(option: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        options_from_ini({option: text})

    assert str(caught.value) == message


_OPTIONS: Final = (
    "prefix",
    "allowed_urls",
    "allowed_endpoints",
    "connect_timeout",
    "read_timeout",
    "max_body_bytes",
    "forward_headers",
    "cors_origins",
    "limits",
    "limits_storage",
    "key",
    "key_file",
)


APP: Final = FalProxy()
# One for all: each of its own would read the system's certificates.
MANAGER: Final = urllib3.PoolManager()


@settings(deadline=None)
@given(
    st.sampled_from(_OPTIONS),
    st.text(st.characters()) | st.from_regex(r"[-+0-9_.e]{1,6}|/.*|inf|nan"),
)
def test_ini_option_of_any_text_is_usable_or_refused_by_name(option: str, text: str) -> None:
    given_options: dict[str, Any] = {}
    refusal: SettingsError | None = None
    try:
        given_options = options_from_ini({option: text})
    except SettingsError as error:
        refusal = error

    if refusal is None:
        given_options["pool_manager"] = MANAGER
        assert isinstance(FalProxyMiddleware(APP, **given_options), FalProxyMiddleware)
    else:
        assert refusal.name == option
        assert len(str(refusal).splitlines()) == 1

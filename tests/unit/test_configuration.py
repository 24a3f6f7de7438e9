"""Options written as text: in the environment, and in ini files."""

from __future__ import annotations

from typing import Any, Final

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_fal_proxy import STRICT_URLS, FalProxy, FalProxyMiddleware, KeyFile, SettingsError
from wsgi_fal_proxy._settings.environment import has_key, options_from_environment, variables
from wsgi_fal_proxy._settings.ini import names, options_from_ini
from wsgi_fal_proxy._settings.options import declared, read

_SECONDS: Final = "it must be a number of seconds above 0, or none for no limit"
_UP_TO: Final = "it must be a number of seconds above 0, up to 1000000, or none for no limit"
_BYTES: Final = "it must be a whole number of bytes, 0 or more"
_COUNT: Final = "it must be a whole number, 1 or more, or none for no limit"
_SWITCH: Final = "it must be true or false (yes or no, on or off, 1 or 0)"
_COSTS: Final = (
    "it must be patterns with whole numbers, such as fal-ai/veo3/**=20, fal-ai/flux/**=2"
)
_PATH: Final = (
    "it must be a path that begins with '/' and does not end with one, such as '/api/fal/proxy'"
)
_URL: Final = (
    "each pattern must begin with a host under fal.ai or fal.run in lower case and a slash, without"
    " https://, such as queue.fal.run/**"
)
_ENDPOINT: Final = (
    "each pattern must begin with an owner and an app, as fal names endpoints, such as"
    " fal-ai/flux/dev or fal-ai/flux/**"
)
_LIST: Final = "it must be patterns with commas between them"
_KEY: Final = "it must be the key; leave it out to take the key from the environment"
_LIMITS: Final = (
    "such as '20/minute', '200/day' or, for all callers together, '1000/day global'; per second,"
    " minute, hour or day, or several of these ('500/7 days')"
)
_ZERO: Final = "no number in a limit may be 0"
_NEVER: Final = "this header is never forwarded: it identifies the caller, or the proxy sets it"


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
        pytest.param("FAL_PROXY_LIMITS_FAIL_OPEN", "Yes", "limits_fail_open", True, id="fail-open"),
        pytest.param("FAL_PROXY_LIMITS_FAIL_OPEN", "0", "limits_fail_open", False, id="not-open"),
        pytest.param("FAL_PROXY_REPORT_ONLY", "false", "report_only", False, id="no-report"),
        pytest.param("FAL_PROXY_TOTAL_TIMEOUT", "600", "total_timeout", 600.0, id="total"),
        pytest.param("FAL_PROXY_TOTAL_TIMEOUT", "none", "total_timeout", None, id="no-total"),
        pytest.param("FAL_PROXY_MAX_CONCURRENT", "48", "max_concurrent", 48, id="concurrent"),
        pytest.param("FAL_PROXY_MAX_CONCURRENT", "None", "max_concurrent", None, id="no-bound"),
        pytest.param(
            "FAL_PROXY_FORWARD_HEADERS",
            "x-request-id, traceparent",
            "forward_headers",
            ["x-request-id", "traceparent"],
            id="headers",
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


def test_environment_sets_costs_beside_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_PROXY_LIMITS", "20/day")
    monkeypatch.setenv("FAL_PROXY_COSTS", " fal-ai/veo3/** = 20,\nfal-ai/flux/**=2, ")

    options = options_from_environment()

    assert options == {"limits": ["20/day"], "costs": {"fal-ai/veo3/**": 20, "fal-ai/flux/**": 2}}
    assert isinstance(FalProxy(**options), FalProxy)


def test_environment_sets_a_report_beside_an_allowlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_PROXY_ALLOWED_ENDPOINTS", "a/b")
    monkeypatch.setenv("FAL_PROXY_REPORT_ONLY", "on")

    assert options_from_environment() == {"allowed_endpoints": ["a/b"], "report_only": True}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"FAL_PROXY_REPORT_ONLY": "true"},
            "FAL_PROXY_REPORT_ONLY='true' cannot be used: there is nothing to report without"
            " allowed_urls or allowed_endpoints",
        ),
        (
            {"FAL_PROXY_COSTS": "a/b=2"},
            "FAL_PROXY_COSTS='a/b=2' cannot be used: costs have no effect without limits: set"
            " limits, too",
        ),
        (
            {"FAL_PROXY_COSTS": "a/b=9", "FAL_PROXY_LIMITS": "5/hour"},
            "FAL_PROXY_COSTS='a/b=9' cannot be used: it exceeds a limit, so no such call could"
            " pass: 5/hour",
        ),
    ],
)
def test_environment_variables_that_do_not_go_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    assert str(caught.value) == message


@pytest.mark.parametrize("name", [name for name, one in declared().items() if one.is_text])
def test_option_example_can_be_read(name: str) -> None:
    option = declared()[name]
    assert option.example
    assert read(name, name, option.example) != option.default


def test_option_without_a_variable_needs_python_or_has_variables_of_its_own() -> None:
    without = {name for name, option in declared().items() if not option.has_variable}
    assert without == {"key", "authorize", "observer", "pool_manager"}
    assert {*names()} == {*declared()} - without | {"key", "key_file"}


# What platforms set for a service named fal-proxy: ../shared/cases/service_links.sh has the first.
_SERVICE_LINKS: Final = {
    "FAL_PROXY_SERVICE_HOST": "10.96.0.12",
    "FAL_PROXY_SERVICE_PORT": "8000",
    "FAL_PROXY_SERVICE_PORT_HTTP": "8000",
    "FAL_PROXY_SERVICE_PORT_HTTP_METRICS": "9100",
    "FAL_PROXY_PORT": "tcp://10.96.0.12:8000",
    "FAL_PROXY_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "FAL_PROXY_PORT_8000_TCP_PROTO": "tcp",
    "FAL_PROXY_PORT_8000_TCP_PORT": "8000",
    "FAL_PROXY_PORT_8000_TCP_ADDR": "10.96.0.12",
    "FAL_PROXY_PORT_53_UDP": "udp://10.96.0.12:53",
    "FAL_PROXY_PORT_53_UDP_ADDR": "10.96.0.12",
    "FAL_PROXY_PORT_5060_SCTP_PROTO": "sctp",
    "FAL_PROXY_PORT_8000_TCP_START": "tcp://172.17.0.2:8000",
    "FAL_PROXY_PORT_8000_TCP_PORT_START": "8000",
    "FAL_PROXY_PORT_8000_TCP_PORT_END": "8009",
    "FAL_PROXY_PORT_8000_TCP_END": "tcp://172.17.0.2:8009",
    "FAL_PROXY_NAME": "/web/fal-proxy",
    "FAL_PROXY_ENV_FAL_KEY": "s3cret",
    "FAL_PROXY_ENV_lines": "a\nb",
    # A service named fal-proxy-redis.
    "FAL_PROXY_REDIS_SERVICE_HOST": "10.96.0.13",
    "FAL_PROXY_REDIS_SERVICE_PORT_REDIS": "6379",
    "FAL_PROXY_REDIS_PORT": "tcp://10.96.0.13:6379",
    "FAL_PROXY_REDIS_PORT_6379_TCP_ADDR": "10.96.0.13",
}


@pytest.mark.parametrize("variable", _SERVICE_LINKS)
def test_environment_ignores_what_a_platform_sets_for_a_service(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, _SERVICE_LINKS[variable])

    assert options_from_environment() == {}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FAL_PROXY_SERVICE", "fal-proxy"),
        ("FAL_PROXY_SERVICE_HOSTS", "10.96.0.12"),
        ("FAL_PROXY_LISTEN_PORT", "8000"),
        ("FAL_PROXY_PORT_8000", "8000"),
        ("FAL_PROXY_PORT_8000_TCP_HOST", "10.96.0.12"),
        ("FAL_PROXY_PORTS", "8000"),
        ("FAL_PROXY_NAMES", "x"),
        ("FAL_PROXY_ENV", "x"),
        ("FAL_PROXY_READ_TIMEOUTS", "tcp://10.96.0.12:8000"),
    ],
)
def test_environment_refuses_a_variable_that_only_looks_like_a_platforms(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError, match="there is no such option"):
        options_from_environment()


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
        pytest.param("FAL_PROXY_TOTAL_TIMEOUT", "1h", _SECONDS, id="hours"),
        pytest.param("FAL_PROXY_MAX_CONCURRENT", "0", _COUNT, id="no-requests"),
        pytest.param("FAL_PROXY_MAX_CONCURRENT", "-1", _COUNT, id="negative-count"),
        pytest.param("FAL_PROXY_MAX_CONCURRENT", "1.5", _COUNT, id="part-of-a-request"),
        pytest.param("FAL_PROXY_REPORT_ONLY", "maybe", _SWITCH, id="maybe"),
        pytest.param("FAL_PROXY_LIMITS_FAIL_OPEN", "none", _SWITCH, id="no-switch"),
        pytest.param("FAL_PROXY_FORWARD_HEADERS", "x-one,cookie", _NEVER, id="cookie"),
        pytest.param("FAL_PROXY_COSTS", "fal-ai/veo3/**", _COSTS, id="no-cost"),
        pytest.param("FAL_PROXY_COSTS", "fal-ai/veo3/**=", _COSTS, id="empty-cost"),
        pytest.param("FAL_PROXY_COSTS", "=20", _COSTS, id="cost-of-nothing"),
        pytest.param("FAL_PROXY_COSTS", "a/b=2.5", _COSTS, id="part-of-a-call"),
        pytest.param(
            "FAL_PROXY_COSTS", "a/b=0", "each must be a whole number, 1 or more", id="free"
        ),
        pytest.param("FAL_PROXY_COSTS", "flux=2", _ENDPOINT, id="cost-of-an-app"),
        pytest.param(
            "FAL_PROXY_COSTS", "a/b=2,a/b=3", "it must hold each pattern once: a/b", id="cost-twice"
        ),
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

    there_is = ", ".join(sorted(variables()))
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


@pytest.mark.parametrize("option", ["authorize", "observer", "pool_manager"])
def test_environment_says_which_option_is_not_for_it(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    variable = f"FAL_PROXY_{option.upper()}"
    monkeypatch.setenv(variable, "5")

    with pytest.raises(SettingsError) as caught:
        options_from_environment()

    shown = "<redacted>" if option == "authorize" else "'5'"
    assert str(caught.value) == (
        f"{variable}={shown} cannot be used: no variable can set {option}, only Python code; write"
        " a module of your own with FalProxyMiddleware (see the README, 'Stand-alone')"
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


@pytest.mark.parametrize("option", ["observer", "pool_manager"])
def test_ini_says_which_option_is_not_for_it(option: str) -> None:
    with pytest.raises(SettingsError) as caught:
        options_from_ini({option: "5"})

    assert str(caught.value) == (
        f"{option}='5' cannot be used: text cannot express {option}; set it in Python"
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
        pytest.param("total_timeout", "600", 600.0, id="total"),
        pytest.param("max_concurrent", "48", 48, id="concurrent"),
        pytest.param("report_only", "True", True, id="report"),
        pytest.param("limits_fail_open", "off", False, id="not-open"),
        pytest.param("costs", "\na/b=20\nc/*=2\n", {"a/b": 20, "c/*": 2}, id="costs"),
        pytest.param("costs", "", {}, id="no-costs"),
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
            "pool_manager='x' cannot be used: text cannot express pool_manager; set it in Python",
            id="not-as-text",
        ),
        pytest.param(
            "something_else",
            "x",
            "something_else='x' cannot be used: there is no such option; there is "
            + ", ".join(sorted(names())),
            id="like-none",
        ),
    ],
)
def test_ini_option_that_cannot_be_used_is_refused(option: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        options_from_ini({option: text})

    assert str(caught.value) == message


APP: Final = FalProxy()
# One for all: each of its own would read the system's certificates.
MANAGER: Final = urllib3.PoolManager()


# A middleware reads the system's certificates, which may take as long as the machine likes.
@settings(deadline=None)
@given(
    st.sampled_from(names()),
    st.text(st.characters()) | st.from_regex(r"[-+0-9_.e]{1,6}|/.*|inf|nan"),
)
def test_ini_option_of_any_text_is_usable_or_refused_by_name(option: str, text: str) -> None:
    given_options: dict[str, Any] = {}
    refusal: SettingsError | None = None
    try:
        given_options = options_from_ini({option: text})
    except SettingsError as error:
        refusal = error

    if option in {"report_only", "costs"}:
        given_options |= {"allowed_endpoints": ["a/b"], "limits": [f"{10**12}/day"]}
    if refusal is None:
        if option != "egress_proxy":  # the two exclude each other
            given_options["pool_manager"] = MANAGER
        assert isinstance(FalProxyMiddleware(APP, **given_options), FalProxyMiddleware)
    else:
        assert refusal.name == option
        assert len(str(refusal).splitlines()) == 1

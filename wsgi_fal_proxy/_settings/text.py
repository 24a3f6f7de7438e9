"""Options written as text: in the environment, or in an ini file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._fal.key import KeyFile
from wsgi_fal_proxy._fal.operations import STRICT_URLS
from wsgi_fal_proxy._process.environment import (
    KEY_VARIABLES,
    OPTION_PREFIX,
    option_variables,
    variable,
)
from wsgi_fal_proxy._settings.options import Settings, path_prefix, refuse_unknown, shortened
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")  # below 10^18, as a Content-Length that is accepted


def options_from_environment() -> dict[str, Any]:
    """Give the options of `FalProxyMiddleware` that `FAL_PROXY_*` variables set.

    One that is set to nothing counts as unset.

    Raises:
        SettingsError: A variable is unknown, or its value cannot be used.
    """
    given = option_variables()
    known = {OPTION_PREFIX + name.upper(): name for name in _IN_THE_ENVIRONMENT}
    _refuse_elsewhere(given, known)
    refuse_unknown(given, known, prefix=OPTION_PREFIX)
    return {known[name]: _option(known[name], name, text) for name, text in given.items() if text}


def options_from_ini(given: Mapping[str, str]) -> dict[str, Any]:
    """Give the options of `FalProxyMiddleware` that an ini file's section sets.

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    for name in given:
        if name not in _PARSERS and name in Settings.names():
            why = f"{name} is an option that cannot be set as text; set it in Python"
            raise SettingsError(name, shortened(given[name]), why)
    refuse_unknown(given, _PARSERS)
    options = {name: _option(name, name, text) for name, text in given.items()}
    if "key_file" in options:
        if "key" in options:
            raise SettingsError(
                "key_file", options["key_file"], "either key or key_file can be set, not both"
            )
        options["key"] = options.pop("key_file")
    return options


def _refuse_elsewhere(given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Raise `SettingsError` for the first that can be set, though not by a variable of its name."""
    options = {OPTION_PREFIX + name.upper(): name for name in Settings.names()}
    for name in (name for name in given if name not in known):
        key_variable = f"FAL_{name.removeprefix(OPTION_PREFIX)}"
        if key_variable in KEY_VARIABLES:
            why = f"there is no such option; did you mean {key_variable}?"
            raise SettingsError(name, shortened(given[name]), why)
        if name in options:
            why = (
                f"{options[name]} is an option that cannot be set in the environment; write a"
                " module of your own with FalProxyMiddleware (see the README, 'Stand-alone')"
            )
            raise SettingsError(name, shortened(given[name]), why)


def has_key() -> bool:
    """Whether the environment says anything of a key, right or wrong."""
    return any(map(variable, KEY_VARIABLES))


def _option(option: str, name: str, text: str) -> Any:
    """Read and check one option; an error calls it by the name that it was given under."""
    try:
        value = _PARSERS[option](text.strip())
        if option == "prefix":
            path_prefix(value)
        elif option != "key_file":
            Settings.build({option: value})
    except SettingsError as error:
        raise SettingsError(name, text, error.why.replace("None for no", "none for no")) from error
    return value


def _seconds(text: str) -> float | None:
    if text.lower() == "none":
        return None
    # float() would also take "_", "inf" and digits of other scripts.
    if not _DECIMAL.fullmatch(text):
        raise SettingsError(
            "", text, "it must be a number of seconds above 0, or none for no limit"
        )
    return float(text)


def _bytes(text: str) -> int:
    # int() would also take a sign, "_" and digits of other scripts, and fails at thousands of them.
    if not _DIGITS.fullmatch(text):
        raise SettingsError("", text, "it must be a whole number of bytes, 0 or more")
    return int(text)


def _key_file(text: str) -> KeyFile:
    if not text:
        raise SettingsError("", text, "it must be the path of a file that holds the key")
    return KeyFile(text)


def _names(text: str) -> list[str]:
    # One to a line is what ini files are used to.
    return text.replace(",", " ").split()


def _endpoints(text: str) -> list[str]:
    # Set, and to nothing: who wrote that did not mean all.
    if not (patterns := _names(text)):
        raise SettingsError("", text, "it must be patterns with commas between them")
    return patterns


def _urls(text: str) -> list[str]:
    return [
        pattern
        for word in _endpoints(text)
        for pattern in (STRICT_URLS if word == "strict" else [word])
    ]


def _limits(text: str) -> list[str]:
    # Spaces are in limits: "1000/day global".
    return [limit.strip() for limit in text.replace("\n", ",").split(",") if limit.strip()]


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "prefix": str,
    "allowed_urls": _urls,
    "allowed_endpoints": _endpoints,
    "connect_timeout": _seconds,
    "read_timeout": _seconds,
    "max_body_bytes": _bytes,
    "forward_headers": _names,
    "limits": _limits,
    "limits_storage": str,
    "cors_origins": _names,
    "key": str,
    "key_file": _key_file,
}
_IN_THE_ENVIRONMENT: Final = (
    "prefix",
    "allowed_urls",
    "allowed_endpoints",
    "limits",
    "limits_storage",
    "connect_timeout",
    "read_timeout",
    "max_body_bytes",
    "cors_origins",
)

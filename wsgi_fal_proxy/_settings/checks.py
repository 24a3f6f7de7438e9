"""Checks an option's value. A subject's rules are in its own module, which loads only when needed.

Each function takes the name to report and the value, and raises `SettingsError`. An option's
default is not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._fal.headers import check_forwarded
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "check_anything",
    "check_costs",
    "check_count",
    "check_egress_proxy",
    "check_endpoints",
    "check_forwarded",
    "check_function",
    "check_key",
    "check_limits",
    "check_origins",
    "check_prefix",
    "check_seconds",
    "check_size",
    "check_storage",
    "check_switch",
    "check_urls",
]

# Eleven days. A socket cannot wait for longer than 2^31 milliseconds.
_MAX_SECONDS: Final = 1_000_000


def check_anything(name: str, value: object) -> None:
    """Accept every value: `_upstream` checks it."""


def check_key(name: str, value: object) -> None:
    """Check the fal key, or its source. `_fal.key` checks the key's characters when it is used."""
    if not (value is None or callable(value) or (isinstance(value, str) and value.strip())):
        empty = " (this text is empty)" if isinstance(value, str) else ""
        why = (
            f"it must be the key as text{empty}, a callable that returns the key, or None to look"
            " in the environment"
        )
        raise SettingsError(name, value, why)


def check_function(accepted: str) -> Callable[[str, object], None]:
    """Return a check for a callable or None. Its error says what is accepted."""

    def check(name: str, value: object) -> None:
        if not (value is None or callable(value)):
            raise SettingsError(name, value, f"it must be {accepted}")

    return check


def check_seconds(name: str, value: Any) -> None:
    """Check a time, or None for no limit."""
    if value is None:
        return
    # A bool is an int to Python, and "timeout=True" is a mistake.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS:
        why = f"it must be a number of seconds above 0, up to {_MAX_SECONDS}, or None for no limit"
        raise SettingsError(name, value, why)


def check_count(name: str, value: object) -> None:
    """Check a number of things, at least one, or None for no limit."""
    if value is not None and not _is_whole(value, 1):
        why = "it must be a whole number, 1 or more, or None for no limit"
        raise SettingsError(name, value, why)


def check_size(name: str, value: object) -> None:
    """Check a number of bytes."""
    if not _is_whole(value, 0):
        raise SettingsError(name, value, "it must be a whole number of bytes, 0 or more")


def _is_whole(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def check_switch(name: str, value: object) -> None:
    """Check a bool."""
    if not isinstance(value, bool):
        raise SettingsError(name, value, "it must be True or False")


def check_prefix(name: str, value: object) -> None:
    """Check the path at which the proxy answers."""
    usable = (
        isinstance(value, str)
        and value.startswith("/")
        and not value.endswith("/")
        and all(map(_is_in_paths, value))
    )
    if not usable:
        why = (
            "it must be a path that begins with '/' and does not end with one, such as"
            " '/api/fal/proxy'"
        )
        raise SettingsError(name, value, why)


def _is_in_paths(character: str) -> bool:
    """Whether `PATH_INFO` may hold a character.

    Paths hold no control characters, and "?", "#" and "%" only percent-encoded. Half of a
    surrogate pair has no bytes.
    """
    is_half = "\ud800" <= character <= "\udfff"
    return character >= " " and character not in "\x7f?#%" and not is_half


def check_urls(name: str, value: object) -> None:
    """Check patterns of URLs."""
    from wsgi_fal_proxy._fal.patterns import check_url_patterns  # noqa: PLC0415

    check_url_patterns(name, value)


def check_endpoints(name: str, value: object) -> None:
    """Check patterns of endpoints."""
    from wsgi_fal_proxy._fal.patterns import check_endpoint_patterns  # noqa: PLC0415

    check_endpoint_patterns(name, value)


def check_limits(name: str, value: object) -> None:
    """Check limits in their notation."""
    from wsgi_fal_proxy._policy.limits import checks  # noqa: PLC0415

    checks.check_limits(name, value)


def check_costs(name: str, value: object) -> None:
    """Check costs by patterns of endpoints."""
    from wsgi_fal_proxy._policy.limits import checks  # noqa: PLC0415

    checks.check_costs(name, value)


def check_storage(name: str, value: object) -> None:
    """Check the URI of the limits' store."""
    from wsgi_fal_proxy._policy.limits import checks  # noqa: PLC0415

    checks.check_storage(name, value)


def check_origins(name: str, value: object) -> None:
    """Check origins as browsers write them."""
    from wsgi_fal_proxy._http import cors  # noqa: PLC0415

    cors.check_origins(name, value)


def check_egress_proxy(name: str, value: object) -> None:
    """Check what names an egress proxy, or None."""
    from wsgi_fal_proxy._upstream.egress import (  # noqa: PLC0415
        DIRECT,
        ENVIRONMENT,
        usable_egress,
    )

    if value is not None and value not in (DIRECT, ENVIRONMENT):
        usable_egress(name, value, also=f", or {ENVIRONMENT}, or {DIRECT}")

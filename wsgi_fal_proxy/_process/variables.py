"""Reads environment variables. No other module does."""

from __future__ import annotations

import os
from typing import Any, Final

OPTION_PREFIX: Final = "FAL_PROXY_"
KEY_VARIABLES: Final = ("FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET")

_PROXY_VARIABLES: Final = ("https_proxy", "all_proxy")


def read_variable(name: str) -> str | None:
    """Return the value of an environment variable, without white space around it.

    Returns:
        The value. None if the variable is unset, empty or white space.
    """
    # Each request reads the key here, and `get` is slower.
    try:
        return os.environ[name].strip() or None
    except KeyError:
        return None


def option_variables() -> dict[str, str]:
    """Return all variables whose names begin with `FAL_PROXY_`, empty ones included."""
    return {name: value for name, value in os.environ.items() if name.startswith(OPTION_PREFIX)}


def read_raw_variable(name: str) -> str | None:
    """Return the value of an environment variable as it is. None if the variable is unset."""
    return os.environ.get(name)


def proxy_variables() -> dict[str, str]:
    """Return the proxies that `*_PROXY` variables name, by the first part in lower case.

    By the rules of Python's own clients, which requests and httpx follow: lower case counts first,
    and an empty variable counts as unset. `no` holds `NO_PROXY`.
    """
    if not any(name.lower() in _PROXY_VARIABLES for name in os.environ):
        return {}
    # Not for those who have none: it loads a dozen modules.
    from urllib.request import getproxies_environment  # noqa: PLC0415

    return getproxies_environment()


def goes_directly(proxies: dict[str, str], place: str) -> bool:
    """Whether `NO_PROXY` excepts a place from the proxies.

    Args:
        proxies: As `proxy_variables` gives them.
        place: A host and a port, such as `fal.run:443`.
    """
    # Not `proxy_bypass`: it reads the settings of macOS, after which a process must not fork.
    import urllib.request  # noqa: PLC0415

    untyped: Any = urllib.request
    return bool(untyped.proxy_bypass_environment(place, proxies=proxies))

"""Reads environment variables. No other module does."""

from __future__ import annotations

import os
from typing import Final

OPTION_PREFIX: Final = "FAL_PROXY_"
KEY_VARIABLES: Final = ("FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET")


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

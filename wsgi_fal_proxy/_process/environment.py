"""The one module that reads the environment; what the values mean is decided elsewhere."""

from __future__ import annotations

import os
from typing import Final

OPTION_PREFIX: Final = "FAL_PROXY_"
KEY_VARIABLES: Final = ("FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET")


def variable(name: str) -> str | None:
    """Give the value of an environment variable, without white space around it.

    One that is set to nothing, or to white space, counts as unset.
    """
    # A key of the environment's is looked up at each request; `get` takes longer to find it.
    try:
        return os.environ[name].strip() or None
    except KeyError:
        return None


def option_variables() -> dict[str, str]:
    """Give all variables whose names begin with `FAL_PROXY_`, the empty ones included."""
    return {name: value for name, value in os.environ.items() if name.startswith(OPTION_PREFIX)}

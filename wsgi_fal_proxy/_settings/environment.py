"""Options in the environment: a `FAL_PROXY_*` variable for each that can be written as text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._process.variables import (
    KEY_VARIABLES,
    OPTION_PREFIX,
    option_variables,
    read_variable,
)
from wsgi_fal_proxy._settings.options import Settings, declared, read, refuse_unknown, shortened
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Kubernetes sets these in each pod for a service that is named fal-proxy, or fal-proxy-something
# (kubernetes.io, "Service", "Environment variables"); Docker did so for a container by its legacy
# links (docs.docker.com, "Legacy container links"). NAME_PORT is recognised by its value,
# since FAL_PROXY_SOME_PORT may also be a misspelled option.
_SERVICE_LINK: Final = r"""(?x)
    (?:\w+_)? SERVICE_HOST =.*
    | (?:\w+_)? SERVICE_PORT (?:_\w+)? =.*
    | (?:\w+_)? PORT_[0-9]+_(?:TCP|UDP|SCTP)
      (?:_(?:PROTO|ADDR|PORT|START|END|PORT_START|PORT_END))? =.*
    | \w+_PORT = (?:tcp|udp|sctp)://.*
    | PORT =.*
    | NAME =.*
    | ENV_[^=]+ =.*
"""


def options_from_environment() -> dict[str, Any]:
    """Return the options of `FalProxyMiddleware` that `FAL_PROXY_*` variables set.

    An empty variable counts as unset. Variables that a platform sets for a service are ignored.

    Raises:
        SettingsError: A variable is unknown, or its value cannot be used.
    """
    given = {
        name: text for name, text in option_variables().items() if not _is_service_link(name, text)
    }
    known = variables()
    _refuse_elsewhere(given, known)
    refuse_unknown(given, known, prefix=OPTION_PREFIX)
    options = {known[name]: read(known[name], name, text) for name, text in given.items() if text}
    try:
        Settings.build({name: value for name, value in options.items() if name != "prefix"})
    except SettingsError as error:
        # Two options conflict.
        name = OPTION_PREFIX + error.name.upper()
        raise SettingsError(name, given[name], error.why) from error
    return options


def variables() -> dict[str, str]:
    """Return the options that have a variable, by its name."""
    return {
        OPTION_PREFIX + name.upper(): name
        for name, option in declared().items()
        if option.has_variable
    }


def has_key() -> bool:
    """Whether a variable for the key is set. Its value may be unusable."""
    return any(map(read_variable, KEY_VARIABLES))


def _is_service_link(name: str, text: str) -> bool:
    link = f"{name.removeprefix(OPTION_PREFIX)}={text}"
    return re.fullmatch(_SERVICE_LINK, link, re.ASCII | re.DOTALL) is not None


def _refuse_elsewhere(given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Raise `SettingsError` for the first option that a variable cannot set."""
    for name in given:
        key_variable = f"FAL_{name.removeprefix(OPTION_PREFIX)}"
        if key_variable in KEY_VARIABLES:
            why = f"there is no such option; did you mean {key_variable}?"
            raise SettingsError(name, shortened(given[name]), why)
        option = name.removeprefix(OPTION_PREFIX).lower()
        if name not in known and name.isupper() and option in Settings.names():
            why = (
                f"no variable can set {option}, only Python code; write a module of your own with"
                " FalProxyMiddleware (see the README, 'Stand-alone')"
            )
            raise SettingsError(name, shortened(given[name]), why)

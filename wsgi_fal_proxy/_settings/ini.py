"""Options in an ini file: each that can be written as text, by its own name, and `key_file`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._settings import text
from wsgi_fal_proxy._settings.options import Settings, declared, read, refuse_unknown, shortened
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY_FILE: Final = "key_file"


def options_from_ini(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of `FalProxyMiddleware` that an ini file's section sets.

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    known = names()
    for name in given:
        if name not in known and name in Settings.names():
            why = f"text cannot express {name}; set it in Python"
            raise SettingsError(name, shortened(given[name]), why)
    refuse_unknown(given, known)
    options = {name: read(name, name, given[name]) for name in given if name != _KEY_FILE}
    if _KEY_FILE in given:
        if "key" in options:
            why = "either key or key_file can be set, not both"
            raise SettingsError(_KEY_FILE, given[_KEY_FILE], why)
        try:
            options["key"] = text.parse_key_file(given[_KEY_FILE].strip())
        except SettingsError as error:
            raise SettingsError(_KEY_FILE, given[_KEY_FILE], error.why) from error
    return options


def names() -> list[str]:
    """Return the names that a section may hold."""
    return [name for name, option in declared().items() if option.is_text] + [_KEY_FILE]

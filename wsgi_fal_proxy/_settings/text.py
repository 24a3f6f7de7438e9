"""Reads an option's value from text, as it stands in the environment or in an ini file.

Each function takes text without white space around it. It raises `SettingsError` if the text
cannot be parsed. The option's check then decides whether the value can be used.
"""

from __future__ import annotations

import re
from typing import Final

from wsgi_fal_proxy._fal.key import KeyFile
from wsgi_fal_proxy._fal.operations import STRICT_URLS
from wsgi_fal_proxy.errors import SettingsError

# As text for `re`, which compiles it when it is first needed. float() and int() would also take
# signs, "_", "inf" and digits of other scripts, and int() fails at thousands of digits.
_DECIMAL: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DIGITS: Final = r"[0-9]{1,18}"  # below 10^18, as a Content-Length that is accepted
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def keep_text(text: str) -> str:
    """Return the text itself."""
    return text


def parse_seconds(text: str) -> float | None:
    """Read a time, or `none`."""
    if text.lower() == "none":
        return None
    if not re.fullmatch(_DECIMAL, text):
        why = "it must be a number of seconds above 0, or none for no limit"
        raise SettingsError("", text, why)
    return float(text)


def parse_count(text: str) -> int | None:
    """Read a number of things, or `none`."""
    if text.lower() == "none":
        return None
    if not re.fullmatch(_DIGITS, text):
        why = "it must be a whole number, 1 or more, or none for no limit"
        raise SettingsError("", text, why)
    return int(text)


def parse_size(text: str) -> int:
    """Read a number of bytes."""
    if not re.fullmatch(_DIGITS, text):
        raise SettingsError("", text, "it must be a whole number of bytes, 0 or more")
    return int(text)


def parse_switch(text: str) -> bool:
    """Read `true` or `false`, or another usual pair."""
    word = text.lower()
    if word not in _TRUE and word not in _FALSE:
        why = "it must be true or false (yes or no, on or off, 1 or 0)"
        raise SettingsError("", text, why)
    return word in _TRUE


def parse_names(text: str) -> list[str]:
    """Read words with commas between them, or one to a line, as is usual in ini files."""
    return text.replace(",", " ").split()


def parse_endpoints(text: str) -> list[str]:
    """Read patterns. An empty list would allow everything, which is never what the setter means."""
    if not (patterns := parse_names(text)):
        raise SettingsError("", text, "it must be patterns with commas between them")
    return patterns


def parse_urls(text: str) -> list[str]:
    """Read patterns; `strict` stands for `STRICT_URLS`."""
    return [
        pattern
        for word in parse_endpoints(text)
        for pattern in (STRICT_URLS if word == "strict" else [word])
    ]


def parse_limits(text: str) -> list[str]:
    """Read limits, which may hold spaces: `1000/day global`."""
    return _items(text)


def parse_costs(text: str) -> dict[str, int]:
    """Read costs by patterns: `fal-ai/veo3/**=20, fal-ai/flux/**=2`."""
    costs: dict[str, int] = {}
    for item in _items(text):
        pattern, _, cost = (part.strip() for part in item.rpartition("="))
        if not pattern or not re.fullmatch(_DIGITS, cost):
            why = (
                "it must be patterns with whole numbers, such as"
                " fal-ai/veo3/**=20, fal-ai/flux/**=2"
            )
            raise SettingsError("", text, why)
        if pattern in costs:
            raise SettingsError("", text, f"it must hold each pattern once: {pattern}")
        costs[pattern] = int(cost)
    return costs


def parse_key(text: str) -> str:
    """Read the fal key."""
    if not text:
        why = "it must be the key; leave it out to take the key from the environment"
        raise SettingsError("", text, why)
    return text


def parse_key_file(text: str) -> KeyFile:
    """Read the path of a file that holds the fal key."""
    if not text:
        raise SettingsError("", text, "it must be the path of a file that holds the key")
    return KeyFile(text)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", ",").split(",") if item.strip()]

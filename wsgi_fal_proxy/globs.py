"""Globs over the parts of a path: `*` stays within a segment, `**` crosses segments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_STARS: Final = re.compile(r"(\*\*|\*)")
_MEANING: Final = {"**": ".*", "*": "[^/]*"}


def compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    """Give what fully matches (`fullmatch`) a text that any of these globs matches.

    All but the stars stands for itself, in its own case.
    """
    alternatives = (
        "".join(_MEANING.get(part) or re.escape(part) for part in _STARS.split(pattern))
        for pattern in patterns
    )
    return re.compile("|".join(f"(?:{one})" for one in alternatives), re.DOTALL)

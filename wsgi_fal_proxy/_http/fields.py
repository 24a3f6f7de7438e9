"""Header fields: lists of them, and the rules of RFC 9110 that apply to all."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    HeaderList = list[tuple[str, str]]

# RFC 9110 section 7.6.1, with `Proxy-Connection` (RFC 9112 appendix C.2.2) and the authentication
# headers between a client and its proxy (RFC 9110 sections 11.7.1-11.7.3). `Trailers` is RFC 2616's
# spelling (section 13.5.1): wsgiref and waitress refuse a response with it.
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)

TCHAR: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A regex (RFC 9110 section 5.6.2)."""
TOKEN: Final = re.compile(f"{TCHAR}+")


class Fields:
    """Header fields in order, with repeats. Names are looked up in lower case.

    Args:
        items: Names and values as received.

    Attributes:
        items: The names and values as received.
        names: For each item, its name in lower case.
        connection_options: The content of the `Connection` fields; see `nominated`.
    """

    __slots__ = ("connection_options", "items", "names")

    def __init__(self, items: HeaderList) -> None:
        self.items: HeaderList = items
        self.names: list[str] = [name.lower() for name, _ in items]
        self.connection_options: frozenset[str] = nominated(*self.values("connection"))

    def values(self, name: str) -> list[str]:
        """Return the values of all fields with this name, which must be in lower case."""
        names = self.names
        # Usually a field is missing, or there is one. Both cases take the fast path in C.
        if name not in names:
            return []
        if names.count(name) == 1:
            return [self.items[names.index(name)][1]]
        return [item[1] for item, lower in zip(self.items, names, strict=True) if lower == name]


# Cached, since the value is nearly always `keep-alive` or `close`.
@lru_cache(maxsize=64)
def nominated(*connection_values: str) -> frozenset[str]:
    """Return the content of `Connection` fields, in lower case: options and field names.

    The named fields are hop-by-hop: an intermediary removes them (RFC 9110 section 7.6.1).
    """
    return frozenset(
        name
        for value in connection_values
        for raw in value.lower().split(",")
        if (name := raw.strip(" \t"))
    )


def environ_key(name: str) -> str:
    """Return the environ key of a request header (PEP 3333, "environ Variables")."""
    return "HTTP_" + name.upper().replace("-", "_")

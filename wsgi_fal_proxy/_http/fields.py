"""Header fields: the lists that they come in, and what RFC 9110 says of all of them alike."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    HeaderList = list[tuple[str, str]]

# RFC 9110 section 7.6.1, with `Proxy-Connection` (RFC 9112 appendix C.2.2) and the two
# authentication headers that are between us and the next hop (RFC 9110 sections 11.7.1-11.7.3).
# `Trailers` is how RFC 2616 section 13.5.1 spelt it, and so wsgiref and waitress refuse it.
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

# RFC 9110 section 5.6.2.
TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Fields:
    """Header fields in their order, repeats kept; looked up by their names in any case.

    Args:
        items: Names and values as they came.

    Attributes:
        items: The same.
        names: The name of each, in lower case.
        options: What the `Connection` fields hold; see `nominated`.
    """

    __slots__ = ("items", "names", "options")

    def __init__(self, items: HeaderList) -> None:
        self.items: HeaderList = items
        self.names: list[str] = [name.lower() for name, _ in items]
        self.options: frozenset[str] = nominated(*self.values("connection"))

    def values(self, name: str) -> list[str]:
        """Give the values of the fields with this name, which is in lower case."""
        names = self.names
        # Most are looked for in vain, and none is expected twice: both at the speed of C.
        if name not in names:
            return []
        if names.count(name) == 1:
            return [self.items[names.index(name)][1]]
        return [item[1] for item, lower in zip(self.items, names, strict=True) if lower == name]


# Nearly always `keep-alive` or `close`.
@lru_cache(maxsize=64)
def nominated(*connection_values: str) -> frozenset[str]:
    """Give what `Connection` fields hold, in lower case: options, and names of hop-by-hop fields.

    RFC 9110 section 7.6.1: an intermediary removes the nominated fields before it forwards.
    """
    return frozenset(
        name
        for value in connection_values
        for raw in value.lower().split(",")
        if (name := raw.strip(" \t"))
    )


def environ_key(name: str) -> str:
    """Give the environ key of a request header (PEP 3333, "environ Variables")."""
    return "HTTP_" + name.upper().replace("-", "_")

"""What the proxies written for comparison have in common: fal's formula, as one would write it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX: Final = "/api/fal/proxy"
PIECE_BYTES: Final = 65_536
TIMEOUTS: Final = (10.0, 300.0)
"""Seconds to connect, and to wait for what is next; as in ours."""
THREADS: Final = int(os.environ["THREADS"])

_UPSTREAM_URL: Final = os.environ["UPSTREAM_URL"]
_AUTHORIZATION: Final = f"Key {os.environ['FAL_KEY']}"
_RELAYED: Final = frozenset({"accept", "content-type", "user-agent"})
# RFC 9110 section 7.6.1, and the two that are the server's to set.
_NOT_RETURNED: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-encoding", "content-length"),
    }
)


def upstream_url(target: str | None) -> str | None:
    """Give where to send it: on this machine, in place of fal's host; None if it is not fal's."""
    parts = urlsplit(target or "")
    if parts.scheme != "https" or not f".{parts.hostname}".endswith((".fal.run", ".fal.ai")):
        return None
    return f"{_UPSTREAM_URL}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def request_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Select what goes up, and add the key."""
    selected = {
        name: value
        for name, value in headers
        if (lower := name.lower()) in _RELAYED
        or (lower.startswith("x-fal-") and lower != "x-fal-target-url")
    }
    return selected | {"Authorization": _AUTHORIZATION, "Accept-Encoding": "identity"}


def response_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Select what goes down."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_RETURNED]

"""fal's formula, as all Python peers use it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX: Final = "/api/fal/proxy"
PIECE_BYTES: Final = 65_536
TIMEOUTS: Final = (10.0, 300.0)
"""Connect and read timeout in seconds, as in wsgi-fal-proxy."""
THREADS: Final = int(os.environ["THREADS"])

_UPSTREAM_URL: Final = os.environ["UPSTREAM_URL"]
_AUTHORIZATION: Final = f"Key {os.environ['FAL_KEY']}"
_RELAYED: Final = frozenset({"accept", "content-type", "user-agent"})
# RFC 9110 section 7.6.1, and two fields that the server sets.
_NOT_RETURNED: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-encoding", "content-length"),
    }
)


def upstream_url(target: str | None) -> str | None:
    """Return the target's URL on the benchmark's upstream. None: the target is not fal's."""
    parts = urlsplit(target or "")
    if parts.scheme != "https" or not f".{parts.hostname}".endswith((".fal.run", ".fal.ai")):
        return None
    return f"{_UPSTREAM_URL}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def request_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Select the fields that go up, and add the key."""
    selected = {
        name: value
        for name, value in headers
        if (lower := name.lower()) in _RELAYED
        or (lower.startswith("x-fal-") and lower != "x-fal-target-url")
    }
    return selected | {"Authorization": _AUTHORIZATION, "Accept-Encoding": "identity"}


def response_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Select the fields that go down."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_RETURNED]

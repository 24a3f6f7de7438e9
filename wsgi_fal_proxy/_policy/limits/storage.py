"""The option `limits_storage`: the URI of a store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from wsgi_fal_proxy._policy.limits.memory_store import MemoryStore

if TYPE_CHECKING:
    from wsgi_fal_proxy._policy.limits.store import Store

ACCEPTED: Final = (
    "memory://, or redis://host:port/number, rediss:// (over TLS) or redis+unix:///path/of/socket"
)
_REDIS_SOCKET: Final = "redis+unix"
_REDIS_SCHEMES: Final = frozenset({"redis", "rediss", _REDIS_SOCKET})
_DATABASE: Final = re.compile(r"(?:/[0-9]*)?")


def make_store(uri: str) -> Store:
    """Make the store that a URI names, without connecting to it.

    Raises:
        ImportError: A library is not installed.
        ValueError: The URI cannot be used; see `ACCEPTED`.
    """
    if uri == "memory://":
        return MemoryStore()
    parts = urlsplit(uri)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError
    # redis-py reads a path that is not a number as database 0, where another app may count.
    if parts.scheme != _REDIS_SOCKET and not _DATABASE.fullmatch(parts.path):
        raise ValueError
    from wsgi_fal_proxy._policy.limits.redis_store import RedisStore  # noqa: PLC0415 - if needed

    return RedisStore(uri)

"""Werkzeug's `ProxyMiddleware`, with the target from the header and the key added."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from werkzeug.exceptions import PreconditionFailed
from werkzeug.middleware.http_proxy import ProxyMiddleware

from benchmarks.speed.peers.formula import PIECE_BYTES, upstream_url

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

_PREFIX: Final = "/relay"

_proxy: Final = ProxyMiddleware(
    PreconditionFailed(),
    {
        _PREFIX: {
            "target": os.environ["UPSTREAM_URL"],
            "remove_prefix": True,
            "headers": {"Authorization": f"Key {os.environ['FAL_KEY']}"},
            "ssl_context": ssl.create_default_context(),
        }
    },
    chunk_size=PIECE_BYTES,
    timeout=300,
)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Relay one request."""
    url = upstream_url(environ.get("HTTP_X_FAL_TARGET_URL"))
    if url is None:
        return PreconditionFailed()(environ, start_response)
    parts = urlsplit(url)
    environ |= {"PATH_INFO": _PREFIX + parts.path, "QUERY_STRING": parts.query}
    return _proxy(environ, start_response)

"""Calls of the proxy in this process, as a WSGI server makes them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy import FalProxy

RUN = "https://fal.run/fal-ai/flux/dev"
TARGET = "x-fal-target-url"
JSON = {"Content-Type": "application/json"}


def answer_to(proxy: FalProxy, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """Call the proxy with an environ that no HTTP client would make."""
    full: WSGIEnvironment = {"wsgi.input": io.BytesIO(), **environ}
    setup_testing_defaults(full)
    started: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, dict(headers)))
        return lambda data: None

    iterable = proxy(full, start_response)
    content = b"".join(iterable)
    if hasattr(iterable, "close"):
        iterable.close()
    ((status, headers),) = started
    return status, headers, content

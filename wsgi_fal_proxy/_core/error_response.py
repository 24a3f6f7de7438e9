"""The proxy's own answers, all in one form (the table in the README)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wsgi_fal_proxy._fal.headers import ERROR_HEADER

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._http.fields import HeaderList
    from wsgi_fal_proxy.errors import FalProxyError


def error_response(
    error: FalProxyError, environ: WSGIEnvironment, start_response: StartResponse
) -> list[bytes]:
    """Answer with an error: `detail` is fal's own field, `message` is what its client shows."""
    data = {"detail": error.detail, "message": error.detail, "reason": error.reason}
    headers = [*error.headers, (ERROR_HEADER, error.reason)]
    return json_answer(error.status, data, headers, environ, start_response)


def json_answer(
    status: str,
    data: dict[str, str],
    headers: HeaderList,
    environ: WSGIEnvironment,
    start_response: StartResponse,
) -> list[bytes]:
    """Answer with JSON that no cache may store."""
    content = json.dumps(data).encode()
    common = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Cache-Control", "no-store"),
    ]
    start_response(status, common + headers)
    # RFC 9110 section 9.3.2: the fields as for GET, and no content.
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

"""Requests as an allowlist sees them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from wsgi_fal_proxy._fal.request import FalRequest, parse_request
from wsgi_fal_proxy._http.request_body import RequestBody

if TYPE_CHECKING:
    from wsgi_fal_proxy._policy.allowlist import Allowlist


def body_of(content: bytes, content_type: str = "application/json", **environ: Any) -> RequestBody:
    body = RequestBody(
        {
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(content)),
            "wsgi.input": io.BytesIO(content),
            **environ,
        },
        1_000_000,
    )
    body.accept()
    return body


def request_of(method: str, url: str) -> FalRequest:
    return parse_request({"REQUEST_METHOD": method, "HTTP_X_FAL_TARGET_URL": url})


def check(allowlist: Allowlist, method: str, url: str, content: bytes = b"{}") -> None:
    request = request_of(method, url)
    allowlist.check_target(request)
    allowlist.check_body(request, body_of(content))

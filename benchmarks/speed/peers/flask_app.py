"""A proxy by Flask and requests: fal's formula and no more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

from benchmarks.speed.peers.formula import (
    PIECE_BYTES,
    PREFIX,
    THREADS,
    TIMEOUTS,
    request_headers,
    response_headers,
    upstream_url,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Flask(__name__)
_session: Final = requests.Session()
_session.mount("https://", HTTPAdapter(pool_maxsize=THREADS))
_session.verify = os.environ["SSL_CERT_FILE"]
# With trust_env, each request would look up the proxies of the environment.
_session.trust_env = False


@app.route(PREFIX, methods=["GET", "POST", "PUT"])
def fal_proxy() -> Response:
    """Relay one request."""
    url = upstream_url(request.headers.get("x-fal-target-url"))
    if url is None:
        return Response("Invalid request", 412)
    answer = _session.request(
        request.method,
        url,
        headers=request_headers(request.headers.items()),
        data=request.get_data(),
        stream=True,
        timeout=TIMEOUTS,
        allow_redirects=False,
    )
    response = Response(
        _pieces(answer), answer.status_code, response_headers(answer.raw.headers.items())
    )
    response.call_on_close(answer.close)
    return response


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    # A chunked answer comes chunk by chunk, any other in pieces of this size.
    yield from answer.raw.stream(PIECE_BYTES, decode_content=False)

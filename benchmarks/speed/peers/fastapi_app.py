"""A proxy by FastAPI and httpx: fal's formula and no more."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from benchmarks.speed.peers.formula import (
    PREFIX,
    TIMEOUTS,
    request_headers,
    response_headers,
    upstream_url,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_KEEP_ALIVE_SECONDS: Final = 75
_connect, _read = TIMEOUTS
_client: Final = httpx.AsyncClient(
    verify=ssl.create_default_context(),
    limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
    timeout=httpx.Timeout(_read, connect=_connect),
)


@contextlib.asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with _client:
        yield


app = FastAPI(lifespan=_lifespan)


@app.api_route(PREFIX, methods=["GET", "POST", "PUT"])
async def fal_proxy(request: Request) -> Response:
    """Relay one request."""
    url = upstream_url(request.headers.get("x-fal-target-url"))
    if url is None:
        return Response("Invalid request", 412)
    headers = request_headers(request.headers.items())
    made = _client.build_request(request.method, url, headers=headers, content=await request.body())
    answer = await _client.send(made, stream=True)
    response = StreamingResponse(
        answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response_headers(answer.headers.multi_items())
    ]
    return response

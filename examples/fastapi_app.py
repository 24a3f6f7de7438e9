"""Give the proxy a route in a FastAPI app, by a2wsgi; Starlette is the same.

    FAL_KEY=... python examples/fastapi_app.py

Leaves out: who may call. FastAPI's dependencies do not see this route, so anyone who reaches
this server can call fal, and you pay. A client that leaves while fal works is not noticed, and fal
works on: see "FastAPI and Starlette" in docs/frameworks.md.
"""

import os

import uvicorn
from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.routing import Route

from wsgi_fal_proxy import FalProxy

# A call takes one of these threads for as long as it lasts; there are 10, unless told otherwise.
fal = WSGIMiddleware(FalProxy(), workers=64)  # type: ignore[arg-type]
# A route and not a mount, which would answer the path itself by a redirect to the one with a "/".
app = FastAPI(routes=[Route("/api/fal/proxy", fal)])


@app.get("/", response_class=PlainTextResponse)
def hello() -> str:
    """Answer as FastAPI does."""
    return "Hello from FastAPI\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))

"""Bound what each visitor, and all of them together, can spend, over all workers and machines.

    pip install 'limits[redis]'
    FAL_KEY=... gunicorn -c examples/gunicorn.conf.py examples.limits_redis:app

Redis is the one on localhost, or where REDIS_URL says.

Leaves out: who may call. Each remote address is a caller of its own here, and somebody with many
addresses is many; the global limit holds for them, too. An app that knows its users names them by
the option `authorize`.
"""

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from wsgi_fal_proxy import FalProxyMiddleware


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stand for the app."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello within limits\n"]


app = FalProxyMiddleware(
    hello,
    limits=["20/minute", "200/day", "1000/day global"],
    # Seconds of video cost as much as many pictures.
    costs={"fal-ai/veo3/**": 20, "fal-ai/kling-video/**": 10},
    limits_storage=os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
)

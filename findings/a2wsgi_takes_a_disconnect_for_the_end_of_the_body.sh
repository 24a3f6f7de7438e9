#!/usr/bin/env bash
# One would guess that a WSGI app can tell a cut upload from a whole one. When the client goes away in
# the middle of the body, reading the body would raise an error, or the app would not run at all.
#
# The WSGIMiddleware of a2wsgi 1.10.10 takes the message http.disconnect for the end of the body.
# wsgi.input.read() gives the part that came, without an error. The AsyncioWSGIMiddleware of hypercorn
# 0.18.0 does the same. It runs the app with the part as the whole body. Only the app can notice: it
# must compare the length that it read with CONTENT_LENGTH.
#
# The script gives both middlewares the ASGI messages of such an upload. No socket is needed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check a2wsgi==1.10.10 hypercorn==0.18.0

cat >disconnect.py <<'PY'
import asyncio
import importlib.metadata
import platform
import sys

from a2wsgi import WSGIMiddleware
from hypercorn.middleware import AsyncioWSGIMiddleware

WHOLE = b"the first part, and the rest"
PART = WHOLE[:14]

seen = []


def app(environ, start_response):
    try:
        outcome = environ["wsgi.input"].read()
    except Exception as error:
        outcome = error
    seen.append((environ["CONTENT_LENGTH"], outcome))
    start_response("204 No Content", [])
    return []


async def call(middleware):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"target.example"), (b"content-length", str(len(WHOLE)).encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    messages = [{"type": "http.request", "body": PART, "more_body": True}]

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        """Nobody is there to read the answer."""

    del seen[:]
    await asyncio.wait_for(middleware(scope, receive, send), 20)
    return list(seen)


print(f"Python {platform.python_version()}")
same = True
for distribution, middleware in (
    ("a2wsgi", WSGIMiddleware(app)),
    ("hypercorn", AsyncioWSGIMiddleware(app)),
):
    result = asyncio.run(call(middleware))
    print(f"{distribution} {importlib.metadata.version(distribution)}, {type(middleware).__name__}:")
    for length, outcome in result:
        print(f"  CONTENT_LENGTH is {length}, read() gave {outcome!r}, {len(PART)} bytes had come")
    same = same and result == [(str(len(WHOLE)), PART)]
print("As described." if same else "No longer as described.")
sys.exit(0 if same else 1)
PY
venv/bin/python disconnect.py

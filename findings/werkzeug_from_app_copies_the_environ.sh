#!/usr/bin/env bash
# One would guess that a WSGI app which Response.from_app(app, environ) runs gets that very environ.
# WSGI requires a dictionary that the app may change, and servers and middlewares read the changes
# afterwards: a login or a route name that the app left there, for example.
#
# With Werkzeug 3.1.9 the app gets a copy. What it sets, changes or deletes does not reach the caller's
# environ. The same holds for werkzeug.test.run_wsgi_app, on which from_app relies. The copy is
# shallow, so a change inside a dictionary or list in the environ does reach the caller.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check werkzeug==3.1.9

cat >copies.py <<'PY'
import importlib.metadata
import platform
import sys

from werkzeug.test import create_environ, run_wsgi_app
from werkzeug.wrappers import Response

given = []


def app(environ, start_response):
    given.append(environ)
    environ["example.user"] = "somebody"
    environ["PATH_INFO"] = "/changed"
    del environ["QUERY_STRING"]
    environ["example.notes"].append("from the app")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def directly(environ):
    """What a WSGI server does."""
    return b"".join(app(environ, lambda status, headers, exc_info=None: None))


def with_from_app(environ):
    return Response.from_app(app, environ, buffered=True).get_data()


def with_run_wsgi_app(environ):
    return b"".join(run_wsgi_app(app, environ, buffered=True)[0])


print(f"Python {platform.python_version()}, Werkzeug {importlib.metadata.version('werkzeug')}")
same = True
for name, run, reaches in (
    ("called directly", directly, True),
    ("Response.from_app", with_from_app, False),
    ("run_wsgi_app", with_run_wsgi_app, False),
):
    environ = create_environ("/asked", query_string="a=b")
    environ["example.notes"] = []
    body = run(environ)
    found = {
        "the same dictionary": given.pop() is environ,
        "example.user": environ.get("example.user"),
        "PATH_INFO": environ["PATH_INFO"],
        "QUERY_STRING": environ.get("QUERY_STRING"),
        "example.notes": environ["example.notes"],
    }
    print(f"{name}: " + ", ".join(f"{key}: {value!r}" for key, value in found.items()))
    expected = [True, "somebody", "/changed", None] if reaches else [False, None, "/asked", "a=b"]
    same = same and body == b"hello" and list(found.values()) == [*expected, ["from the app"]]
print("As described." if same else "No longer as described.")
sys.exit(0 if same else 1)
PY
venv/bin/python copies.py

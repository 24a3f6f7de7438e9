"""Each example, run as its first lines say."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.serving import ROOT, Served, dialling, running, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_fal_proxy.testing import FakeFal

EXAMPLES = ROOT / "examples"
GUNICORN = ("-m", "gunicorn", "--no-control-socket", "-c", "examples/gunicorn.conf.py")
COMMANDS = {
    "plain_wsgi.py": ("examples/plain_wsgi.py",),
    "flask_app.py": ("examples/flask_app.py",),
    "bottle_app.py": ("examples/bottle_app.py",),
    "pyramid_app.py": ("examples/pyramid_app.py",),
    "playground.py": ("examples/playground.py",),
    "bottle_mount.py": ("examples/bottle_mount.py",),
    "dispatcher.py": ("examples/dispatcher.py",),
    "django_view.py": ("examples/django_view.py",),
    "django_wsgi.py": ("examples/django_wsgi.py",),
    "falcon_app.py": ("examples/falcon_app.py",),
    "falcon_sink.py": ("examples/falcon_sink.py",),
    "fastapi_app.py": ("examples/fastapi_app.py",),
    "pyramid_view.py": ("examples/pyramid_view.py",),
    "gunicorn.conf.py": (*GUNICORN, "wsgi_fal_proxy.wsgi"),
}
BESIDE = {
    "plain_wsgi.py": ("/", b"Hello from plain WSGI\n"),
    "flask_app.py": ("/", b"Hello from Flask\n"),
    "bottle_app.py": ("/", b"Hello from Bottle\n"),
    "pyramid_app.py": ("/", b"Hello from Pyramid\n"),
    "playground.py": ("/", b"Hello beside the playground\n"),
    "dispatcher.py": ("/", b"Hello from the dispatcher\n"),
    "django_wsgi.py": ("/", b"Hello from Django\n"),
    "falcon_app.py": ("/", b"Hello from Falcon\n"),
    "fastapi_app.py": ("/", b"Hello from FastAPI\n"),
    "gunicorn.conf.py": ("/healthz", b'{"status": "ok"}'),
}
CALL = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"}


@contextlib.contextmanager
def run_example(name: str, fal: FakeFal, **environment: str) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**dialling(fal), "PORT": str(port), **environment}
    with running([sys.executable, *COMMANDS[name]], environment) as (process, log):
        wait_for_port(port)
        yield Served(port, process, log)


def call(http: urllib3.PoolManager, url: str, **headers: str) -> urllib3.BaseHTTPResponse:
    return http.request("POST", url, json={"prompt": "a fox"}, headers={**CALL, **headers})


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_opens_with_what_it_leaves_out(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert "\nLeaves out: " in text.split('"""')[1]


@pytest.mark.parametrize("name", BESIDE)
def test_an_example_relays_and_answers_for_itself(fal: FakeFal, name: str) -> None:
    with run_example(name, fal) as served, urllib3.PoolManager() as http:
        path, beside = BESIDE[name]
        assert http.request("GET", served.url + path).data == beside
        answer = call(http, f"{served.url}/api/fal/proxy")
    assert answer.status == 200
    assert answer.json()["prompt"] == "a fox"
    assert len(fal.requests) == 1

"""Each example, run as its first lines say."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.serving import ROOT, dialling, running, wait_for_port

if TYPE_CHECKING:
    from wsgi_fal_proxy.testing import FakeFal

EXAMPLES = ROOT / "examples"
GUNICORN = ("-m", "gunicorn", "--no-control-socket", "-c", "examples/gunicorn.conf.py")
COMMANDS = {
    "plain_wsgi.py": ("examples/plain_wsgi.py",),
    "flask_app.py": ("examples/flask_app.py",),
    "bottle_app.py": ("examples/bottle_app.py",),
    "pyramid_app.py": ("examples/pyramid_app.py",),
    "gunicorn.conf.py": (*GUNICORN, "wsgi_fal_proxy.wsgi"),
    "limits_redis.py": (*GUNICORN, "examples.limits_redis:app"),
}
BESIDE = {
    "plain_wsgi.py": ("/", b"Hello from plain WSGI\n"),
    "flask_app.py": ("/", b"Hello from Flask\n"),
    "bottle_app.py": ("/", b"Hello from Bottle\n"),
    "pyramid_app.py": ("/", b"Hello from Pyramid\n"),
    "gunicorn.conf.py": ("/healthz", b'{"status": "ok"}'),
    "limits_redis.py": ("/", b"Hello within limits\n"),
}


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_opens_with_what_it_leaves_out(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert "\nLeaves out: " in text.split('"""')[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_relays_and_answers_for_itself(
    fal: FakeFal, request: pytest.FixtureRequest, name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**dialling(fal), "PORT": str(port)}
    if name == "limits_redis.py":
        environment["REDIS_URL"] = request.getfixturevalue("redis").uri
    command = [sys.executable, *COMMANDS[name]]
    with running(command, environment):
        wait_for_port(port)
        with urllib3.PoolManager() as http:
            url = f"http://127.0.0.1:{port}"
            path, beside = BESIDE[name]
            assert http.request("GET", url + path).data == beside
            headers = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"}
            answer = http.request(
                "POST", f"{url}/api/fal/proxy", json={"prompt": "a fox"}, headers=headers
            )
    assert answer.status == 200
    assert answer.json()["prompt"] == "a fox"
    assert len(fal.requests) == 1

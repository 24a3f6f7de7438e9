"""The examples behind a check, and what a framework does to a relayed answer.

That each example relays is for `tests.project.test_examples` to show.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.support.examples import CALL, call, run_example
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.support.serving import dialling_raw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.raw_server import Script
    from wsgi_fal_proxy.testing import FakeFal

STREAM = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev/stream"}
PASSWORD = "for this test"
TOKEN = "for this front end"
CHECKED = [
    "bottle_mount.py",
    "django_view.py",
    "falcon_sink.py",
    "flask_login_app.py",
    "pyramid_view.py",
]
# Those in which the framework hands the answer on, and not the middleware in front of it.
THROUGH = ["dispatcher.py", "fastapi_app.py", *CHECKED]


def sign_in(http: urllib3.PoolManager, url: str, name: str) -> dict[str, str]:
    """Give the headers of who is signed in, where that is asked for."""
    if name == "falcon_sink.py":
        return {"X-Front-End-Token": TOKEN}
    if name not in CHECKED:
        return {}
    fields = {"username": "ada", "name": "ada", "password": PASSWORD}
    answer = http.request(
        "POST", f"{url}/login", fields=fields, encode_multipart=False, redirect=False
    )
    assert answer.status < 400, answer.data
    cookies = answer.headers.getlist("Set-Cookie")
    return {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in cookies)}


def environment() -> dict[str, str]:
    return {"DJANGO_PASSWORD": PASSWORD, "FRONT_END_TOKEN": TOKEN}


@pytest.mark.parametrize("name", CHECKED)
def test_framework_answers_401_without_a_sign_in_and_fal_is_not_called(
    fal: FakeFal, name: str
) -> None:
    with run_example(name, fal, **environment()) as served, urllib3.PoolManager() as http:
        url = f"{served.url}/api/fal/proxy"
        strangers = [{}, {"Cookie": "sessionid=x; auth_tkt=x; user=x", "X-Front-End-Token": "x"}]
        refused = [call(http, url, **headers) for headers in strangers]
        assert [answer.status for answer in refused] == [401, 401]
        assert all(answer.json()["message"].startswith("Sign in") for answer in refused)
        assert fal.requests == []

        signed_in = sign_in(http, served.url, name)
        assert b"Hello " in http.request("GET", served.url, headers=signed_in).data
        answer = call(http, url, **signed_in)

    assert (answer.status, answer.json()["prompt"]) == (200, "a fox")
    assert len(fal.requests) == 1


@pytest.mark.parametrize("name", THROUGH)
def test_framework_lets_events_come_one_by_one(fal: FakeFal, name: str) -> None:
    with run_example(name, fal, **environment()) as served, urllib3.PoolManager() as http:
        headers = {**STREAM, **sign_in(http, served.url, name)}
        fal.advance()
        answer = http.request(
            "POST",
            f"{served.url}/api/fal/proxy",
            json={"prompt": "a fox"},
            headers=headers,
            preload_content=False,
        )
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        # The fake fal sends the next only when it is told to: none is held back.
        lines = (line for line in answer.stream() if line)
        events = 0
        for piece in lines:
            events += piece.count(b"\n\n")
            fal.advance()
    assert events > 1


SENT = (
    b"HTTP/1.1 418 Short And Stout\r\nContent-Type: text/plain; charset=koi8-r\r\n"
    b"X-Fal-Request-Id: 7\r\nLink: <a>\r\nLink: <b>\r\n"
    b"Set-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=2\r\n"
    b"Content-Length: 2\r\n\r\n\xc6\x0a"
)
EVENT = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
)


@contextlib.contextmanager
def relaying(
    script: Script, fal: FakeFal, tmp_path: Path, name: str
) -> Iterator[tuple[str, dict[str, str], urllib3.PoolManager]]:
    """Run an example in front of a script, and sign in."""
    with (
        RawServer(script) as upstream,
        run_example(name, fal, **{**environment(), **dialling_raw(upstream, tmp_path)}) as served,
        urllib3.PoolManager() as http,
    ):
        yield f"{served.url}/api/fal/proxy", sign_in(http, served.url, name), http


@pytest.mark.parametrize("name", THROUGH)
def test_framework_lets_an_answer_come_back_as_it_is(
    fal: FakeFal, tmp_path: Path, name: str
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(SENT)

    with relaying(script, fal, tmp_path, name) as (url, headers, http):
        answer = call(http, url, **headers)

    assert answer.status == 418
    # ASGI knows no phrase.
    assert answer.reason == ("I'm a Teapot" if name == "fastapi_app.py" else "Short And Stout")
    assert answer.data == b"\xc6\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=koi8-r"
    assert answer.headers["X-Fal-Request-Id"] == "7"
    assert answer.headers["Link"] == "<a>, <b>"
    cookies = answer.headers.getlist("Set-Cookie")
    parts = [{part.strip() for part in cookie.split(";")} for cookie in cookies]
    assert {"a=1", "HttpOnly", "Path=/"} in parts
    assert {"b=2"} in parts


@pytest.mark.parametrize("name", THROUGH)
def test_framework_breaks_off_an_answer_that_breaks_off(
    fal: FakeFal, tmp_path: Path, name: str
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(EVENT)

    with (
        relaying(script, fal, tmp_path, name) as (url, headers, http),
        pytest.raises(urllib3.exceptions.ProtocolError),
    ):
        call(http, url, **headers)


@pytest.mark.parametrize("name", sorted({*THROUGH} - {"fastapi_app.py"}))
def test_framework_lets_fal_stop_when_the_client_leaves(
    fal: FakeFal, tmp_path: Path, name: str
) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(EVENT)
        connection.wait_for_close()
        closed.set()

    with relaying(script, fal, tmp_path, name) as (url, headers, http):
        answer = http.request(
            "POST", url, json={}, headers={**CALL, **headers}, preload_content=False
        )
        pieces = answer.stream()
        assert next(pieces) == b"data: 1\n\n"
        assert not closed.is_set()
        answer.close()
        assert closed.wait(WAIT_SECONDS)

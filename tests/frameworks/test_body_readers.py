"""The body is read by the relay and by something else: hooks, Sentry, Elastic APM, audits."""

from __future__ import annotations

import contextlib
import json
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import serve_command

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS = {
    # As Flask's `app.run()` does.
    "werkzeug": (
        "-c",
        "from werkzeug.serving import run_simple; import tests.support.body_readers as readers;"
        " run_simple('127.0.0.1', {port}, readers.application, threaded=True)",
    ),
    "gunicorn": (
        *("-m", "gunicorn", "--worker-class", "gthread", "--threads", "4"),
        *("--no-control-socket", "--bind", "127.0.0.1:{port}", "tests.support.body_readers"),
    ),
    "waitress": ("-m", "waitress", "--port", "{port}", "tests.support.body_readers:application"),
}
READERS = [
    "flask_after",
    "flask_before",
    "flask_form_before",
    "flask_sentry_traces",
    "flask_sentry_error",
    "flask_sentry_report_only",
    "flask_elastic",
    "django_after",
    "django_request_logging",
    "django_sentry_traces",
    "django_sentry_error",
    "django_sentry_report_only",
    "pyramid_after",
    "pyramid_before",
    "bottle_after",
    "bottle_before",
]
# Sentry shows JSON as what it means, in Python's notation.
SMALL = '{"prompt":  "a red fox"}'
LARGE = json.dumps({"prompt": "a red fox", "more": "x" * 200_000})
HEADERS = {
    "x-fal-target-url": "https://fal.run/fal-ai/flux/dev",
    "content-type": "application/json",
}


@contextlib.contextmanager
def client(server: str, reader: str) -> Iterator[tuple[urllib3.PoolManager, str]]:
    environment = {"READER": reader}
    with (
        serve_command(environment, *SERVERS[server]) as served,
        # A connection that is out of step, or hangs, is an error.
        urllib3.PoolManager(retries=False, timeout=10, maxsize=1) as http,
    ):
        yield http, served.url


def read_seen(http: urllib3.PoolManager, url: str, *, readers: int) -> dict[str, list[str]]:
    """Wait until so many bodies were seen: a trace ends after the answer, on another thread."""
    end = monotonic() + WAIT_SECONDS
    while True:
        seen: dict[str, list[str]] = http.request("GET", f"{url}/seen").json()
        if len(seen["reader"]) >= readers or monotonic() > end:
            return seen
        sleep(0.01)  # pragma: no cover - mostly they are there at once


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("reader", READERS)
def test_request_body_is_relayed_and_read_by_others(server: str, reader: str) -> None:
    with client(server, reader) as (http, url):
        small, large, again = (
            http.request("POST", f"{url}/fal", body=body, headers=HEADERS)
            for body in (SMALL, LARGE, SMALL)
        )
        seen = read_seen(http, url, readers=3)

    assert (small.status, large.status, again.status) == (200, 200, 200), small.data
    assert seen["fal"] == [SMALL, LARGE, SMALL]
    first, _, third = seen["reader"]
    assert "a red fox" in first
    assert first == third


@pytest.mark.parametrize("server", SERVERS)
def test_request_body_of_a_refused_call_is_read_by_others(server: str) -> None:
    with client(server, "flask_refused") as (http, url):
        answers = [
            http.request("POST", f"{url}/fal", body=body, headers=HEADERS)
            for body in (SMALL, LARGE, SMALL)
        ]
        seen = http.request("GET", f"{url}/seen").json()

    assert [answer.status for answer in answers] == [401, 401, 401]
    assert seen == {"fal": [], "reader": [SMALL, "", SMALL]}


@pytest.mark.parametrize("server", SERVERS)
def test_request_body_that_was_read_and_not_kept_is_refused_or_read_again(server: str) -> None:
    with client(server, "flask_stream_before") as (http, url):
        answers = [
            http.request("POST", f"{url}/fal", body=body, headers=HEADERS)
            for body in (SMALL, LARGE)
        ]
        seen = http.request("GET", f"{url}/seen").json()

    if server == "waitress":  # whose input can be read from its beginning
        assert [answer.status for answer in answers] == [200, 200]
        assert seen["fal"] == [SMALL, LARGE]
    else:
        assert [answer.json()["reason"] for answer in answers] == ["body_incomplete"] * 2
        assert seen["fal"] == []

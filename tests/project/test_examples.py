"""Each example, run as its first lines say."""

from __future__ import annotations

import hashlib
import json
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import urllib3

from tests.support.examples import CALL, COMMANDS, EXAMPLES, call, run_example
from tests.support.raw_server import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_fal_proxy.testing import FakeFal

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
    "opentelemetry_spans.py": ("/", b"Hello from beside the spans\n"),
    "limits_redis.py": ("/", b"Hello within limits\n"),
}
JWT_SECRET = "s" * 32


def test_examples_are_all_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_example_opens_with_what_it_leaves_out(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert "\nLeaves out: " in text.split('"""')[1]


@pytest.mark.parametrize("name", BESIDE)
def test_example_relays_and_answers_for_itself(
    fal: FakeFal, request: pytest.FixtureRequest, name: str
) -> None:
    environment = {}
    if name == "limits_redis.py":
        environment["REDIS_URL"] = request.getfixturevalue("redis").uri
    with run_example(name, fal, **environment) as served, urllib3.PoolManager() as http:
        path, beside = BESIDE[name]
        assert http.request("GET", served.url + path).data == beside
        answer = call(http, f"{served.url}/api/fal/proxy")
    assert answer.status == 200
    assert answer.json()["prompt"] == "a fox"
    assert len(fal.requests) == 1


# Those that ask who calls


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flask_login_app.py", "/api/fal/proxy"),
        ("django_app.py", "/api/fal/proxy"),
        ("django_app.py", "/view/fal"),
    ],
)
def test_example_serves_who_is_signed_in_and_nobody_else(
    fal: FakeFal, name: str, path: str
) -> None:
    with run_example(name, fal) as served, urllib3.PoolManager() as http:
        url = served.url + path
        refused = [call(http, url), call(http, url, Cookie="session=x; sessionid=x")]
        # A refused body that was not read leaves the connection in step.
        assert [answer.status for answer in refused] == [401, 401]
        assert {answer.json()["message"] for answer in refused} == {"Sign in to make pictures."}
        assert fal.requests == []
        login = http.request("POST", f"{served.url}/login", fields={"name": "ada"}, redirect=False)
        cookie = login.headers["Set-Cookie"].partition(";")[0]
        hello = http.request("GET", served.url, headers={"Cookie": cookie})
        assert hello.data == b"Hello ada\n"
        answer = call(http, url, Cookie=cookie)
        assert (answer.status, answer.json()["prompt"]) == (200, "a fox")
        answer = http.request("GET", url, headers={**CALL, "Cookie": cookie})
        assert (answer.status, answer.json()["detail"][0]["type"]) == (422, "missing")
    assert len(fal.requests) == 2
    assert "cookie" not in fal.requests[0].headers


def token(**claims: Any) -> str:
    claims = {"sub": "ada", "aud": "fal", "exp": time() + 60, **claims}
    present = {name: value for name, value in claims.items() if value is not None}
    return "Bearer " + jwt.encode(present, claims.pop("key", JWT_SECRET), algorithm="HS256")


def test_example_with_tokens_serves_who_has_one_and_nobody_else(fal: FakeFal) -> None:
    with run_example("jwt_app.py", fal, JWT_SECRET=JWT_SECRET) as served:
        url = f"{served.url}/api/fal/proxy"
        wrong = [
            token().replace("Bearer", "Basic"),
            token() + "x",
            token(exp=1),
            token(exp=None),
            token(aud="others"),
            token(sub=None),
            token(sub=""),
            "Bearer " + jwt.encode({"sub": "ada", "aud": "fal"}, "", algorithm="none"),
            "Bearer",
            "",
        ]
        with urllib3.PoolManager() as http:
            statuses = [call(http, url, Authorization=value).status for value in wrong]
            assert set(statuses) <= {401, 403}
            assert fal.requests == []
            assert call(http, url, Authorization=token()).status == 200
            assert http.request("GET", served.url).data == b"Hello from behind a token\n"
    assert fal.requests[0].headers["authorization"] == f"Key {fal.key}"


def test_example_with_a_key_for_each_tenant_sends_each_its_own(
    fal: FakeFal, tmp_path: Path
) -> None:
    keys = {"good": fal.key, "other": "other:key"}
    tenants = {
        hashlib.sha256(name.encode()).hexdigest(): {"name": name, "key": key}
        for name, key in keys.items()
    }
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps(tenants))
    with run_example("key_per_tenant.py", fal, TENANTS=str(file), FAL_KEY="unused") as served:
        url = f"{served.url}/api/fal/proxy"
        with urllib3.PoolManager() as http:
            for value in ("", "Bearer nobody", "Basic good", "Bearer"):
                assert call(http, url, Authorization=value).status == 401
            assert fal.requests == []
            statuses = [call(http, url, Authorization=f"Bearer {n}").status for n in keys]
            assert http.request("GET", served.url).data == b"Hello, tenants\n"
    assert statuses == [200, 401]
    sent = [request.headers["authorization"] for request in fal.requests]
    assert sent == [f"Key {fal.key}", "Key other:key"]


# Those that tell what happened


def test_example_for_prometheus_counts_over_all_processes(fal: FakeFal, tmp_path: Path) -> None:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with run_example("prometheus_metrics.py", fal, **environment) as served:
        pids: set[str] = set()
        count = 0
        while count < 10 or len(pids) < 2:
            count += 1
            assert count < 100
            # A connection each, so that more than one process is called.
            with urllib3.PoolManager() as http:
                assert call(http, f"{served.url}/api/fal/proxy").status == 200
            pids = {path.name for path in tmp_path.glob("counter_*.db")}
        with urllib3.PoolManager() as http:

            def metrics() -> str:
                return http.request("GET", f"{served.url}/metrics").data.decode()

            http.request("DELETE", f"{served.url}/api/fal/proxy")
            until(metrics, f'fal_bytes_total{{direction="up"}} {count * 18}.0')
            # Someone who leaves in the middle of a stream.
            with urllib3.PoolManager() as other:
                other.request(
                    "POST",
                    f"{served.url}/api/fal/proxy",
                    json={"prompt": "a fox"},
                    headers={"x-fal-target-url": "https://fal.run/fal-ai/flux/dev/stream"},
                    preload_content=False,
                ).close()
            until(metrics, 'left="true",reason="",status="200"} 1.0')
            text = until(metrics, "method_not_allowed")
    assert f'fal_calls_total{{kind="run",left="false",reason="",status="200"}} {count}.0' in text
    refused = 'fal_calls_total{kind="none",left="false",reason="method_not_allowed",status="405"}'
    assert f"{refused} 1.0" in text
    assert f'fal_call_seconds_count{{kind="run"}} {count + 1}.0' in text


def test_example_for_opentelemetry_makes_spans(fal: FakeFal) -> None:
    with (
        run_example("opentelemetry_spans.py", fal, PYTHONUNBUFFERED="1") as served,
        urllib3.PoolManager() as http,
    ):
        call(http, f"{served.url}/api/fal/proxy")
        text = until(served.log.read_text, '"fal.truncated": false')
    assert '"name": "fal run"' in text
    assert '"fal.endpoint": "fal-ai/flux/dev"' in text
    assert '"http.response.status_code": 200' in text
    assert "a fox" not in text
    assert fal.key not in text


def until(read: Callable[[], str], wanted: str) -> str:
    """Read until this is in it: what is told when a request is over may come after the answer."""
    end = monotonic() + WAIT_SECONDS
    while wanted not in (text := read()):
        assert monotonic() < end, text  # pragma: no cover - mostly it is there at once
    return text

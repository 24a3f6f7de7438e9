"""What is logged when a proxy is made: a key that will not do, and that anyone may call."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import webtest

from tests.support.environs import answer_to
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.support.serving import ROOT
from wsgi_fal_proxy import STRICT_URLS, Allow, FalProxy, FalProxyMiddleware, KeyFile, allow_anyone
from wsgi_fal_proxy._policy.policy import _warn_that_anyone_may_call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsgi_fal_proxy.testing import FakeFal

RUN: Final = "https://fal.run/fal-ai/flux/dev"

# The key


def test_proxy_warns_of_a_missing_key_at_its_start(caplog: pytest.LogCaptureFixture) -> None:
    FalProxy()
    message = "key_missing: The fal proxy has no key: set FAL_KEY on the server."
    assert caplog.record_tuples == [("wsgi_fal_proxy", logging.WARNING, message)]


def test_proxy_warns_of_a_missing_key_file_at_its_start(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    FalProxy(key=KeyFile(tmp_path / "none"))
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    what = "The file for the fal key on the server (FAL_KEY_FILE or KeyFile) cannot be read"
    assert message.startswith(f"key_missing: {what}")


@pytest.mark.parametrize("source", ["option", "environment", "file"])
def test_proxy_warns_of_a_malformed_key_by_position_at_its_start(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    source: str,
) -> None:
    file = tmp_path / "key"
    file.write_text("Key sk-secret")
    monkeypatch.setenv("FAL_KEY", "Key sk-secret" if source == "environment" else "")
    keys: dict[str, Any] = {"option": "Key sk-secret", "file": KeyFile(file)}
    FalProxyMiddleware(answer_to, key=keys.get(source))  # type: ignore[arg-type]
    ((_, level, message),) = caplog.record_tuples
    assert (level, message.partition(":")[0]) == (logging.ERROR, "key_malformed")
    assert "at position 4 " in message
    assert "secret" not in caplog.text


@pytest.mark.parametrize("key", ["id:secret", " id:secret\n", lambda _: None])
def test_proxy_says_nothing_at_its_start_of_a_key_that_may_do(
    caplog: pytest.LogCaptureFixture, key: Any
) -> None:
    FalProxy(key=key)
    assert caplog.messages == []


def test_proxy_does_not_call_a_key_callable_before_there_is_a_request() -> None:
    called: list[object] = []
    FalProxy(key=called.append)
    assert called == []


def test_key_callable_gives_each_tenant_its_own_key(fal: FakeFal) -> None:
    keys = {"a": "a:key", "b": fal.key}
    app = webtest.TestApp(
        FalProxy(
            key=lambda environ: keys.get(environ.get("HTTP_X_TENANT", "")),
            pool_manager=fal.pool_manager(),
        ),
        lint=True,
    )
    answers = {}
    for tenant, status in (("a", 401), ("b", 200), ("c", 500)):
        headers = {"x-fal-target-url": RUN, "X-Tenant": tenant}
        answers[tenant] = app.post_json("/", {"prompt": "x"}, headers=headers, status=status)
    assert answers["c"].json["reason"] == "key_missing"
    assert [request.headers["authorization"] for request in fal.requests] == [
        "Key a:key",
        f"Key {fal.key}",
    ]


def test_key_file_is_rotated_by_a_rename_under_load_and_no_request_fails(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def script(connection: Connection) -> None:
        while True:
            head, _ = connection.read_request()
            key = head.partition(b"Authorization: Key ")[2].partition(b"\r\n")[0]
            seen.append(key)
            # Both are valid for as long as the change takes.
            status = b"200 OK" if key in {b"old:key", b"new:key"} else b"401 Unauthorized"
            connection.send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)

    file, fresh = tmp_path / "key", tmp_path / "fresh"
    file.write_text("old:key")
    over = threading.Event()
    statuses: list[str] = []

    def call() -> None:
        while not over.is_set():
            statuses.append(answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)[0])

    with RawServer(script) as server:
        proxy = FalProxy(key=KeyFile(file), pool_manager=server.pool_manager(tmp_path))
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(200):
            fresh.write_text("old:key\n" if turn % 2 else " new:key")
            fresh.replace(file)
        while set(seen) != {b"old:key", b"new:key"}:  # pragma: no cover - as threads have it
            fresh.write_text("new:key")
            fresh.replace(file)
        over.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        fresh.write_text("new:key")
        fresh.replace(file)
        statuses.append(answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)[0])
        proxy._upstream._pools.reset_after_fork()  # or the upstream would wait for more
    assert seen[-1] == b"new:key"
    assert set(statuses) == {"200 OK"}


# Who may call

OPEN: Final = "Anyone who can reach the fal proxy can spend your money at fal"


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """As if no proxy had been made in this process."""
    _warn_that_anyone_may_call.cache_clear()
    yield
    _warn_that_anyone_may_call()


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize(
    "options", [{"allowed_urls": STRICT_URLS}, {"allowed_endpoints": ["a/b"], "report_only": True}]
)
def test_anyone_may_call_is_said_despite_options_that_bound_no_money(
    caplog: pytest.LogCaptureFixture, options: Any
) -> None:
    FalProxy(key="k", **options)
    assert caplog.messages[0].startswith(OPEN)


@pytest.mark.usefixtures("fresh_process")
def test_anyone_may_call_is_said_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    FalProxy(key="k")
    FalProxy(key="k")
    ((logger, level, message),) = caplog.record_tuples
    assert (logger, level) == ("wsgi_fal_proxy", logging.WARNING)
    assert message == (
        f"{OPEN}. Set authorize, allowed_endpoints or limits (stand-alone:"
        " FAL_PROXY_ALLOWED_ENDPOINTS or FAL_PROXY_LIMITS). If your own code already checks"
        " callers, set authorize=allow_anyone. See the README, 'Who may call'."
    )


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("authorize", [allow_anyone, lambda _: Allow("someone")])
def test_anyone_may_call_is_not_said_where_the_owner_has_named_the_callers(
    caplog: pytest.LogCaptureFixture, authorize: Any
) -> None:
    FalProxy(key="k", authorize=authorize)
    assert caplog.messages == []


WAY = "wsgi-fal-proxy: Calls to fal go there directly"


@pytest.mark.parametrize(
    ("key", "said"), [("id:secret", [OPEN, WAY]), ("a b", ["key_malformed", OPEN, WAY])]
)
def test_proxy_warns_on_the_standard_error_without_logging_configured(
    key: str, said: list[str]
) -> None:
    command = [sys.executable, "-c", "import wsgi_fal_proxy.wsgi"]
    environment = {**os.environ, "FAL_KEY": key, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(lines, said, strict=True))

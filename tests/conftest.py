"""What every test runs under: no network but loopback, nothing skipped where that is asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import webtest

from tests.support.network import NetworkGuard
from tests.support.redis_server import RedisServer
from tests.support.serving import JS
from tests.support.tracing import begin_tracing_one_thread_at_a_time, trace_bare_threads
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._policy.policy import _warn_that_anyone_may_call
from wsgi_fal_proxy.testing import FakeFal

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the developer has set is not for the tests, nor for the processes that they start.
_NOT_FOR_TESTS = re.compile(r"FAL_.*|SSL_CERT_(FILE|DIR)|.*_PROXY", re.IGNORECASE)
_unset = [os.environ.pop(name) for name in list(os.environ) if _NOT_FOR_TESTS.fullmatch(name)]

_guard = NetworkGuard()
sys.addaudithook(_guard.audit)
begin_tracing_one_thread_at_a_time()
trace_bare_threads()

# Once in a process: not in whichever test is the first to make a proxy.
_warn_that_anyone_may_call()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        default=os.environ.get("WSGI_FAL_PROXY_NO_SKIPS") == "1",
        help="a test that would be skipped fails instead (also WSGI_FAL_PROXY_NO_SKIPS=1)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"  # pragma: no cover - where nothing is absent, nothing is skipped
    return report


@pytest.fixture(autouse=True)
def network() -> NetworkGuard:
    """Names that were looked up, and addresses that were dialled, in this test and process."""
    _guard.reset()
    return _guard


@pytest.fixture(scope="session")
def _shared_fal() -> Iterator[FakeFal]:
    with FakeFal(tls=True, step_seconds=None) as fal:
        yield fal


@pytest.fixture
def fal(_shared_fal: FakeFal) -> FakeFal:
    """The fake fal over TLS, where nothing has arrived yet."""
    _shared_fal._app.reset()
    return _shared_fal


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis server of the test's own, empty."""
    if RedisServer.program is None:
        pytest.skip("redis-server is not installed")  # pragma: no cover - .ci/run installs it
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(fal: FakeFal) -> FalProxy:
    return FalProxy(key=fal.key, pool_manager=fal.pool_manager())


@pytest.fixture
def app(proxy: FalProxy) -> webtest.TestApp:
    """The relay in front of the fake fal, checked by WebTest's WSGI lint on each request."""
    return webtest.TestApp(proxy, lint=True)


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the clients installed."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("node and npm are not installed")  # pragma: no cover - not everywhere
    clients = json.loads((JS / "package.json").read_text())["dependencies"]
    if not all((JS / "node_modules" / name).is_dir() for name in clients):  # pragma: no cover
        subprocess.run([npm, "ci"], cwd=JS, check=True, capture_output=True)
    return found

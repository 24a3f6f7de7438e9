"""Limits over processes: many workers and one Redis, which may be killed and stopped."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import Served, dialling, serve_gunicorn
from wsgi_fal_proxy._policy.limits.caller import caller_name
from wsgi_fal_proxy._policy.limits.notation import parse_limit
from wsgi_fal_proxy._policy.limits.redis_store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.redis_server import RedisServer
    from wsgi_fal_proxy.testing import FakeFal

HEADERS = {"x-fal-target-url": "https://fal.run/fal-ai/any-llm"}
CALLERS = 64
THREADS = ("--workers", "4", "--threads", "16")


@contextmanager
def serving(
    fal: FakeFal, redis: RedisServer, *options: str, worker_class: str = "gthread"
) -> Iterator[tuple[Served, Callable[[int], str]]]:
    """Serve with a limit of 100; give the server, and a call, which tells what was answered."""
    environment = {
        **dialling(fal),
        "FAL_PROXY_LIMITS": "100/365 days, 1000/day global",
        "FAL_PROXY_LIMITS_STORAGE": redis.uri,
    }
    with (
        serve_gunicorn(
            "wsgi_fal_proxy.wsgi", *options, worker_class=worker_class, environment=environment
        ) as served,
        # All callers at once share the machine: each waits for all others.
        urllib3.PoolManager(maxsize=CALLERS, retries=False, timeout=6 * WAIT_SECONDS) as http,
    ):

        def call(_: int) -> str:
            url = f"{served.url}/api/fal/proxy"
            try:
                answer = http.request("POST", url, json={"prompt": "x"}, headers=HEADERS)
            except urllib3.exceptions.ProtocolError:
                return "cut"  # by the worker's end
            return answer.headers.get("x-fal-proxy-error", str(answer.status))

        yield served, call


def taken(redis: RedisServer) -> int:
    """Give what is taken, by asking for more than there can be."""
    name = caller_name(None, "127.0.0.1")
    return RedisStore(redis.uri).charge([parse_limit("100/365 days")], [name], 1_000).taken[0]


@pytest.mark.parametrize(
    ("worker_class", "options"),
    [
        ("gthread", THREADS),
        ("gthread", (*THREADS, "--preload")),
        ("gevent", ("--workers", "4")),
    ],
    ids=["gthread", "preload", "gevent"],
)
def test_limiter_gives_64_callers_of_4_workers_exactly_what_the_limit_allows(
    fal: FakeFal, redis: RedisServer, worker_class: str, options: tuple[str, ...]
) -> None:
    with (
        serving(fal, redis, *options, worker_class=worker_class) as (_, call),
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        answers = list(threads.map(call, range(400)))
    assert answers.count("200") == len(fal.requests) == 100
    assert answers.count("limit_exceeded") == 300
    assert taken(redis) == 100


def workers(served: Served) -> list[int]:
    pid = served.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_limiter_lets_nobody_over_the_limit_when_a_worker_is_killed(
    fal: FakeFal, redis: RedisServer
) -> None:
    begun = threading.Semaphore(0)

    with serving(fal, redis, *THREADS) as (served, call), ThreadPoolExecutor(CALLERS) as threads:

        def counted(number: int) -> str:
            answer = call(number)
            begun.release()
            return answer

        answers = threads.map(counted, range(600))
        for _ in range(30):
            assert begun.acquire(timeout=WAIT_SECONDS)
        killed = workers(served)[0]
        os.kill(killed, signal.SIGKILL)
        told = list(answers)
    # All that the limit allows is taken: what reached fal, and what died on its way there.
    assert taken(redis) == 100
    assert told.count("200") <= len(fal.requests) <= 100
    assert 100 - len(fal.requests) <= 16
    assert set(told) <= {"200", "limit_exceeded", "cut"}


def test_limiter_refuses_while_its_store_is_stopped_under_load_and_nobody_waits(
    fal: FakeFal, redis: RedisServer
) -> None:
    down, up = threading.Event(), threading.Event()

    with (
        serving(fal, redis, *THREADS) as (served, call),
        ThreadPoolExecutor(CALLERS) as threads,
        ExitStack() as if_it_fails,
    ):
        # The machine decides how long a caller waits: until its event is set, or the test fails.
        if_it_fails.callback(up.set)
        if_it_fails.callback(down.set)

        def caller_of(number: int) -> list[str]:
            """Call until the store is down, while it is, and once it is up again."""
            answers = [call(number)]
            down.wait()
            answers.append(call(number))
            up.wait()
            return [*answers, *(call(number) for _ in range(4))]

        running = [threads.submit(caller_of, number) for number in range(CALLERS)]
        assert call(0) == "200"
        redis.stop()
        while call(0) != "limits_unavailable":
            pass  # pragma: no cover - what is under way when Redis ends
        during = len(fal.requests)
        down.set()
        assert call(0) == "limits_unavailable"
        redis.start()
        up.set()
        told = [one.result() for one in running]
        log = served.log.read_text()
    assert during <= CALLERS + 1
    # From when it is back, as before it went; and never more than the limit.
    after = [answer for one in told for answer in one[2:]]
    assert set(after) == {"200", "limit_exceeded"}
    # Redis sends the answers to what it has just taken only in its next turn, which does not come
    # when it ends. On a busy machine that may be the calls of all callers. They are refused.
    refused = [one[0] for one in told].count("limits_unavailable") + 1
    assert 100 - refused <= len(fal.requests) <= taken(redis) == 100
    # A line when it begins and one when it is over, in each process that noticed.
    assert 1 <= log.count("the store of the limits failed") <= 4
    assert 1 <= log.count("answers again") <= 4

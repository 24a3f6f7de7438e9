"""The stores: all limits or none, exact under concurrency, and no more given back than taken."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_client

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from wsgi_fal_proxy._policy.limits.memory_store import MemoryStore
from wsgi_fal_proxy._policy.limits.notation import parse_limit
from wsgi_fal_proxy._policy.limits.redis_store import RedisStore
from wsgi_fal_proxy._policy.limits.storage import make_store
from wsgi_fal_proxy._policy.limits.store import ChargeResult, Store, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.redis_server import RedisServer

DAY, WEEK = parse_limit("100/day"), parse_limit("150/7 days global")
LIMITS = [DAY, WEEK]
ALICE, BOB = ["alice", "everybody"], ["bob", "everybody"]


@pytest.fixture(params=["memory", "redis"])
def counts(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return make_store("memory://")
    return make_store(request.getfixturevalue("redis").uri)


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    with redis_client.from_url(redis.uri.replace("redis+unix", "unix")) as connected:
        yield connected


def given_back(counted: ChargeResult) -> None:
    assert counted.refund is not None
    counted.refund()


def taken(counts: Store, callers: list[str]) -> list[int]:
    """Give what is taken, by asking for more than there can be."""
    counted = counts.charge(LIMITS, callers, 1_000)
    assert counted.refund is None
    return list(counted.taken)


def test_store_takes_the_cost_of_each_limit(counts: Store) -> None:
    assert counts.charge(LIMITS, ALICE, 20).taken == [0, 0]
    assert counts.charge(LIMITS, BOB, 3).taken == [0, 20]
    assert taken(counts, ALICE) == [20, 23]
    assert taken(counts, BOB) == [3, 23]


def test_store_tells_the_end_of_each_window(counts: Store) -> None:
    day, week = counts.charge(LIMITS, ALICE, 1).seconds_left
    assert 0 < day <= 86_400
    assert 0 < week <= 604_800
    # Both windows begin at a midnight in UTC.
    assert (week - day) % 86_400 == 0


@pytest.mark.parametrize("callers", [ALICE, BOB], ids=["own-limit", "shared-limit"])
def test_store_takes_all_of_several_limits_or_none(counts: Store, callers: list[str]) -> None:
    counts.charge(LIMITS, ALICE, 90)
    counts.charge(LIMITS, BOB, 40)
    before = taken(counts, callers)
    assert counts.charge(LIMITS, callers, 21).refund is None
    assert taken(counts, callers) == before


def test_store_reaches_a_limit_exactly(counts: Store) -> None:
    assert counts.charge(LIMITS, ALICE, 99).refund is not None
    assert counts.charge(LIMITS, ALICE, 2).refund is None
    assert counts.charge(LIMITS, ALICE, 1).refund is not None
    assert counts.charge(LIMITS, ALICE, 1).refund is None


def test_store_takes_again_what_is_refunded(counts: Store) -> None:
    counted = counts.charge(LIMITS, ALICE, 100)
    given_back(counted)
    assert taken(counts, ALICE) == [0, 0]
    assert counts.charge(LIMITS, ALICE, 100).refund is not None


def test_store_counts_exactly_what_64_threads_take_and_refund(counts: Store) -> None:
    def call(number: int) -> bool:
        counted = counts.charge(LIMITS, ALICE, 1)
        # Every third call fails.
        if counted.refund is not None and number % 3 == 0:
            counted.refund()
            return False
        return counted.refund is not None

    with ThreadPoolExecutor(64) as threads:
        kept = sum(threads.map(call, range(3_000)))
    assert kept == 100
    assert taken(counts, ALICE) == [100, 100]


def test_store_in_memory_loses_no_call_of_many_and_refunds_none_twice() -> None:
    counts, many = MemoryStore(), [parse_limit("16000/day")]
    interval = sys.getswitchinterval()
    # Once all have begun, they take turns as often as they can: what is not one step falls apart.
    all_begun = threading.Barrier(64, lambda: sys.setswitchinterval(1e-6), WAIT_SECONDS)

    def calls(_: int) -> int:
        kept = 0
        all_begun.wait()
        for number in range(500):
            counted = counts.charge(many, ["alice"], 1)
            if counted.refund is not None and number % 2:
                counted.refund()
            elif counted.refund is not None:
                kept += 1
        return kept

    try:
        with ThreadPoolExecutor(64) as threads:
            kept = sum(threads.map(calls, range(64)))
    finally:
        sys.setswitchinterval(interval)
    assert counts.charge(many, ["alice"], 16_000 - kept).refund is not None
    assert counts.charge(many, ["alice"], 1).taken == [16_000]


class Clock:
    now = 1_000 * 604_800 + 0.5  # soon after a week has begun

    def __call__(self) -> float:
        return self.now


def test_store_in_memory_begins_a_new_window_at_0_and_refunds_nothing_to_it() -> None:
    clock = Clock()
    counts = MemoryStore(clock)
    counted = counts.charge(LIMITS, ALICE, 100)
    clock.now += DAY.seconds
    assert taken(counts, ALICE) == [0, 100]
    counts.charge(LIMITS, ALICE, 2)
    given_back(counted)
    assert taken(counts, ALICE) == [2, 2]


def test_store_in_memory_begins_no_window_again_when_the_clock_is_set_back() -> None:
    clock = Clock()
    counts = MemoryStore(clock)
    counts.charge(LIMITS, ALICE, 100)
    clock.now -= DAY.seconds
    assert taken(counts, ALICE) == [100, 100]


# In Redis a window's turn is made by hand, as its clock is not ours to set.


def key_of(client: Any, caller: str) -> bytes:
    (key,) = client.keys(f"*:{caller}")
    return bytes(key)


def test_store_in_redis_begins_a_new_window_at_0_and_refunds_nothing_to_it(
    redis: RedisServer, client: Any
) -> None:
    counts = RedisStore(redis.uri)
    counted = counts.charge(LIMITS, ALICE, 100)
    client.hincrby(key_of(client, "alice"), "window", -1)
    assert taken(counts, ALICE) == [0, 100]
    counts.charge(LIMITS, ALICE, 2)
    given_back(counted)
    assert taken(counts, ALICE) == [2, 2]


def test_store_in_redis_begins_no_window_again_when_the_clock_is_set_back(
    redis: RedisServer, client: Any
) -> None:
    counts = RedisStore(redis.uri)
    counts.charge(LIMITS, ALICE, 100)
    client.hincrby(key_of(client, "alice"), "window", 1)
    assert taken(counts, ALICE) == [100, 100]


def test_store_in_redis_does_not_refund_what_redis_has_forgotten(
    redis: RedisServer, client: Any
) -> None:
    counts = RedisStore(redis.uri)
    early, late = counts.charge(LIMITS, ALICE, 30), counts.charge(LIMITS, BOB, 30)
    client.flushall()
    given_back(early)
    assert taken(counts, ALICE) == [0, 0]
    counts.charge(LIMITS, ALICE, 2)
    given_back(late)
    assert taken(counts, ALICE) == [2, 2]


def test_store_in_redis_has_a_count_forgotten_by_the_end_of_its_window(
    redis: RedisServer, client: Any
) -> None:
    left = RedisStore(redis.uri).charge(LIMITS, ALICE, 1).seconds_left
    lives = [client.ttl(key_of(client, caller)) for caller in ALICE]
    assert all(life <= end for life, end in zip(lives, left, strict=True))
    assert min(lives) > 0


def test_store_in_redis_lets_redis_forget_its_scripts(redis: RedisServer, client: Any) -> None:
    counts = RedisStore(redis.uri)
    counted = counts.charge(LIMITS, ALICE, 1)
    client.script_flush()
    given_back(counted)
    client.script_flush()
    assert counts.charge(LIMITS, ALICE, 1).taken == [0, 0]


def test_store_in_redis_counts_by_database(
    redis: RedisServer,
) -> None:
    RedisStore(redis.uri).charge(LIMITS, ALICE, 7)
    assert taken(RedisStore(redis.uri), ALICE) == [7, 7]
    assert taken(RedisStore(f"{redis.uri}?db=1"), ALICE) == [0, 0]


def test_store_in_redis_fails_while_redis_is_gone_and_answers_when_it_is_back(
    redis: RedisServer,
) -> None:
    counts = RedisStore(redis.uri)
    counted = counts.charge(LIMITS, ALICE, 5)
    redis.stop()
    with pytest.raises(StoreFailed):
        counts.charge(LIMITS, ALICE, 1)
    with pytest.raises(StoreFailed):
        given_back(counted)
    redis.start()
    assert taken(counts, ALICE) == [5, 5]


def test_store_in_redis_fails_in_time_when_redis_hangs(redis: RedisServer) -> None:
    counts = RedisStore(redis.uri)
    counts.charge(LIMITS, ALICE, 5)
    os.kill(redis.pid, signal.SIGSTOP)
    with pytest.raises(StoreFailed) as caught:
        counts.charge(LIMITS, ALICE, 1)
    os.kill(redis.pid, signal.SIGCONT)
    assert isinstance(caught.value.__cause__, redis_client.TimeoutError)
    assert taken(counts, ALICE) in ([5, 5], [6, 6])


def test_store_in_redis_does_not_take_again_when_the_answer_is_lost(
    redis: RedisServer,
) -> None:
    RedisStore(redis.uri).charge(LIMITS, ALICE, 5)

    def script(connection: Connection) -> None:
        """Pass on what comes and what is answered, but for the answer to a script."""
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(redis.uri.removeprefix("redis+unix://"))
            data = b""
            while b"EVALSHA" not in data:
                if data:
                    connection.send(upstream.recv(65_536))
                data = connection.sock.recv(65_536)
                upstream.sendall(data)
            upstream.recv(65_536)

    with RawServer(script, tls=False) as between, pytest.raises(StoreFailed):
        RedisStore(f"redis://127.0.0.1:{between.port}").charge(LIMITS, ALICE, 1)
    assert taken(RedisStore(redis.uri), ALICE) == [6, 6]


@pytest.mark.parametrize(
    "uri",
    [
        *("", "memory", "memory://x", "memcached://h", "async+redis://h", "http://h"),
        *("redis://h:port", "redis://h/zz", "rediss://h/1/2", "redis://h/-1"),
    ],
)
def test_store_that_there_is_not_is_refused(uri: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is said by who asked
        make_store(uri)


@pytest.mark.parametrize("uri", ["redis://h", "redis://h/", "rediss://h:1/12", "redis://h?db=3"])
def test_store_is_made_without_connecting(uri: str) -> None:
    assert isinstance(make_store(uri), RedisStore)


def test_store_in_memory_forgets_the_first_caller_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._policy.limits.memory_store._MAX_CALLERS", 2)
    counts, daily = MemoryStore(), [parse_limit("1/day")]
    for caller in ("ada", "bob", "eve"):
        assert counts.charge(daily, [caller], 1).refund is not None
    assert counts.charge(daily, ["eve"], 1).refund is None
    assert counts.charge(daily, ["ada"], 1).refund is not None

"""Where the limits are counted: in this process, or in Redis for all processes and machines.

The strategies of the `limits` library take from one limit at a time, and a call that is refused
may count, or be counted for a moment; nor can they give back in the window that was taken from.
So of the library are its notation and its storages' URIs, and what is counted is counted here: of
all limits that apply, in one step, or of none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from wsgi_fal_proxy._process.unpatched import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit

ACCEPTED: Final = (
    "memory://, or redis://host:port/number, rediss:// (over TLS) or redis+unix:///path/of/socket"
)
_REDIS_SOCKET: Final = "redis+unix"
_REDIS_SCHEMES: Final = frozenset({"redis", "rediss", _REDIS_SOCKET})
_DATABASE: Final = re.compile(r"(?:/[0-9]*)?")
# Seconds that a request may wait for Redis: to connect, then for its answer. It answers within a
# millisecond when it is well.
_CONNECT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 1.0


class StoreFailed(Exception):
    """The store does not answer, or not as it should. Its cause says why."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a call that was to be counted.

    Attributes:
        give_back: Undoes it, if it is called once; None where a limit left no room, and nothing
            was taken of any.
        taken: Of each limit, what was taken in its window before this call.
        left: Of each limit, the seconds to the end of its window.
    """

    give_back: Callable[[], None] | None
    taken: Sequence[int]
    left: Sequence[int]


class Store(Protocol):
    """Counts, for each limit, what each caller has taken in the current window."""

    def take(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> Counted:
        """Take the cost of all limits that apply, each for its caller, or of none, in one step.

        Raises:
            StoreFailed: The store did not answer; what it has taken then stays taken.
        """


class MemoryStore:
    """Counts in this process alone, and forgets with it.

    Args:
        clock: Tells the time, in seconds since 1 January 1970.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        # Held for moments, in which no greenlet of gevent's is left: it need not be gevent's.
        self._lock = allocate_lock()
        # By limit: the number of the window, and what each caller has taken in it.
        self._windows: dict[Limit, tuple[int, dict[str, int]]] = {}

    def take(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> Counted:
        """See `Store`; this one does not fail."""
        with self._lock:
            now = int(self._clock())
            windows = [self._window(limit, now) for limit in limits]
            taken = [
                counts.get(caller, 0) for (_, counts), caller in zip(windows, callers, strict=True)
            ]
            left = [
                (number + 1) * limit.seconds - now
                for (number, _), limit in zip(windows, limits, strict=True)
            ]
            if any(
                so_far + cost > limit.amount for so_far, limit in zip(taken, limits, strict=True)
            ):
                return Counted(None, taken, left)
            for (_, counts), caller, so_far in zip(windows, callers, taken, strict=True):
                counts[caller] = so_far + cost
        counted = [counts for _, counts in windows]
        return Counted(partial(self._give_back, counted, callers, cost), taken, left)

    def _window(self, limit: Limit, now: int) -> tuple[int, dict[str, int]]:
        number = now // limit.seconds
        window = self._windows.get(limit)
        # A clock that is set back must not begin a window again.
        if window is None or window[0] < number:
            window = self._windows[limit] = (number, {})
        return window

    def _give_back(
        self, counted: Sequence[dict[str, int]], callers: Sequence[str], cost: int
    ) -> None:
        # To the window that it was taken from: where that is over, nobody looks any more.
        with self._lock:
            for counts, caller in zip(counted, callers, strict=True):
                counts[caller] -= cost


# Each limit's count for a caller is a hash: the window's number, a mark that no other window and
# no other beginning of the same one has, and what is taken. Redis runs a script as one step, and
# tells the time to all machines alike. KEYS: the counts. ARGV: the cost; then of each limit the
# amount and the seconds of a window.
_TAKE: Final = b"""
local time = redis.call('TIME')
local now, cost, is_full = tonumber(time[1]), tonumber(ARGV[1]), 0
local windows, marks, taken, left = {}, {}, {}, {}
for i, key in ipairs(KEYS) do
  local amount, seconds = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local held = redis.call('HMGET', key, 'window', 'mark', 'taken')
  local last, window = tonumber(held[1] or -1), math.floor(now / seconds)
  -- A clock that is set back must not begin a window again.
  if last >= window then
    windows[i], marks[i], taken[i] = last, held[2], tonumber(held[3])
  else
    windows[i], marks[i], taken[i] = window, time[1] .. '.' .. time[2], 0
  end
  left[i] = (windows[i] + 1) * seconds - now
  if taken[i] + cost > amount then
    is_full = 1
  end
end
if is_full == 0 then
  for i, key in ipairs(KEYS) do
    redis.call('HSET', key, 'window', windows[i], 'mark', marks[i], 'taken', taken[i] + cost)
    redis.call('EXPIRE', key, left[i])
  end
end
return {is_full, marks, taken, left}
"""
# Only to the count that it was taken from: not to a later window's, nor to one that Redis began
# anew because it had forgotten. KEYS: the counts. ARGV: the cost; then the marks.
_GIVE_BACK: Final = b"""
for i, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'mark') == ARGV[i + 1] then
    redis.call('HINCRBY', key, 'taken', -tonumber(ARGV[1]))
  end
end
"""
# What stands in braces has Redis clusters keep all counts in one place, as one script needs it.
_KEY: Final = "wsgi-fal-proxy:{limits}:"


class RedisStore:
    """Counts in Redis, for every process and machine that uses the same one.

    Nothing is sent before the first call is counted.

    Args:
        uri: As the `limits` library's, with one of the schemes in `ACCEPTED`.

    Raises:
        ImportError: A library is not installed.
        ValueError: The URI cannot be used.
    """

    def __init__(self, uri: str) -> None:
        from limits.storage import RedisStorage  # noqa: PLC0415 - only where it is used
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        options: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_SECONDS,
            "socket_timeout": _ANSWER_SECONDS,
            # What was sent and not answered may have been done: again, it would count twice.
            "retry": Retry(NoBackoff(), 0),
        }
        client = RedisStorage(uri, **options).get_connection()
        self._take = client.register_script(_TAKE)
        self._undo = client.register_script(_GIVE_BACK)
        self._errors = (RedisError, OSError)

    def take(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> Counted:
        """See `Store`."""
        keys = [
            f"{_KEY}{limit.seconds}:{caller}" for limit, caller in zip(limits, callers, strict=True)
        ]
        bounds = [number for limit in limits for number in (limit.amount, limit.seconds)]
        is_full, marks, taken, left = self._answer(self._take, keys, [cost, *bounds])
        if is_full:
            return Counted(None, taken, left)
        return Counted(partial(self._answer, self._undo, keys, [cost, *marks]), taken, left)

    def _answer(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return script(keys, args)
        except self._errors as error:
            raise StoreFailed from error


def store(uri: str) -> Store:
    """Make the store that a URI names, without connecting to it.

    Raises:
        ImportError: A library is not installed.
        ValueError: The URI cannot be used; see `ACCEPTED`.
    """
    if uri == "memory://":
        return MemoryStore()
    parts = urlsplit(uri)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError
    # What is no number redis-py takes for database 0, where another app may count.
    if parts.scheme != _REDIS_SOCKET and not _DATABASE.fullmatch(parts.path):
        raise ValueError
    return RedisStore(uri)

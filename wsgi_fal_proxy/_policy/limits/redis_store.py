"""The store in Redis: two scripts, each of which Redis runs as one step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from wsgi_fal_proxy._policy.limits.store import ChargeResult, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit

# Seconds. A request waits at most so long for Redis to connect, and then for its answer. A healthy
# Redis answers within a millisecond.
_CONNECT_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 1.0

# For each limit and caller, Redis keeps a hash of three fields: the window's number, a mark and
# the amount taken. The mark is new each time a window begins, also if the same window begins
# twice. The time is Redis's own, so that all machines agree on it.
# KEYS: one per limit. ARGV: the cost; then for each limit its amount and its seconds.
_CHARGE: Final = b"""
local time = redis.call('TIME')
local now, cost, is_full = tonumber(time[1]), tonumber(ARGV[1]), 0
local windows, marks, taken, left = {}, {}, {}, {}
for i, key in ipairs(KEYS) do
  local amount, seconds = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local held = redis.call('HMGET', key, 'window', 'mark', 'taken')
  local last, window = tonumber(held[1] or -1), math.floor(now / seconds)
  -- If the clock is set back, the newer window stays: an old one must not start again.
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
# The mark protects every other count: that of a later window, and that of a window which Redis
# began again because it had lost its data. KEYS: one per limit. ARGV: the cost; then the marks.
_REFUND: Final = b"""
for i, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'mark') == ARGV[i + 1] then
    redis.call('HINCRBY', key, 'taken', -tonumber(ARGV[1]))
  end
end
"""
# The braces are a hash tag: a Redis cluster keeps all these keys on one node, as a script needs.
_KEY: Final = "wsgi-fal-proxy:{limits}:"


class RedisStore:
    """Counts in Redis, for all processes and machines that use the same one.

    It connects when it counts the first call.

    Args:
        uri: A URI of the `limits` library, with one of the schemes in `storage.ACCEPTED`.

    Raises:
        ImportError: A library is not installed.
        ValueError: The URI cannot be used.
    """

    def __init__(self, uri: str) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_SECONDS,
            "socket_timeout": _ANSWER_SECONDS,
            # Never retry: Redis may have run a script without answering, and would count twice.
            "retry": Retry(NoBackoff(), 0),
        }
        client = RedisStorage(uri, **options).get_connection()
        self._charge = client.register_script(_CHARGE)
        self._refund = client.register_script(_REFUND)

    def charge(self, limits: Sequence[Limit], callers: Sequence[str], cost: int) -> ChargeResult:
        """See `Store`."""
        keys = [
            f"{_KEY}{limit.seconds}:{caller}" for limit, caller in zip(limits, callers, strict=True)
        ]
        bounds = [number for limit in limits for number in (limit.amount, limit.seconds)]
        is_full, marks, taken, left = _run(self._charge, keys, [cost, *bounds])
        if is_full:
            return ChargeResult(None, taken, left)
        return ChargeResult(partial(_run, self._refund, keys, [cost, *marks]), taken, left)


def _run(script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
    try:
        return script(keys, args)
    except (RedisError, OSError) as error:
        raise StoreFailed from error

"""Connects to the first of a host's addresses that answers (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

# gevent replaces what is in these two, so that only the greenlet waits.
import select
import socket
from contextlib import suppress
from itertools import zip_longest
from os import strerror
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._upstream.wire import seconds_left

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AddressInfo = tuple[int, int, int, str, Any]
"""What `socket.getaddrinfo` gives for one address."""

ATTEMPT_SECONDS: Final = 0.25
"""How long an attempt is alone before the next address is tried, too (RFC 8305 section 8)."""


def in_order(
    found: Sequence[AddressInfo], *, good: AddressInfo | None, bad: AddressInfo | None
) -> list[AddressInfo]:
    """Sort addresses for `dial`: the families take turns (RFC 8305 section 4).

    Args:
        found: In the system's order, whose first family goes first.
        good: The address that worked last. It goes first, and its family does.
        bad: One that accepted a connection and then failed. It goes last.
    """
    ranked = sorted(found, key=lambda address: (address == bad) - (address == good))
    families: dict[int, list[AddressInfo]] = {} if good is None else {good[0]: []}
    for address in ranked:
        families.setdefault(address[0], []).append(address)
    turns = [one for turn in zip_longest(*families.values()) for one in turn if one is not None]
    return sorted(turns, key=lambda address: address == bad)


def dial(
    addresses: Sequence[AddressInfo],
    *,
    deadline: float | None,
    options: Iterable[tuple[Any, ...]] | None,
    source_address: Any,
) -> tuple[socket.socket, AddressInfo]:
    """Connect to whichever address answers first, and return the socket and its address.

    The next attempt begins when the ones before have failed, or have had `ATTEMPT_SECONDS`. When
    one succeeds, the others are closed.

    Args:
        addresses: At least one, in the order in which they are tried.
        deadline: The `time.monotonic()` at which all attempts end. None: when the system ends them.
        options: Arguments of `setsockopt` for each socket. None: no options.
        source_address: What each socket binds to. None: what the system chooses.

    Raises:
        TimeoutError: No address answered before the deadline.
        OSError: No attempt succeeded. It is the last one's error.
    """
    untried = list(reversed(addresses))
    attempts: dict[int, tuple[socket.socket, AddressInfo]] = {}
    next_at = monotonic()
    failure = OSError("there is no address")
    try:
        while untried or attempts:
            if untried and (not attempts or monotonic() >= next_at):
                address = untried.pop()
                next_at = monotonic() + ATTEMPT_SECONDS
                try:
                    sock = _begin(address, options, source_address)
                except OSError as error:
                    failure = error
                    continue
                attempts[sock.fileno()] = sock, address
            until = _pick_earlier(deadline, next_at if untried else None)
            for fd in _wait_for_any(attempts, until):
                sock, address = attempts[fd]
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                del attempts[fd]
                if number == 0:
                    return sock, address
                sock.close()
                failure = OSError(number, strerror(number))
                # RFC 8305 section 5: the next one need not wait any longer.
                next_at = 0.0
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError("the connect timeout ran out")
        raise failure
    finally:
        for sock, _ in attempts.values():
            sock.close()


def _begin(
    address: AddressInfo, options: Iterable[tuple[Any, ...]] | None, source_address: Any
) -> socket.socket:
    family, kind, protocol, _, where = address
    # This fails if the system lacks the family, such as IPv6.
    sock = socket.socket(family, kind, protocol)
    try:
        for option in options or ():
            sock.setsockopt(*option)
        if source_address:
            sock.bind(source_address)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _wait_for_any(attempts: Iterable[int], until: float | None) -> list[int]:
    """Wait until an attempt succeeds or fails, or until a time. Return those that have."""
    seconds = seconds_left(until)
    if not hasattr(select, "poll"):  # pragma: no cover - Windows
        # There a failure is not told as writability.
        fds = list(attempts)
        _, succeeded, failed = select.select([], fds, fds, seconds)
        return [*{*succeeded, *failed}]
    poller = select.poll()
    for fd in attempts:
        poller.register(fd, select.POLLOUT)
    # Up to the next millisecond: a wait that ends too early would only be repeated.
    return [fd for fd, _ in poller.poll(None if seconds is None else int(seconds * 1000) + 1)]


def _pick_earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)

"""Looks up a host's addresses: once at a time, and seldom.

The system's lookup can take half a minute, tells no TTL, and cannot be broken off. gevent makes at
most ten at a time, and all that follow wait. So each lookup has a thread of its own (a greenlet
under gevent), everyone who needs the same host waits for the same one, and the addresses are
remembered.
"""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._process.unpatched import allocate_lock
from wsgi_fal_proxy._upstream.dial import in_order
from wsgi_fal_proxy._upstream.wire import seconds_left

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._upstream.dial import AddressInfo

FRESH_SECONDS: Final = 30.0
"""How long addresses are used without another lookup. The fronts of large services, which move
addresses by DNS, use TTLs of 60 seconds and more."""
STALE_SECONDS: Final = 86_400.0
"""How long addresses are used while lookups fail: the least that RFC 8767 section 5 recommends."""
PATIENCE_SECONDS: Final = 1.8
"""How long a call waits for a lookup before it uses stale addresses (RFC 8767 section 5, "client
response timer")."""

# The name server has said that there is no such name, or no address. Stale addresses are only for
# a lookup that failed (RFC 8767 section 4).
_NO_SUCH_NAME: Final = {
    number
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if (number := getattr(socket, name, None)) is not None
}


class _Pending:
    """A lookup under way. `done` is gevent's own event under gevent."""

    def __init__(self) -> None:
        self.started_at = monotonic()
        self.done = threading.Event()
        self.found: Sequence[AddressInfo] | None = None
        self.error: Exception | None = None


class Lookup:
    """One host's addresses, and which of them worked."""

    def __init__(self) -> None:
        # Held for moments only, and never while another greenlet may run.
        self._lock = allocate_lock()
        self._pending: _Pending | None = None
        self._found: Sequence[AddressInfo] | None = None
        self._fresh_until = 0.0
        self._stale_until = 0.0
        self._good: AddressInfo | None = None
        self._bad: AddressInfo | None = None

    def addresses(self, host: str, port: int, deadline: float | None) -> Sequence[AddressInfo]:
        """Return the host's addresses, in the order in which they should be tried.

        Args:
            host: A name, or an address, which is not looked up.
            port: Part of each address.
            deadline: The `time.monotonic()` at which the wait ends. None: when the lookup ends.

        Raises:
            TimeoutError: The deadline has passed.
            OSError: The lookup failed, usually with `socket.gaierror`.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = self._known(host, port, deadline)
        return in_order(found, good=self._good, bad=self._bad)

    def worked(self, address: AddressInfo | None) -> None:
        """Note the address of a connection that was made."""
        self._good = address
        if self._bad == address:
            self._bad = None

    def failed(self, address: AddressInfo | None) -> None:
        """Note that a connection could not be made.

        Args:
            address: The one that accepted it, and then TLS failed. None: none did. The host may
                have other addresses by now, so the next call looks it up.
        """
        if address is None:
            self._fresh_until = 0.0
        else:
            self._bad = address
        self._good = None

    def _known(self, host: str, port: int, deadline: float | None) -> Sequence[AddressInfo]:
        with self._lock:
            now = monotonic()
            known = self._found if now < self._stale_until else None
            if known is not None and now < self._fresh_until:
                return known
            pending = self._pending
            is_mine = pending is None
            if pending is None:
                pending = self._pending = _Pending()
        if is_mine:
            self._start(pending, host, port)
        until = deadline
        if known is not None:
            until = min(pending.started_at + PATIENCE_SECONDS, deadline or float("inf"))
        if not pending.done.wait(seconds_left(until)):
            if known is not None:
                return known
            raise TimeoutError("the name was not looked up in time")
        if pending.found is not None:
            return pending.found
        if known is not None and self._found is known:
            return known
        raise pending.error or OSError("the name could not be looked up")

    def _start(self, pending: _Pending, host: str, port: int) -> None:
        # `threading.Thread` is a greenlet under gevent. It is looked up now, since gevent may have
        # replaced it after this module was imported.
        arguments = (pending, host, port)
        name = "wsgi-fal-proxy lookup"
        thread = threading.Thread(target=self._run, args=arguments, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The process may have no more threads. Then the lookup cannot be bounded.
            self._run(pending, host, port)

    def _run(self, pending: _Pending, host: str, port: int) -> None:
        try:
            pending.found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - those who wait raise it
            pending.error = error
        now = monotonic()
        with self._lock:
            self._pending = None
            if pending.found is not None:
                self._found = pending.found
                self._fresh_until = now + FRESH_SECONDS
                self._stale_until = now + STALE_SECONDS
            elif isinstance(pending.error, socket.gaierror) and (
                pending.error.errno in _NO_SUCH_NAME
            ):
                self._found = None
            else:
                # With stale addresses, the next lookup waits as long as after a success.
                self._fresh_until = now + FRESH_SECONDS
        pending.done.set()


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()

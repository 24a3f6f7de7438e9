"""One request: what it holds, what becomes of it, and its one end."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from wsgi_fal_proxy._downstream.connection import client_connection, reset
from wsgi_fal_proxy._downstream.watcher import watcher
from wsgi_fal_proxy._process.fork import process, reset_in_children
from wsgi_fal_proxy._process.unpatched import Empty, SimpleQueue, gevent_owns_sockets
from wsgi_fal_proxy._upstream.call import Call
from wsgi_fal_proxy.errors import ClientGone, FalProxyError, GatewayError, Refusal, RelayFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._http.fields import Fields
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._policy.limits.store import Refund

_logger: Final = logging.getLogger("wsgi_fal_proxy")

Outcome = Literal["relayed", "refused", "truncated", "client_left"]
"""How an exchange ends.

- relayed: the client got all of fal's answer.
- refused: the client got an error of ours, or nothing.
- truncated: fal's answer broke off after its head.
- client_left: the client left, or the server stopped sending.
"""


class Recorder(Protocol):
    """Tells the observer how each exchange ended. Without an observer, does nothing."""

    def body_of_whole_answer(
        self, exchange: Exchange, pieces: list[bytes], outcome: Outcome
    ) -> Iterable[bytes]:
        """Return the body of a complete answer. The exchange ends when the body does."""

    def record(self, exchange: Exchange) -> None:
        """Take note that an exchange has ended. It does not raise."""


class Exchange(Call):
    """One request, from its arrival to its answer's last byte.

    It owns a connection to fal (as a `Call`), a watch over the client, a charge on the limits, and
    whatever `hold` registers, such as a slot. `release` gives back all but the charge, `settle`
    keeps or refunds that. It ends once, with an outcome; then the recorder is called.

    Args:
        environ: The WSGI environ.
        start_response: The server's function (PEP 3333).
        body: The body of the client's request.
        recorder: It is called at the end.
        total_timeout: The option, in seconds.

    Attributes:
        request: The request, once it has been parsed.
        identity: The caller, once `authorize` has named it.
        refund: Refunds the charge on the limits. None: there is none, or it has been settled.
        fal_fields: The header fields of fal's answer, once they are here.
        head_at: `time.monotonic()` when they were here.
        status: The status of the answer, once it has begun.
        reason: Why the answer is ours, or was truncated.
        bytes_down: Bytes of the answer's content that were given to the server.
        has_client_left: Whether the watcher noticed that the client left.
        outcome: How it ended. None before.
    """

    __slots__ = (
        "_generation",
        "_has_expired",
        "_recorder",
        "_releases",
        "_watched_fd",
        "body",
        "bytes_down",
        "environ",
        "fal_fields",
        "has_client_left",
        "head_at",
        "identity",
        "outcome",
        "reason",
        "refund",
        "request",
        "start_response",
        "status",
    )

    def __init__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        body: RequestBody,
        recorder: Recorder,
        total_timeout: float | None,
    ) -> None:
        # Called directly: on this hot path, super() costs as much as the assignments below.
        Call.__init__(self, total_timeout)
        self.environ = environ
        self.start_response = start_response
        self.body = body
        self.request: FalRequest | None = None
        self.identity: str | None = None
        self.refund: Refund | None = None
        self.fal_fields: Fields | None = None
        self.head_at: float | None = None
        self.status: int | None = None
        self.reason: str | None = None
        self.bytes_down: int = 0
        self.has_client_left: bool = False
        self.outcome: Outcome | None = None
        self._recorder = recorder
        self._releases: tuple[Callable[[], object], ...] = ()
        self._watched_fd: int | None = None
        self._has_expired = False
        self._generation = process.generation

    # What it owns

    def hold(self, release: Callable[[], object]) -> None:
        """Register a function for `release` to call.

        Args:
            release: Gives one resource back. It must not block.
        """
        self._releases = (*self._releases, release)

    def watch(self) -> None:
        """Have the watcher end the call when the client leaves, and when its time is over.

        It notices a client that leaves if the server hands over the client's connection.
        """
        fd, connection = client_connection(self.environ)
        if fd is not None:
            watcher.watch(fd, self, connection)
            self._watched_fd = fd
        if self.deadline is not None:
            watcher.enforce_deadline(self)
            self.hold(partial(watcher.release_deadline, self))

    def settle(self, *, billed: bool) -> None:
        """Keep or refund the charge. Only the first call counts."""
        refund, self.refund = self.refund, None
        if refund is not None and not billed:
            refund()

    def release(self) -> None:
        """End the watch; then release the connection and all else. It does not raise.

        If one release fails, the failure is logged and the others still happen.
        """
        if self._watched_fd is not None:
            watcher.unwatch(self._watched_fd, self)
            self._watched_fd = None
        releases, self._releases = self._releases, ()
        if self.connection is not None:
            releases = (*releases, partial(self.release_connection, reusable=False))
        _release_all(releases)

    # What the watcher does, on its thread

    def on_client_left(self) -> None:
        """Break the call off: nobody waits for its answer."""
        self.has_client_left = True
        self.abort()

    def expire(self) -> None:
        """End the call, whose time is over.

        First this breaks off a wait for fal, so that the serving thread ends the exchange. If the
        exchange has not ended by the next tick, the serving thread is stuck writing to the client.
        Then this releases the slot and the connection, and resets the client's connection if the
        server exposes it.
        """
        if not self._has_expired:
            self._has_expired = True
            self.abort()
            return
        if self._watched_fd is not None:
            watcher.while_watched(self._watched_fd, self, reset)
        if gevent_owns_sockets():
            # Only its own thread may close a connection. It is shut down already.
            releases, self._releases = self._releases, ()
            _release_all(releases)
        else:
            self.release()

    # How it ends

    @property
    def request_id(self) -> str | None:
        """The id that fal gave to the request, if it sent one."""
        fields = self.fal_fields
        return None if fields is None else next(iter(fields.values("x-fal-request-id")), None)

    def fail(self, error: FalProxyError) -> None:
        """Release all, since the answer is ours, and decide on the charge."""
        self.release()
        self.settle(billed=error.may_be_billed and self.is_sent)
        self.reason = error.reason
        spends = self.request is not None and self.request.operation.spends
        if self.is_sent and spends and isinstance(error, GatewayError):
            error.discourage_retry()

    def end(self, outcome: Outcome) -> None:
        """Release all and call the recorder. Only the first call counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.release()
        # What fal never saw is refunded, however this ends.
        self.settle(billed=self.is_sent)
        self._recorder.record(self)

    def end_if_client_left(self) -> bool:
        """If the client has left, reset its connection, end, and return True.

        A client that closed only its sending side still reads. It would take the cut answer for a
        whole one if it were not reset.
        """
        if not self.has_client_left:
            return False
        # Look it up again: by now the server may have closed it.
        fd, _ = client_connection(self.environ)
        if fd is not None:
            reset(fd)
        self.end("client_left")
        return True

    def log(self, error: FalProxyError) -> None:
        """Log an error, unless the client caused it or has left."""
        if isinstance(error, Refusal | ClientGone) or self.has_client_left:
            return
        cause = error.__cause__
        because = error.for_the_log
        if cause is not None:
            because += f" [{type(cause).__name__}: {cause}]"
        call = ""
        if self.request is not None and isinstance(error, GatewayError):
            target, request_id = self.request.target, self.request_id
            named = "" if request_id is None else f", fal's request id {request_id}"
            seconds = monotonic() - self.started_at
            call = (
                f" ({self.request.method} {target.host}{target.path}{named}, after {seconds:.3f} s)"
            )
        level = logging.WARNING if isinstance(error, RelayFull) else logging.ERROR
        _logger.log(level, "%s: %s%s%s", error.reason, error.detail, call, because)

    def abandon(self) -> None:
        """Have another thread end this. For a destructor, which must not take a lock."""
        # An exchange of the parent is the parent's to end.
        if self.outcome is None and self._generation == process.generation:
            abandoned.queue.put(self)


def _release_all(releases: tuple[Callable[[], object], ...]) -> None:
    for release in reversed(releases):
        try:
            release()
        except Exception:
            _logger.exception("The fal proxy could not release a resource; please report this.")


class _Abandoned:
    """Exchanges whose answer the server dropped without `close`, against PEP 3333.

    A destructor runs at any moment, on any thread, and within any lock. So it puts its exchange
    into the queue here and does nothing else. The next call and the watcher's thread end them.

    Attributes:
        queue: A `SimpleQueue`, whose `put` is safe in destructors.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_children(self)

    def reset_after_fork(self) -> None:
        """Forget the exchanges, which are the parent's to end."""
        self.queue: Any = SimpleQueue()

    def end_all(self) -> None:
        """End the exchanges that are in the queue."""
        while not self.queue.empty():
            with suppress(Empty):  # another thread can be faster
                self.queue.get_nowait().end("client_left")

    def end_all_on_the_watchers_thread(self) -> None:
        """The same, except under gevent: there only its own thread may close a connection."""
        if not gevent_owns_sockets():
            self.end_all()


abandoned: Final = _Abandoned()
watcher.at_each_tick(abandoned.end_all_on_the_watchers_thread)

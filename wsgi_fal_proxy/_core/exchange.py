"""One request: what it holds, what becomes of it, and its one end."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from wsgi_fal_proxy._downstream.connection import client_connection, reset
from wsgi_fal_proxy._downstream.watcher import watcher
from wsgi_fal_proxy._process.fork import reset_in_children
from wsgi_fal_proxy._process.unpatched import Empty, SimpleQueue, is_patched
from wsgi_fal_proxy._upstream.call import Call
from wsgi_fal_proxy.errors import ClientGone, FalProxyError, GatewayError, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._http.fields import Fields
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._policy.limits.store import Refund

_logger: Final = logging.getLogger("wsgi_fal_proxy")


Outcome = Literal["relayed", "refused", "truncated", "client_left"]
"""How an exchange ends: the client was given fal's whole answer; it was given an answer of ours, or
none; fal's answer broke off after its head; the client left, or the server broke off towards it."""


class Recorder(Protocol):
    """Makes the record of each exchange, or none."""

    def body(self, exchange: Exchange, pieces: list[bytes], outcome: Outcome) -> Iterable[bytes]:
        """Give an answer's content, if all of it is here, so that the exchange ends with it."""

    def record(self, exchange: Exchange) -> None:
        """Take note that an exchange has ended. It does not raise."""


class Exchange(Call):
    """One request, from its arrival to its answer's last byte.

    Whatever it takes is registered with its release: a slot, a watch over the client, a connection
    to fal (see `Call`), a charge on the limits. It ends once, with an outcome; then all is released
    and the recorder is called.

    Args:
        environ: The WSGI environ.
        start_response: The server's.
        body: The request's.
        recorder: Is called at the end.
        total_timeout: The option, in seconds.

    Attributes:
        request: The request, once it has been parsed.
        identity: Who the caller is, once `authorize` has said so.
        fal_fields: The header fields of fal's answer, once they are here.
        head_at: `time.monotonic()` when they were here.
        refund: Refunds the charge on the limits. None: there is none, or it has been settled.
        status: What the client was answered with.
        reason: Why the answer is ours, or was truncated.
        bytes_down: Bytes of the answer's content that were given to the server.
        outcome: How it ended; None before.
    """

    __slots__ = (
        "_recorder",
        "_releases",
        "_watched_fd",
        "body",
        "bytes_down",
        "environ",
        "fal_fields",
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
        # Not by super(), which takes as long as all of this.
        Call.__init__(self, total_timeout)
        self.environ = environ
        self.start_response = start_response
        self.body = body
        self.request: FalRequest | None = None
        self.identity: str | None = None
        self.fal_fields: Fields | None = None
        self.head_at: float | None = None
        self.status: int | None = None
        self.reason: str | None = None
        self.bytes_down: int = 0
        self.outcome: Outcome | None = None
        self._recorder = recorder
        self.refund: Refund | None = None
        self._watched_fd: int | None = None
        self._releases: tuple[Callable[[], object], ...] = ()

    # What it holds.

    def hold_until_end(self, release: Callable[[], object]) -> None:
        """Register how something that was taken is released."""
        self._releases = (*self._releases, release)

    def watch_client(self) -> None:
        """Abort the call when the client leaves, if the server hands over its connection."""
        fd, connection = client_connection(self.environ)
        if fd is not None:
            watcher.watch(fd, self, connection)
            self._watched_fd = fd

    def settle(self, *, billed: bool) -> None:
        """Keep or refund the charge. Only the first call counts."""
        refund, self.refund = self.refund, None
        if refund is not None and not billed:
            refund()

    @property
    def request_id(self) -> str | None:
        """The id that fal gave to the request, if it sent one."""
        fields = self.fal_fields
        return None if fields is None else next(iter(fields.values("x-fal-request-id")), None)

    # How it ends.

    def release(self) -> None:
        """Release all that is held, the last first. If one fails, the others are released still."""
        if self._watched_fd is not None:
            watcher.unwatch(self._watched_fd, self)
            self._watched_fd = None
        releases, self._releases = self._releases, ()
        if self.connection is not None:
            releases = (*releases, partial(self.release_connection, reusable=False))
        for release in reversed(releases):
            try:
                release()
            except Exception:
                _logger.exception("The fal proxy could not release a resource; please report this.")

    def fail(self, error: FalProxyError) -> None:
        """Note why the answer is ours, and release all that is held."""
        self.release()
        self.settle(billed=error.may_be_billed and self.sent)
        self.reason = error.reason
        spends = self.request is not None and self.request.operation.spends
        if self.sent and spends and isinstance(error, GatewayError):
            error.not_to_be_repeated()

    def end(self, outcome: Outcome) -> None:
        """Release all that is held and call the recorder. Only the first call counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.release()
        # What fal never saw is refunded, however this ends.
        self.settle(billed=self.sent)
        self._recorder.record(self)

    def end_if_client_left(self) -> bool:
        """If the client has left, reset its connection, end, and return True.

        A client that has closed only its sending side must not take what it got for complete.
        """
        if not self.aborted:
            return False
        # Look it up again: by now the server may have closed it.
        fd, _ = client_connection(self.environ)
        if fd is not None:
            reset(fd)
        self.end("client_left")
        return True

    def log(self, error: FalProxyError) -> None:
        """Log an error that the owner should know of, not one that the client has made."""
        if isinstance(error, Refusal | ClientGone) or self.aborted:
            return
        cause = error.__cause__
        because = error.for_the_log
        if cause is not None:
            because += f" [{type(cause).__name__}: {cause}]"
        if self.request is None or not isinstance(error, GatewayError):
            _logger.error("%s: %s%s", error.reason, error.detail, because)
            return
        target = self.request.target
        _logger.error(
            "%s: %s (%s, fal's request id %s, after %.3f s)%s",
            error.reason,
            error.detail,
            f"{self.request.method} {target.host}{target.path}",
            self.request_id,
            monotonic() - self.started,
            because,
        )


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

    def end_all_from_watcher(self) -> None:
        """Do so on the watcher's thread, unless sockets are for other threads alone."""
        if not is_patched():
            self.end_all()


abandoned: Final = _Abandoned()
watcher.at_each_tick(abandoned.end_all_from_watcher)

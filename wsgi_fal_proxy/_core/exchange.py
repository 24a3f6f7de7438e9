"""One request while it is relayed: what it holds, and how its answer goes down."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from wsgi_fal_proxy._downstream.connection import break_framing, client_connection, reset
from wsgi_fal_proxy._downstream.watcher import watcher
from wsgi_fal_proxy._http.content_coding import decoded
from wsgi_fal_proxy._upstream.client import Call
from wsgi_fal_proxy.errors import ClientGone, FalProxyError, Refusal, RelayFull, Truncated

if TYPE_CHECKING:
    import threading
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._core.record import Observation
    from wsgi_fal_proxy._fal.target import Target
    from wsgi_fal_proxy._policy.limits.store import Refund
    from wsgi_fal_proxy._upstream.client import UpstreamResponse

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class Relaying:
    """What one request holds while it is relayed, to be given back once: a slot, and a watch.

    Args:
        slots: One is taken for each request that is being relayed; None for no limit.
        total_timeout: The option.

    Attributes:
        call: By which it can be broken off.
        response: fal's, once its head is here.
        seen: What the observer will be told; None without one.
        refund: Refunds what the limits were charged for this request, until it is settled.
    """

    __slots__ = (
        "_fd",
        "_has_slot",
        "_method",
        "_on_gone",
        "_slots",
        "_target",
        "call",
        "refund",
        "response",
        "seen",
    )

    def __init__(self, slots: threading.Semaphore | None, total_timeout: float | None) -> None:
        self.call: Call = Call(total_timeout)
        self._method = ""
        self._target: Target | None = None
        self.response: UpstreamResponse | None = None
        self.seen: Observation | None = None
        self._slots = slots
        self._has_slot = False
        self._fd: int | None = None
        self._on_gone = self.call.abort
        self.refund: Refund | None = None

    def begin(self, environ: WSGIEnvironment, method: str, target: Target) -> None:
        """Take a slot, and watch the client.

        Raises:
            RelayFull: There is no slot.
        """
        self._method, self._target = method, target
        if self._slots is not None:
            if not self._slots.acquire(blocking=False):
                raise RelayFull
            self._has_slot = True
        self._fd, connection = client_connection(environ)
        if self._fd is not None:
            watcher.watch(self._fd, self._on_gone, connection)

    def end(self) -> None:
        """Give back what is held; once is enough, and twice does no harm."""
        if self._fd is not None:
            watcher.unwatch(self._fd, self._on_gone)
            self._fd = None
        if self._has_slot and self._slots is not None:
            self._has_slot = False
            self._slots.release()

    def drop(self) -> None:
        """Give back what is held, of a request that is not to be answered."""
        self.end()
        if self.seen is not None:
            self.seen.tell()

    def settle(self, *, billed: bool) -> None:
        """Keep or refund the charge. Only the first call counts."""
        refund, self.refund = self.refund, None
        if refund is not None and not billed:
            refund()

    def hang_up(self, environ: WSGIEnvironment) -> bool:
        """Have done with a client that has left; tell whether it has.

        One that has closed only its sending side must not take what it got for complete.
        """
        if not self.call.aborted:
            return False
        # Looked up anew: by now the server may have closed it.
        fd, _ = client_connection(environ)
        if fd is not None:
            reset(fd)
        if self.seen is not None:
            self.seen.client_left = True
        self.end()
        return True

    def log(self, error: FalProxyError) -> None:
        """Log what the owner should know of; what a client did wrong is the client's to know."""
        if isinstance(error, Refusal | ClientGone) or self.call.aborted:
            return
        cause = error.__cause__
        because = error.for_the_log
        if cause is not None:
            because += f" [{type(cause).__name__}: {cause}]"
        if self._target is None:
            _logger.error("%s: %s%s", error.reason, error.detail, because)
            return
        _logger.error(
            "%s: %s (%s, fal's request id %s, after %.3f s)%s",
            error.reason,
            error.detail,
            f"{self._method} {self._target.host}{self._target.path}",
            None if self.response is None else self.response.request_id,
            monotonic() - self.call.started,
            because,
        )


class Content:
    """The content of fal's answer, for the WSGI server to iterate over and close (PEP 3333)."""

    __slots__ = ("_begun", "_endless", "_environ", "_pieces", "_relaying", "_response", "_sent")

    def __init__(
        self,
        environ: WSGIEnvironment,
        response: UpstreamResponse,
        relaying: Relaying,
        coding: str | None,
    ) -> None:
        self._environ = environ
        self._response = response
        self._endless = response.length is None or coding is not None
        # Whether the server has been given anything, with which it sends the head.
        self._sent = False
        self._relaying = relaying
        self._pieces = response if coding is None else decoded(response, coding)
        # Nothing to begin with, where fal's content is not here yet: servers that send the head
        # with what is first written send it now.
        self._begun = response.has_begun

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = self._sent = True
            return b""
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._relaying.end()
            raise
        except Truncated as error:
            self._relaying.log(error)
            if self._sent and self._endless:
                break_framing(self._environ)
            if self._relaying.hang_up(self._environ):
                # The client has left; the server need not hear of an error, and finds out.
                raise StopIteration from None
            self.close()
            raise
        self._sent = True
        return piece

    def close(self) -> None:
        """Have done with it: a connection whose answer is not finished is closed."""
        self._response.close()
        self._relaying.end()

    def __del__(self) -> None:
        # For who drops it without close(), against PEP 3333: a slot would be lost for good, and
        # fal would work on.
        self.close()

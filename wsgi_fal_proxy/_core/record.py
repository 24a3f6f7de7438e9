"""What happened: one record for each request, told to the owner's own callable when it is over."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from wsgi_fal_proxy._fal.operations import operation
from wsgi_fal_proxy._fal.record import CallRecord, Observer
from wsgi_fal_proxy.errors import BodyIncomplete, ClientGone, FalProxyError, Truncated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsgi_fal_proxy._fal.operations import Operation
    from wsgi_fal_proxy._fal.target import Target

__all__ = ["CallRecord", "Observation", "ObservedContent", "Observer"]

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class Observation:
    """A record in the making. It is told once.

    Args:
        observer: Whom to tell.
        method: The request's.
    """

    __slots__ = (
        "_bytes_down",
        "_bytes_up",
        "_head",
        "_host",
        "_method",
        "_observer",
        "_operation",
        "_reason",
        "_request_id",
        "_started",
        "_status",
        "_told",
        "_truncated",
        "client_left",
        "identity",
    )

    def __init__(self, observer: Observer, method: str) -> None:
        self._started = monotonic()
        self._observer = observer
        self._told = False
        self._method = method
        self._host: str | None = None
        self._operation: Operation | None = None
        self._status: int | None = None
        self._reason: str | None = None
        self._request_id: str | None = None
        self._head: float | None = None
        self._bytes_up = 0
        self._bytes_down = 0
        self._truncated = False
        self.identity: str | None = None
        self.client_left: bool = False

    def accepted(self, target: Target) -> None:
        """Note where the request would go."""
        self._host = target.host
        self._operation = operation(self._method, target)

    def head_came(self, bytes_up: int, request_id: str | None) -> None:
        """Note that fal's whole response head is here."""
        self._head = monotonic() - self._started
        self._bytes_up = bytes_up
        self._request_id = request_id

    def failed(self, error: FalProxyError, bytes_up: int) -> None:
        """Note why the answer is not fal's."""
        self._reason = error.reason
        # Of a body that could not be read to its end it is not known.
        self._bytes_up = 0 if isinstance(error, BodyIncomplete) else bytes_up
        self.client_left = isinstance(error, ClientGone)

    def answered(
        self, status: int, content: Iterable[bytes], length: int | None
    ) -> ObservedContent:
        """Give the answer's content, at whose end the observer is told.

        Args:
            status: What the server has been told.
            content: What was to be returned to it.
            length: Bytes in it, where that is known.
        """
        self._status = status
        return ObservedContent(self, content, length)

    def count(self, piece: bytes) -> int:
        """Note a piece that is handed to the server; give the sum."""
        self._bytes_down += len(piece)
        return self._bytes_down

    def truncate(self, error: Truncated) -> None:
        """Note that fal's answer broke off."""
        self._truncated = True
        self._reason = error.reason

    def tell(self) -> None:
        """Tell the observer; once is enough, and twice does nothing."""
        if self._told:
            return
        self._told = True
        record = CallRecord(
            method=self._method,
            host=self._host,
            operation=self._operation,
            identity=self.identity,
            status=self._status,
            reason=self._reason,
            request_id=self._request_id,
            seconds_to_head=self._head,
            seconds=monotonic() - self._started,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            client_left=self.client_left,
            truncated=self._truncated,
        )
        try:
            self._observer(record)
        except Exception:
            _logger.exception("The option observer raised; the request is not affected.")


class ObservedContent:
    """An answer's content, for the WSGI server to iterate over and close (PEP 3333)."""

    __slots__ = ("_content", "_ended", "_length", "_observation", "_pieces")

    def __init__(
        self, observation: Observation, content: Iterable[bytes], length: int | None
    ) -> None:
        self._observation = observation
        self._content = content
        self._pieces: Iterator[bytes] = iter(content)
        self._length = length
        # Some servers ask for no more when they have had all.
        self._ended = length == 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end()
            raise
        except Truncated as error:
            self._observation.truncate(error)
            self._end()
            raise
        if self._observation.count(piece) == self._length:
            self._ended = True
        return piece

    def _end(self) -> None:
        self._ended = True
        self._observation.tell()

    def close(self) -> None:
        """Have done with it: before its end, this breaks it off."""
        if hasattr(self._content, "close"):
            self._content.close()
        if not self._ended:
            self._observation.client_left = True
        self._end()

    def __del__(self) -> None:
        # For who drops it without close(), against PEP 3333.
        self.close()

"""The content of an answer, as the WSGI server iterates over it and closes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from wsgi_fal_proxy._downstream.connection import break_framing, bytes_written
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_fal_proxy._core.exchange import Exchange, Outcome


class ResponseBody:
    """Gives the content of an answer and ends the exchange with it (PEP 3333).

    Args:
        exchange: The exchange of the request.
        pieces: The content.
        length: Bytes in it, if the answer's head says so, else None.
        has_begun: Whether content has arrived. If not, the first piece is empty, so that the
            server sends the head without waiting for fal.
        outcome: How the exchange ends when all has been given.
    """

    __slots__ = ("_exchange", "_has_begun", "_length", "_outcome", "_pieces", "_written")

    def __init__(
        self,
        exchange: Exchange,
        pieces: Iterator[bytes],
        *,
        length: int | None,
        has_begun: bool = True,
        outcome: Outcome = "relayed",
    ) -> None:
        self._exchange = exchange
        self._pieces = pieces
        self._length = length
        self._has_begun = has_begun
        self._outcome = outcome
        # What the client's connection had carried before this answer.
        self._written = bytes_written(exchange.environ) if length is None else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Return the next piece.

        Raises:
            Truncated: fal's answer broke off. So the server breaks the transfer off, too.
        """
        exchange = self._exchange
        if not self._has_begun:
            self._has_begun = True
            return b""
        try:
            piece = next(self._pieces)
        except StopIteration:
            exchange.end(self._outcome)
            raise
        except Truncated as error:
            if self._ends_quietly(error):
                raise StopIteration from None
            raise
        exchange.bytes_down += len(piece)
        if exchange.connection is None:
            # fal's answer is complete. A client that reads slowly holds nothing of ours.
            exchange.release()
        return piece

    def _ends_quietly(self, error: Truncated) -> bool:
        """End the exchange. Return whether the server need not be told, since the client left."""
        exchange = self._exchange
        exchange.log(error)
        if self._length is None and self._has_begun_on_the_wire():
            break_framing(exchange.environ)
        if exchange.end_if_client_left():
            return True
        exchange.reason = error.reason
        exchange.end("truncated")
        return False

    def _has_begun_on_the_wire(self) -> bool:
        """Whether the client has got a part of this answer.

        The server may wait with the head for the first content, and what is around the proxy may
        collect whole answers. Then the server can still answer with an error of its own.
        """
        written = bytes_written(self._exchange.environ)
        if written is None or self._written is None:
            return self._exchange.bytes_down > 0
        return written > self._written

    def close(self) -> None:
        """End the exchange. Before the content's end, this breaks the call off."""
        # Some servers stop iterating at Content-Length.
        is_whole = self._exchange.bytes_down == self._length
        self._exchange.end(self._outcome if is_whole else "client_left")

    def __del__(self) -> None:
        self._exchange.abandon()

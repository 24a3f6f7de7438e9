"""The content of an answer, as the WSGI server iterates over it and closes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from wsgi_fal_proxy._core.exchange import abandoned
from wsgi_fal_proxy._downstream.connection import break_framing
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_fal_proxy._core.exchange import Exchange, Outcome


class ResponseBody:
    """Gives the content of an answer and ends the exchange with it (PEP 3333).

    Args:
        exchange: The request's.
        pieces: The content.
        length: Bytes in it, if the answer's head says so, else None.
        has_begun: Whether a piece is here. If not, the first piece is empty: a server that sends
            the head with the first piece sends it at once.
        outcome: How the exchange ends when all has been given.
    """

    __slots__ = ("_exchange", "_has_begun", "_length", "_outcome", "_pieces", "_was_given")

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
        # Whether the server has a piece, with which it sends the head.
        self._was_given = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Give the next piece.

        Raises:
            Truncated: fal's answer broke off. So the server breaks the transfer off, too.
        """
        exchange = self._exchange
        if not self._has_begun:
            self._has_begun = self._was_given = True
            return b""
        try:
            piece = next(self._pieces)
        except StopIteration:
            exchange.end(self._outcome)
            raise
        except Truncated as error:
            self._truncate(error)
            raise
        self._was_given = True
        exchange.bytes_down += len(piece)
        return piece

    def _truncate(self, error: Truncated) -> None:
        exchange = self._exchange
        exchange.log(error)
        if self._was_given and self._length is None:
            break_framing(exchange.environ)
        if exchange.end_if_client_left():
            # The server finds out by itself.
            raise StopIteration from None
        exchange.reason = error.reason
        exchange.end("truncated")

    def close(self) -> None:
        """End the exchange. Before the content's end, this breaks the call off."""
        # Some servers ask for no more when they have had all.
        is_whole = self._exchange.bytes_down == self._length
        self._exchange.end(self._outcome if is_whole else "client_left")

    def __del__(self) -> None:
        if self._exchange.outcome is None:
            abandoned.queue.put(self._exchange)

"""The record of a call: made once per request, when it is over, for the owner's own callable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from wsgi_fal_proxy._core.response_body import ResponseBody

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_fal_proxy._core.exchange import Exchange, Outcome
    from wsgi_fal_proxy._fal.operations import Operation

_logger: Final = logging.getLogger("wsgi_fal_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One request that is over. It holds no key, no query and no content.

    Attributes:
        method: As the client sent it; it may be any text if the request was refused for it.
        host: The target's, such as `queue.fal.run`. None if no target was accepted.
        operation: What the request asked of fal: `operation.kind`, `operation.endpoint`,
            `operation.spends`. None if no target was accepted.
        identity: The caller, by the option `authorize`. None: not known by name.
        status: The answer's status. None if no answer could be begun.
        reason: Why the answer is the proxy's own and not fal's, or `truncated`; else None.
        request_id: The id that fal gave to the request, if it sent one.
        seconds_to_head: From the request's arrival to fal's whole response head. None if none came.
        seconds: From the request's arrival to the end, by a clock that is never set.
        bytes_up: Bytes of the request's content that were read to be relayed; 0 if it broke off.
        bytes_down: Bytes of the answer's content that were handed to the server.
        client_left: Whether the client left before the end, or the server broke off towards it.
        truncated: Whether fal's answer broke off after its head had been passed on.
    """

    method: str
    host: str | None
    operation: Operation | None
    identity: str | None
    status: int | None
    reason: str | None
    request_id: str | None
    seconds_to_head: float | None
    seconds: float
    bytes_up: int
    bytes_down: int
    client_left: bool
    truncated: bool

    @property
    def endpoint(self) -> str | None:
        """The fal endpoint in the target's path, such as `fal-ai/flux/dev`; None without one."""
        return None if self.operation is None else self.operation.endpoint

    @property
    def kind(self) -> str | None:
        """The operation's kind as text, such as `run`; None if no target was accepted."""
        return None if self.operation is None else self.operation.kind.value


Observer = Callable[[CallRecord], object]
"""Receives the record of one request. Its result is not used."""


class Recorder(Protocol):
    """Makes the record of each exchange, or none."""

    def body(self, exchange: Exchange, pieces: list[bytes], outcome: Outcome) -> Iterable[bytes]:
        """Give an answer's content, if all of it is here, so that the exchange ends with it."""

    def record(self, exchange: Exchange) -> None:
        """Take note that an exchange has ended. It does not raise."""


class NullRecorder:
    """Records nothing. The option `observer` is not set."""

    @staticmethod
    def body(exchange: Exchange, pieces: list[bytes], outcome: Outcome) -> Iterable[bytes]:
        """Give the pieces as they are: nobody asks when the client had them."""
        exchange.outcome = outcome
        return pieces

    @staticmethod
    def record(exchange: Exchange) -> None:
        """Do nothing."""


class ObserverRecorder:
    """Gives a `CallRecord` of each exchange to the option `observer`."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    @staticmethod
    def body(exchange: Exchange, pieces: list[bytes], outcome: Outcome) -> Iterable[bytes]:
        """See `Recorder`."""
        length = sum(map(len, pieces))
        return ResponseBody(exchange, iter(pieces), length=length, outcome=outcome)

    def record(self, exchange: Exchange) -> None:
        """See `Recorder`. What the observer raises is logged."""
        now = monotonic()
        request, response, head_at = exchange.request, exchange.response, exchange.head_at
        record = CallRecord(
            method=exchange.environ["REQUEST_METHOD"],
            host=None if request is None else request.target.host,
            operation=None if request is None else request.operation,
            identity=exchange.identity,
            status=exchange.status,
            reason=exchange.reason,
            request_id=None if response is None else response.request_id,
            seconds_to_head=None if head_at is None else head_at - exchange.started,
            seconds=now - exchange.started,
            bytes_up=exchange.bytes_up,
            bytes_down=exchange.bytes_down,
            client_left=exchange.outcome == "client_left",
            truncated=exchange.outcome == "truncated",
        )
        try:
            self._observer(record)
        except Exception:
            _logger.exception("The option observer raised; the request is not affected.")

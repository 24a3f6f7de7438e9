"""Makes the record of a call, when it is over, for the option `observer`."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._core.response_body import ResponseBody
from wsgi_fal_proxy._policy.call_record import CallRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_fal_proxy._core.exchange import Exchange, Outcome
    from wsgi_fal_proxy._policy.call_record import Observer

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class NullRecorder:
    """Records nothing. The option `observer` is not set."""

    @staticmethod
    def body_of_whole_answer(
        exchange: Exchange, pieces: list[bytes], outcome: Outcome
    ) -> Iterable[bytes]:
        """See `Recorder`. Without an observer, the time of the last byte does not matter."""
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
    def body_of_whole_answer(
        exchange: Exchange, pieces: list[bytes], outcome: Outcome
    ) -> Iterable[bytes]:
        """See `Recorder`."""
        length = sum(map(len, pieces))
        return ResponseBody(exchange, iter(pieces), length=length, outcome=outcome)

    def record(self, exchange: Exchange) -> None:
        """See `Recorder`. What the observer raises is logged."""
        now = monotonic()
        request, head_at = exchange.request, exchange.head_at
        record = CallRecord(
            method=exchange.environ["REQUEST_METHOD"],
            host=None if request is None else request.target.host,
            operation=None if request is None else request.operation,
            identity=exchange.identity,
            status=exchange.status,
            reason=exchange.reason,
            request_id=exchange.request_id,
            seconds_to_head=None if head_at is None else head_at - exchange.started_at,
            seconds=now - exchange.started_at,
            bytes_up=exchange.body.taken if exchange.is_sent else 0,
            bytes_down=exchange.bytes_down,
            client_left=exchange.outcome == "client_left",
            truncated=exchange.outcome == "truncated",
        )
        try:
            self._observer(record)
        except Exception:
            _logger.exception("The option observer raised; the request is not affected.")

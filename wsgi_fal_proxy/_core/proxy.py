"""Relays one request by fal's proxy formula, and answers with fal's answer or with an error.

The formula is fal's own (docs.fal.ai, "Server-side integration", "The proxy formula"):

1. One endpoint takes all requests.
2. It takes GET and POST, and PUT to cancel a queued request.
3. The header `x-fal-target-url` names the target, whose domain is fal's.
4. A body is JSON.
5. The request to fal has the header `Authorization: Key <the fal key>`.
6. The answer's body,
7. its status,
8. and its headers come back unchanged, except those of the connection and of the coding.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Final, Unpack
from weakref import WeakSet

from wsgi_fal_proxy._core.error_response import error_response
from wsgi_fal_proxy._core.exchange import Exchange, abandoned
from wsgi_fal_proxy._core.recorder import NullRecorder, ObserverRecorder
from wsgi_fal_proxy._core.response_body import ResponseBody
from wsgi_fal_proxy._core.slots import Slots
from wsgi_fal_proxy._downstream.connection import input_stopper
from wsgi_fal_proxy._downstream.watcher import watcher
from wsgi_fal_proxy._fal.headers import request_headers, response_headers
from wsgi_fal_proxy._fal.key import Key, KeyFile
from wsgi_fal_proxy._fal.operations import may_be_billed
from wsgi_fal_proxy._fal.request import parse_request
from wsgi_fal_proxy._http.content_coding import content_coding, decoded
from wsgi_fal_proxy._http.fields import environ_key
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy._policy.policy import Policy
from wsgi_fal_proxy._process.unpatched import gevent_owns_sockets
from wsgi_fal_proxy._settings.docstring import documents_options
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy._upstream.upstream import Upstream
from wsgi_fal_proxy.errors import (
    ClientGone,
    FalProxyError,
    InternalError,
    KeyMissing,
    TrustUnusable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._core.exchange import Outcome, Recorder
    from wsgi_fal_proxy._http.cors import Cors
    from wsgi_fal_proxy._policy.allowlist import Allowlist
    from wsgi_fal_proxy._policy.call_record import Observer
    from wsgi_fal_proxy._policy.limits.limiter import Limiter
    from wsgi_fal_proxy._settings.options import Options
    from wsgi_fal_proxy._upstream.response import UpstreamResponse

_logger: Final = logging.getLogger("wsgi_fal_proxy")

# These have no content. RFC 9110 section 8.6: a 204 must not have Content-Length, and a 304's would
# describe the answer that a 200 would have been.
_WITHOUT_CONTENT: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


@documents_options
class FalProxy:
    """The relay alone: a WSGI application that answers at any path it is mounted at.

    Mount it where a framework's own authentication applies; to answer under one path in front of
    an application, wrap that in `FalProxyMiddleware` instead.

    Args:
        **options: Keywords, all optional. One that is unknown or cannot be used raises
            `SettingsError` here, which names it, its value and what is accepted.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        settings = Settings.build(options)
        self._max_body_bytes = settings.max_body_bytes
        self._total_timeout = settings.total_timeout
        self._forwarded = frozenset(map(environ_key, settings.forward_headers))
        self._key = Key(settings.key)
        if settings.key is None or isinstance(settings.key, str | KeyFile):
            self._warn_of_key()
        self._policy = Policy(settings.authorize, _allowlist(settings), _limiter(settings))
        self._cors = _cors(settings)
        self._recorder = _recorder(settings.observer)
        self._upstream = Upstream(
            settings.pool_manager,
            egress_proxy=settings.egress_proxy,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            backup_domains=settings.backup_domains,
        )
        most = settings.max_concurrent
        self._slots = None if most is None else Slots(most)
        live_proxies.add(self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = RequestBody(environ, self._max_body_bytes)
        if self._cors is not None:
            if self._cors.is_preflight(environ):
                body.discard(input_stopper(environ))
                return self._cors.preflight(environ, start_response)
            start_response = self._cors.with_cors_headers(environ, start_response)
        if not abandoned.queue.empty():
            # What the server has dropped may hold the slot that this request needs.
            abandoned.end_all()
        exchange = Exchange(environ, start_response, body, self._recorder, self._total_timeout)
        try:
            response = self._send(exchange)
            return self._answer(exchange, response)
        except FalProxyError as error:
            exchange.log(error)
            return self._refuse(exchange, error)
        except Exception:
            _logger.exception("The fal proxy failed on a request; please report this.")
            return self._refuse(exchange, InternalError())
        except BaseException:
            exchange.end("refused")
            raise

    def _send(self, exchange: Exchange) -> UpstreamResponse:
        """Check the request and send it (rules 2 to 5)."""
        environ, body, policy = exchange.environ, exchange.body, self._policy
        request = exchange.request = parse_request(environ)  # rules 2 and 3
        has_rules = not policy.has_no_rules  # only for speed: without rules each check passes
        if has_rules:
            policy.check_target(request)
        body.accept()  # rule 4
        body.read_ahead()
        if has_rules:
            exchange.identity = policy.identify(request)
            body.is_authorized = True
            policy.check_body(request, body)
            exchange.refund = policy.charge(request, exchange.identity)
        else:
            body.is_authorized = True
        headers = request_headers(  # rule 5
            environ,
            host=request.target.host,
            authorization=self._key.authorization(environ),
            forwarded=self._forwarded,
            narrowed=policy.narrows_headers,
        )
        if self._slots is not None:
            exchange.hold(self._slots.take())
        exchange.watch()
        return self._upstream.send(exchange, request, headers, body)

    def _answer(self, exchange: Exchange, response: UpstreamResponse) -> Iterable[bytes]:
        """Pass on fal's answer: its content, its status and its headers (rules 6 to 8)."""
        exchange.fal_fields, exchange.head_at = response.fields, monotonic()
        if exchange.refund is not None:
            exchange.settle(billed=may_be_billed(response.status))
        whole = length = None
        coding = None
        if response.length != 0 and "content-encoding" in response.fields.names:
            coding = content_coding(response.fields)
        if coding is None:
            # Usually all content came with the head.
            whole = response.take_whole()
            length = response.length if whole is None else len(whole)
        headers = response_headers(response.fields)
        if length is not None and response.status not in _WITHOUT_CONTENT:
            headers.append(("Content-Length", str(length)))
        phrase = response.phrase or _phrase(response.status)
        exchange.start_response(f"{response.status} {phrase}", headers)
        exchange.status = response.status
        if whole is not None:
            exchange.release()
            return self._recorder.body_of_whole_answer(
                exchange, [whole] if whole else [], "relayed"
            )
        pieces = response if coding is None else decoded(response, coding)
        return ResponseBody(exchange, pieces, length=length, has_begun=response.has_begun)

    def _refuse(self, exchange: Exchange, error: FalProxyError) -> Iterable[bytes]:
        """Answer with an error, and leave the client's connection in step."""
        try:
            exchange.fail(error)
            exchange.body.discard(input_stopper(exchange.environ))
            pieces = error_response(error, exchange.environ, exchange.start_response)
        except BaseException:
            exchange.end("refused")
            raise
        exchange.status = int(error.status[:3])
        outcome: Outcome = "client_left" if isinstance(error, ClientGone) else "refused"
        return self._recorder.body_of_whole_answer(exchange, pieces, outcome)

    def check_key(self, environ: WSGIEnvironment) -> None:
        """Look the key up as for a request, and send nothing.

        Raises:
            KeyMissing: There is none.
            KeyMalformed: It cannot be a fal key; the error says at which position, not what.
        """
        self._key.authorization(environ)

    def check_trust(self) -> None:
        """See whether fal's certificate can be trusted, as far as that was known at the start.

        Raises:
            TrustUnusable: The system's or the owner's certificates cannot be used.
        """
        if self._upstream.route.trust_problem:
            raise TrustUnusable

    @property
    def route_description(self) -> str:
        """One sentence about the route of calls to fal. Empty if `pool_manager` decides it."""
        return self._upstream.route.description

    def _warn_of_key(self) -> None:
        """Log what is wrong with the key. It can still be corrected later, so do not raise."""
        try:
            self.check_key({})
        except FalProxyError as error:
            level = logging.WARNING if isinstance(error, KeyMissing) else logging.ERROR
            _logger.log(level, "%s: %s", error.reason, error.detail)


live_proxies: Final[WeakSet[FalProxy]] = WeakSet()
"""All live proxies: the command looks whether an app has made one, the watcher reaps for them."""


def _reap_from_watcher() -> None:
    """Close connections that fal has closed, on the watcher's thread.

    Not under gevent: there only the thread that made a socket may use it, and calls do so.
    """
    if not gevent_owns_sockets():
        for proxy in list(live_proxies):
            proxy._upstream.reap()  # noqa: SLF001 - the class's own module


watcher.at_each_tick(_reap_from_watcher)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _recorder(observer: Observer | None) -> Recorder:
    return NullRecorder() if observer is None else ObserverRecorder(observer)


# Each of these is loaded only if it is set, so that a start takes less time.


def _allowlist(settings: Settings) -> Allowlist | None:
    urls, endpoints = settings.allowed_urls, settings.allowed_endpoints
    if not (urls or endpoints):
        return None
    from wsgi_fal_proxy._policy.allowlist import Allowlist  # noqa: PLC0415

    return Allowlist(urls, endpoints, report_only=settings.report_only)


def _limiter(settings: Settings) -> Limiter | None:
    if not settings.limits:
        return None
    from wsgi_fal_proxy._policy.limits.limiter import Limiter  # noqa: PLC0415

    return Limiter(
        settings.limits,
        costs=settings.costs,
        storage=settings.limits_storage,
        fail_open=settings.limits_fail_open,
    )


def _cors(settings: Settings) -> Cors | None:
    if not settings.cors_origins:
        return None
    from wsgi_fal_proxy._http.cors import Cors  # noqa: PLC0415

    return Cors(settings.cors_origins)

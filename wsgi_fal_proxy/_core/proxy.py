"""The formula, step by step: one request in, fal's answer or a refusal out.

The formula is fal's own: docs.fal.ai, "Server-side integration", "The proxy formula".
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Unpack

from wsgi_fal_proxy._core.error_response import own_answer
from wsgi_fal_proxy._core.exchange import Content, Relaying
from wsgi_fal_proxy._core.record import Observation
from wsgi_fal_proxy._fal.headers import (
    TARGET_HEADER,
    request_headers,
    response_headers,
    without_unknown,
)
from wsgi_fal_proxy._fal.key import Key, KeyFile
from wsgi_fal_proxy._fal.operations import Kind, may_be_billed, operation
from wsgi_fal_proxy._fal.target import Target
from wsgi_fal_proxy._http.content_coding import content_coding
from wsgi_fal_proxy._http.fields import environ_key
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy._policy.policy import Gate
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy._upstream.client import Upstream
from wsgi_fal_proxy.errors import (
    FalProxyError,
    InternalError,
    KeyMissing,
    MethodNotAllowed,
    Refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._http.cors import Cors
    from wsgi_fal_proxy._settings.options import Options
    from wsgi_fal_proxy._upstream.client import UpstreamResponse

_logger: Final = logging.getLogger("wsgi_fal_proxy")

_METHODS: Final = frozenset({"GET", "POST"})
# RFC 9110 sections 15.3.5 and 15.4.5: their Content-Length is what they would have had.
_WITHOUT_CONTENT: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class FalProxy:
    """The relay alone: a WSGI application that answers at any path it is mounted at.

    Mount it where a framework's own authentication applies; to answer under one path in front of
    an application, wrap that in `FalProxyMiddleware` instead.

    Args:
        **options: Keywords, all optional. One that is unknown or cannot be used raises
            `SettingsError` here, which names it, its value and what is accepted.

            key (str, callable or None): The fal key; or a callable that is given the WSGI environ
                and returns the key for this request (`KeyFile` makes one that reads a file). None,
                the default, means the environment: `FAL_KEY`, else the file that `FAL_KEY_FILE`
                names, else `FAL_KEY_ID` and `FAL_KEY_SECRET`, looked up at each request.
            authorize (callable or None): Decides who may call: it is given a `FalRequest`, and
                returns `Allow`, perhaps with an identity, or `Refuse`. What it raises refuses.
                It must not read the body. Default None: every caller is served.
            allowed_urls (list of patterns or None): What may be called: host, path and query must
                match one, as they will be sent. `*` stays within a segment, `**` crosses them, and
                nothing else is special: `queue.fal.run/fal-ai/**`. `STRICT_URLS` is what fal's own
                clients call. Default None, as an empty list: all of fal.ai and fal.run.
            allowed_endpoints (list of patterns or None): What may be run: the endpoint, such as
                `fal-ai/flux/dev`, must match one. Asking for a request's status or result,
                cancelling it, and uploads are free; all else that names no endpoint is refused.
                Tokens and WebRTC sessions are checked by what their bodies name, and unknown
                `x-fal-*` headers are not sent. Default None, as an empty list: every endpoint.
            report_only (bool): Log what these two would refuse, and relay it. Default False.
            limits (list of text): How much each caller may spend, such as `["20/minute", "200/day",
                "1000/day global"]`: per second, minute, hour or day, or several of these (`"500/7
                days"`). A caller is who `authorize` says, else a remote address; "global" is for
                all callers together. It needs `pip install 'limits[redis]'`. Default none.
            costs (dict of text to int, or None): What a call counts for, by globs over its
                endpoint: `{"fal-ai/veo3/**": 20}`; where several match, the dearest. Default None,
                1 for each.
            limits_storage (text): Where it is counted: "memory://", the default, in each process
                for itself; "redis://...", "rediss://..." or "redis+unix://..." for all processes
                and machines together.
            limits_fail_open (bool): Whether calls are relayed, uncounted, while that does not
                answer. Default False: they are answered 503.
            cors_origins (list of origins): Other origins whose pages may use the proxy, such as
                `https://app.example.com`; `localhost` among them stands for this machine, on any
                port. Default none.
            observer (callable or None): Is given a `CallRecord` once for each request, when it is
                over, on the thread that served it. What it raises is logged, and does no harm.
                Default None.
            connect_timeout (seconds or None): To connect, over all of the host's addresses and the
                TLS handshake together. It does not bound the name lookup. With a pool_manager
                given: for each address, and again for the handshake. Default 10. None waits for as
                long as the system does.
            read_timeout (seconds or None): From the request sent to fal's whole response head,
                and then from one piece of content to the next, by the wall clock. It does not
                bound the whole answer. Default 300, as in Node's fetch, on which fal's own proxy
                runs. None waits for ever.
            total_timeout (seconds or None): For a call, from its acceptance to the end of its
                answer; what is over is broken off. Default None, no limit.
            max_concurrent (int or None): Requests that are relayed at a time, in this process; one
                more is answered 503 at once, so that the server's other threads stay free for the
                app's other routes. Default None, no limit but the server's.
            max_body_bytes (int): The largest request body that is relayed. Default 33,554,432
                (32 MiB): two photographs of 12 MB each, as base64. It bounds no memory: bodies
                go up in pieces of 64 KiB.
            forward_headers (list of names): Request headers to relay besides the usual ones.
                Default none.
            pool_manager (urllib3.PoolManager or None): Makes and keeps the connections: a
                `ProxyManager` for a corporate egress proxy, or a `PoolManager` with its own
                certificate authority. Its timeouts, retries and headers do not apply. None, the
                default, makes one that trusts what the system trusts, or `SSL_CERT_FILE`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        settings = Settings.build(options)
        self._max_body_bytes = settings.max_body_bytes
        self._forwarded = frozenset(map(environ_key, settings.forward_headers))
        self._key = Key(settings.key)
        if settings.key is None or isinstance(settings.key, str | KeyFile):
            self._warn_of_key()
        gate = Gate(settings)
        gate.warn_if_open()
        self._gate = None if gate.is_open else gate
        self._cors = _cors(settings)
        self._observer = settings.observer
        self._allowlist = gate.allowlist
        self._upstream = Upstream(settings)
        self._total_timeout = settings.total_timeout
        limit = settings.max_concurrent
        self._slots = None if limit is None else threading.Semaphore(limit)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = RequestBody(environ, self._max_body_bytes)
        if self._cors is not None:
            if self._cors.is_preflight(environ):
                body.discard()
                return self._cors.preflight(environ, start_response)
            start_response = self._cors.sharing(environ, start_response)
        relaying = Relaying(self._slots, self._total_timeout)
        if self._observer is not None:
            relaying.seen = Observation(self._observer, environ["REQUEST_METHOD"])
        try:
            response = self._relay(environ, body, relaying)
            return _answer(environ, response, relaying, start_response)
        except FalProxyError as error:
            relaying.log(error)
            return _own_answer(error, environ, body, relaying, start_response)
        except Exception:
            _logger.exception("The fal proxy failed on a request; please report this.")
            return _own_answer(InternalError(), environ, body, relaying, start_response)
        except BaseException:
            relaying.drop()
            raise

    def check_key(self, environ: WSGIEnvironment) -> None:
        """Look the key up as for a request, and send nothing.

        Raises:
            KeyMissing: There is none.
            KeyMalformed: It cannot be a fal key; the error says at which position, not what.
        """
        self._key.authorization(environ)

    def _warn_of_key(self) -> None:
        """Log what is wrong with the key now; not fatal, as it may be set, or set right, later."""
        try:
            self.check_key({})
        except FalProxyError as error:
            level = logging.WARNING if isinstance(error, KeyMissing) else logging.ERROR
            _logger.log(level, "%s: %s", error.reason, error.detail)

    def _relay(
        self, environ: WSGIEnvironment, body: RequestBody, relaying: Relaying
    ) -> UpstreamResponse:
        method: str = environ["REQUEST_METHOD"]
        text = environ.get(TARGET_HEADER)  # rules 1 to 3
        target = Target.parse(text) if method in _METHODS else _cancelled(method, text)
        if relaying.seen is not None:
            relaying.seen.accepted(target)
        if self._allowlist is not None:
            self._allowlist.check_target(method, target)
        body.accept()  # rule 4
        if self._gate is not None:
            identity = self._gate.admit(environ, method, target, body, relaying.seen)
            relaying.refund = self._gate.take(environ, method, target, identity)
        authorization = self._key.authorization(environ)  # rule 5
        headers = request_headers(
            environ, host=target.host, authorization=authorization, forwarded=self._forwarded
        )
        if self._allowlist is not None and self._allowlist.narrows_headers:
            headers = without_unknown(headers)
        relaying.begin(environ, method, target)
        # Rules 6 to 8: `_answer`.
        response = self._upstream.send(relaying.call, method, target, headers, body)
        if relaying.seen is not None:
            relaying.seen.head_came(body.taken, response.request_id)
        return response


def _cors(settings: Settings) -> Cors | None:
    if not settings.cors_origins:
        return None
    from wsgi_fal_proxy._http.cors import Cors  # noqa: PLC0415 - only where it is set

    return Cors(settings.cors_origins)


def _cancelled(method: str, text: str | None) -> Target:
    """Give the target of a PUT that cancels a queued request: no other method is relayed."""
    if method != "PUT":
        raise MethodNotAllowed
    try:
        target = Target.parse(text)
    except Refusal as refusal:
        raise MethodNotAllowed from refusal
    if operation(method, target).kind is not Kind.CANCEL:
        raise MethodNotAllowed
    return target


def _answer(
    environ: WSGIEnvironment,
    response: UpstreamResponse,
    relaying: Relaying,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Pass fal's answer on: its status, its headers, and its content as it comes."""
    relaying.response = response
    if relaying.refund is not None:
        relaying.settle(billed=may_be_billed(response.status))
    try:
        response.begin()
        coding = content_coding(response.fields) if response.length != 0 else None
        # Usually all of it has come with the head: then nothing is left to be relayed.
        whole = response.take_whole() if coding is None else None
        headers = response_headers(response.fields)
        length = response.length if whole is None else len(whole)
        if length is not None and coding is None and response.status not in _WITHOUT_CONTENT:
            headers.append(("Content-Length", str(length)))
        phrase = response.phrase or _phrase(response.status)
        start_response(f"{response.status} {phrase}", headers)
    except BaseException:
        response.close()
        raise
    content: Iterable[bytes]
    if whole is None:
        content = Content(environ, response, relaying, coding)
    else:
        relaying.end()
        content = [whole] if whole else []
    if relaying.seen is None:
        return content
    return relaying.seen.answered(response.status, content, None if coding else length)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _own_answer(
    error: FalProxyError,
    environ: WSGIEnvironment,
    body: RequestBody,
    relaying: Relaying,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Answer with an error, and leave the connection in step."""
    relaying.end()
    relaying.settle(billed=error.may_be_billed)
    if relaying.seen is not None:
        relaying.seen.failed(error, body.taken)
    body.discard()
    try:
        pieces = own_answer(error, environ, start_response)
    except BaseException:
        relaying.drop()
        raise
    if relaying.seen is None:
        return pieces
    return relaying.seen.answered(int(error.status[:3]), pieces, sum(map(len, pieces)))

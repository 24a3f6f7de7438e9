"""The formula, step by step: one request in, fal's answer or a refusal out.

The formula is fal's own: docs.fal.ai, "Server-side integration", "The proxy formula".
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Unpack

from wsgi_fal_proxy.answers import own_answer
from wsgi_fal_proxy.body import RequestBody
from wsgi_fal_proxy.coding import content_coding
from wsgi_fal_proxy.credentials import Credentials
from wsgi_fal_proxy.errors import FalProxyError, InternalError, MethodNotAllowed, Refusal
from wsgi_fal_proxy.gate import Gate
from wsgi_fal_proxy.headers import (
    TARGET_HEADER,
    environ_key,
    request_headers,
    response_headers,
)
from wsgi_fal_proxy.limiting import is_unbilled
from wsgi_fal_proxy.relaying import Content, Relaying
from wsgi_fal_proxy.settings import Options, Settings
from wsgi_fal_proxy.target import Target
from wsgi_fal_proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy.upstream import UpstreamResponse

_logger: Final = logging.getLogger("wsgi_fal_proxy")

_METHODS: Final = frozenset({"GET", "POST", "PUT"})
# RFC 9110 sections 15.3.5 and 15.4.5: their Content-Length is what they would have had.
_WITHOUT_CONTENT: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


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
        self._credentials = Credentials(settings.key)
        self._gate = Gate(settings)
        self._upstream = Upstream(settings)
        self._total_timeout = settings.total_timeout
        limit = settings.max_concurrent
        self._slots = None if limit is None else threading.Semaphore(limit)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = RequestBody(environ, self._max_body_bytes)
        relaying = Relaying(self._slots, self._total_timeout)
        try:
            response = self._relay(environ, body, relaying)
            return _answer(environ, response, relaying, start_response)
        except FalProxyError as error:
            relaying.log(error)
            relaying.end()
            relaying.settle(billed=error.may_be_billed)
            body.discard()
            return own_answer(error, environ, start_response)
        except Exception:
            _logger.exception("The fal proxy failed on a request; please report this.")
            relaying.end()
            body.discard()
            return own_answer(InternalError(), environ, start_response)
        except BaseException:
            relaying.end()
            raise

    def check_key(self, environ: WSGIEnvironment) -> None:
        """Look the key up as for a request, and send nothing.

        Raises:
            KeyMissing: There is none.
            KeyMalformed: It cannot be a fal key; the error says at which position, not what.
        """
        self._credentials.authorization(environ)

    def _relay(
        self, environ: WSGIEnvironment, body: RequestBody, relaying: Relaying
    ) -> UpstreamResponse:
        method: str = environ["REQUEST_METHOD"]
        target = _accepted_target(method, environ.get(TARGET_HEADER))  # rules 1 to 3
        body.accept()  # rule 4
        if not self._gate.is_open:
            identity = self._gate.admit(environ, method, target)
            relaying.taken = self._gate.take(environ, method, target, identity)
        authorization = self._credentials.authorization(environ)  # rule 5
        headers = request_headers(
            environ, host=target.host, authorization=authorization, forwarded=self._forwarded
        )
        relaying.begin(environ, method, target)
        # Rules 6 to 8: `_answer`.
        return self._upstream.send(relaying.call, method, target, headers, body)


def _accepted_target(method: str, text: str | None) -> Target:
    if method not in _METHODS:
        raise MethodNotAllowed
    if method != "PUT":
        return Target.parse(text)
    try:
        target = Target.parse(text)
    except Refusal as refusal:
        raise MethodNotAllowed from refusal
    if not target.is_queue_cancel:
        raise MethodNotAllowed
    return target


def _answer(
    environ: WSGIEnvironment,
    response: UpstreamResponse,
    relaying: Relaying,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Pass fal's answer on: its status, its headers, and its content as it comes."""
    relaying.request_id = response.request_id
    if relaying.taken is not None:
        relaying.settle(billed=not is_unbilled(response.status))
    try:
        response.begin()
        coding = content_coding(response.fields) if response.has_content else None
        # Usually all of it has come with the head: then nothing is left to be relayed.
        whole = response.take_whole() if coding is None else None
        headers = response_headers(response.fields)
        length = response.length if whole is None else len(whole)
        if length is not None and coding is None and response.status not in _WITHOUT_CONTENT:
            headers.append(("Content-Length", str(length)))
        phrase = response.phrase.replace("\t", " ") or _PHRASES.get(response.status, "Unknown")
        start_response(f"{response.status} {phrase}", headers)
    except BaseException:
        response.close()
        raise
    if whole is None:
        return Content(environ, response, relaying, coding)
    relaying.end()
    return [whole] if whole else []

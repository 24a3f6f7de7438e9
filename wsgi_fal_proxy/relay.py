"""The formula, step by step: one request in, fal's answer or a refusal out.

The formula is fal's own: docs.fal.ai, "Server-side integration", "The proxy formula".
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Unpack

from wsgi_fal_proxy.answers import own_answer
from wsgi_fal_proxy.body import RequestBody
from wsgi_fal_proxy.coding import content_coding, decoded
from wsgi_fal_proxy.credentials import Credentials
from wsgi_fal_proxy.errors import FalProxyError, InternalError, MethodNotAllowed, Refusal
from wsgi_fal_proxy.headers import (
    TARGET_HEADER,
    environ_key,
    request_headers,
    response_headers,
)
from wsgi_fal_proxy.settings import Options, Settings
from wsgi_fal_proxy.target import Target
from wsgi_fal_proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy.upstream import UpstreamResponse

_logger: Final = logging.getLogger("wsgi_fal_proxy")

_METHODS: Final = frozenset({"GET", "POST", "PUT"})
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
            connect_timeout (seconds or None): For the TCP connection, per address of the host,
                and again for the TLS handshake. It does not bound the name lookup. Default 10.
                None waits for as long as the system does.
            read_timeout (seconds or None): From the request sent to fal's whole response head,
                and then from one piece of content to the next, by the wall clock. It does not
                bound the whole answer. Default 300, as in Node's fetch, on which fal's own proxy
                runs. None waits for ever.
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
        self._upstream = Upstream(settings)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = RequestBody(environ, self._max_body_bytes)
        try:
            response = self._relay(environ, body)
            return _answer(response, start_response)
        except FalProxyError as error:
            _log(error)
            ours = error
        except Exception:
            _logger.exception("The fal proxy failed on a request; please report this.")
            ours = InternalError()
        body.discard()
        return own_answer(ours, environ, start_response)

    def check_key(self, environ: WSGIEnvironment) -> None:
        """Look the key up as for a request, and send nothing.

        Raises:
            KeyMissing: There is none.
            KeyMalformed: It cannot be a fal key; the error says at which position, not what.
        """
        self._credentials.authorization(environ)

    def _relay(self, environ: WSGIEnvironment, body: RequestBody) -> UpstreamResponse:
        method: str = environ["REQUEST_METHOD"]
        target = _accepted_target(method, environ.get(TARGET_HEADER))  # rules 1 to 3
        body.accept()  # rule 4
        authorization = self._credentials.authorization(environ)  # rule 5
        headers = request_headers(
            environ, host=target.host, authorization=authorization, forwarded=self._forwarded
        )
        return self._upstream.send(method, target, headers, body)  # rules 6 to 8: `_answer`


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


def _answer(response: UpstreamResponse, start_response: StartResponse) -> Iterable[bytes]:
    """Pass fal's answer on: its status, its headers, and its content as it comes."""
    try:
        coding = content_coding(response.headers)
        headers = response_headers(response.headers)
        if response.length is not None and coding is None and _has_content(response.status):
            headers.append(("Content-Length", str(response.length)))
        phrase = response.phrase.replace("\t", " ") or _PHRASES.get(response.status, "Unknown")
        start_response(f"{response.status} {phrase}", headers)
    except BaseException:
        response.close()
        raise
    return response if coding is None else _Decoded(response, coding)


def _has_content(status: int) -> bool:
    # RFC 9110 sections 15.3.5 and 15.4.5: what they would have had, if it were sent.
    return status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class _Decoded:
    """A response's content with its coding undone."""

    __slots__ = ("_coding", "_response")

    def __init__(self, response: UpstreamResponse, coding: str) -> None:
        self._response = response
        self._coding = coding

    def __iter__(self) -> Iterator[bytes]:
        return decoded(self._response, self._coding)

    def close(self) -> None:
        self._response.close()


def _log(error: FalProxyError) -> None:
    """Log what the owner should know of; what a client did wrong is the client's to know."""
    if isinstance(error, Refusal):
        return
    cause = error.__cause__
    why = "" if cause is None else f" [{type(cause).__name__}: {cause}]"
    _logger.error("%s: %s%s", error.reason, error.detail, why)

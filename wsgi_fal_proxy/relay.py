"""The formula, step by step: one request in, fal's answer or a refusal out.

The formula is fal's own: docs.fal.ai, "Server-side integration", "The proxy formula".
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Final, Self, Unpack

from wsgi_fal_proxy.answers import own_answer
from wsgi_fal_proxy.body import RequestBody
from wsgi_fal_proxy.client import client_fd, reset, spoil
from wsgi_fal_proxy.coding import content_coding, decoded
from wsgi_fal_proxy.credentials import Credentials
from wsgi_fal_proxy.errors import (
    ClientGone,
    FalProxyError,
    InternalError,
    MethodNotAllowed,
    Refusal,
    RelayFull,
    Truncated,
)
from wsgi_fal_proxy.headers import (
    TARGET_HEADER,
    environ_key,
    request_headers,
    response_headers,
)
from wsgi_fal_proxy.settings import Options, Settings
from wsgi_fal_proxy.target import Target
from wsgi_fal_proxy.upstream import Call, Upstream
from wsgi_fal_proxy.watcher import watcher

if TYPE_CHECKING:
    from collections.abc import Iterable
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
        self._upstream = Upstream(settings)
        self._total_timeout = settings.total_timeout
        limit = settings.max_concurrent
        self._slots = None if limit is None else threading.Semaphore(limit)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = RequestBody(environ, self._max_body_bytes)
        relaying = _Relaying(self._slots, self._total_timeout)
        try:
            response = self._relay(environ, body, relaying)
            return _answer(environ, response, relaying, start_response)
        except FalProxyError as error:
            relaying.log(error)
            relaying.end()
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
        self, environ: WSGIEnvironment, body: RequestBody, relaying: _Relaying
    ) -> UpstreamResponse:
        method: str = environ["REQUEST_METHOD"]
        target = _accepted_target(method, environ.get(TARGET_HEADER))  # rules 1 to 3
        body.accept()  # rule 4
        authorization = self._credentials.authorization(environ)  # rule 5
        headers = request_headers(
            environ, host=target.host, authorization=authorization, forwarded=self._forwarded
        )
        relaying.begin(environ, method, target)
        # Rules 6 to 8: `_answer`.
        return self._upstream.send(relaying.call, method, target, headers, body)


class _Relaying:
    """What one request holds while it is relayed, to be given back once: a slot, and a watch.

    Args:
        slots: One is taken for each request that is being relayed; None for no limit.
        total_timeout: The option.
    """

    __slots__ = ("_fd", "_on_gone", "_slots", "_taken", "call", "request_id", "what")

    def __init__(self, slots: threading.Semaphore | None, total_timeout: float | None) -> None:
        self.call = Call(total_timeout)
        self.what = ""
        self.request_id: str | None = None
        self._slots = slots
        self._taken = False
        self._fd: int | None = None
        self._on_gone = self.call.abort

    def begin(self, environ: WSGIEnvironment, method: str, target: Target) -> None:
        """Take a slot, and watch the client.

        Raises:
            RelayFull: There is no slot.
        """
        self.what = f"{method} {target.host}{target.path}"
        if self._slots is not None:
            if not self._slots.acquire(blocking=False):
                raise RelayFull
            self._taken = True
        self._fd = client_fd(environ)
        if self._fd is not None:
            watcher.watch(self._fd, self._on_gone)

    def end(self) -> None:
        """Give back what is held; once is enough, and twice does no harm."""
        if self._fd is not None:
            watcher.unwatch(self._fd, self._on_gone)
            self._fd = None
        if self._taken and self._slots is not None:
            self._taken = False
            self._slots.release()

    def hang_up(self) -> bool:
        """Have done with a client that has left; tell whether it has.

        One that has closed only its sending side must not take what it got for complete.
        """
        if not self.call.aborted or self._fd is None:
            return False
        reset(self._fd)
        self.end()
        return True

    def log(self, error: FalProxyError) -> None:
        """Log what the owner should know of; what a client did wrong is the client's to know."""
        if isinstance(error, Refusal | ClientGone) or self.call.aborted:
            return
        cause = error.__cause__
        because = "" if cause is None else f" [{type(cause).__name__}: {cause}]"
        if not self.what:
            _logger.error("%s: %s%s", error.reason, error.detail, because)
            return
        _logger.error(
            "%s: %s (%s, fal's request id %s, after %.3f s)%s",
            error.reason,
            error.detail,
            self.what,
            self.request_id,
            monotonic() - self.call.started,
            because,
        )


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
    relaying: _Relaying,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Pass fal's answer on: its status, its headers, and its content as it comes."""
    relaying.request_id = response.request_id
    try:
        response.begin()
        coding = content_coding(response.headers) if response.has_content else None
        headers = response_headers(response.headers)
        if response.length is not None and coding is None and _has_content(response.status):
            headers.append(("Content-Length", str(response.length)))
        phrase = response.phrase.replace("\t", " ") or _PHRASES.get(response.status, "Unknown")
        start_response(f"{response.status} {phrase}", headers)
    except BaseException:
        response.close()
        raise
    return _Content(environ, response, relaying, coding)


def _has_content(status: int) -> bool:
    # RFC 9110 sections 15.3.5 and 15.4.5: what they would have had, if it were sent.
    return status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class _Content:
    """The content of fal's answer, for the WSGI server to iterate over and close (PEP 3333)."""

    __slots__ = ("_begun", "_endless", "_environ", "_pieces", "_relaying", "_response", "_sent")

    def __init__(
        self,
        environ: WSGIEnvironment,
        response: UpstreamResponse,
        relaying: _Relaying,
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
                spoil(self._environ)
            if self._relaying.hang_up():
                # The client has left; the server need not hear of an error, and finds out.
                raise StopIteration from None
            self.close()
            raise
        self._sent = True
        return piece

    def close(self) -> None:
        self._response.close()
        self._relaying.end()

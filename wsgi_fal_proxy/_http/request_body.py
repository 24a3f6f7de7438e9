"""The request body: its declared length, the checks on it, and its pieces.

No other module reads `wsgi.input`. Others in the application may: Sentry, an `after_request` hook,
an audit. So the proxy uses the body of a framework that has read it, and leaves in its place an
input that gives a small body again and then ends.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsgi_fal_proxy._http.fields import TCHAR
from wsgi_fal_proxy._process.unpatched import allocate_lock, start_new_thread
from wsgi_fal_proxy.errors import (
    BodyIncomplete,
    BodyTooLarge,
    ContentLengthInvalid,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from wsgiref.types import WSGIEnvironment

PIECE_BYTES: Final = 65_536
"""The most of a body that is in memory at a time. A smaller body is read whole."""

BODY_HOLDER: Final = "wsgi_fal_proxy.body_holder"
"""The environ's key of a `BodyHolder`."""

_WERKZEUG_REQUEST: Final = "werkzeug.request"
_UNUSABLE: Final = -1
# At most this much of a refused request's body is read and dropped before the caller is authorized.
_DISCARDED_BYTES: Final = 1_048_576
_DISCARD_SECONDS: Final = 5.0

# The modules of inputs that end where the body does: seen with a2wsgi 1.10, modal 1.6, pyvoy 1.3,
# asgiref 3.13. hypercorn and Starlette have a `BytesIO`. pyvoy hides Transfer-Encoding, and over
# Mangum there may be no header that declares the body. If a client leaves in mid-body, some of them
# end without an error: fal refuses the beginning of a JSON object, since that is not JSON.
_ENDING_INPUTS: Final = frozenset(
    {"a2wsgi.wsgi", "modal._vendor.a2wsgi_wsgi", "_pyvoy.wsgi", "tempfile"}
)
# A Content-Length of 10^18 bytes or more is a mistake.
_MAX_LENGTH_DIGITS: Final = 18
# RFC 9110 section 8.3.1: type and subtype in any case, then parameters. If a client sends two
# headers, the server joins them to a list, which does not match. All quantifiers are possessive,
# so that no client can make the regex backtrack.
_TOKEN: Final = f"{TCHAR}++"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
# Compiled on first use: most clients send the media type without parameters.
_JSON: Final = (
    r"(?ia)application/json"
    rf"(?:[ \t]*+;[ \t]*+(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?+)*+[ \t]*+"
)
# JSON is in UTF-8 (RFC 8259 section 8.1), and its media type has no parameters (section 11), but
# clients add this one. In another charset, the same bytes could mean something else.
_JSON_IN_UTF_8: Final = (
    r'(?ia)application/json[ \t]*+(?:;[ \t]*+charset=(?:utf-8|"utf-8")[ \t]*+)?+;?'
)


class BodyHolder(Protocol):
    """A framework's request, which may have read the body, and may be asked for it afterwards."""

    def input(self, environ: WSGIEnvironment) -> Any:
        """Return what gives the body from its beginning, or as much as is there."""

    def give_back(self, body: bytes) -> None:
        """Have the framework give this body from now on, and never read the server's input."""


class RequestBody:
    """The body of one request. It is read at most once, in pieces.

    The constructor reads nothing and raises nothing. Call `accept` first, then `read_ahead`, then
    `rest`. If the request is refused, call `discard`.

    Args:
        environ: The WSGI environ.
        max_bytes: The largest body that is accepted, in bytes.
    """

    __slots__ = (
        "_content_type",
        "_environ",
        "_holder",
        "_input",
        "_is_terminated",
        "_max_bytes",
        "first",
        "is_authorized",
        "length",
        "taken",
        "unread",
    )

    first: bytes | None
    """The first piece, once `read_ahead` has read it."""
    taken: int
    """Bytes that have been read in order to be relayed; 0 if a read has failed."""

    is_authorized: bool
    """Whether the caller may send a body, also if the call is then refused."""

    length: int | None
    """Bytes in the body; 0 without a body. None while it is unknown."""
    unread: int
    """Bytes that may still be in `wsgi.input`."""

    def __init__(self, environ: WSGIEnvironment, max_bytes: int) -> None:
        self._content_type: Any = environ.get("CONTENT_TYPE") or ""
        self._environ = environ
        self._input: Any = None
        self._holder: BodyHolder | None = None
        self._max_bytes = max_bytes
        self.first = None
        self.is_authorized = False
        self.taken = 0
        self.length = _declared_length(environ)
        # If no length is declared, the server ends the input, and one byte more than accepted
        # shows that the body is too large. Otherwise PEP 3333 forbids reading past the length.
        self.unread = max_bytes + 1 if self.length is None else max(self.length, 0)

    def accept(self) -> None:
        """Check the headers of the body (rule 4 of the formula).

        A body without a declared length is read up to `PIECE_BYTES`, to see whether there is one.

        Raises:
            ContentLengthInvalid: The length is not a number, or unknown; or the server does not
                tell whether there is a body, and none arrived.
            UnsupportedMediaType: There is a body, and its content type is not JSON's. Or the
                content type is not text.
            BodyTooLarge: The declared length is over `max_bytes`.
            BodyIncomplete: The length is not declared, and the body could not be read.
        """
        if self.length == _UNUSABLE:
            raise ContentLengthInvalid
        if self.length is None:
            self._is_terminated = bool(self._environ.get("wsgi.input_terminated"))
            self._open()
            _bound_read_ahead(self._input)
            self.first = self._read_up_to(PIECE_BYTES)
            if len(self.first) < PIECE_BYTES or not self.unread:
                # The body has ended, or is too large.
                self.length = len(self.first)
                self.unread = 0
            self._give_back()
            if not self.first:
                self._refuse_lost_body()
        content_type = self._content_type
        if self.length == 0:
            if not isinstance(content_type, str):
                raise UnsupportedMediaType
            return
        if content_type != "application/json" and not (
            # netius makes a list of two headers.
            isinstance(content_type, str) and re.fullmatch(_JSON, content_type)
        ):
            raise UnsupportedMediaType
        if self.length is not None and self.length > self._max_bytes:
            raise self._too_large()

    def _refuse_lost_body(self) -> None:
        """Refuse an empty POST if a body may have been sent that did not arrive here."""
        environ = self._environ
        if self._is_terminated or environ.get("REQUEST_METHOD") != "POST":
            return
        if environ.get("HTTP_TRANSFER_ENCODING") or not environ.get(
            "SERVER_PROTOCOL", "HTTP/1.1"
        ).startswith("HTTP/1"):
            raise ContentLengthInvalid

    def read_ahead(self) -> bytes:
        """Read the first piece: all of a small body.

        An unfinished small body is thus refused before anything is sent to fal.

        Raises:
            BodyIncomplete: The body ended before its declared length, or could not be read.
        """
        if self.first is not None:
            return self.first
        count = self.unread
        if count == 0:
            self.first = b""
            return b""
        environ = self._environ
        if BODY_HOLDER in environ or _WERKZEUG_REQUEST in environ:
            self._open()
        else:
            self._input = environ["wsgi.input"]
        if count > PIECE_BYTES:
            _bound_read_ahead(self._input)
            count = PIECE_BYTES
        first = self._read(count)
        if len(first) < count:
            first = self._complete(self._rewind(first, count), count)
        self.first = first
        if self.unread or self._holder is not None:
            self._give_back()
        else:  # the same, in place
            environ["wsgi.input"] = BytesIO(first)
            environ["wsgi.input_terminated"] = True
        return first

    def text(self) -> str | None:
        """Read the whole body as text. It is still relayed byte for byte.

        Returns:
            The text. None if the body is larger than a piece, if it is not UTF-8, or if its
            content type names another charset.

        Raises:
            BodyIncomplete: The body ended before its declared length, or could not be read.
        """
        if self.length is None or self.length > PIECE_BYTES:
            return None
        if not re.fullmatch(_JSON_IN_UTF_8, self._content_type):
            return None
        try:
            return self.read_ahead().decode()
        except UnicodeDecodeError:
            return None

    def rest(self) -> Iterator[bytes]:
        """Read the body after its first piece.

        Raises:
            BodyIncomplete: The body ended before its declared length, or could not be read.
            BodyTooLarge: The length was not declared, and the body is over `max_bytes`.
        """
        if self.length is not None:
            while self.unread:
                yield self._read_exactly(min(self.unread, PIECE_BYTES))
            return
        while piece := self._read_up_to(PIECE_BYTES):
            if not self.unread:
                raise self._too_large()
            yield piece

    def _too_large(self) -> BodyTooLarge:
        detail = f"The request body is larger than the limit of {self._max_bytes} bytes."
        return BodyTooLarge(detail)

    def discard(self, end_input: Callable[[], object] | None = None) -> None:
        """Read and drop the unread body, so that the connection can carry the next request.

        Some servers leave this to the application. If a server closes a connection with unread
        bytes, TCP resets it, and the client may not see the answer (RFC 9112 section 9.6).

        Before `is_authorized`, a body of more than 1 MiB is left to the server. So is the rest of
        any body after 5 seconds, if the server hands over its connection.

        Args:
            end_input: Ends the input of the client's connection. A read that waits then returns.
                It is called on another thread. None: the reads wait as long as the server lets
                them.
        """
        if self.length == 0:
            return
        if self._input is None:
            self._open()
        max_discarded_bytes = self._max_bytes + 1 if self.is_authorized else _DISCARDED_BYTES
        left = self.unread
        if left > max_discarded_bytes:
            # If so much is declared, reading a part would not help: read nothing.
            left = max_discarded_bytes if self.length is None else 0
        if left:
            self._discard(left, end_input)
        if self.first is None:
            self._give_back()
        self.unread = 0

    def _discard(self, left: int, end_input: Callable[[], object] | None) -> None:
        timer = None
        try:
            if end_input is not None:
                timer = _Timer(_DISCARD_SECONDS, end_input)
            if self.first is None and self.length == left <= PIECE_BYTES:
                self.read_ahead()
            else:
                while left > 0 and (piece := self._input.read(min(left, PIECE_BYTES))):
                    left -= len(piece)
        except Exception:  # noqa: BLE001, S110 - each server has its own errors; the answer stands
            pass
        finally:
            if timer is not None:
                timer.stop()

    def _open(self) -> None:
        """Find what gives the body: the server's input, or a framework that has read it."""
        environ = self._environ
        self._input = environ["wsgi.input"]
        if BODY_HOLDER in environ:
            self._holder = environ[BODY_HOLDER]
        elif _WERKZEUG_REQUEST in environ:
            self._holder = _WerkzeugRequest(environ[_WERKZEUG_REQUEST])
        if self._holder is not None:
            self._input = self._holder.input(environ)

    def _give_back(self) -> None:
        """Put an input that ends in place of the server's, for later readers.

        It gives the whole body if that was small, else nothing.

        The server's input does not end by itself everywhere, and would then wait for the next
        request.
        """
        environ, body = self._environ, self.first
        if self.unread or body is None:
            body = b""
            # WebOb raises an error if it can read less than was declared, except of such a body.
            environ["webob.is_body_seekable"] = True
        environ["wsgi.input"] = BytesIO(body)
        # With this, Werkzeug does not raise an error if it can read less than was declared.
        environ["wsgi.input_terminated"] = True
        if self._holder is not None:
            self._holder.give_back(body)

    def _rewind(self, data: bytes, count: int) -> bytes:
        """Read again from the beginning, if another reader has left the input at its end."""
        source = self._input
        try:
            if not source.seekable():
                return data
            source.seek(0)
        except Exception:  # noqa: BLE001 - many inputs do not have these methods
            return data
        self.unread += len(data)
        self.taken -= len(data)
        return self._read(count)

    def _read_exactly(self, count: int) -> bytes:
        data = self._read(count)
        return data if len(data) == count else self._complete(data, count)

    def _complete(self, data: bytes, count: int) -> bytes:
        """Read on after a short read."""
        if data:
            data += self._read_up_to(count - len(data))
        if len(data) < count:
            raise self._fail()
        return data

    def _read_up_to(self, count: int) -> bytes:
        """Read `count` bytes, or fewer if the input ends. A short read is not yet the end."""
        count = min(count, self.unread)
        parts = []
        while count and (data := self._read(count)):
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def _read(self, count: int) -> bytes:
        try:
            data: bytes = self._input.read(count)
        except Exception as error:
            # If a client leaves in mid-body, each server raises an error of its own.
            raise self._fail() from error
        if len(data) > count:
            # fal could read the surplus as another request.
            detail = "The server returned more of the request body than the proxy asked for."
            raise self._fail(detail)
        self.unread -= len(data)
        self.taken += len(data)
        return data

    def _fail(self, detail: str | None = None) -> BodyIncomplete:
        """Read no further."""
        self.unread = self.taken = 0
        return BodyIncomplete(detail)


class _Timer:
    """Calls a function on a thread of the system after some seconds, unless it is stopped."""

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self._seconds = seconds
        self._function = function
        self._is_stopped = False
        self._lock = allocate_lock()
        self._waiting = allocate_lock()
        self._waiting.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        if not self._waiting.acquire(timeout=self._seconds):
            with self._lock:
                if not self._is_stopped:  # pragma: no branch - as threads have it
                    self._function()

    def stop(self) -> None:
        """See that the function is not called from now on: the connection may be another's."""
        with self._lock:
            self._is_stopped = True
        self._waiting.release()


class _WerkzeugRequest:
    """The request of Werkzeug and Flask. The view's environ may be a copy of its own."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def input(self, environ: WSGIEnvironment) -> Any:
        source, request = environ["wsgi.input"], self._request
        if request.environ.get("wsgi.input") is not source:
            return source  # a middleware in between has put its own there
        data: bytes | None = getattr(request, "_cached_data", None)
        if data is not None and environ.get("CONTENT_LENGTH", "") in {"", str(len(data))}:
            return BytesIO(data)
        # It ends where the body does. The server's input may not.
        stream: Any = vars(request).get("stream")
        return stream if getattr(stream, "_stream", None) is source else source

    def give_back(self, body: bytes) -> None:
        self._request.environ["wsgi.input"] = BytesIO(body)
        self._request.environ["wsgi.input_terminated"] = True
        # Werkzeug makes it again, from the new input.
        vars(self._request).pop("stream", None)


def _bound_read_ahead(source: object) -> None:
    """Limit how far gunicorn reads ahead of a body to one piece.

    By default gunicorn reads up to 1 MiB at once, and copies the rest of that at each read. With
    threads, uploads then took six times the memory in a measurement.
    """
    unreader: Any = getattr(getattr(source, "reader", None), "unreader", None)
    if hasattr(unreader, "max_body_chunk"):
        unreader.max_body_chunk = PIECE_BYTES


def _declared_length(environ: WSGIEnvironment) -> int | None:
    """Return the declared length. None if the body ends where the input ends.

    PEP 3333 forbids reading past `CONTENT_LENGTH`. With the extension `wsgi.input_terminated`, a
    server says that the input ends by itself, as a chunked body does.
    """
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None if _ends_by_itself(environ) else _UNUSABLE
    if length := environ.get("CONTENT_LENGTH"):
        declared = str(length)
        # RFC 9110 section 8.6: decimal digits. int() also accepts signs, "_" and other scripts.
        is_decimal = declared.isascii() and declared.isdigit()
        return int(declared) if is_decimal and len(declared) <= _MAX_LENGTH_DIGITS else _UNUSABLE
    return _undeclared_length(environ)


def _undeclared_length(environ: WSGIEnvironment) -> int | None:
    """Return the length of a body that no header field declares."""
    is_http_1 = environ.get("SERVER_PROTOCOL", "HTTP/1.1").startswith("HTTP/1")
    if environ.get("wsgi.input_terminated"):
        # RFC 9112 section 6.3: an HTTP/1 request with neither field has no body. HTTP/2 may have
        # one.
        return 0 if is_http_1 else None
    if environ.get("REQUEST_METHOD") != "POST":
        return 0
    # A server that hides the fields, or speaks HTTP/2, must not make a POST lose its body.
    if _ends_by_itself(environ):
        return None
    return 0 if is_http_1 else _UNUSABLE


def _ends_by_itself(environ: WSGIEnvironment) -> bool:
    """Whether the input ends where the body does, also if the server does not say so."""
    if environ.get("wsgi.input_terminated"):
        return True
    source = environ["wsgi.input"]
    return isinstance(source, BytesIO) or type(source).__module__ in _ENDING_INPUTS

"""The request body: what is declared, whether it may be relayed, and its pieces.

The one module that reads `wsgi.input`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy.errors import (
    BodyIncomplete,
    BodyTooLarge,
    ContentLengthInvalid,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIEnvironment

PIECE_BYTES: Final = 65_536
"""At most this much of a body is in memory at a time; a body of up to this much is read whole."""

_UNUSABLE: Final = -1
# Read and dropped of the body of a refused request even if none is accepted.
_DISCARDED_BYTES: Final = 1_048_576

# Where no body could be: 10^18 bytes.
_MAX_LENGTH_DIGITS: Final = 18
# RFC 9110 section 8.3.1: type and subtype in any case, then parameters. A list of two media
# types, which is what a server makes of two headers, does not match.
# Possessive throughout: a client cannot make it backtrack.
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # noqa: S105 - RFC 9110's word, not a password
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
# As text, compiled when it is first needed: most clients send the media type alone.
_JSON: Final = (
    r"(?ia)application/json"
    rf"(?:[ \t]*+;[ \t]*+(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))?+)*+[ \t]*+"
)
# JSON is in UTF-8 (RFC 8259 section 8.1) and its media type has no parameter (section 11); clients
# add this one, and another charset may make something else of the same bytes.
_JSON_IN_UTF_8: Final = (
    r'(?ia)application/json[ \t]*+(?:;[ \t]*+charset=(?:utf-8|"utf-8")[ \t]*+)?+;?'
)


class RequestBody:
    """The body of one request, read at most once and in pieces.

    Making one reads nothing and raises nothing. `accept` decides, `read_ahead` and then `rest`
    read; `discard` takes what is left when the request is refused.

    Args:
        environ: The WSGI environ.
        max_bytes: The largest body that is accepted.
    """

    __slots__ = ("_content_type", "_first", "_input", "_max_bytes", "length", "unread")

    length: int | None
    """Bytes in the body: 0 when there is none; None while only its end will tell."""
    unread: int
    """Bytes that may still be read: none of a small body once its first piece was."""

    def __init__(self, environ: WSGIEnvironment, max_bytes: int) -> None:
        self._content_type: str = environ.get("CONTENT_TYPE") or ""
        self._input = environ["wsgi.input"]
        self._max_bytes = max_bytes
        self._first: bytes | None = None
        self.length = _declared_length(environ)
        # Bytes that may still be in `wsgi.input`. Reading past what is declared is only allowed
        # where the server ends the input itself; then one more than accepted shows the excess.
        self.unread = max_bytes + 1 if self.length is None else max(self.length, 0)

    def accept(self) -> None:
        """Decide by the headers whether the body may be relayed (rule 4 of the formula).

        Raises:
            ContentLengthInvalid: The length is not a number, or cannot be told.
            UnsupportedMediaType: There is a body, and it is not JSON by its content type.
            BodyTooLarge: It is declared larger than `max_bytes`.
            BodyIncomplete: Its length is not declared, and it could not be read.
        """
        if self.length == _UNUSABLE:
            raise ContentLengthInvalid
        if self.length is None:
            self._first = self._read_up_to(PIECE_BYTES)
            if len(self._first) < PIECE_BYTES or not self.unread:
                # It has ended, or gone over the bound.
                self.length = len(self._first)
                self.unread = 0
        if self.length == 0:
            return
        if self._content_type != "application/json" and not re.fullmatch(_JSON, self._content_type):
            raise UnsupportedMediaType
        if self.length is not None and self.length > self._max_bytes:
            raise self._too_large()

    @property
    def taken(self) -> int:
        """Bytes that were read so far, unless reading has failed."""
        whole = self._max_bytes + 1 if self.length is None else max(self.length, 0)
        return whole - self.unread

    def read_ahead(self) -> bytes:
        """Read the first piece, which is the whole of any small body.

        So a small body that the client did not finish is refused before anything is sent.

        Raises:
            BodyIncomplete: The body ended before its declared length, or could not be read.
        """
        if self.length is None or self.length > PIECE_BYTES:
            _bound_read_ahead(self._input)
        if self._first is None:
            self._first = self._read_exactly(min(self.unread, PIECE_BYTES))
        return self._first

    def text(self) -> str | None:
        """Read the body whole; it is still relayed as it came.

        None for one that is larger than a piece, or not in UTF-8, or not said to be.

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
        """Read what comes after the first piece.

        Raises:
            BodyIncomplete: The body ended before its declared length, or could not be read.
            BodyTooLarge: Its length was not declared, and it went over `max_bytes`.
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
        detail = f"The request body is larger than the {self._max_bytes} bytes that are accepted."
        return BodyTooLarge(detail)

    def discard(self) -> None:
        """Read what is left, so that the connection is in step for the next request on it.

        Some servers leave that to the application, and closing a connection with unread bytes
        in it resets it under the answer (RFC 9112 section 9.6), which the client then may not
        see. Of a body that is far too large the rest is left to the server.
        """
        left = min(self.unread, max(2 * self._max_bytes, _DISCARDED_BYTES))
        try:
            while left > 0 and (piece := self._input.read(min(left, PIECE_BYTES))):
                left -= len(piece)
        except Exception:  # noqa: BLE001, S110 - each server has its own; the answer stands
            pass
        self.unread = 0

    def _read_exactly(self, count: int) -> bytes:
        data = self._read(count)
        if 0 < len(data) < count:
            data += self._read_up_to(count - len(data))
        if len(data) < count:
            self.unread = 0
            raise BodyIncomplete
        return data

    def _read_up_to(self, count: int) -> bytes:
        """Read `count` bytes, or fewer if the input ends first; a short read is not the end."""
        count = min(count, self.unread)
        parts = []
        while data := self._read(count):
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def _read(self, count: int) -> bytes:
        if count == 0:
            return b""
        try:
            data: bytes = self._input.read(count)
        except Exception as error:
            self.unread = 0
            # Each server raises something else when a client leaves in mid-body.
            raise BodyIncomplete from error
        if len(data) > count:
            self.unread = 0
            # Sent on, it could pass for a request of its own, behind this one.
            detail = "The server gave more of the request body than it was asked for."
            raise BodyIncomplete(detail)
        self.unread -= len(data)
        return data


def _bound_read_ahead(source: object) -> None:
    """Have gunicorn read no further ahead of a body than one piece.

    Else it reads up to 1 MiB, whatever it is asked for, and copies what is left of that at each
    read: with threads, uploads were measured to take six times the memory.
    """
    unreader: Any = getattr(getattr(source, "reader", None), "unreader", None)
    if hasattr(unreader, "max_body_chunk"):
        unreader.max_body_chunk = PIECE_BYTES


def _declared_length(environ: WSGIEnvironment) -> int | None:
    """Give the length that the headers declare, None for one that the input's end tells.

    PEP 3333 lets an application read no further than `CONTENT_LENGTH`; `wsgi.input_terminated`
    is the extension by which servers say that the input ends by itself, as a chunked body's does.
    """
    ends_by_itself = bool(environ.get("wsgi.input_terminated"))
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None if ends_by_itself else _UNUSABLE
    declared = str(environ.get("CONTENT_LENGTH") or "")
    if declared:
        # RFC 9110 section 8.6: digits, and int() would take others and more than these.
        is_decimal = declared.isascii() and declared.isdigit()
        return int(declared) if is_decimal and len(declared) <= _MAX_LENGTH_DIGITS else _UNUSABLE
    # RFC 9112 section 6.3: an HTTP/1 request with neither field has no body. In HTTP/2 it may.
    if ends_by_itself and not environ.get("SERVER_PROTOCOL", "HTTP/1.1").startswith("HTTP/1"):
        return None
    return 0

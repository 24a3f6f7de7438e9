"""A strict HTTP/1.1 client without I/O: writes request heads and parses responses.

`http.client` is too lenient about a response's framing. It loses all fields after a malformed line,
ends a line at a bare CR, accepts signs and underscores in chunk sizes, and accepts a truncated head
as a whole one. Here each of these raises an error.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from wsgi_fal_proxy._http.fields import TCHAR, Fields

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HEAD_BYTES: Final = 65_536
"""The longest response head. http.client allows as much for a single line. It bounds the number of
fields, too: fal lets an app set 16 KiB of them, and says nothing of how many."""
MAX_CHUNK_LINE_BYTES: Final = 4_096
"""The longest line with a chunk's size and extensions, and the longest trailer line."""
MAX_TRAILER_BYTES: Final = 16_384
"""The longest trailer section. It is dropped, which RFC 9110 section 6.5.1 allows."""

_HTTP_1: Final = b"HTTP/1."
# RFC 9112 section 4. The reason phrase and the space before it may be missing.
_STATUS_LINE: Final = r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*+))?+"
# RFC 9112 section 5: no white space before the colon or at the beginning of a line. The latter is
# obs-fold, to which a gateway may answer 502 (section 5.2).
_FIELD_LINES: Final = rf"(?:\r\n{TCHAR}++:[\t -~\x80-\xff]*+)*+"
# One match checks the whole head, and one findall splits it: both are fast, since they run in C.
_HEAD: Final = re.compile(f"{_STATUS_LINE}({_FIELD_LINES})")
# For checked lines. The value is captured without the optional white space around it.
_FIELD: Final = re.compile(r"\r\n([^:]++):[\t ]*+([^\r]*[^\r\t ]|)")
_MAX_LENGTH_DIGITS: Final = 18
# RFC 9112 section 7.1, with extensions as in section 7.1.1.
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")

# Plain numbers, because looking up a member of HTTPStatus is slow.
_SWITCHING_PROTOCOLS: Final = HTTPStatus.SWITCHING_PROTOCOLS.value
_OK: Final = HTTPStatus.OK.value
_NO_CONTENT: Final = HTTPStatus.NO_CONTENT.value
_NOT_MODIFIED: Final = HTTPStatus.NOT_MODIFIED.value


class MalformedResponse(Exception):
    """The bytes are not HTTP as RFC 9112 defines it."""


class RequestHead(bytes):
    """The bytes of a request head, with the key: the repr hides them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<request head>"

    def __getitem__(self, key: Any) -> Any:
        """Return a part, which is hidden, too: error reporters slice long values."""
        part = super().__getitem__(key)
        return type(self)(part) if isinstance(part, bytes) else part


def request_head(
    method: str, request_target: str, headers: Iterable[tuple[str, str]], content: bytes = b""
) -> RequestHead:
    """Write a request's head. The values have been checked before.

    Args:
        method: Such as `GET`.
        request_target: RFC 9112 section 3.2.1.
        headers: All fields, in order.
        content: Content to append, so that both go out in one write.
    """
    # One expression: no local variable ever holds the key as plain text.
    return RequestHead(
        "\r\n".join(
            (f"{method} {request_target} HTTP/1.1", *map(": ".join, headers), "\r\n")
        ).encode("latin-1")
        + content
    )


def with_host(head: RequestHead, host: str, other: str) -> RequestHead:
    """Write another name into a request head's `Host`."""
    old, new = f"\r\nHost: {host}\r\n".encode(), f"\r\nHost: {other}\r\n".encode()
    return RequestHead(head.replace(old, new, 1))


def chunk(piece: bytes) -> bytes:
    """Frame one non-empty piece of a body of unknown length (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK: Final = b"0\r\n\r\n"


class Framing(Protocol):
    """Finds the end of a response's content (RFC 9112 section 6.3)."""

    complete: bool
    """Whether the whole content has arrived."""
    excess: bool
    """Whether bytes follow the content: then the connection cannot carry another request."""
    length: int | None
    """Bytes in the content. None if the head does not declare it."""

    def feed(self, data: bytes) -> bytes:
        """Take received bytes and return the content in them, which may be empty.

        Raises:
            MalformedResponse: The framing is broken.
        """
        ...

    def end(self) -> None:
        """Note that the connection ended.

        Raises:
            MalformedResponse: The content is not complete.
        """
        ...


class LengthFraming:
    """Content of a declared length, or no content."""

    __slots__ = ("_left", "complete", "excess", "length")

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._left = length
        self.complete: bool = length == 0
        self.excess: bool = False

    def feed(self, data: bytes) -> bytes:
        """See `Framing`."""
        if len(data) > self._left:
            self.excess = True
            data = data[: self._left]
        self._left -= len(data)
        self.complete = self._left == 0
        return data

    def end(self) -> None:
        """See `Framing`. This is never the right end."""
        raise MalformedResponse("the connection was closed in mid-content")


class CloseFraming:
    """Content that ends with the connection."""

    __slots__ = ("complete", "excess", "length")

    def __init__(self) -> None:
        self.length: int | None = None
        self.complete: bool = False
        # The connection ends with the content.
        self.excess: bool = True

    def feed(self, data: bytes) -> bytes:
        """See `Framing`."""
        return data

    def end(self) -> None:
        """See `Framing`."""
        self.complete = True


class ChunkedFraming:
    """Content in chunks (RFC 9112 section 7.1)."""

    __slots__ = ("_left", "_pending", "_trailer_bytes", "complete", "excess", "length")

    # Within a chunk's data, `_left` is the number of bytes until its end. Between chunks it is one
    # of these, for the line that comes next. None of them is positive.
    _SIZE_LINE: Final = 0
    _TRAILER_LINE: Final = -1
    _DATA_END: Final = -2  # the CRLF after a chunk's data

    def __init__(self) -> None:
        self.length: int | None = None
        self.complete: bool = False
        self.excess: bool = False
        self._left = self._SIZE_LINE
        self._pending = b""
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """See `Framing`."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        content = []
        position, end = 0, len(data)
        while position < end and not self.complete:
            if self._left > 0:
                piece = data[position : position + self._left]
                content.append(piece)
                position += len(piece)
                self._left = self._left - len(piece) or self._DATA_END
                # Usually the CRLF after the data has arrived with it.
                if self._left == self._DATA_END and data.startswith(b"\r\n", position):
                    self._left = self._SIZE_LINE
                    position += 2
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._keep(data[position:])
                break
            self._line(data[position:line_end])
            position = line_end + 2
        else:
            self.excess = self.excess or position < end
        return content[0] if len(content) == 1 else b"".join(content)

    def end(self) -> None:
        """See `Framing`. This is never the right end."""
        raise MalformedResponse("the connection was closed in mid-content")

    def _keep(self, partial: bytes) -> None:
        """Keep an incomplete line, unless it can no longer become a valid one."""
        if self._left == self._DATA_END:
            if partial != b"\r":
                raise MalformedResponse("a chunk is longer than its size")
        elif b"\n" in partial or b"\r" in partial[:-1]:
            raise MalformedResponse("a line in the chunked coding ends without CRLF")
        elif len(partial.removesuffix(b"\r")) > MAX_CHUNK_LINE_BYTES:
            raise MalformedResponse("a line in the chunked coding is too long")
        self._pending = partial

    def _line(self, line: bytes) -> None:
        if self._left == self._SIZE_LINE:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None or len(line) > MAX_CHUNK_LINE_BYTES:
                raise MalformedResponse("a chunk's size is malformed")
            self._left = int(match[1], 16) or self._TRAILER_LINE
        elif self._left == self._DATA_END:
            if line:
                raise MalformedResponse("a chunk is longer than its size")
            self._left = self._SIZE_LINE
        elif line:
            self._trailer_bytes += len(line)
            if len(line) > MAX_CHUNK_LINE_BYTES or self._trailer_bytes > MAX_TRAILER_BYTES:
                raise MalformedResponse("the trailer section is too long")
            if b"\r" in line or b"\n" in line:
                raise MalformedResponse("a line in the chunked coding ends without CRLF")
        else:
            self.complete = True


class ResponseHead(NamedTuple):
    """A response's status line and fields in order, and the framing that they declare.

    Tabs have become spaces, as RFC 9110 section 5.5 allows.
    """

    status: int
    phrase: str
    fields: Fields
    framing: Framing
    reusable: bool
    """Whether the connection may carry another request (RFC 9112 section 9.3)."""


class HeadReader:
    """Finds the final response head in received bytes. Skips interim ones (1xx)."""

    __slots__ = ("_searched", "has_begun", "leftover")

    def __init__(self) -> None:
        self.leftover: bytes = b""
        """Once `feed` has returned the head: the bytes that came after it. Before that: the
        received part of a head, which the next `feed` completes."""
        self._searched = 0
        self.has_begun: bool = False
        """Whether any byte has arrived."""

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take received bytes and return the final head, None while it is not complete.

        Args:
            data: The bytes. Empty means that the connection ended.

        Raises:
            ConnectionError: The connection ended before the head was complete.
            MalformedResponse: The bytes are not a response head, or it is too long.
        """
        if not data:
            raise ConnectionError("the connection was closed before a whole response head came")
        self.has_begun = True
        buffer = self.leftover + data
        while (end := buffer.find(b"\r\n\r\n", self._searched)) >= 0:
            if end > MAX_HEAD_BYTES:
                raise MalformedResponse("the response head is too long")
            head = parse_head(buffer[:end])
            buffer = buffer[end + 4 :]
            self._searched = 0
            # After an interim response, the final one follows (RFC 9110 section 15.2).
            if head.status >= _OK:
                self.leftover = buffer
                return head
        if not buffer.startswith(_HTTP_1[: len(buffer)]):
            raise MalformedResponse("the response does not begin with an HTTP version")
        # The last three bytes may belong to the empty line after the head.
        if len(buffer) > MAX_HEAD_BYTES + 3:
            raise MalformedResponse("the response head is too long")
        # The empty line may begin in the last three bytes.
        self._searched = max(0, len(buffer) - 3)
        self.leftover = buffer
        return None


def parse_head(block: bytes) -> ResponseHead:
    """Parse a response head.

    Args:
        block: The whole head, without the empty line after it.

    Raises:
        MalformedResponse: The bytes are not a response head, or its framing is ambiguous.
    """
    text = block.decode("latin-1")
    match = _HEAD.fullmatch(text)
    if match is None:
        is_first = not re.fullmatch(_STATUS_LINE, text.partition("\r\n")[0])
        raise MalformedResponse(f"{'the status' if is_first else 'a header'} line is malformed")
    minor, digits, phrase, lines = match.groups("")
    if "\t" in text:
        # PEP 3333 forbids control characters.
        phrase, lines = phrase.replace("\t", " "), lines.replace("\t", " ")
    status = int(digits)
    if status == _SWITCHING_PROTOCOLS:
        raise MalformedResponse(
            "the target switched protocols, although the proxy did not ask for it"
        )
    fields = Fields(_FIELD.findall(lines))
    is_http_1_1 = minor == "1"
    framing = _framing(is_http_1_1, status, fields)
    connection = fields.connection_options
    reusable = "close" not in connection and (is_http_1_1 or "keep-alive" in connection)
    return ResponseHead(status, phrase, fields, framing, reusable)


def _framing(is_http_1_1: bool, status: int, fields: Fields) -> Framing:
    """Choose the framing by RFC 9112 section 6.3. Where it allows a guess, raise an error.

    A 304 may have the Transfer-Encoding that a 200 would have had (section 6.1).
    """
    lengths = fields.values("content-length")
    if "transfer-encoding" in fields.names and status != _NOT_MODIFIED:
        codings = [coding.lower() for coding in fields.values("transfer-encoding")]
        if codings != ["chunked"] or lengths or not is_http_1_1:
            raise MalformedResponse("the response's Transfer-Encoding is ambiguous")
        if status == _NO_CONTENT:
            raise MalformedResponse("a response that has no content is chunked")
        return ChunkedFraming()
    length = _one_length(lengths) if lengths else None
    if status < _OK or status in (_NO_CONTENT, _NOT_MODIFIED):
        return LengthFraming(0)
    return CloseFraming() if length is None else LengthFraming(length)


def _one_length(values: list[str]) -> int:
    """Parse Content-Length. It may be repeated if all values are equal (RFC 9110 section 8.6)."""
    if len(values) > 1 or "," in values[0]:
        values = list({part.strip(" ") for value in values for part in value.split(",")})
    length = values[0]
    is_decimal = length.isascii() and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS
    if len(values) > 1 or not is_decimal:
        raise MalformedResponse("the response's Content-Length is malformed or contradictory")
    return int(length)

"""HTTP/1.1 as a client speaks it, strictly: bytes to values and back, without any I/O.

`http.client` is not used because it cannot be trusted with a response's framing: it loses all
fields after a malformed line, ends a line at a bare CR, accepts signed and underscored chunk
sizes and takes a head that was cut off for a whole one. Here each of these is a
`MalformedResponse`.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from wsgi_fal_proxy._http.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HEAD_BYTES: Final = 65_536
"""Of a response head that is not yet whole; http.client allows as much for one line of it."""
MAX_FIELDS: Final = 100
"""Header fields in a response; http.client's bound."""
MAX_CHUNK_LINE_BYTES: Final = 4_096
"""Of a chunk's size and extensions, which are skipped, and of one line of the trailer section."""
MAX_TRAILER_BYTES: Final = 16_384
"""Of the trailer section, which is read and dropped (RFC 9110 section 6.5.1 allows it)."""

_HTTP_1: Final = b"HTTP/1."
# RFC 9112 section 4; the reason phrase and the space before it may be missing.
_STATUS_LINE: Final = r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*+))?+"
# RFC 9112 section 5: no white space before the colon, none to begin a line with (obs-fold, which
# section 5.2 lets a gateway answer with 502).
_FIELD_LINES: Final = r"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+)*+"
# The whole head is checked at once, and taken apart at once: what is left to do for each field is
# done at the speed of C.
_HEAD: Final = re.compile(f"{_STATUS_LINE}({_FIELD_LINES})")
# Of lines that have been checked; the optional white space around a value is no part of it.
_FIELD: Final = re.compile(r"\r\n([^:]++):[\t ]*+([^\r]*[^\r\t ]|)")
_MAX_LENGTH_DIGITS: Final = 18
# RFC 9112 section 7.1, with extensions as in section 7.1.1.
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")

# Plain numbers: a member of HTTPStatus takes longer to look up than all else about the status.
_SWITCHING_PROTOCOLS: Final = HTTPStatus.SWITCHING_PROTOCOLS.value
_OK: Final = HTTPStatus.OK.value
_NO_CONTENT: Final = HTTPStatus.NO_CONTENT.value
_NOT_MODIFIED: Final = HTTPStatus.NOT_MODIFIED.value


class MalformedResponse(Exception):
    """The bytes are not the HTTP that RFC 9112 describes."""


class RequestHead(bytes):
    """A request head's bytes, which hold the key: they do not show in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<request head>"

    def __getitem__(self, key: Any) -> Any:
        """Give a part that does not show either: error reports cut long values."""
        part = super().__getitem__(key)
        return type(self)(part) if isinstance(part, bytes) else part


def request_head(
    method: str, request_target: str, headers: Iterable[tuple[str, str]], content: bytes = b""
) -> RequestHead:
    """Serialise a request's head; the values have been checked where they came in.

    Args:
        method: Such as `GET`.
        request_target: RFC 9112 section 3.2.1.
        headers: All fields, in their order.
        content: Follows the head in the same piece.
    """
    # In one expression, so that no frame ever holds the key as plain text.
    return RequestHead(
        "\r\n".join(
            (f"{method} {request_target} HTTP/1.1", *map(": ".join, headers), "\r\n")
        ).encode("latin-1")
        + content
    )


def chunk(piece: bytes) -> bytes:
    """Frame one non-empty piece of a body whose length is not known (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK: Final = b"0\r\n\r\n"


class Framing(Protocol):
    """How a response's content is told from what follows it (RFC 9112 section 6.3)."""

    complete: bool
    """Whether the whole content has come."""
    excess: bool
    """Whether bytes came after it: then the connection is out of step and not used again."""
    length: int | None
    """Bytes in the content, where the head tells."""

    def feed(self, data: bytes) -> bytes:
        """Take what was received and give the content in it, which may be none.

        Raises:
            MalformedResponse: The framing is broken.
        """
        ...

    def end(self) -> None:
        """Take note that the connection ended.

        Raises:
            MalformedResponse: That does not complete the content.
        """
        ...


class LengthFraming:
    """Content of a length that the head tells, or none at all."""

    __slots__ = ("_left", "complete", "excess", "length")

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._left = length
        self.complete: bool = length == 0
        self.excess: bool = False

    def feed(self, data: bytes) -> bytes:
        """Give the content in the data; see `Framing`."""
        if len(data) > self._left:
            self.excess = True
            data = data[: self._left]
        self._left -= len(data)
        self.complete = self._left == 0
        return data

    def end(self) -> None:
        """Never the right end; see `Framing`."""
        raise MalformedResponse("the connection was closed in mid-content")


class CloseFraming:
    """Content that ends with the connection."""

    __slots__ = ("complete", "excess", "length")

    def __init__(self) -> None:
        self.length: int | None = None
        self.complete: bool = False
        # The connection is at its end with the content.
        self.excess: bool = True

    def feed(self, data: bytes) -> bytes:
        """Give the content in the data; see `Framing`."""
        return data

    def end(self) -> None:
        """See `Framing`."""
        self.complete = True


class ChunkedFraming:
    """Content in chunks (RFC 9112 section 7.1)."""

    __slots__ = ("_left", "_pending", "_trailer_bytes", "complete", "excess", "length")

    # What `_left` means besides the bytes that are left in a chunk's data.
    _SIZE_LINE: Final = 0
    _TRAILER_LINE: Final = -1
    _DATA_END: Final = -2

    def __init__(self) -> None:
        self.length: int | None = None
        self.complete: bool = False
        self.excess: bool = False
        self._left = self._SIZE_LINE
        self._pending = b""
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Give the content in the data; see `Framing`."""
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
                # Usually what ends the data comes with it.
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
        """Never the right end; see `Framing`."""
        raise MalformedResponse("the connection was closed in mid-content")

    def _keep(self, partial: bytes) -> None:
        """Keep a line that is not yet complete, unless it can no longer become a good one."""
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
    """A response's status line and fields, in their order, and what they say of the rest.

    Tabs in it are spaces by now, as RFC 9110 section 5.5 allows.
    """

    status: int
    phrase: str
    fields: Fields
    framing: Framing
    reusable: bool
    """Whether the connection may carry another request afterwards (RFC 9112 section 9.3)."""


class HeadReader:
    """Finds the final response head in what is received; interim ones (1xx) are skipped."""

    __slots__ = ("_searched", "leftover", "started")

    def __init__(self) -> None:
        self.leftover: bytes = b""
        """What came after the final head; before that, what is not yet a head."""
        self._searched = 0
        self.started: bool = False
        """Whether anything has come at all."""

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take what was received, nothing meaning the end; give the final head when it is whole.

        Raises:
            ConnectionError: The connection ended before.
            MalformedResponse: What has come is not a response head, or too long for one.
        """
        if not data:
            raise ConnectionError("the connection was closed before a whole response head came")
        self.started = True
        buffer = self.leftover + data
        while (end := buffer.find(b"\r\n\r\n", self._searched)) >= 0:
            if end > MAX_HEAD_BYTES:
                raise MalformedResponse("the response head is too long")
            head = parse_head(buffer[:end])
            buffer = buffer[end + 4 :]
            self._searched = 0
            # Below that, the final response is still to come (RFC 9110 section 15.2).
            if head.status >= _OK:
                self.leftover = buffer
                return head
        if not buffer.startswith(_HTTP_1[: len(buffer)]):
            raise MalformedResponse("the response does not begin with an HTTP version")
        # The last three may be of what ends it.
        if len(buffer) > MAX_HEAD_BYTES + 3:
            raise MalformedResponse("the response head is too long")
        # The last three bytes may be the beginning of what is searched for.
        self._searched = max(0, len(buffer) - 3)
        self.leftover = buffer
        return None


def parse_head(block: bytes) -> ResponseHead:
    """Read a response head.

    Args:
        block: All of it, without the empty line that ends it.

    Raises:
        MalformedResponse: It is not one, or its framing is ambiguous.
    """
    text = block.decode("latin-1")
    match = _HEAD.fullmatch(text)
    if match is None:
        is_first = not re.fullmatch(_STATUS_LINE, text.partition("\r\n")[0])
        raise MalformedResponse(f"{'the status' if is_first else 'a header'} line is malformed")
    minor, digits, phrase, lines = match.groups("")
    if "\t" in text:
        # PEP 3333 lets no control character through.
        phrase, lines = phrase.replace("\t", " "), lines.replace("\t", " ")
    status = int(digits)
    if status == _SWITCHING_PROTOCOLS:
        raise MalformedResponse("the target switched protocols, unasked")
    fields = Fields(_FIELD.findall(lines))
    if len(fields.items) > MAX_FIELDS:
        raise MalformedResponse("the response has too many header fields")
    is_http_1_1 = minor == "1"
    framing = _framing(is_http_1_1, status, fields)
    options = fields.options
    reusable = "close" not in options and (is_http_1_1 or "keep-alive" in options)
    return ResponseHead(status, phrase, fields, framing, reusable)


def _framing(is_http_1_1: bool, status: int, fields: Fields) -> Framing:
    """Decide by RFC 9112 section 6.3; what it lets a recipient guess at is an error here.

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
    """Read Content-Length, which may be repeated (RFC 9110 section 8.6), if always the same."""
    if len(values) > 1 or "," in values[0]:
        values = list({part.strip(" ") for value in values for part in value.split(",")})
    length = values[0]
    is_decimal = length.isascii() and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS
    if len(values) > 1 or not is_decimal:
        raise MalformedResponse("the response's Content-Length is malformed or contradictory")
    return int(length)

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_fal_proxy._http.h1 import (
    LAST_CHUNK,
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_TRAILER_BYTES,
    ChunkedFraming,
    CloseFraming,
    Framing,
    HeadReader,
    LengthFraming,
    MalformedResponse,
    ResponseHead,
    chunk,
    parse_head,
    request_head,
)

Split = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


either_way = pytest.mark.parametrize(
    "split", [pytest.param(whole, id="whole"), pytest.param(byte_by_byte, id="byte-by-byte")]
)


def read_head(pieces: Iterable[bytes]) -> tuple[ResponseHead | None, bytes]:
    """Give the head and all that came after it."""
    reader = HeadReader()
    remaining = iter(pieces)
    head = None
    for piece in remaining:
        if head := reader.feed(piece):
            break
    return head, reader.leftover + b"".join(remaining)


def final_head(pieces: Iterable[bytes]) -> ResponseHead:
    head, _ = read_head(pieces)
    assert head is not None
    return head


def feed(framing: Framing, pieces: Iterable[bytes]) -> bytes:
    return b"".join([framing.feed(piece) for piece in pieces])


STATUS_LINE = "begin with an HTTP version|status line is malformed"

# Requests.


def test_request_head_is_serialised() -> None:
    head = request_head("POST", "/a?b=%c3", [("Host", "fal.run"), ("X-Fal-A", "\xe9")])
    assert bytes(head) == b"POST /a?b=%c3 HTTP/1.1\r\nHost: fal.run\r\nX-Fal-A: \xe9\r\n\r\n"


def test_request_head_does_not_show_in_a_repr() -> None:
    head = request_head("GET", "/", [("Authorization", "Key private")])
    assert repr([head]) == "[<request head>]"


@pytest.mark.parametrize(
    ("piece", "framed"),
    [
        pytest.param(b"a", b"1\r\na\r\n", id="one-byte"),
        pytest.param(b"\r\n" * 13, b"1a\r\n" + b"\r\n" * 13 + b"\r\n", id="hexadecimal"),
    ],
)
def test_chunk_is_framed(piece: bytes, framed: bytes) -> None:
    assert chunk(piece) == framed


def test_chunk_reads_back() -> None:
    framing = ChunkedFraming()
    content = framing.feed(chunk(b"one") + chunk(b"x" * 70_000) + LAST_CHUNK)
    assert (content, framing.complete) == (b"one" + b"x" * 70_000, True)


# Heads.


@either_way
@pytest.mark.parametrize(
    ("head", "status", "phrase", "headers"),
    [
        pytest.param(b"HTTP/1.1 200 OK", 200, "OK", [], id="no-fields"),
        pytest.param(b"HTTP/1.0 200 OK", 200, "OK", [], id="http-1.0"),
        pytest.param(b"HTTP/1.1 200 ", 200, "", [], id="no-phrase"),
        pytest.param(b"HTTP/1.1 200", 200, "", [], id="no-phrase-and-no-space"),
        pytest.param(b"HTTP/1.1 404 Not\tFound \xe9!", 404, "Not Found \xe9!", [], id="phrase"),
        pytest.param(b"HTTP/1.1 599 Odd", 599, "Odd", [], id="unregistered-status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b", 200, "OK", [("A", "b")], id="one-field"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nB: 1\r\na: 2\r\nB: 3",
            200,
            "OK",
            [("B", "1"), ("a", "2"), ("B", "3")],
            id="order-case-and-repeats-kept",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nA:b", 200, "OK", [("A", "b")], id="no-space-after-colon"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nA: \t b \t c\t ", 200, "OK", [("A", "b   c")], id="space-around"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nA:", 200, "OK", [("A", "")], id="empty-value"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \t ", 200, "OK", [("A", "")], id="blank-value"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b:c", 200, "OK", [("A", "b:c")], id="colon-in-value"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \xc3\xa9", 200, "OK", [("A", "\xc3\xa9")], id="utf-8"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n!#$%&'*+-.^_`|~0aZ: b",
            200,
            "OK",
            [("!#$%&'*+-.^_`|~0aZ", "b")],
            id="every-character-of-a-name",
        ),
    ],
)
def test_head_reader_reads_a_head(
    head: bytes, status: int, phrase: str, headers: list[tuple[str, str]], split: Split
) -> None:
    read = final_head(split(head + b"\r\n\r\n"))
    assert (read.status, read.phrase, read.fields.items) == (status, phrase, headers)


@either_way
@pytest.mark.parametrize(
    "interim",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="100"),
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n" * 3, id="102-three-times"),
        pytest.param(b"HTTP/1.1 100 Go on\r\n\r\n" * 1_000, id="100-a-thousand-times"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", id="103"),
        pytest.param(b"HTTP/1.1 199\r\nContent-Length: 5\r\n\r\n", id="199-with-length"),
        pytest.param(b"HTTP/1.1 100 a\r\n\r\nHTTP/1.1 103 b\r\n\r\n", id="100-then-103"),
    ],
)
def test_head_reader_skips_interim_heads(interim: bytes, split: Split) -> None:
    head, after = read_head(split(interim + b"HTTP/1.1 201 Created\r\nA: b\r\n\r\nrest"))
    assert head is not None
    assert (head.status, head.fields.items, after) == (201, [("A", "b")], b"rest")


def test_head_reader_reads_a_head_that_ends_earlier_than_the_interim_one() -> None:
    reader = HeadReader()
    assert reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n") is None
    head = reader.feed(b"\r\nHTTP/1.1 200\r\n\r\n")
    assert head is not None
    assert head.status == 200


@either_way
def test_head_reader_leaves_what_follows_the_head(split: Split) -> None:
    _, after = read_head(split(b"HTTP/1.1 200 OK\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
    assert after == b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "partial",
    [
        pytest.param(b"H", id="one-byte"),
        pytest.param(b"HTTP/1.", id="begin"),
        pytest.param(b"HTTP/1.1 20", id="in-the-status"),
        pytest.param(b"HTTP/1.1 200", id="after-the-status"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="after-the-status-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="in-a-name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1", id="in-a-value"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r", id="no-newline"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n", id="no-empty-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n\r", id="no-last-newline"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="interim-alone"),
        pytest.param(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n", id="interim-with-fields-alone"),
        pytest.param(b"HTTP/1.1 200 OK\nA: b\n\n", id="bare-newlines-throughout"),
    ],
)
@either_way
def test_head_reader_raises_connection_error_if_the_head_is_cut_off(
    partial: bytes, split: Split
) -> None:
    reader = HeadReader()
    heads = [reader.feed(piece) for piece in split(partial)]
    assert set(heads) == {None}
    with pytest.raises(ConnectionError):
        reader.feed(b"")


def test_head_reader_tells_whether_anything_came() -> None:
    reader = HeadReader()
    before = reader.has_begun
    reader.feed(b"H")
    assert (before, reader.has_begun) == (False, True)


def test_head_reader_has_not_started_if_the_connection_ends_at_once() -> None:
    reader = HeadReader()
    with pytest.raises(ConnectionError):
        reader.feed(b"")
    assert not reader.has_begun


@either_way
@pytest.mark.parametrize(
    ("head", "message"),
    [
        # The status line.
        pytest.param(b"\r\nHTTP/1.1 200 OK", STATUS_LINE, id="empty-line-first"),
        pytest.param(b"http/1.1 200 OK", STATUS_LINE, id="version-in-lower-case"),
        pytest.param(b" HTTP/1.1 200 OK", STATUS_LINE, id="space-first"),
        pytest.param(b"HTTP/2 200 OK", STATUS_LINE, id="http-2"),
        pytest.param(b"ICY 200 OK", STATUS_LINE, id="other-protocol"),
        pytest.param(b"<html></html>", STATUS_LINE, id="html"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", STATUS_LINE, id="tls-alert"),
        pytest.param(b"HTTP/1.2 200 OK", STATUS_LINE, id="http-1.2"),
        pytest.param(b"HTTP/1.10 200 OK", STATUS_LINE, id="http-1.10"),
        pytest.param(b"HTTP/1.1", STATUS_LINE, id="no-status"),
        pytest.param(b"HTTP/1.1  200 OK", STATUS_LINE, id="two-spaces"),
        pytest.param(b"HTTP/1.1\t200 OK", STATUS_LINE, id="tab-for-space"),
        pytest.param(b"HTTP/1.1 20 OK", STATUS_LINE, id="two-digits"),
        pytest.param(b"HTTP/1.1 2000 OK", STATUS_LINE, id="four-digits"),
        pytest.param(b"HTTP/1.1 099 OK", STATUS_LINE, id="status-below-100"),
        pytest.param(b"HTTP/1.1 600 OK", STATUS_LINE, id="status-above-599"),
        pytest.param(b"HTTP/1.1 +20 OK", STATUS_LINE, id="sign-in-status"),
        pytest.param(b"HTTP/1.1 2\xb20 OK", STATUS_LINE, id="superscript-digit"),
        pytest.param(b"HTTP/1.1 200OK", STATUS_LINE, id="no-space-before-phrase"),
        pytest.param(b"HTTP/1.1 200 O\x00K", STATUS_LINE, id="null-in-phrase"),
        pytest.param(b"HTTP/1.1 200 O\rK", STATUS_LINE, id="bare-cr-in-phrase"),
        pytest.param(b"HTTP/1.1 200 O\nK", STATUS_LINE, id="bare-lf-in-phrase"),
        pytest.param(b"HTTP/1.1 200 OK\nA: b", STATUS_LINE, id="bare-lf-after-status-line"),
        pytest.param(b"\r\n\r\n", STATUS_LINE, id="empty-lines-alone"),
        pytest.param(b"\nHTTP/1.1 200 OK", STATUS_LINE, id="lf-first"),
        pytest.param(b"\xef\xbb\xbfHTTP/1.1 200 OK", STATUS_LINE, id="byte-order-mark-first"),
        pytest.param(b"HTTP/2.0 200 OK", STATUS_LINE, id="http-2.0"),
        pytest.param(b"HTTP/1 200 OK", STATUS_LINE, id="http-1"),
        pytest.param(b"HTTP/0.9 200 OK", STATUS_LINE, id="http-0.9"),
        pytest.param(b"HTTP/01.1 200 OK", STATUS_LINE, id="http-01.1"),
        pytest.param(b"200 OK", STATUS_LINE, id="no-version"),
        pytest.param(b"HTTP/1.1 ", STATUS_LINE, id="no-status-but-space"),
        pytest.param(b"HTTP/1.1 OK", STATUS_LINE, id="no-digits"),
        pytest.param(b"HTTP/1.1 2OO OK", STATUS_LINE, id="letters-for-digits"),
        pytest.param(
            "HTTP/1.1 \uff12\uff10\uff10 OK".encode(), STATUS_LINE, id="digits-of-unicode"
        ),
        pytest.param(b"HTTP/1.1 000 None", STATUS_LINE, id="status-000"),
        pytest.param(b"HTTP/1.1 999 Request Denied", STATUS_LINE, id="status-999"),
        pytest.param(b"HTTP/1.1 -200 OK", STATUS_LINE, id="status-negative"),
        pytest.param(b"HTTP/1.1200 OK", STATUS_LINE, id="no-space-before-status"),
        pytest.param(b"HTTP/1.1 200 \x1b[31mOK", STATUS_LINE, id="escape-in-phrase"),
        pytest.param(b"GET / HTTP/1.1", STATUS_LINE, id="a-request"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", STATUS_LINE, id="ssh"),
        pytest.param(b"220 mail.example ESMTP\r\n", STATUS_LINE, id="smtp"),
        pytest.param(b'{"detail": "Down"}', STATUS_LINE, id="json"),
        pytest.param(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", STATUS_LINE, id="http-2-settings"),
        pytest.param(b"\x00", STATUS_LINE, id="null-alone"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols", "switched", id="101"),
        # The fields.
        pytest.param(b"HTTP/1.1 200 OK\r\nA : b", "header line", id="space-before-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA\t: b", "header line", id="tab-before-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n c", "header line", id="obs-fold"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n\tc: d", "header line", id="obs-fold-with-tab"),
        pytest.param(b"HTTP/1.1 200 OK\r\n A: b", "header line", id="space-before-first-field"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n ", "header line", id="blank-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\rB: c", "header line", id="bare-cr"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r", "header line", id="bare-cr-at-the-end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\nB: c", "header line", id="bare-lf"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\nA: b", "header line", id="lf-first"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\n", "header line", id="bare-lf-at-the-end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\x00", "header line", id="null"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\x7f", "header line", id="delete"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \x0b", "header line", id="vertical-tab"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA", "header line", id="no-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\n: b", "header line", id="no-name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA B: c", "header line", id="space-in-name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA(B): c", "header line", id="delimiter-in-name"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\xc3\xa9: c", "header line", id="name-not-ascii"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \x01", "header line", id="control-character"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \x1b[31m", "header line", id="escape"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA\x00: b", "header line", id="name-with-null"),
        pytest.param(b'HTTP/1.1 200 OK\r\n"A": b', "header line", id="name-quoted"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK", "header line", id="a-second-status-line"
        ),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nA : b\r\n\r\nHTTP/1.1 200 OK",
            "header line",
            id="malformed-interim",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK", STATUS_LINE, id="after-interim"
        ),
        # The framing.
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1", "Length", id="length-negative"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: +1", "Length", id="length-with-sign"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1_0", "Length", id="length-underscored"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0x5", "Length", id="length-hexadecimal"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5.0", "Length", id="length-with-point"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1 0", "Length", id="length-with-space"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2", "Length", id="length-superscript"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length:", "Length", id="length-empty"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 18, "Length", id="length-of-19-digits"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6", "Length", id="lengths-in-a-list"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5,", "Length", id="length-and-empty"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6", "Length", id="two-lengths"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05",
            "Length",
            id="two-spellings-of-a-length",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: five", "Length", id="length-in-letters"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5e0", "Length", id="length-with-exponent"
        ),
        pytest.param(
            "HTTP/1.1 200 OK\r\nContent-Length: \uff15".encode(), "Length", id="length-of-unicode"
        ),
        pytest.param(b'HTTP/1.1 200 OK\r\nContent-Length: "5"', "Length", id="length-quoted"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0000000000000000005",
            "Length",
            id="length-of-19-digits-zeros-first",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621",
            "Length",
            id="length-of-2-to-the-64",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5;5", "Length", id="lengths-with-semicolon"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 05", "Length", id="two-spellings-in-a-list"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: ",
            "Length",
            id="length-and-an-empty-field",
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\nContent-Length: x", "Length", id="length-of-no-content"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            "Encoding",
            id="chunked-and-length",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "Encoding",
            id="length-and-chunked",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
            "Encoding",
            id="coding-other-than-chunked",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            "Encoding",
            id="gzip-and-chunked",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "Encoding",
            id="gzip-and-chunked-in-two-fields",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Encoding",
            id="chunked-twice",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity", "Encoding", id="coding-identity"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding:", "Encoding", id="coding-empty"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked", "Encoding", id="coding-longer-name"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1", "Encoding", id="coding-parameter"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked", "header line", id="coding-control"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: identity",
            "Encoding",
            id="length-and-identity",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip",
            "Encoding",
            id="chunked-and-gzip",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked",
            "Encoding",
            id="chunked-twice-in-a-list",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked",
            "Encoding",
            id="identity-and-chunked",
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: "chunked"', "Encoding", id="coding-quoted"
        ),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", "Encoding", id="chunked-in-http-1.0"
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked", "no content", id="chunked-204"
        ),
    ],
)
def test_head_reader_refuses_a_malformed_head(head: bytes, message: str, split: Split) -> None:
    with pytest.raises(MalformedResponse, match=message):
        read_head(split(head + b"\r\n\r\n"))


def test_head_reader_refuses_what_does_not_begin_like_a_head_before_it_is_whole() -> None:
    reader = HeadReader()
    assert reader.feed(b"HTTP/") is None
    with pytest.raises(MalformedResponse, match="begin with"):
        reader.feed(b"2")


def test_head_reader_reads_as_many_fields_as_fit_into_the_longest_head() -> None:
    line = b"\r\nA:b"
    count = (MAX_HEAD_BYTES - len(b"HTTP/1.1 200 OK")) // len(line)
    head = final_head([b"HTTP/1.1 200 OK" + line * count, b"\r\n\r\n"])
    assert len(head.fields.items) == count
    with pytest.raises(MalformedResponse, match="head is too long"):
        read_head([b"HTTP/1.1 200 OK" + line * (count + 1), b"\r\n\r\n"])


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param([b"\r\n\r\n"], id="end-whole"),
        pytest.param(byte_by_byte(b"\r\n\r\n"), id="end-byte-by-byte"),
    ],
)
def test_head_reader_reads_a_head_as_long_as_the_bound(ends: list[bytes]) -> None:
    start = b"HTTP/1.1 200 OK\r\nA: "
    head = final_head([start + b"a" * (MAX_HEAD_BYTES - len(start)), *ends])
    assert head.status == 200


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_HEAD_BYTES], id="one-line"),
        pytest.param([b"HTTP/1.1 200 " + b"a" * MAX_HEAD_BYTES], id="status-line"),
        pytest.param([b"HTTP/1.1 200 OK\r\n" + b"a" * MAX_HEAD_BYTES], id="name"),
        pytest.param([b"HTTP/1.1 103 Early\r\nA: " + b"a" * MAX_HEAD_BYTES], id="interim-head"),
        pytest.param([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11_000], id="many-lines"),
        pytest.param([b"HTTP/1.1 200 OK\r\n"] + [b"A: b\r\n" * 1_000] * 11, id="in-pieces"),
        pytest.param(
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11_000],
            id="after-an-interim-head",
        ),
    ],
)
def test_head_reader_refuses_an_over_long_head(pieces: list[bytes]) -> None:
    with pytest.raises(MalformedResponse, match="head is too long"):
        read_head(pieces)


def test_head_reader_refuses_an_over_long_head_that_comes_whole() -> None:
    with pytest.raises(MalformedResponse):
        read_head([b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"])


@pytest.mark.parametrize(
    ("head", "kind", "length"),
    [
        pytest.param(b"HTTP/1.1 200 OK", CloseFraming, None, id="neither"),
        pytest.param(b"HTTP/1.0 200 OK", CloseFraming, None, id="neither-in-http-1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5", LengthFraming, 5, id="length"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5", LengthFraming, 5, id="http-1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 5", LengthFraming, 5, id="upper-case"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 005", LengthFraming, 5, id="zeros-first"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5 ,\t5",
            LengthFraming,
            5,
            id="same-twice-in-a-list",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            LengthFraming,
            5,
            id="same-twice",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 18,
            LengthFraming,
            10**18 - 1,
            id="length-of-18-digits",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", ChunkedFraming, None, id="chunked"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-encoding: Chunked", ChunkedFraming, None, id="any-case"
        ),
        pytest.param(b"HTTP/1.1 204 No Content", LengthFraming, 0, id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified", LengthFraming, 0, id="304"),
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5",
            LengthFraming,
            0,
            id="304-with-length",
        ),
        pytest.param(b"HTTP/1.1 103 Early Hints", LengthFraming, 0, id="interim"),
    ],
)
def test_parse_head_tells_the_framing(head: bytes, kind: type[Framing], length: int | None) -> None:
    framing = parse_head(head).framing
    assert (type(framing), framing.length) == (kind, length)


def test_parse_head_tells_no_content_of_a_304_that_says_chunked() -> None:
    head = b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked"
    assert parse_head(head).framing.complete


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        pytest.param(b"HTTP/1.1 200 OK", True, id="http-1.1"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: keep-alive", True, id="keep-alive"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: closed", True, id="longer-word"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close", False, id="close"),
        pytest.param(b"HTTP/1.1 200 OK\r\nconnection: CLOSE", False, id="close-in-any-case"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: a ,\tclose , b", False, id="close-in-a-list"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: a\r\nConnection: close", False, id="close-in-second"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close", False, id="close-outweighs"
        ),
        pytest.param(b"HTTP/1.0 200 OK", False, id="http-1.0"),
        pytest.param(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", True, id="http-1.0-keep-alive"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close",
            False,
            id="http-1.0-close-outweighs",
        ),
    ],
)
def test_parse_head_tells_whether_the_connection_is_reusable(head: bytes, reusable: bool) -> None:
    assert parse_head(head).reusable is reusable


@pytest.mark.parametrize(
    ("status", "is_interim"),
    [
        pytest.param(b"100", True, id="100"),
        pytest.param(b"199", True, id="199"),
        pytest.param(b"200", False, id="200"),
    ],
)
def test_head_reader_takes_a_head_below_200_for_interim(status: bytes, is_interim: bool) -> None:
    head = HeadReader().feed(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert (head is None) is is_interim


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"A" + b" " * 100_000 + b": b", id="spaces-before-colon"),
        pytest.param(b"A:" + b" " * 100_000 + b"\x00", id="spaces-then-null"),
        pytest.param(b"A: b" + b" \t" * 50_000 + b"\x00", id="spaces-and-tabs-then-null"),
        pytest.param(b"A" * 100_000, id="name-without-colon"),
        pytest.param(b" " * 100_000, id="spaces-alone"),
        pytest.param(b"Content-Length: " + b"1" * 100_000, id="long-number"),
        pytest.param(b"Content-Length: " + b"5, " * 33_000, id="long-list"),
        pytest.param(b"Transfer-Encoding: " + b"chunked, " * 11_000, id="long-list-of-codings"),
    ],
)
def test_parse_head_refuses_every_header_line_in_time(line: bytes) -> None:
    with pytest.raises(MalformedResponse):
        parse_head(b"HTTP/1.1 200 OK\r\n" + line)


def test_parse_head_refuses_every_status_line_in_time() -> None:
    with pytest.raises(MalformedResponse):
        parse_head(b"HTTP/1.1 200 " + b" " * 100_000 + b"\x00")


# Content of a known length.


@either_way
@pytest.mark.parametrize(
    ("data", "content", "complete", "excess"),
    [
        pytest.param(b"", b"", False, False, id="nothing"),
        pytest.param(b"ab", b"ab", False, False, id="less"),
        pytest.param(b"abc", b"abc", True, False, id="all"),
        pytest.param(b"abcd", b"abc", True, True, id="one-byte-more"),
        pytest.param(b"abcHTTP/1.1 200 OK\r\n\r\n", b"abc", True, True, id="a-response-more"),
    ],
)
def test_length_framing_gives_content_of_a_known_length(
    data: bytes, content: bytes, complete: bool, excess: bool, split: Split
) -> None:
    framing = LengthFraming(3)
    assert feed(framing, split(data)) == content
    assert (framing.complete, framing.excess) == (complete, excess)


def test_length_framing_of_no_content_is_complete_at_once() -> None:
    framing = LengthFraming(0)
    assert (framing.complete, framing.excess) == (True, False)


@either_way
def test_length_framing_takes_all_after_no_content_for_excess(split: Split) -> None:
    framing = LengthFraming(0)
    assert feed(framing, split(b"ab")) == b""
    assert (framing.complete, framing.excess) == (True, True)


def test_length_framing_does_not_end_with_the_connection() -> None:
    framing = LengthFraming(3)
    framing.feed(b"ab")
    with pytest.raises(MalformedResponse, match="mid-content"):
        framing.end()
    assert not framing.complete


# Content that ends with the connection.


@either_way
def test_close_framing_ends_with_the_connection(split: Split) -> None:
    framing = CloseFraming()
    assert feed(framing, split(b"0\r\n\r\nabc")) == b"0\r\n\r\nabc"
    assert not framing.complete
    framing.end()
    assert framing.complete


def test_close_framing_lets_the_connection_not_be_used_again() -> None:
    assert CloseFraming().excess


# Content in chunks.


@either_way
@pytest.mark.parametrize(
    ("data", "content"),
    [
        pytest.param(b"0\r\n\r\n", b"", id="none"),
        pytest.param(b"000\r\n\r\n", b"", id="last-chunk-with-more-zeros"),
        pytest.param(b"3\r\nabc\r\n0\r\n\r\n", b"abc", id="one"),
        pytest.param(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde", id="two"),
        pytest.param(b"0003\r\nabc\r\n0\r\n\r\n", b"abc", id="zeros-first"),
        pytest.param(b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", id="size-in-lower-case"),
        pytest.param(b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", id="size-in-upper-case"),
        pytest.param(b"10\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef", id="size-10"),
        pytest.param(b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", id="newlines-as-data"),
        pytest.param(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", id="last-chunk-as-data"),
        pytest.param(b"3;a=b\r\nabc\r\n0;c\r\n\r\n", b"abc", id="extensions"),
        pytest.param(b'3 \t; a="b\xe9"\r\nabc\r\n0\r\n\r\n', b"abc", id="extension-after-space"),
        pytest.param(b"3 \r\nabc\r\n0\t\r\n\r\n", b"abc", id="space-after-size"),
        pytest.param(b"3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"abc", id="trailers"),
        pytest.param(
            b"00000000000000f\r\n" + b"a" * 15 + b"\r\n0\r\n\r\n", b"a" * 15, id="size-of-15-digits"
        ),
        pytest.param(
            b"0;" + b"a" * (MAX_CHUNK_LINE_BYTES - 3) + b"\r\n\r\n", b"", id="long-extension"
        ),
        pytest.param(
            b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 4) + b"\r\n", b"", id="most-trailers"
        ),
    ],
)
def test_chunked_framing_gives_content_in_chunks(data: bytes, content: bytes, split: Split) -> None:
    framing = ChunkedFraming()
    assert feed(framing, split(data)) == content
    assert (framing.complete, framing.excess, framing.length) == (True, False, None)


def test_chunked_framing_gives_content_before_the_chunk_is_whole() -> None:
    framing = ChunkedFraming()
    assert framing.feed(b"5\r\nab") == b"ab"
    assert framing.feed(b"c") == b"c"
    assert framing.feed(b"de\r") == b"de"
    assert not framing.complete


@either_way
@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"x", id="one-byte"),
        pytest.param(b"\r\n", id="empty-line"),
        pytest.param(b"0\r\n\r\n", id="another-last-chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="response"),
    ],
)
def test_chunked_framing_takes_all_after_the_last_chunk_for_excess(
    after: bytes, split: Split
) -> None:
    framing = ChunkedFraming()
    assert feed(framing, split(b"3\r\nabc\r\n0\r\n\r\n" + after)) == b"abc"
    assert (framing.complete, framing.excess) == (True, True)


def test_chunked_framing_sees_excess_in_a_later_piece() -> None:
    framing = ChunkedFraming()
    framing.feed(b"0\r\n\r\n")
    assert framing.feed(b"x") == b""
    assert framing.excess


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="before-the-first-size"),
        pytest.param(b"3", id="in-the-size"),
        pytest.param(b"3;a", id="in-the-extension"),
        pytest.param(b"3\r", id="within-the-newline-of-the-size"),
        pytest.param(b"3\r\n", id="before-the-data"),
        pytest.param(b"3\r\nab", id="in-the-data"),
        pytest.param(b"3\r\nabc", id="after-the-data"),
        pytest.param(b"3\r\nabc\r", id="within-the-newline-of-the-data"),
        pytest.param(b"3\r\nabc\r\n", id="between-chunks"),
        pytest.param(b"3\r\nabc\r\n0", id="in-the-last-size"),
        pytest.param(b"3\r\nabc\r\n0\r", id="within-the-newline-of-the-last-size"),
        pytest.param(b"3\r\nabc\r\n0\r\nA: b", id="in-the-trailers"),
        pytest.param(b"3\r\nabc\r\n0\r\n", id="before-the-trailers"),
        pytest.param(b"3\r\nabc\r\n0\r\nA: b\r\n", id="before-the-empty-line"),
        pytest.param(b"3\r\nabc\r\n0\r\n\r", id="before-the-last-newline"),
    ],
)
@either_way
def test_chunked_framing_does_not_end_with_the_connection(data: bytes, split: Split) -> None:
    framing = ChunkedFraming()
    feed(framing, split(data))
    with pytest.raises(MalformedResponse, match="mid-content"):
        framing.end()
    assert (framing.complete, framing.excess) == (False, False)


@either_way
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"-3\r\nabc\r\n", id="size-negative"),
        pytest.param(b"+3\r\nabc\r\n", id="size-with-sign"),
        pytest.param(b"-0\r\n\r\n", id="size-minus-zero"),
        pytest.param(b"1_0\r\n0123456789abcdef\r\n", id="size-underscored"),
        pytest.param(b"0x3\r\nabc\r\n", id="size-with-0x"),
        pytest.param(b"3h\r\nabc\r\n", id="size-with-other-letter"),
        pytest.param(b"3.0\r\nabc\r\n", id="size-with-point"),
        pytest.param(b" 3\r\nabc\r\n", id="size-after-space"),
        pytest.param(b"3 3\r\nabc\r\n", id="size-twice"),
        pytest.param(b"five\r\nabc\r\n", id="size-no-number"),
        pytest.param(b"10000000000000003\r\nabc\r\n", id="size-of-2-to-the-64"),
        pytest.param(b"3\r\nabc\r\n-3\r\nabc\r\n", id="size-negative-after-a-good-one"),
        pytest.param(b"3\r\nabc\r\n\r\n0\r\n\r\n", id="empty-line-after-data"),
        pytest.param(b"3\r\nabc\r\nHTTP/1.1 200 OK\r\n\r\n", id="head-of-another-answer"),
        pytest.param(b"\xb3\r\nabc\r\n", id="size-superscript"),
        pytest.param(b"\x003\r\nabc\r\n", id="size-after-null"),
        pytest.param(b"0000000000000003\r\nabc\r\n", id="size-of-16-digits"),
        pytest.param(b"\r\nabc\r\n", id="size-empty"),
        pytest.param(b";a=b\r\nabc\r\n", id="extension-without-size"),
        pytest.param(b"3;\x00\r\nabc\r\n", id="null-in-extension"),
        pytest.param(b"3;\x7f\r\nabc\r\n", id="delete-in-extension"),
        pytest.param(b"3\nabc\n0\n\n\r\n", id="bare-lf-after-size"),
        pytest.param(b"3\rabc\r\n", id="bare-cr-after-size"),
        pytest.param(b"3\r\r\nabc\r\n", id="two-crs-after-size"),
        pytest.param(b"3;a\nb\r\nabc\r\n", id="bare-lf-in-extension"),
        pytest.param(b"3;a\rb\r\nabc\r\n", id="bare-cr-in-extension"),
        pytest.param(b"3\r\nabcd\r\n", id="data-longer-than-size"),
        pytest.param(b"3\r\nabcdef", id="data-longer-than-size-unfinished"),
        pytest.param(b"3\r\nab\r\n\r\n", id="data-shorter-than-size"),
        pytest.param(b"3\r\nabc\n0\r\n\r\n", id="bare-lf-after-data"),
        pytest.param(b"3\r\nabc\r0\r\n\r\n", id="bare-cr-after-data"),
        pytest.param(b"3\r\nabc0\r\n\r\n", id="no-newline-after-data"),
        pytest.param(b"0" + b" " * (MAX_CHUNK_LINE_BYTES + 1), id="over-long-size-unfinished"),
        pytest.param(b"0" + b" " * MAX_CHUNK_LINE_BYTES + b"\r\n\r\n", id="over-long-size"),
        pytest.param(b"0;" + b"a" * MAX_CHUNK_LINE_BYTES + b"\r\n\r\n", id="over-long-extension"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 4 + 1), id="endless-trailers"),
        pytest.param(b"0\r\n" + b"A" * (MAX_TRAILER_BYTES + 1), id="endless-trailer"),
        pytest.param(
            b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 4 - 1) + b"A: bc\r\n",
            id="trailers-one-byte-over",
        ),
        pytest.param(b"0\r\nA: b\n\n", id="bare-lf-in-trailer-unfinished"),
    ],
)
def test_chunked_framing_refuses_malformed_chunks(data: bytes, split: Split) -> None:
    with pytest.raises(MalformedResponse):
        feed(ChunkedFraming(), split(data))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"0" + b" " * 100_000, id="spaces"),
        pytest.param(b"0" + b" \t" * 50_000 + b"x", id="spaces-then-letter"),
        pytest.param(b"0;" + b" " * 100_000 + b"\x00", id="extension-then-null"),
        pytest.param(b"0" * 100_000, id="zeros"),
    ],
)
def test_chunked_framing_refuses_every_chunk_size_in_time(line: bytes) -> None:
    with pytest.raises(MalformedResponse):
        ChunkedFraming().feed(line + b"\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"0\r\nA: b\nC: d\r\n\r\n"], id="bare-lf-whole"),
        pytest.param(byte_by_byte(b"0\r\nA: b\nC: d\r\n\r\n"), id="bare-lf-byte-by-byte"),
        pytest.param([b"0\r\nA: b\rC: d\r\n\r\n"], id="bare-cr-whole"),
        pytest.param(byte_by_byte(b"0\r\nA: b\rC: d\r\n\r\n"), id="bare-cr-byte-by-byte"),
    ],
)
def test_chunked_framing_refuses_a_trailer_with_a_bare_newline(pieces: list[bytes]) -> None:
    with pytest.raises(MalformedResponse):
        feed(ChunkedFraming(), pieces)


@pytest.mark.parametrize(
    "split",
    [
        pytest.param(whole, id="whole"),
        pytest.param(byte_by_byte, id="byte-by-byte"),
    ],
)
def test_chunked_framing_reads_a_size_line_as_long_as_the_bound(split: Split) -> None:
    framing = ChunkedFraming()
    feed(framing, split(b"0;" + b"a" * (MAX_CHUNK_LINE_BYTES - 2) + b"\r\n\r\n"))
    assert framing.complete


# Properties.


@st.composite
def in_pieces(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> list[bytes]:
    """Cut a stream of bytes anywhere, into pieces that are not empty."""
    data = draw(streams)
    cuts = draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=20))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if start < end]


def made_of(*pieces: bytes) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=12).map(b"".join)


HEADS = made_of(
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100\r\n\r\n", b"HTTP/1.1 103 x\r\nA: b\r\n\r\n"),
    *(b"HTTP/1.0 204\r\n", b"HTTP/1.1 101 x\r\n", b"HTTP/1.", b"H", b"A: b\r\n", b"A : b\r\n"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b" ", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b":", b"\x00", b"\xff", b"abc"),
)
CHUNKS = made_of(
    *(b"3\r\nabc\r\n", b"a;b=c\r\n0123456789\r\n", b"0\r\n", b"0\r\n\r\n", b"0;a\r\n"),
    *(b"1\r\n", b"2", b"ab", b"A: b\r\n", b"\r\n", b"\r", b"\n", b" ", b"-", b"\x00", b"\xff"),
)

Outcome = tuple[object, ...] | type[MalformedResponse]


def head_outcome(pieces: list[bytes]) -> Outcome:
    try:
        head, after = read_head(pieces)
    except MalformedResponse:
        return MalformedResponse
    if head is None:
        return (None,)
    framing = (type(head.framing), head.framing.length)
    return (head.status, head.phrase, head.fields.items, framing, head.reusable, after)


def chunks_outcome(pieces: list[bytes]) -> Outcome:
    framing = ChunkedFraming()
    try:
        content = feed(framing, pieces)
    except MalformedResponse:
        return MalformedResponse
    return (content, framing.complete, framing.excess)


@settings(max_examples=300, deadline=None)
@given(in_pieces(st.binary() | HEADS))
@example([b"HTTP/1.1 100\r\n\r", b"\nHTTP/1.1 200\r\n\r\nabc"])
def test_head_reader_takes_any_bytes_alike_however_they_come(pieces: list[bytes]) -> None:
    assert head_outcome(pieces) == head_outcome(whole(b"".join(pieces)) if pieces else [])


@settings(max_examples=300, deadline=None)
@given(in_pieces(st.binary() | CHUNKS))
@example(byte_by_byte(b"0\r\nA\nB\r\n\r\n"))
def test_chunked_framing_takes_any_bytes_alike_however_they_come(pieces: list[bytes]) -> None:
    assert chunks_outcome(pieces) == chunks_outcome(whole(b"".join(pieces)))


def test_chunked_framing_takes_a_long_trailer_line_alike_however_it_comes() -> None:
    data = b"0\r\nA: " + b"b" * (MAX_CHUNK_LINE_BYTES + 1) + b"\r\n\r\n"
    assert chunks_outcome(byte_by_byte(data)) == chunks_outcome(whole(data))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1)), st.data())
def test_chunk_of_any_content_reads_back_however_it_comes(
    contents: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(chunk, contents)) + LAST_CHUNK
    pieces = data.draw(in_pieces(st.just(stream)))
    assert chunks_outcome(pieces) == (b"".join(contents), True, False)


def test_chunked_framing_keeps_excess_noted_when_nothing_more_comes() -> None:
    framing = ChunkedFraming()
    framing.feed(b"0\r\n\r\nexcess")
    framing.feed(b"")
    assert framing.excess


def test_request_head_does_not_show_in_part_either() -> None:
    head = request_head("GET", "/", [("Authorization", "Key private")])
    assert repr(head[:80]) == "<request head>"
    assert head[:3] == b"GET"
    assert head[0] == ord("G")

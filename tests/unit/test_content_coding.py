from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable

import pytest

from wsgi_fal_proxy._http.content_coding import content_coding, decoded
from wsgi_fal_proxy._http.fields import Fields
from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy.errors import Truncated, UpstreamCodingUnsupported

CONTENT = b"data: {}\n\n" * 100
BOMB_BYTES = 20 * PIECE_BYTES + 1


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("headers", "coding"),
    [
        pytest.param([], None, id="no-headers"),
        pytest.param([("Content-Type", "gzip")], None, id="other-header"),
        pytest.param([("Content-Encoding", "")], None, id="empty"),
        pytest.param([("Content-Encoding", " , ")], None, id="empty-list"),
        pytest.param([("Content-Encoding", "identity")], None, id="identity"),
        pytest.param([("Content-Encoding", "Identity, identity")], None, id="identity-twice"),
        pytest.param([("Content-Encoding", "gzip")], "gzip", id="gzip"),
        pytest.param([("content-encoding", "GZip")], "gzip", id="any-case"),
        pytest.param([("Content-Encoding", "x-gzip")], "x-gzip", id="x-gzip"),
        pytest.param([("Content-Encoding", "deflate")], "deflate", id="deflate"),
        pytest.param([("Content-Encoding", "\tgzip ")], "gzip", id="space-around"),
        pytest.param([("Content-Encoding", "identity, gzip")], "gzip", id="identity-and-gzip"),
        pytest.param([("Content-Encoding", "identity, gzip,")], "gzip", id="empty-at-the-end"),
        pytest.param(
            [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")],
            "gzip",
            id="two-fields",
        ),
    ],
)
def test_content_coding_is_told_by_the_headers(
    headers: list[tuple[str, str]], coding: str | None
) -> None:
    assert content_coding(Fields(headers)) == coding


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("Content-Encoding", "br")], id="br"),
        pytest.param([("Content-Encoding", "zstd")], id="zstd"),
        pytest.param([("Content-Encoding", "compress")], id="compress"),
        pytest.param([("Content-Encoding", "aes128gcm")], id="aes128gcm"),
        pytest.param([("Content-Encoding", "gzip;q=1")], id="parameter"),
        pytest.param([("Content-Encoding", "gzip, br")], id="one-upon-another"),
        pytest.param([("Content-Encoding", "gzip, gzip")], id="gzip-twice"),
        pytest.param(
            [("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")], id="gzip-and-gzip"
        ),
        pytest.param(
            [("Content-Encoding", ", ".join(["gzip"] * 1_000))], id="gzip-a-thousand-times"
        ),
        pytest.param([("Content-Encoding", '"gzip"')], id="quoted"),
        pytest.param([("Content-Encoding", "x-nonsense")], id="unknown"),
        pytest.param(
            [("Content-Encoding", "gzip"), ("Content-Encoding", "deflate")], id="two-fields"
        ),
    ],
)
def test_content_coding_that_cannot_be_undone_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(UpstreamCodingUnsupported) as caught:
        content_coding(Fields(headers))
    assert caught.value.reason == "upstream_coding_unsupported"
    assert caught.value.status[:3] == "502"


codings = pytest.mark.parametrize(
    ("coding", "encode"),
    [
        pytest.param("gzip", gzip.compress, id="gzip"),
        pytest.param("x-gzip", gzip.compress, id="x-gzip"),
        pytest.param("deflate", zlib.compress, id="deflate"),
    ],
)

Encode = Callable[[bytes], bytes]


@codings
def test_decoded_undoes_a_coding(coding: str, encode: Encode) -> None:
    assert b"".join(decoded([encode(CONTENT)], coding)) == CONTENT


@codings
def test_decoded_undoes_a_coding_byte_by_byte(coding: str, encode: Encode) -> None:
    assert b"".join(decoded(byte_by_byte(encode(CONTENT)), coding)) == CONTENT


@codings
def test_decoded_gives_nothing_of_coded_empty_content(coding: str, encode: Encode) -> None:
    assert list(decoded([encode(b"")], coding)) == []


@codings
def test_decoded_undoes_content_that_does_not_compress(coding: str, encode: Encode) -> None:
    content = os.urandom(3 * PIECE_BYTES)
    assert b"".join(decoded([encode(content)], coding)) == content


@codings
def test_decoded_undoes_content_that_repeats_far_apart(coding: str, encode: Encode) -> None:
    # Nearly as far as the codings can refer back, which is 32,768 bytes.
    content = os.urandom(32_000) * 2
    assert b"".join(decoded([encode(content)], coding)) == content


@codings
def test_decoded_gives_no_empty_piece(coding: str, encode: Encode) -> None:
    assert b"" not in list(decoded([b"", *byte_by_byte(encode(CONTENT)), b""], coding))


@codings
def test_decoded_gives_content_that_expands_far_in_bounded_pieces(
    coding: str, encode: Encode
) -> None:
    sizes = [len(piece) for piece in decoded([encode(bytes(BOMB_BYTES))], coding)]
    assert (max(sizes), sum(sizes)) == (PIECE_BYTES, BOMB_BYTES)


def test_decoded_gives_an_event_as_soon_as_it_has_come() -> None:
    encoder = zlib.compressobj(wbits=31)
    first = encoder.compress(b"data: 1\n\n") + encoder.flush(zlib.Z_SYNC_FLUSH)
    rest = encoder.compress(b"data: 2\n\n") + encoder.flush()
    remaining = iter([first, rest])
    content = decoded(remaining, "gzip")
    assert next(content) == b"data: 1\n\n"
    assert next(remaining) == rest


@codings
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(-1, id="last-byte"),
        pytest.param(-9, id="checksum-and-more"),
        pytest.param(-20, id="twenty-bytes"),
        pytest.param(5, id="all-but-five-bytes"),
    ],
)
def test_decoded_raises_truncated_if_the_coding_ends_early(
    coding: str, encode: Encode, end: int
) -> None:
    with pytest.raises(Truncated) as caught:
        list(decoded([encode(CONTENT)[:end]], coding))
    assert caught.value.reason == "truncated"


def broken_checksum(data: bytes) -> bytes:
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


@pytest.mark.parametrize(
    ("data", "coding"),
    [
        pytest.param(CONTENT, "gzip", id="not-gzip"),
        pytest.param(CONTENT, "deflate", id="not-zlib"),
        pytest.param(zlib.compress(CONTENT), "gzip", id="zlib-for-gzip"),
        pytest.param(gzip.compress(CONTENT), "deflate", id="gzip-for-zlib"),
        pytest.param(gzip.compress(CONTENT)[:10] + b"\x07" * 20, "gzip", id="gzip-within"),
        pytest.param(gzip.compress(CONTENT) + b"garbage", "gzip", id="garbage-after-gzip"),
        pytest.param(b"\x78\x9c\xff\xff", "deflate", id="zlib-within"),
        pytest.param(zlib.compress(CONTENT)[2:-4], "deflate", id="deflate-without-zlibs-frame"),
        pytest.param(broken_checksum(gzip.compress(CONTENT)), "gzip", id="gzip-checksum"),
        pytest.param(gzip.compress(CONTENT)[:-1] + b"\xff", "gzip", id="gzip-length"),
        pytest.param(zlib.compress(CONTENT)[:-1] + b"\xff", "deflate", id="zlib-checksum"),
    ],
)
def test_decoded_raises_truncated_at_corrupt_content(data: bytes, coding: str) -> None:
    with pytest.raises(Truncated, match="corrupt") as caught:
        list(decoded([data], coding))
    assert caught.value.reason == "truncated"
    assert isinstance(caught.value.__cause__, zlib.error)


def test_decoded_gives_the_content_before_a_corruption() -> None:
    content = decoded([*byte_by_byte(gzip.compress(CONTENT))[:-8], b"corrupted"], "gzip")
    assert next(content) == CONTENT[:1]
    with pytest.raises(Truncated):
        list(content)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([gzip.compress(CONTENT) + b"\0\0"], id="in-the-same-piece"),
        pytest.param([gzip.compress(CONTENT), b"\0\0"], id="in-another-piece"),
    ],
)
def test_decoded_drops_padding_after_the_coding(pieces: list[bytes]) -> None:
    assert b"".join(decoded(pieces, "gzip")) == CONTENT


def test_decoded_undoes_gzip_of_two_members() -> None:
    # RFC 1952 section 2.2: a file is a series of members.
    data = gzip.compress(b"one") + gzip.compress(b"two")
    assert b"".join(decoded([data], "gzip")) == b"onetwo"


def test_decoded_takes_no_content_at_all_for_none() -> None:
    assert list(decoded([], "gzip")) == []


def test_decoded_raises_truncated_at_bytes_after_the_coding() -> None:
    with pytest.raises(Truncated):
        list(decoded([zlib.compress(b"a") + b"\r\n"], "deflate"))

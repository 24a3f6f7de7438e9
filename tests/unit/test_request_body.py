from __future__ import annotations

import io
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from werkzeug.wrappers import Request

from wsgi_fal_proxy._http import request_body
from wsgi_fal_proxy._http.request_body import PIECE_BYTES, RequestBody
from wsgi_fal_proxy.errors import (
    BodyIncomplete,
    BodyTooLarge,
    ContentLengthInvalid,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX = 1_000_000
LONG = bytes(range(256)) * 1_000  # 256,000 bytes: four pieces, the last one short


class Input(Protocol):
    def read(self, size: int) -> bytes: ...


class ShortReads:
    """Gives less than it is asked for, as a socket does."""

    def __init__(self, content: bytes, at_most: int) -> None:
        self._content = io.BytesIO(content)
        self._at_most = at_most

    def read(self, size: int) -> bytes:
        return self._content.read(min(size, self._at_most))


class Breaking:
    """Gives some content, and then raises."""

    def __init__(self, content: bytes, error: type[Exception] = OSError) -> None:
        self._content = io.BytesIO(content)
        self._error = error

    def read(self, size: int) -> bytes:
        if data := self._content.read(size):
            return data
        raise self._error


class KeepAlive:
    """A connection that stays open: to read past the body would wait for ever."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self.left = len(content)

    def read(self, size: int) -> bytes:
        assert 0 < size <= min(self.left, PIECE_BYTES)
        self.left -= size
        return self._content.read(size)


def body_of(environ: dict[str, Any], content: Input | bytes, max_bytes: int = MAX) -> RequestBody:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    return RequestBody(
        {"CONTENT_TYPE": "application/json", **environ, "wsgi.input": source}, max_bytes
    )


def declared(
    length: int, content: Input | bytes, max_bytes: int = MAX, content_type: str | None = None
) -> RequestBody:
    environ = {"CONTENT_LENGTH": str(length)}
    if content_type is not None:
        environ["CONTENT_TYPE"] = content_type
    return body_of(environ, content, max_bytes)


CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


def chunked(content: Input | bytes, max_bytes: int = MAX, **environ: str) -> RequestBody:
    return body_of({**CHUNKED, **environ}, content, max_bytes)


def relayed(body: RequestBody) -> bytes:
    """Take the steps that a relayed request takes."""
    body.accept()
    return b"".join([body.read_ahead(), *body.rest()])


# What is declared.


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        pytest.param({}, 0, id="nothing"),
        pytest.param({"CONTENT_LENGTH": ""}, 0, id="length-empty"),
        pytest.param({"CONTENT_LENGTH": "0"}, 0, id="length-0"),
        pytest.param({"CONTENT_LENGTH": "12"}, 12, id="length"),
        pytest.param({"CONTENT_LENGTH": "0012"}, 12, id="length-with-zeros-first"),
        pytest.param({"CONTENT_LENGTH": "9" * 18}, 10**18 - 1, id="length-of-18-digits"),
        pytest.param({"CONTENT_LENGTH": "12", "wsgi.input_terminated": True}, 12, id="terminated"),
        pytest.param({"wsgi.input_terminated": True}, 0, id="terminated-without-length"),
        pytest.param(
            {"wsgi.input_terminated": True, "SERVER_PROTOCOL": "HTTP/1.1"}, 0, id="http-1.1"
        ),
        pytest.param(
            {"wsgi.input_terminated": True, "SERVER_PROTOCOL": "HTTP/1.0"}, 0, id="http-1.0"
        ),
        pytest.param(
            {"wsgi.input_terminated": True, "SERVER_PROTOCOL": "HTTP/2"}, None, id="http-2"
        ),
        pytest.param(
            {"wsgi.input_terminated": True, "SERVER_PROTOCOL": "HTTP/3.0", "CONTENT_LENGTH": "5"},
            5,
            id="http-3-with-length",
        ),
        pytest.param({"SERVER_PROTOCOL": "HTTP/2"}, 0, id="http-2-not-terminated"),
        pytest.param(CHUNKED, None, id="chunked"),
        pytest.param({**CHUNKED, "CONTENT_LENGTH": "5"}, None, id="chunked-outweighs-length"),
        pytest.param({"HTTP_TRANSFER_ENCODING": ""}, 0, id="transfer-encoding-empty"),
        pytest.param({"REQUEST_METHOD": "POST"}, 0, id="post-of-http-1.1"),
        pytest.param({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "0"}, 0, id="post-of-length-0"),
    ],
)
def test_request_body_tells_its_length_without_reading(
    environ: dict[str, Any], length: int | None
) -> None:
    assert body_of(environ, KeepAlive(b"")).length == length


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"CONTENT_LENGTH": "x"}, id="letter"),
        pytest.param({"CONTENT_LENGTH": "-1"}, id="negative"),
        pytest.param({"CONTENT_LENGTH": "+1"}, id="sign"),
        pytest.param({"CONTENT_LENGTH": "1_0"}, id="underscore"),
        pytest.param({"CONTENT_LENGTH": "0x1"}, id="hexadecimal"),
        pytest.param({"CONTENT_LENGTH": "1.0"}, id="point"),
        pytest.param({"CONTENT_LENGTH": " 1"}, id="space"),
        pytest.param({"CONTENT_LENGTH": "1\n"}, id="newline"),
        pytest.param({"CONTENT_LENGTH": "5, 5"}, id="list"),
        pytest.param({"CONTENT_LENGTH": "\xb2"}, id="superscript"),
        pytest.param({"CONTENT_LENGTH": "\u0661"}, id="arabic-digit"),
        pytest.param({"CONTENT_LENGTH": "1" * 19}, id="19-digits"),
        pytest.param({"CONTENT_LENGTH": "9" * 100_000}, id="100000-digits"),
        pytest.param({"HTTP_TRANSFER_ENCODING": "chunked"}, id="chunked-not-terminated"),
        pytest.param(
            {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": False},
            id="chunked-terminated-is-false",
        ),
        pytest.param(
            {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "5"}, id="chunked-and-length"
        ),
        pytest.param({"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/2"}, id="post-of-http-2"),
        pytest.param(
            {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/3.0", "CONTENT_LENGTH": ""},
            id="post-of-http-3",
        ),
    ],
)
def test_request_body_refuses_a_length_that_cannot_be_told_without_reading(
    environ: dict[str, Any],
) -> None:
    body = body_of(environ, KeepAlive(b""))
    with pytest.raises(ContentLengthInvalid) as caught:
        body.accept()
    body.discard()
    assert (caught.value.reason, caught.value.status[:3]) == ("content_length_invalid", "400")


# The media type.


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/json", id="plain"),
        pytest.param("Application/JSON", id="any-case"),
        pytest.param("application/json;charset=utf-8", id="charset"),
        pytest.param("application/json; charset=UTF-8", id="charset-after-space"),
        pytest.param("application/json \t;\t charset=utf-8 \t", id="space-and-tab"),
        pytest.param('application/json; charset="utf-8"', id="quoted"),
        pytest.param(r'application/json; a="b\"; c\\"', id="escapes-in-quotes"),
        pytest.param('application/json; a=""', id="quoted-empty"),
        pytest.param('application/json; a="b, c"', id="comma-in-quotes"),
        pytest.param("application/json; a=b; c=d;e=f", id="more-parameters"),
        pytest.param("application/json;", id="semicolon-at-the-end"),
        pytest.param("application/json; ; a=b;;", id="empty-parameters"),
        pytest.param("application/json ", id="space-at-the-end"),
        pytest.param("application/json" + " " * 100_000, id="many-spaces"),
        pytest.param("application/json" + ";" * 100_000, id="many-semicolons"),
        pytest.param("application/json" + "; a=b" * 20_000, id="many-parameters"),
    ],
)
def test_request_body_accepts_json_by_its_content_type(content_type: str) -> None:
    assert relayed(declared(2, b"{}", content_type=content_type)) == b"{}"


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("", id="none"),
        pytest.param("text/plain", id="text"),
        pytest.param("multipart/form-data; boundary=a", id="multipart"),
        pytest.param("application/x-www-form-urlencoded", id="form"),
        pytest.param("application/octet-stream", id="bytes"),
        pytest.param("application/jsonp", id="longer"),
        pytest.param("application/jso", id="shorter"),
        pytest.param("application/json-patch+json", id="json-patch"),
        pytest.param("application/vnd.a+json", id="json-suffix"),
        pytest.param("text/json", id="text-json"),
        pytest.param("xapplication/json", id="longer-type"),
        pytest.param("application / json", id="spaces-around-slash"),
        pytest.param(" application/json", id="space-first"),
        pytest.param("application/json\n", id="newline"),
        pytest.param("application/json; a=b\n", id="newline-after-parameter"),
        pytest.param("application/json\x0b; a=b", id="vertical-tab"),
        pytest.param("application/json charset=utf-8", id="no-semicolon"),
        pytest.param("application/json; charset", id="parameter-without-value"),
        pytest.param("application/json; charset=", id="parameter-with-empty-value"),
        pytest.param("application/json; =utf-8", id="parameter-without-name"),
        pytest.param("application/json; charset = utf-8", id="spaces-around-equals"),
        pytest.param('application/json; a="b', id="quote-not-closed"),
        pytest.param('application/json; a="b\\"', id="quote-closed-by-an-escape"),
        pytest.param('application/json; a="b"c', id="text-after-quotes"),
        pytest.param("application/json, application/json", id="two"),
        pytest.param("application/json,text/plain", id="two-second-other"),
        pytest.param("text/plain, application/json", id="two-first-other"),
        pytest.param("text/plain; a=application/json", id="json-as-parameter"),
        pytest.param('application/json; a="b", text/plain; c="d"', id="two-with-quotes"),
        pytest.param("application/j\u017fon", id="long-s"),
        pytest.param("application/json" + " " * 100_000 + "x", id="many-spaces"),
        pytest.param("application/json;" + " \t" * 50_000 + "\x00", id="many-spaces-and-tabs"),
        pytest.param("application/json" + " ; " * 33_000 + "x", id="many-semicolons-and-spaces"),
        pytest.param("application/json" + "; a=b" * 20_000 + "\x00", id="many-parameters"),
        pytest.param("application/json; " + "a" * 100_000, id="long-name"),
        pytest.param('application/json; a="' + "\\" * 100_000, id="many-escapes"),
        pytest.param('application/json; a="' + "b" * 100_000, id="long-quote-not-closed"),
    ],
)
def test_request_body_refuses_what_is_not_json_by_its_content_type(content_type: str) -> None:
    body = declared(2, b"{}", content_type=content_type)
    with pytest.raises(UnsupportedMediaType) as caught:
        body.accept()
    assert (caught.value.reason, caught.value.status[:3]) == ("unsupported_media_type", "415")


def test_request_body_without_content_type_is_refused() -> None:
    body = RequestBody({"CONTENT_LENGTH": "2", "wsgi.input": io.BytesIO(b"{}")}, MAX)
    with pytest.raises(UnsupportedMediaType):
        body.accept()


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("", id="none"),
        pytest.param("application/json", id="json"),
        pytest.param("text/plain", id="text"),
    ],
)
def test_request_body_that_is_empty_may_have_any_content_type(content_type: str) -> None:
    assert relayed(declared(0, KeepAlive(b""), content_type=content_type)) == b""


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_request_body_refuses_a_content_type_that_is_not_text(content: bytes) -> None:
    two = ["application/json", "application/json"]
    body = body_of({"CONTENT_LENGTH": str(len(content)), "CONTENT_TYPE": two}, content)
    with pytest.raises(UnsupportedMediaType):
        body.accept()


def test_request_body_that_is_chunked_and_empty_may_have_any_content_type() -> None:
    body = chunked(b"", CONTENT_TYPE="text/plain")
    assert relayed(body) == b""
    assert body.length == 0


def test_request_body_that_is_chunked_and_not_json_is_refused() -> None:
    body = chunked(b"{}", CONTENT_TYPE="text/plain")
    with pytest.raises(UnsupportedMediaType):
        body.accept()


# Bodies that are relayed.

around_the_bounds = pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, id="one-byte"),
        pytest.param(PIECE_BYTES - 1, id="less-than-a-piece"),
        pytest.param(PIECE_BYTES, id="one-piece"),
        pytest.param(PIECE_BYTES + 1, id="more-than-a-piece"),
        pytest.param(2 * PIECE_BYTES, id="two-pieces"),
        pytest.param(len(LONG), id="many-pieces"),
    ],
)


@around_the_bounds
def test_request_body_of_a_declared_length_is_relayed_and_nothing_after_it(size: int) -> None:
    assert relayed(declared(size, KeepAlive(LONG[:size]))) == LONG[:size]


@around_the_bounds
def test_request_body_that_is_chunked_is_relayed(size: int) -> None:
    assert relayed(chunked(LONG[:size])) == LONG[:size]


@around_the_bounds
def test_request_body_of_http_2_without_a_length_is_relayed(size: int) -> None:
    environ = {"wsgi.input_terminated": True, "SERVER_PROTOCOL": "HTTP/2"}
    assert relayed(body_of(environ, LONG[:size])) == LONG[:size]


@pytest.mark.parametrize(
    "at_most",
    [
        pytest.param(7, id="seven-bytes"),
        pytest.param(PIECE_BYTES - 1, id="nearly-a-piece"),
    ],
)
def test_request_body_of_a_declared_length_does_not_end_with_a_short_read(at_most: int) -> None:
    assert relayed(declared(len(LONG), ShortReads(LONG + b"next", at_most))) == LONG


@pytest.mark.parametrize(
    "at_most",
    [
        pytest.param(7, id="seven-bytes"),
        pytest.param(PIECE_BYTES - 1, id="nearly-a-piece"),
    ],
)
def test_request_body_that_is_chunked_does_not_end_with_a_short_read(at_most: int) -> None:
    assert relayed(chunked(ShortReads(LONG, at_most))) == LONG


@pytest.mark.parametrize("environ", [{"CONTENT_LENGTH": "9"}, CHUNKED])
def test_request_body_refuses_an_input_that_gives_more_than_it_is_asked_for(
    environ: dict[str, Any],
) -> None:
    asked: list[int] = []
    given = iter([b"{}", b" " * PIECE_BYTES])

    class Generous:
        def read(self, size: int) -> bytes:
            asked.append(size)
            return next(given, b"")

    body = body_of(environ, Generous())
    with pytest.raises(BodyIncomplete, match="more of the request body than the proxy asked for"):
        relayed(body)
    body.discard()
    assert len(asked) == 2


def test_request_body_is_relayed_in_pieces() -> None:
    body = declared(len(LONG), KeepAlive(LONG))
    body.accept()
    sizes = [len(body.read_ahead()), *map(len, body.rest())]
    assert sizes == [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, len(LONG) - 3 * PIECE_BYTES]


def test_request_body_that_is_chunked_is_relayed_in_pieces() -> None:
    body = chunked(LONG)
    body.accept()
    sizes = [len(body.read_ahead()), *map(len, body.rest())]
    assert sizes == [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, len(LONG) - 3 * PIECE_BYTES]


def test_request_body_of_a_declared_length_is_accepted_without_reading() -> None:
    body = declared(2, KeepAlive(b""))
    body.accept()
    assert body.length == 2


def test_request_body_that_is_chunked_and_small_has_a_length_once_accepted() -> None:
    body = chunked(b"{}")
    body.accept()
    assert body.length == 2


def test_request_body_that_is_chunked_and_large_has_no_length() -> None:
    body = chunked(LONG)
    body.accept()
    assert body.length is None


def test_request_body_reads_its_first_piece_once() -> None:
    body = declared(2, KeepAlive(b"{}"))
    assert (body.read_ahead(), body.read_ahead()) == (b"{}", b"{}")


# Bodies that are too large.


@pytest.mark.parametrize(
    "maximum",
    [
        pytest.param(0, id="0"),
        pytest.param(1, id="1"),
        pytest.param(PIECE_BYTES - 2, id="less-than-a-piece"),
        pytest.param(PIECE_BYTES - 1, id="one-byte-less-than-a-piece"),
        pytest.param(PIECE_BYTES, id="one-piece"),
        pytest.param(PIECE_BYTES + 1, id="one-byte-more-than-a-piece"),
        pytest.param(2 * PIECE_BYTES, id="two-pieces"),
    ],
)
def test_request_body_as_large_as_the_maximum_is_relayed(maximum: int) -> None:
    assert relayed(declared(maximum, LONG[:maximum], maximum)) == LONG[:maximum]
    assert relayed(chunked(LONG[:maximum], maximum)) == LONG[:maximum]


@pytest.mark.parametrize(
    "maximum",
    [
        pytest.param(0, id="0"),
        pytest.param(1, id="1"),
        pytest.param(PIECE_BYTES, id="one-piece"),
        pytest.param(2 * PIECE_BYTES, id="two-pieces"),
    ],
)
def test_request_body_declared_larger_than_the_maximum_is_refused_without_reading(
    maximum: int,
) -> None:
    body = declared(maximum + 1, KeepAlive(b""), maximum)
    with pytest.raises(BodyTooLarge) as caught:
        body.accept()
    assert (caught.value.reason, caught.value.status[:3]) == ("body_too_large", "413")
    assert f" {maximum} bytes" in caught.value.detail


def test_request_body_decides_the_media_type_before_the_size() -> None:
    body = declared(2, KeepAlive(b""), 1, content_type="text/plain")
    with pytest.raises(UnsupportedMediaType):
        body.accept()


@pytest.mark.parametrize(
    ("maximum", "size"),
    [
        pytest.param(0, 1, id="0"),
        pytest.param(1, 2, id="1"),
        pytest.param(1, len(LONG), id="1-much-larger"),
        pytest.param(PIECE_BYTES - 2, PIECE_BYTES - 1, id="less-than-a-piece"),
        pytest.param(PIECE_BYTES - 2, len(LONG), id="less-than-a-piece-much-larger"),
        pytest.param(PIECE_BYTES - 1, PIECE_BYTES, id="one-byte-less-than-a-piece"),
        pytest.param(PIECE_BYTES - 1, len(LONG), id="one-byte-less-than-a-piece-much-larger"),
        pytest.param(PIECE_BYTES, PIECE_BYTES + 1, id="one-piece"),
        pytest.param(PIECE_BYTES, len(LONG), id="one-piece-much-larger"),
        pytest.param(PIECE_BYTES + 1, PIECE_BYTES + 2, id="one-byte-more-than-a-piece"),
        pytest.param(2 * PIECE_BYTES - 1, 2 * PIECE_BYTES, id="one-byte-less-than-two-pieces"),
        pytest.param(2 * PIECE_BYTES, 2 * PIECE_BYTES + 1, id="two-pieces"),
        pytest.param(2 * PIECE_BYTES, len(LONG), id="two-pieces-much-larger"),
    ],
)
def test_request_body_that_is_chunked_and_larger_than_the_maximum_is_refused(
    maximum: int, size: int
) -> None:
    with pytest.raises(BodyTooLarge) as caught:
        relayed(chunked(LONG[:size], maximum))
    assert (caught.value.reason, caught.value.status[:3]) == ("body_too_large", "413")


def test_request_body_that_is_chunked_is_read_one_byte_over_the_maximum_at_most() -> None:
    source = io.BytesIO(LONG)
    with pytest.raises(BodyTooLarge):
        relayed(chunked(source, 100_000))
    assert source.tell() == 100_001


# Bodies that are not whole.


@pytest.mark.parametrize(
    ("length", "content"),
    [
        pytest.param(2, b"", id="nothing"),
        pytest.param(2, b"{", id="one-byte-less"),
        pytest.param(PIECE_BYTES, LONG[: PIECE_BYTES - 1], id="one-byte-less-than-a-piece"),
    ],
)
def test_request_body_that_is_small_and_ends_early_is_refused_before_it_is_sent(
    length: int, content: bytes
) -> None:
    body = declared(length, content)
    body.accept()
    with pytest.raises(BodyIncomplete) as caught:
        body.read_ahead()
    assert (caught.value.reason, caught.value.status[:3]) == ("body_incomplete", "400")


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(PIECE_BYTES, id="between-pieces"),
        pytest.param(PIECE_BYTES + 1, id="in-a-piece"),
        pytest.param(len(LONG) - 1, id="one-byte-less"),
    ],
)
def test_request_body_that_is_large_and_ends_early_is_incomplete(size: int) -> None:
    body = declared(len(LONG), LONG[:size])
    assert len(body.read_ahead()) == PIECE_BYTES
    with pytest.raises(BodyIncomplete):
        list(body.rest())


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError, id="os-error"),
        pytest.param(ConnectionResetError, id="reset"),
        pytest.param(TimeoutError, id="timeout"),
        pytest.param(ValueError, id="value-error"),
        pytest.param(EOFError, id="eof"),
    ],
)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="at-once"),
        pytest.param(1, id="in-the-first-piece"),
        pytest.param(PIECE_BYTES, id="between-pieces"),
        pytest.param(PIECE_BYTES + 1, id="in-a-later-piece"),
    ],
)
@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"CONTENT_LENGTH": str(len(LONG))}, id="declared"),
        pytest.param(CHUNKED, id="chunked"),
    ],
)
def test_request_body_that_cannot_be_read_is_incomplete(
    environ: dict[str, Any], size: int, error: type[Exception]
) -> None:
    body = body_of(environ, Breaking(LONG[:size], error))
    with pytest.raises(BodyIncomplete) as caught:
        relayed(body)
    assert caught.value.reason == "body_incomplete"
    assert isinstance(caught.value.__cause__, error)


def test_request_body_does_not_swallow_the_exit_of_the_server() -> None:
    class Exiting:
        def read(self, size: int) -> bytes:
            raise SystemExit(size)

    with pytest.raises(SystemExit):
        declared(2, Exiting()).read_ahead()
    with pytest.raises(SystemExit):
        declared(2, Exiting()).discard()


# Bodies that are refused, and what is left of them.


def read_by_discard(body: RequestBody, source: io.BytesIO) -> int:
    before = source.tell()
    body.discard()
    return source.tell() - before


@pytest.mark.parametrize(
    ("length", "maximum", "count"),
    [
        pytest.param(0, MAX, 0, id="no-body"),
        pytest.param(2, MAX, 2, id="small"),
        pytest.param(PIECE_BYTES + 1, MAX, PIECE_BYTES + 1, id="large"),
        pytest.param(200_000, 200_000, 200_000, id="as-large-as-the-maximum"),
        pytest.param(200_000, 199_999, 200_000, id="larger-than-the-maximum"),
        pytest.param(1_048_576, 0, 1_048_576, id="1-MiB"),
        pytest.param(1_048_577, 2_000_000, 0, id="more-than-1-MiB"),
        pytest.param(3_000_000, 0, 0, id="nothing-accepted"),
    ],
)
def test_request_body_that_was_not_read_is_discarded(length: int, maximum: int, count: int) -> None:
    source = io.BytesIO(bytes(length))
    assert read_by_discard(declared(length, source, maximum), source) == count


def test_request_body_of_64_gib_is_not_read() -> None:
    body = declared(64 << 30, KeepAlive(b""))
    with pytest.raises(BodyTooLarge):
        body.accept()
    body.discard()


def test_request_body_that_is_chunked_is_discarded_up_to_1_mib() -> None:
    source = io.BytesIO(bytes(3_000_000))
    assert read_by_discard(chunked(source, 3_000_000), source) == 1_048_576


@pytest.mark.parametrize("make", [declared, lambda _, source, most: chunked(source, most)])
def test_request_body_of_an_authorized_caller_is_discarded_up_to_the_maximum(
    make: Callable[[int, Input, int], RequestBody],
) -> None:
    source = io.BytesIO(bytes(3_000_000))
    body = make(3_000_000, source, 3_000_000)
    body.accept()
    body.read_ahead()
    body.is_authorized = True
    body.discard()
    assert source.tell() == 3_000_000


@pytest.mark.parametrize("length", [9, 100_000], ids=["small", "large"])
def test_request_body_discard_ends_the_input_when_its_time_is_over(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "_DISCARD_SECONDS", 0.05)
    server, client = socket.socketpair()
    with server, client, server.makefile("rb") as source:
        client.sendall(b"a")
        body = declared(length, source)
        body.discard(lambda: server.shutdown(socket.SHUT_RD))  # or it waits for ever
    assert list(body.rest()) == []


def test_request_body_discard_leaves_an_input_alone_that_is_in_time() -> None:
    ended: list[None] = []
    body = declared(2, b"{}")
    body.discard(lambda: ended.append(None))
    assert (body.first, ended) == (b"{}", [])


def test_request_body_discard_reads_nothing_past_it() -> None:
    source = KeepAlive(LONG)
    declared(len(LONG), source).discard()
    assert source.left == 0


def test_request_body_discard_takes_the_rest_of_a_body_in_part_read() -> None:
    source = KeepAlive(LONG)
    body = declared(len(LONG), source)
    body.read_ahead()
    body.discard()
    assert source.left == 0


def test_request_body_discard_reads_nothing_if_it_was_read() -> None:
    body = declared(len(LONG), KeepAlive(LONG))
    relayed(body)
    body.discard()
    assert list(body.rest()) == []


def test_request_body_discard_twice_reads_once() -> None:
    source = io.BytesIO(LONG)
    body = declared(10, source)
    body.discard()
    assert read_by_discard(body, source) == 0


def test_request_body_discard_reads_as_much_of_chunks_as_is_accepted() -> None:
    source = io.BytesIO(LONG)
    assert read_by_discard(chunked(source, 100_000), source) == 100_001


def test_request_body_discard_of_chunks_ends_where_they_end() -> None:
    source = io.BytesIO(b"{}")
    assert read_by_discard(chunked(source), source) == 2


def test_request_body_discard_goes_on_after_a_short_read() -> None:
    source = ShortReads(LONG, 1_000)
    declared(len(LONG), source).discard()
    assert source.read(1) == b""


def test_request_body_discard_raises_nothing_if_it_cannot_be_read() -> None:
    body = declared(len(LONG), Breaking(b"a"))
    body.discard()
    assert list(body.rest()) == []


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(lambda: Breaking(b"a"), id="broken"),
        pytest.param(lambda: io.BytesIO(b"a"), id="ended-early"),
    ],
)
def test_request_body_does_not_read_an_input_again_that_failed(
    failing: Callable[[], Input],
) -> None:
    body = declared(9, failing())
    with pytest.raises(BodyIncomplete):
        body.read_ahead()
    assert list(body.rest()) == []


@pytest.mark.parametrize(
    ("size", "bound"),
    [
        pytest.param(PIECE_BYTES, 1_048_576, id="read-at-once"),
        pytest.param(PIECE_BYTES + 1, PIECE_BYTES, id="read-in-pieces"),
    ],
)
def test_request_body_has_gunicorn_read_no_further_ahead_than_one_piece(
    size: int, bound: int
) -> None:
    source = io.BytesIO(bytes(size))
    unreader = SimpleNamespace(max_body_chunk=1_048_576)
    gunicorns = SimpleNamespace(read=source.read, reader=SimpleNamespace(unreader=unreader))
    body = declared(size, gunicorns, MAX)
    body.accept()
    body.read_ahead()
    assert unreader.max_body_chunk == bound


# What others read, before the proxy and after it.


def input_left(environ: dict[str, Any]) -> bytes:
    left: bytes = environ["wsgi.input"].read()
    assert environ["wsgi.input_terminated"]
    return left


def environ_of(content: Input | bytes, **environ: Any) -> dict[str, Any]:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    return {"CONTENT_TYPE": "application/json", **environ, "wsgi.input": source}


@pytest.mark.parametrize("size", [1, 2, PIECE_BYTES])
def test_request_body_that_is_small_is_given_again_once_its_first_piece_was_read(size: int) -> None:
    environ = environ_of(KeepAlive(LONG[:size]), CONTENT_LENGTH=str(size))
    body = RequestBody(environ, MAX)
    body.accept()
    body.read_ahead()
    assert input_left(environ) == LONG[:size]
    assert list(body.rest()) == []


def test_request_body_that_is_large_is_relayed_although_others_read_the_input() -> None:
    environ = environ_of(KeepAlive(LONG), CONTENT_LENGTH=str(len(LONG)))
    body = RequestBody(environ, MAX)
    body.accept()
    first = body.read_ahead()
    assert input_left(environ) == b""
    assert first + b"".join(body.rest()) == LONG
    assert input_left(environ) == b""


@pytest.mark.parametrize(("size", "left"), [(2, LONG[:2]), (len(LONG), b"")])
def test_request_body_that_is_chunked_is_given_again_if_it_is_small(size: int, left: bytes) -> None:
    environ = environ_of(LONG[:size], **CHUNKED)
    body = RequestBody(environ, MAX)
    body.accept()
    assert input_left(environ) == left
    assert body.read_ahead() + b"".join(body.rest()) == LONG[:size]


@pytest.mark.parametrize(
    ("length", "size", "left"),
    [
        pytest.param(2, 2, LONG[:2], id="small"),
        pytest.param(len(LONG), len(LONG), b"", id="large"),
        pytest.param(9, 2, b"", id="incomplete"),
    ],
)
def test_request_body_that_is_discarded_leaves_an_input_that_ends(
    length: int, size: int, left: bytes
) -> None:
    environ = environ_of(LONG[:size], CONTENT_LENGTH=str(length))
    RequestBody(environ, MAX).discard()
    assert input_left(environ) == left


def test_request_body_that_is_empty_leaves_the_input_alone() -> None:
    environ = environ_of(KeepAlive(b""), CONTENT_LENGTH="0")
    source = environ["wsgi.input"]
    body = RequestBody(environ, MAX)
    body.accept()
    body.read_ahead()
    body.discard()
    assert environ["wsgi.input"] is source


@pytest.mark.parametrize("position", [1, 9])
def test_request_body_is_read_from_its_beginning_if_others_have_read_it(position: int) -> None:
    environ = environ_of(b'{"a": 12}', CONTENT_LENGTH="9")
    environ["wsgi.input"].seek(position)
    body = RequestBody(environ, MAX)
    assert body.read_ahead() == b'{"a": 12}'
    assert (body.taken, body.unread) == (9, 0)


def test_request_body_uses_an_input_that_was_put_in_place_after_it_was_made() -> None:
    environ = environ_of(KeepAlive(b""), CONTENT_LENGTH="2")
    body = RequestBody(environ, MAX)
    environ["wsgi.input"] = io.BytesIO(b"{}")
    assert body.read_ahead() == b"{}"


def flask_view_environ(request: Request) -> dict[str, Any]:
    """Copy, as `Response.from_app` does."""
    return dict(request.environ)


def test_request_body_uses_what_werkzeug_holds_and_reads_no_further() -> None:
    request = Request(environ_of(KeepAlive(b"{}"), CONTENT_LENGTH="2"))
    assert request.get_data() == b"{}"
    assert RequestBody(flask_view_environ(request), MAX).read_ahead() == b"{}"


def test_request_body_that_werkzeug_did_not_keep_is_incomplete() -> None:
    request = Request(environ_of(KeepAlive(b"{}"), CONTENT_LENGTH="2"))
    assert request.get_data(cache=False) == b"{}"
    with pytest.raises(BodyIncomplete):
        RequestBody(flask_view_environ(request), MAX).read_ahead()


def test_request_body_of_a_middleware_outweighs_what_werkzeug_holds() -> None:
    request = Request(environ_of(KeepAlive(b"{}"), CONTENT_LENGTH="2"))
    request.get_data()
    environ = flask_view_environ(request) | {"wsgi.input": KeepAlive(b"[]")}
    assert RequestBody(environ, MAX).read_ahead() == b"[]"


def test_request_body_is_given_to_werkzeug_again() -> None:
    request = Request(environ_of(KeepAlive(b"{}"), CONTENT_LENGTH="2"))
    assert request.form.get("token") is None  # wraps the input, and does not read it
    assert RequestBody(flask_view_environ(request), MAX).read_ahead() == b"{}"
    assert request.get_data() == b"{}"


# Servers that hide how long a body is.


class Ending:
    """An input that ends where the body does, of a server that does not say so."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def of_module(name: str) -> type[Ending]:
    return type("Input", (Ending,), {"__module__": name})


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2", "HTTP/3"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(io.BytesIO, id="memory"),
        pytest.param(of_module("a2wsgi.wsgi"), id="a2wsgi"),
        pytest.param(of_module("modal._vendor.a2wsgi_wsgi"), id="modal"),
        pytest.param(of_module("_pyvoy.wsgi"), id="pyvoy"),
        pytest.param(of_module("tempfile"), id="asgiref"),
    ],
)
@pytest.mark.parametrize("size", [2, PIECE_BYTES, len(LONG)])
def test_request_body_that_a_server_does_not_declare_is_relayed_where_the_input_ends(
    kind: Callable[[bytes], Input], size: int, protocol: str
) -> None:
    post = {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": protocol}
    assert relayed(body_of(post, kind(LONG[:size]))) == LONG[:size]


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"SERVER_PROTOCOL": "HTTP/2"}, id="http-2"),
        pytest.param({"HTTP_TRANSFER_ENCODING": "chunked"}, id="chunked"),
    ],
)
def test_request_body_that_is_not_there_is_refused_where_it_may_be_lost(
    environ: dict[str, Any],
) -> None:
    body = body_of({"REQUEST_METHOD": "POST", **environ}, of_module("a2wsgi.wsgi")(b""))
    with pytest.raises(ContentLengthInvalid):
        body.accept()


def test_request_body_of_http_1_1_may_be_empty_where_it_is_not_declared() -> None:
    body = body_of({"REQUEST_METHOD": "POST"}, of_module("_pyvoy.wsgi")(b""))
    assert relayed(body) == b""
    assert body.length == 0

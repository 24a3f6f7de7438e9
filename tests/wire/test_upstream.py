"""The connection to fal, over real sockets: what goes up, and how answers come down.

What fails, and how, is in `test_faults`, too.
"""

from __future__ import annotations

import gc
import gzip
import io
import select
import socket
import ssl
import threading
import zlib
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import urllib3
import webtest
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from tests.support.environs import RUN, TARGET, answer_to
from tests.support.raw_server import (
    WAIT_SECONDS,
    Connection,
    RawServer,
    Script,
    answering,
    close_connections,
)
from wsgi_fal_proxy import FalProxy, SettingsError
from wsgi_fal_proxy._upstream import connect
from wsgi_fal_proxy._upstream.call import Call
from wsgi_fal_proxy._upstream.connect import connection_class
from wsgi_fal_proxy._upstream.pool import _pool_class
from wsgi_fal_proxy._upstream.wire import receive, send_all
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_fal_proxy.testing import FakeFal

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = {"Content-Type": "application/json"}


def proxy_to(server: RawServer, directory: Path, **options: Any) -> FalProxy:
    options = {"key": "k", "pool_manager": server.pool_manager(directory), **options}
    return FalProxy(**options)


def get(proxy: FalProxy, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    return answer_to(proxy, **({"HTTP_X_FAL_TARGET_URL": RUN} | environ))


def post(proxy: FalProxy, body: bytes, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    defaults: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    return get(proxy, **(defaults | environ))


# What goes up.


def test_upstream_sends_these_bytes(tmp_path: Path) -> None:
    requests: list[bytes] = []

    def script(connection: Connection) -> None:
        head, content = connection.read_request()
        requests.append(head + content)
        connection.send(OK)

    with RawServer(script) as server:
        post(proxy_to(server, tmp_path), b"[1]", HTTP_USER_AGENT="test")
    version = requests[0].partition(b"wsgi-fal-proxy/")[2].partition(b"\r\n")[0]
    assert requests == [
        b"POST /fal-ai/flux/dev HTTP/1.1\r\n"
        b"Host: fal.run\r\n"
        b"Authorization: Key k\r\n"
        b"Accept-Encoding: identity\r\n"
        b"X-Fal-Client-Proxy: wsgi-fal-proxy/" + version + b"\r\n"
        b"Accept: application/json\r\n"
        b"Content-Type: application/json\r\n"
        b"User-Agent: test\r\n"
        b"Content-Length: 3\r\n\r\n[1]"
    ]


@pytest.mark.parametrize(("method", "expected"), [("GET", False), ("POST", True)])
def test_upstream_says_where_a_method_expects_content_that_there_is_none(
    tmp_path: Path, method: str, expected: bool
) -> None:
    heads: list[bytes] = []

    def script(connection: Connection) -> None:
        heads.append(connection.read_head())
        connection.send(OK)

    with RawServer(script) as server:
        get(proxy_to(server, tmp_path), REQUEST_METHOD=method)
    assert (b"Content-Length: 0\r\n" in heads[0]) is expected


def test_upstream_sends_a_large_body_whole(tmp_path: Path) -> None:
    body = bytes(range(256)) * 4_000
    received: list[bytes] = []

    def script(connection: Connection) -> None:
        received.append(connection.read_request()[1])
        connection.send(OK)

    with RawServer(script) as server:
        assert post(proxy_to(server, tmp_path), body)[0] == "200 OK"
    assert received == [body]


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 200_000])
def test_upstream_sends_a_body_of_unknown_length_whole(tmp_path: Path, size: int) -> None:
    body = b"x" * size
    received: list[bytes] = []

    def script(connection: Connection) -> None:
        head = connection.read_head()
        if b"Transfer-Encoding: chunked" not in head:
            received.append(connection.read(size))
        else:
            content = b""
            while length := int(connection.read_line(), 16):
                content += connection.read(length)
                assert connection.read(2) == b"\r\n"
            assert connection.read(2) == b"\r\n"
            received.append(content)
        connection.send(OK)

    with RawServer(script) as server:
        status, _, _ = post(
            proxy_to(server, tmp_path),
            body,
            CONTENT_LENGTH="",
            HTTP_TRANSFER_ENCODING="chunked",
            **{"wsgi.input_terminated": True},
        )
    assert status == "200 OK"
    assert received == [body]


def test_upstream_sends_whole_what_the_system_takes_in_parts() -> None:
    data = bytes(range(256)) * 20_000
    received = bytearray()
    ours, theirs = socket.socketpair()

    def receive() -> None:
        while piece := theirs.recv(65_536):
            received.extend(piece)

    with theirs:
        reader = threading.Thread(target=receive)
        reader.start()
        with ours:
            ours.settimeout(WAIT_SECONDS)
            send_all(ours, data, WAIT_SECONDS)
        reader.join()
    assert received == data


@pytest.mark.parametrize("sent", [0, 10, 65_536, 99_999])
def test_upstream_never_completes_a_body_that_the_client_did_not_finish(
    tmp_path: Path, sent: int
) -> None:
    cut_off: list[bool] = []

    def script(connection: Connection) -> None:
        # By the end of the stream or by a reset, as TLS's own bytes were read or not.
        with pytest.raises(ConnectionError):
            connection.read_request()
        cut_off.append(True)

    with RawServer(script) as server:
        status, headers, _ = post(proxy_to(server, tmp_path), b"x" * sent, CONTENT_LENGTH="100000")
    assert (status, headers["x-fal-proxy-error"]) == ("400 Bad Request", "body_incomplete")
    assert cut_off == ([] if sent < 65_536 else [True])


def test_upstream_never_completes_an_undeclared_body_over_the_bound(tmp_path: Path) -> None:
    ended = threading.Event()

    def script(connection: Connection) -> None:
        connection.wait_for_close()
        ended.set()

    with RawServer(script) as server:
        status, headers, _ = post(
            proxy_to(server, tmp_path, max_body_bytes=100_000),
            b"x" * 200_000,
            CONTENT_LENGTH="",
            HTTP_TRANSFER_ENCODING="chunked",
            **{"wsgi.input_terminated": True},
        )
        assert ended.wait(WAIT_SECONDS)
    assert (status, headers["x-fal-proxy-error"]) == ("413 Content Too Large", "body_too_large")


def test_upstream_relays_an_answer_that_comes_before_the_body_is_sent(tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        # Makes a close that is not a reset, so that the answer can be read.
        connection.sock.shutdown(socket.SHUT_WR)
        connection.wait_for_close()

    with RawServer(script, tls=False) as server:
        proxy = proxy_to(server, tmp_path)
        assert post(proxy, b"x" * 10_000_000)[0] == "413 Too Large"
        close_connections(proxy)


def test_upstream_stops_sending_when_fal_hangs_up_and_relays_its_answer(tmp_path: Path) -> None:
    answered = threading.Event()

    class Body(io.BytesIO):
        """Goes on when the answer is already here and the connection closed."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                assert answered.wait(WAIT_SECONDS)
            return super().read(size)

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read(65_536)
        connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        connection.sock.close()
        answered.set()

    body = b"x" * 1_000_000
    with RawServer(script, tls=False) as server:
        status, _, _ = post(proxy_to(server, tmp_path), body, **{"wsgi.input": Body(body)})
    # Whether the answer outlives the reset is up to the system; it is never an exception.
    assert status in {"401 No", "502 Bad Gateway"}


# How connections are kept.


def test_pool_keeps_connections_and_uses_them_again(tmp_path: Path) -> None:
    chunked = CHUNKED + b"2\r\nhi\r\n0\r\nTrailer: dropped\r\n\r\n"
    with RawServer(answering(OK, chunked, OK)) as server:
        proxy = proxy_to(server, tmp_path)
        contents = [get(proxy)[2] for _ in range(3)]
    assert contents == [b"{}", b"hi", b"{}"]
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"excess",
        CHUNKED + b"2\r\n{}\r\n0\r\n\r\nexcess",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
    ],
    ids=["close", "HTTP/1.0", "excess", "excess after chunks", "until close"],
)
def test_pool_does_not_keep_a_connection_that_cannot_be_used_again(
    tmp_path: Path, answer: bytes
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer)
        # The end of TLS, then of TCP; a request that came all the same would be a failure.
        connection.end()

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        contents = [get(proxy)[2] for _ in range(2)]
    assert contents == [b"{}", b"{}"]
    assert server.connections == 2


POLL = "https://queue.fal.run/fal-ai/flux/requests/1/status"


def test_retry_of_a_poll_on_a_kept_connection_that_was_closed_is_one(tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        if connection.number == 1:
            connection.read_head()  # the second request, which is not answered

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        statuses = [get(proxy, HTTP_X_FAL_TARGET_URL=POLL)[0] for _ in range(2)]
    assert statuses == ["200 OK", "200 OK"]
    assert server.connections == 2


def test_retry_is_not_for_a_get_that_runs_an_endpoint(tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        connection.read_head()  # fal may have run it, although it does not answer

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        assert get(proxy)[0] == "200 OK"
        assert get(proxy)[1]["x-fal-proxy-error"] == "upstream_closed"
    assert server.connections == 1


def test_retry_is_not_for_a_post_on_a_kept_connection_that_was_closed(tmp_path: Path) -> None:
    requests: list[bytes] = []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        requests.append(connection.read_head())

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        assert get(proxy)[0] == "200 OK"
        status, headers, _ = post(proxy, b"{}")
    assert (status, headers["x-fal-proxy-error"]) == (
        "500 Internal Server Error",
        "upstream_closed",
    )
    assert len(requests) == 1
    assert server.connections == 1


def test_retry_is_not_for_a_get_on_a_new_connection(tmp_path: Path) -> None:
    with RawServer(closing) as server:
        assert get(proxy_to(server, tmp_path))[1]["x-fal-proxy-error"] == "upstream_closed"
    assert server.connections == 1


def test_pool_replaces_a_kept_connection_that_is_seen_to_be_closed(
    tmp_path: Path,
) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        connection.sock.close()
        closed.set()

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        assert closed.wait(WAIT_SECONDS)
        assert post(proxy, b"{}")[0] == "200 OK"
    assert server.connections == 2


def test_pool_manager_knows_the_last_hosts_of_any_number(
    tmp_path: Path,
) -> None:
    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path)
        for number in range(40):
            url = f"https://h{number}.fal.run/"
            assert answer_to(proxy, HTTP_X_FAL_TARGET_URL=url)[0] == "200 OK"
    assert len(proxy._upstream._pools.connected) <= 32


@pytest.mark.parametrize("has_poll", [True, False], ids=["poll", "as-on-Windows"])
def test_connection_tells_whether_anything_came_uncalled_for(
    monkeypatch: pytest.MonkeyPatch, has_poll: bool
) -> None:
    if not has_poll:
        monkeypatch.setattr(connect, "poll", None)
    monkeypatch.setattr(HTTPSConnection, "connect", lambda self: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = connection_class(HTTPSConnection)("fal.run")
        assert not connection.is_connected
        connection.sock = ours
        connection.connect()
        assert connection.is_connected
        theirs.send(b"x")
        assert not connection.is_connected


def pool_of(**options: Any) -> Any:
    return _pool_class(HTTPSConnectionPool)("fal.run", **options)


def test_relay_pool_gives_the_connection_that_came_back_last_and_closes_the_excess() -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        one, two, three = (stack.enter_context(ours) for ours, _ in pairs)
        for _, theirs in pairs:
            stack.enter_context(theirs)
        pool = pool_of(maxsize=2)
        first, second, third, closed = (pool.acquire(Call(), None) for _ in range(4))
        first.sock, second.sock, third.sock = one, two, three
        for connection in (first, second, third, closed):
            pool.release(connection)
        assert three.fileno() == -1
        # A closed one is not kept: it would lie on those that are open.
        assert [pool.acquire(Call(), None), pool.acquire(Call(), None)] == [second, first]
        assert pool.acquire(Call(), None) not in {first, second, third, closed}


def test_relay_pool_that_is_closed_closes_what_it_has_and_what_comes_back() -> None:
    with socket.socket() as kept, socket.socket() as out:
        pool = pool_of()
        first, second = (pool.acquire(Call(), None) for _ in range(2))
        first.sock, second.sock = kept, out
        pool.release(first)
        pool.close()
        assert (kept.fileno(), out.fileno() == -1) == (-1, False)
        pool.release(second)
        assert out.fileno() == -1
        assert pool.acquire(Call(), None) not in {first, second}


def test_relay_pool_that_is_dropped_closes_what_it_has() -> None:
    with socket.socket() as kept:
        pool = pool_of()
        connection = pool.acquire(Call(), None)
        connection.sock = kept
        pool.release(connection)
        del pool, connection
        gc.collect()
        assert kept.fileno() == -1


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
)
def test_response_that_comes_at_once_goes_down_in_one_piece_of_known_length(
    tmp_path: Path, framing: bytes
) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + framing
    with RawServer(answering(answer, answer)) as server:
        proxy = proxy_to(server, tmp_path)
        status, headers, content = get(proxy)
        assert (status, headers["Content-Length"], content) == ("200 OK", "2", b"{}")
        get(proxy)
        assert server.connections == 1


def test_response_that_is_closed_unfinished_closes_the_connection(tmp_path: Path) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED + b"3\r\none\r\n")
        connection.wait_for_close()
        closed.set()

    with RawServer(script) as server:
        started: list[str] = []
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "HTTP_X_FAL_TARGET_URL": RUN,
            "wsgi.input": io.BytesIO(),
        }
        response = proxy_to(server, tmp_path)(
            environ,
            lambda status, headers, exc_info=None: started.append(status) or (lambda data: None),  # type: ignore[func-returns-value]
        )
        assert next(iter(response)) == b"one"
        response.close()  # type: ignore[attr-defined]
        assert closed.wait(WAIT_SECONDS)
        # Once is enough, and twice does no harm.
        response.close()  # type: ignore[attr-defined]
        with pytest.raises(Truncated):
            next(iter(response))


def test_response_closes_the_connection_at_an_exception_of_start_response(tmp_path: Path) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED)
        connection.wait_for_close()
        closed.set()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        raise KeyboardInterrupt

    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "HTTP_X_FAL_TARGET_URL": RUN,
        "wsgi.input": io.BytesIO(),
    }
    with RawServer(script) as server:
        with pytest.raises(KeyboardInterrupt):
            proxy_to(server, tmp_path)(environ, start_response)
        assert closed.wait(WAIT_SECONDS)


# How answers come down.


def test_response_pieces_come_down_as_they_arrive(tmp_path: Path) -> None:
    go_on = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED)
        for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"):
            assert go_on.acquire(timeout=WAIT_SECONDS)
            connection.send(b"%x\r\n%b\r\n" % (len(event), event))
        connection.send(b"0\r\n\r\n")

    with RawServer(script) as server:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "HTTP_X_FAL_TARGET_URL": RUN,
            "wsgi.input": io.BytesIO(),
        }
        response = proxy_to(server, tmp_path)(environ, lambda *_: lambda data: None)
        pieces = []
        for piece in response:
            pieces.append(piece)
            go_on.release()
    # First the head alone, then each event by itself.
    assert pieces == [b"", b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]


def test_response_has_repeated_headers_in_order_and_no_hop_by_hop_ones(tmp_path: Path) -> None:
    answer = (
        b"HTTP/1.1 200 Fine Indeed\r\n"
        b"Set-Cookie: a=1\r\n"
        b"X-One:\t1 \r\n"
        b"Connection: keep-alive, X-Private\r\n"
        b"X-Private: 1\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\n"
        b"Status: 200\r\n"
        b"Trailer: X-Sum\r\n"
        b"Upgrade: h2c\r\n"
        b"Set-Cookie: b=2\r\n"
        b"X-Tab: a\tb\r\n"
        b"X-Empty:\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    with RawServer(answering(answer)) as server:
        app = webtest.TestApp(proxy_to(server, tmp_path), lint=True)
        response = app.get("/", headers={TARGET: RUN})
    assert response.status == "200 Fine Indeed"
    assert list(response.headers.items()) == [
        ("Set-Cookie", "a=1"),
        ("X-One", "1"),
        ("Set-Cookie", "b=2"),
        ("X-Tab", "a b"),
        ("X-Empty", ""),
        ("Content-Type", "text/plain"),
        ("Content-Length", "2"),
    ]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200", "200 OK"),
        (b"HTTP/1.1 200 ", "200 OK"),
        (b"HTTP/1.1 599 ", "599 Unknown"),
        (b"HTTP/1.1 404 Nix\tda", "404 Nix da"),
    ],
)
def test_response_status_line_has_a_phrase(tmp_path: Path, line: bytes, status: str) -> None:
    with RawServer(answering(line + b"\r\nContent-Length: 0\r\n\r\n")) as server:
        assert get(proxy_to(server, tmp_path))[0] == status


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_response_of_a_status_without_content_has_no_length(tmp_path: Path, status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n"
    with RawServer(answering(answer, OK)) as server:
        proxy = proxy_to(server, tmp_path)
        _, headers, content = get(proxy)
        assert get(proxy)[2] == b"{}"
    assert "Content-Length" not in headers
    assert content == b""


def test_upstream_hands_a_redirect_to_the_client_and_never_follows_it(tmp_path: Path) -> None:
    answer = (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://evil.example/\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    with RawServer(answering(answer)) as server:
        status, headers, _ = post(proxy_to(server, tmp_path), b"{}")
    assert (status, headers["Location"]) == ("307 Temporary Redirect", "https://evil.example/")
    assert server.connections == 1


def test_upstream_relays_an_answer_with_hundreds_of_fields(tmp_path: Path) -> None:
    # As much as fal lets an app set: 16 KiB.
    lines = [b"X-Field-%d: %d" % (number, number) for number in range(900)]
    answer = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length: 2", b"", b"{}"])
    with RawServer(answering(answer)) as server:
        status, headers, _ = get(proxy_to(server, tmp_path))
    assert status == "200 OK"
    assert [headers[f"X-Field-{number}"] for number in range(900)] == [*map(str, range(900))]


def test_upstream_skips_interim_answers(tmp_path: Path) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with RawServer(answering(interim + OK)) as server:
        assert get(proxy_to(server, tmp_path))[::2] == ("200 OK", b"{}")


def coded(coding: bytes, content: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (coding, len(content), content)
    )


@pytest.mark.parametrize(
    ("coding", "content"),
    [(b"gzip", gzip.compress(b"hello")), (b"deflate", zlib.compress(b"hello"))],
    ids=["gzip", "deflate"],
)
def test_response_that_comes_coded_all_the_same_is_decoded(
    tmp_path: Path, coding: bytes, content: bytes
) -> None:
    with RawServer(answering(coded(coding, content), OK)) as server:
        proxy = proxy_to(server, tmp_path)
        _, headers, decoded = get(proxy)
        get(proxy)
    assert decoded == b"hello"
    assert "Content-Encoding" not in headers
    assert "Content-Length" not in headers
    assert server.connections == 1


def test_upstream_answers_502_to_a_free_call_whose_coding_cannot_be_undone(tmp_path: Path) -> None:
    with RawServer(answering(coded(b"br", b"x"))) as server:
        proxy = proxy_to(server, tmp_path)
        status, headers, _ = get(proxy, HTTP_X_FAL_TARGET_URL=POLL)
    assert (status, headers["x-fal-proxy-error"]) == (
        "502 Bad Gateway",
        "upstream_coding_unsupported",
    )


def hanging_up(connection: Connection) -> None:
    connection.read_request()


def never_answering(connection: Connection) -> None:
    connection.read_request()
    connection.wait_for_close()


@pytest.mark.parametrize(
    ("script", "reason", "free"),
    [
        pytest.param(hanging_up, "upstream_closed", "502 Bad Gateway", id="closed"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nX-Cut: "), "upstream_closed", "502 Bad Gateway", id="cut"
        ),
        pytest.param(
            answering(b"nonsense\r\n\r\n"), "upstream_malformed", "502 Bad Gateway", id="nonsense"
        ),
        pytest.param(
            answering(coded(b"br", b"x")), "upstream_coding_unsupported", "502 Bad Gateway", id="br"
        ),
        pytest.param(never_answering, "read_timeout", "504 Gateway Timeout", id="stalls"),
    ],
)
def test_upstream_answers_500_to_a_call_that_spends_and_may_have_arrived(
    tmp_path: Path, script: Script, reason: str, free: str
) -> None:
    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path, read_timeout=0.5)
        status, headers, content = post(proxy, b"{}")
        polled = get(proxy, HTTP_X_FAL_TARGET_URL=POLL)
    assert (status, headers["x-fal-proxy-error"]) == ("500 Internal Server Error", reason)
    assert b"fal may have received the call" in content
    # Nothing is lost by a repeat of this one.
    assert (polled[0], polled[1]["x-fal-proxy-error"]) == (free, reason)
    assert b"may have received" not in polled[2]


# What fails, and how.


def closing(connection: Connection) -> None:
    connection.read_head()


def stalling(connection: Connection) -> None:
    connection.wait_for_close()


def test_upstream_answers_504_if_fal_does_not_take_the_request(tmp_path: Path) -> None:
    done = threading.Event()

    def script(connection: Connection) -> None:
        assert done.wait(WAIT_SECONDS)

    with RawServer(script, tls=False) as server:
        proxy = proxy_to(server, tmp_path, read_timeout=0.3)
        status, headers, _ = post(proxy, b"x" * 20_000_000)
        done.set()
    assert (status, headers["x-fal-proxy-error"]) == ("504 Gateway Timeout", "read_timeout")


def test_deadline_lets_nothing_more_be_received_even_if_it_is_here() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        with pytest.raises(TimeoutError):
            receive(ours, monotonic())


def test_upstream_may_have_no_timeout_at_all(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path, read_timeout=None, connect_timeout=None)
        assert get(proxy)[0] == "200 OK"


def test_upstream_answers_502_to_a_name_that_does_not_resolve() -> None:
    # The tests' network resolves nothing but this machine.
    status, headers, _ = get(FalProxy(key="k"))
    assert (status, headers["x-fal-proxy-error"]) == ("502 Bad Gateway", "upstream_unresolvable")


def test_upstream_answers_502_to_a_refused_connection(fal: FakeFal, tmp_path: Path) -> None:
    with RawServer(closing, tls=False) as server:
        manager = server.pool_manager(tmp_path)
    status, headers, _ = get(FalProxy(key="k", pool_manager=manager))
    assert (status, headers["x-fal-proxy-error"]) == ("502 Bad Gateway", "upstream_unreachable")


def test_upstream_answers_504_to_a_connection_that_is_not_accepted_in_time(tmp_path: Path) -> None:
    # TCP's part is done by the system; it is TLS that waits.
    with RawServer(stalling, tls=False) as server:
        ca_file = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(str(ca_file))
        server.authority = trustme.CA()
        proxy = proxy_to(server, tmp_path, connect_timeout=0.3)
        status, headers, _ = get(proxy)
    assert (status, headers["x-fal-proxy-error"]) == ("504 Gateway Timeout", "connect_timeout")


def test_pool_manager_may_have_its_own_check_of_the_name(tmp_path: Path) -> None:
    with RawServer(stalling) as server:
        manager = server.pool_manager(tmp_path)
        manager.connection_pool_kw["assert_hostname"] = "evil.example"
        headers = get(FalProxy(key="k", pool_manager=manager))[1]
    assert headers["x-fal-proxy-error"] == "upstream_tls_failed"


def test_pool_manager_with_a_bound_on_connections_is_503_with_retry_after(tmp_path: Path) -> None:
    release = threading.Event()
    arrived = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        arrived.set()
        assert release.wait(WAIT_SECONDS)
        connection.send(OK)

    with RawServer(script) as server:
        manager = server.pool_manager(tmp_path)
        manager.connection_pool_kw.update(maxsize=1, block=True)
        proxy = FalProxy(key="k", pool_manager=manager, connect_timeout=0.3)
        first = threading.Thread(target=get, args=(proxy,))
        first.start()
        assert arrived.wait(WAIT_SECONDS)
        status, headers, _ = get(proxy)
        release.set()
        first.join(WAIT_SECONDS)
        assert (status, headers["x-fal-proxy-error"]) == ("503 Service Unavailable", "relay_full")
        assert headers["Retry-After"] == "1"


# Other pool managers.


def tunnelling(upstream_port: int, requests: list[bytes], answer: bytes) -> Script:
    """An egress proxy: CONNECT, then bytes both ways until one side ends."""

    def script(connection: Connection) -> None:
        requests.append(connection.read_head())
        connection.send(answer)
        if b" 200 " not in answer:
            return
        with socket.create_connection(("127.0.0.1", upstream_port)) as upstream:
            others = {connection.sock: upstream, upstream: connection.sock}
            # On one thread, since a TLS socket is not for two.
            while data := (source := readable_of(*others)).recv(65_536):
                others[source].sendall(data)

    return script


def readable_of(first: socket.socket, second: socket.socket) -> socket.socket:
    if isinstance(first, ssl.SSLSocket) and first.pending():
        return first  # pragma: no cover - by how the records come
    return select.select([first, second], [], [], WAIT_SECONDS)[0][0]


def proxy_manager(egress: RawServer, upstream: RawServer, directory: Path) -> urllib3.ProxyManager:
    context = upstream.pool_manager(directory).connection_pool_kw["ssl_context"]
    return urllib3.proxy_from_url(f"http://127.0.0.1:{egress.port}", ssl_context=context)


def test_egress_proxy_is_asked_to_tunnel_and_sees_no_key(tmp_path: Path) -> None:
    requests: list[bytes] = []
    with RawServer(answering(OK, OK)) as upstream:
        script = tunnelling(upstream.port, requests, b"HTTP/1.1 200 Connected\r\n\r\n")
        with RawServer(script, tls=False) as egress:
            manager = proxy_manager(egress, upstream, tmp_path)
            proxy = FalProxy(key="sk-secret", pool_manager=manager)
            assert [get(proxy)[0] for _ in range(2)] == ["200 OK", "200 OK"]
            manager.clear()
    assert [request.split(b"\r\n")[0][:20] for request in requests] == [b"CONNECT fal.run:443 "]
    assert b"sk-secret" not in requests[0]


def test_egress_proxy_that_says_no_is_502(tmp_path: Path) -> None:
    with RawServer(stalling) as upstream:
        script = tunnelling(upstream.port, [], b"HTTP/1.1 403 Forbidden\r\n\r\n")
        with RawServer(script, tls=False) as egress:
            manager = proxy_manager(egress, upstream, tmp_path)
            headers = get(FalProxy(key="k", pool_manager=manager))[1]
    assert headers["x-fal-proxy-error"] == "upstream_unreachable"
    assert upstream.connections == 0


def test_egress_proxy_that_would_see_the_key_is_refused_at_construction() -> None:
    manager = urllib3.ProxyManager("https://127.0.0.1:1", use_forwarding_for_https=True)
    with pytest.raises(SettingsError, match="use_forwarding_for_https"):
        FalProxy(key="k", pool_manager=manager)


def test_pool_manager_by_default_trusts_what_ssl_cert_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answering(OK)) as server:
        server.pool_manager(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        proxy = FalProxy(key="k")
        # Dials the server for fal.run, and changes nothing else about the default manager.
        pools = proxy._upstream._pools
        original = pools._own.connection_from_host
        monkeypatch.setattr(
            pools._own,
            "connection_from_host",
            lambda host, port, scheme: original(
                "127.0.0.1", server.port, scheme, {"server_hostname": host}
            ),
        )
        assert get(proxy)[0] == "200 OK"
        pools.reset_after_fork()
        manager = pools._manager
    context = manager.connection_pool_kw["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname

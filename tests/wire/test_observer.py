"""What the observer is told: of each request, once, when it is over."""

from __future__ import annotations

import gc
import io
import logging
import socket
import threading
import zlib
from typing import TYPE_CHECKING, Any, Final
from wsgiref.util import setup_testing_defaults

import pytest

from tests.support.raw_server import (
    WAIT_SECONDS,
    Connection,
    RawServer,
    answering,
    close_connections,
)
from wsgi_fal_proxy import Allow, CallRecord, FalProxy, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy.testing import FakeFal

    Proxied = Callable[..., FalProxy]

RUN: Final = "https://fal.run/fal-ai/flux/dev"
BODY: Final = b'{"prompt": "a secret prompt"}'
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\nX-Fal-Request-Id: id-1\r\n\r\n"
WHOLE: Final = HEAD + b"Content-Length: 2\r\n\r\n{}"
EVENT: Final = b"8\r\ndata: 1\n\r\n"


def environ_of(
    target: str = RUN, *, body: bytes = BODY, more: WSGIEnvironment | None = None
) -> WSGIEnvironment:
    full: WSGIEnvironment = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_X_FAL_TARGET_URL": target,
        "wsgi.input": io.BytesIO(body),
        **(more or {}),
    }
    setup_testing_defaults(full)
    return full


def start_response(status: str, headers: object, exc_info: object = None) -> Any:
    return None


@pytest.fixture
def told() -> list[CallRecord]:
    return []


@pytest.fixture
def observed(fal: FakeFal, told: list[CallRecord]) -> Proxied:
    def observed(**options: Any) -> FalProxy:
        options = {"key": fal.key, "pool_manager": fal.pool_manager(), **options}
        return FalProxy(observer=told.append, **options)

    return observed


@pytest.fixture
def streaming(told: list[CallRecord], tmp_path: Path) -> Iterator[Callable[[bytes], FalProxy]]:
    """Give a proxy to an upstream that answers with this, in part, and then waits."""
    served: list[tuple[RawServer, FalProxy]] = []

    def streaming(answer: bytes) -> FalProxy:
        def script(connection: Connection) -> None:
            connection.read_request()
            connection.send(answer)
            connection.wait_for_close()

        server = RawServer(script).__enter__()
        proxy = FalProxy(key="k", pool_manager=server.pool_manager(tmp_path), observer=told.append)
        served.append((server, proxy))
        return proxy

    yield streaming
    for server, proxy in served:
        close_connections(proxy)
        server.__exit__(None, None, None)


def relay(proxy: FalProxy, environ: WSGIEnvironment) -> list[bytes]:
    content = proxy(environ, start_response)
    pieces = list(content)
    content.close()  # type: ignore[attr-defined]
    return pieces


def test_record_of_a_relayed_request_is_full(
    observed: Proxied, told: list[CallRecord], fal: FakeFal
) -> None:
    proxy = observed(authorize=lambda _: Allow("someone"))
    fal.answer_next(200, '{"a": 1}', x_fal_request_id="id-7")
    pieces = relay(proxy, environ_of(RUN + "?secret=1"))
    (record,) = told
    assert (record.method, record.host, record.endpoint) == ("POST", "fal.run", "fal-ai/flux/dev")
    assert (record.kind, record.identity) == ("run", "someone")
    assert (record.status, record.reason, record.request_id) == (200, None, "id-7")
    assert (record.bytes_up, record.bytes_down) == (len(BODY), len(b"".join(pieces)))
    assert (record.client_left, record.truncated) == (False, False)
    assert record.seconds_to_head is not None
    assert 0 < record.seconds_to_head <= record.seconds


def test_record_holds_no_key_no_query_and_no_content(
    observed: Proxied, told: list[CallRecord], fal: FakeFal
) -> None:
    relay(observed(), environ_of(RUN + "?secret=1"))
    assert not any(part in repr(told) for part in ("secret", fal.key))


def test_record_is_frozen(observed: Proxied, told: list[CallRecord]) -> None:
    relay(observed(), environ_of())
    with pytest.raises(AttributeError):
        told[0].status = 1  # type: ignore[misc]


def test_record_of_fals_own_errors_has_no_reason(
    observed: Proxied, told: list[CallRecord], fal: FakeFal
) -> None:
    fal.answer_next(422, "{}")
    relay(observed(), environ_of())
    assert [(record.status, record.reason) for record in told] == [(422, None)]


@pytest.mark.parametrize(
    ("environ", "answer", "host"),
    [
        ({"REQUEST_METHOD": "DELETE"}, (405, "method_not_allowed"), None),
        ({"HTTP_X_FAL_TARGET_URL": ""}, (400, "target_missing"), None),
        ({"CONTENT_TYPE": "text/plain"}, (415, "unsupported_media_type"), "fal.run"),
        ({"CONTENT_LENGTH": "1000"}, (400, "body_incomplete"), "fal.run"),
        ({"CONTENT_LENGTH": "100000000"}, (413, "body_too_large"), "fal.run"),
    ],
)
def test_record_of_a_refusal_has_its_reason(
    observed: Proxied,
    told: list[CallRecord],
    environ: dict[str, str],
    answer: tuple[int, str],
    host: str | None,
) -> None:
    pieces = relay(observed(), environ_of(more=environ))
    (record,) = told
    assert ((record.status, record.reason), record.host) == (answer, host)
    assert (record.endpoint, record.kind) == (
        (None, None) if host is None else ("fal-ai/flux/dev", "run")
    )
    assert (record.bytes_up, record.bytes_down) == (0, len(pieces[0]))
    assert (record.seconds_to_head, record.client_left) == (None, False)


def test_record_of_a_refused_caller_has_what_was_asked_for(
    observed: Proxied, told: list[CallRecord]
) -> None:
    relay(observed(authorize=lambda _: Refuse(401)), environ_of())
    (record,) = told
    assert (record.status, record.endpoint, record.identity) == (401, "fal-ai/flux/dev", None)
    assert record.bytes_up == 0


def test_record_has_the_identity_where_something_else_then_fails(
    observed: Proxied, told: list[CallRecord]
) -> None:
    proxy = observed(key=lambda _: None, authorize=lambda _: Allow("someone"))
    relay(proxy, environ_of())
    assert [(record.reason, record.identity) for record in told] == [("key_missing", "someone")]


def test_record_of_a_gateway_error_has_its_reason(told: list[CallRecord], tmp_path: Path) -> None:
    with RawServer(answering(b"nonsense\r\n\r\n")) as server:
        manager = server.pool_manager(tmp_path)
        relay(FalProxy(key="k", pool_manager=manager, observer=told.append), environ_of())
    (record,) = told
    assert (record.status, record.reason) == (500, "upstream_malformed")
    assert (record.bytes_up, record.seconds_to_head) == (len(BODY), None)


def test_record_counts_a_body_without_a_length(observed: Proxied, told: list[CallRecord]) -> None:
    for size in (20, 200_000):
        body = b'"' + b"a" * size + b'"'
        chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        relay(observed(), environ_of(body=body, more=chunked))
    assert [record.bytes_up for record in told] == [22, 200_002]


def test_observer_is_told_of_a_stream_at_its_end_and_not_before(
    streaming: Callable[[bytes], FalProxy], told: list[CallRecord]
) -> None:
    content = iter(streaming(CHUNKED + EVENT + EVENT + b"0\r\n\r\n")(environ_of(), start_response))
    pieces = []
    for piece in content:
        assert told == []
        pieces.append(piece)
    (record,) = told
    assert (record.bytes_down, record.request_id) == (16, "id-1")
    assert (record.client_left, record.truncated) == (False, False)
    content.close()  # type: ignore[attr-defined]
    assert len(told) == 1


def test_record_of_an_answer_that_breaks_off_is_truncated(
    told: list[CallRecord], tmp_path: Path
) -> None:
    with RawServer(answering(CHUNKED + EVENT)) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager, observer=told.append)
        content = proxy(environ_of(), start_response)
        with pytest.raises(Exception, match="broke off"):
            list(content)
        content.close()  # type: ignore[attr-defined]
    (record,) = told
    assert (record.status, record.reason) == (200, "truncated")
    assert (record.truncated, record.client_left, record.bytes_down) == (True, False, 8)


@pytest.mark.parametrize("pieces", [0, 1])
def test_record_of_an_answer_that_the_server_closes_early_is_left(
    streaming: Callable[[bytes], FalProxy], told: list[CallRecord], pieces: int
) -> None:
    content = iter(streaming(CHUNKED + EVENT)(environ_of(), start_response))
    for _ in range(pieces):
        next(content)
    content.close()  # type: ignore[attr-defined]
    content.close()  # type: ignore[attr-defined]
    (record,) = told
    assert (record.status, record.client_left, record.truncated) == (200, True, False)


def test_exchange_close_closes_the_connection_to_fal_at_once(
    told: list[CallRecord], tmp_path: Path
) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED + EVENT)
        connection.wait_for_close()
        closed.set()

    with RawServer(script) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager, observer=told.append)
        content = iter(proxy(environ_of(), start_response))
        next(content)
        content.close()  # type: ignore[attr-defined]
        assert closed.wait(WAIT_SECONDS)
        del content


def test_record_of_a_whole_answer_that_is_closed_unread_is_left(
    observed: Proxied, told: list[CallRecord]
) -> None:
    observed()(environ_of(), start_response).close()  # type: ignore[attr-defined]
    assert [record.client_left for record in told] == [True]


@pytest.mark.parametrize("at_once", [True, False])
def test_record_of_a_server_that_stops_at_the_declared_length_is_whole(
    told: list[CallRecord], tmp_path: Path, at_once: bool
) -> None:
    asked = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(WHOLE[:-2] + WHOLE[-2:] * at_once)
        asked.wait(WAIT_SECONDS)
        connection.send(WHOLE[-2:] * (not at_once))

    with RawServer(script) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager, observer=told.append)
        content = iter(proxy(environ_of(), start_response))
        asked.set()
        assert next(filter(None, content)) == b"{}"
        content.close()  # type: ignore[attr-defined]
    assert [(record.client_left, record.bytes_down) for record in told] == [(False, 2)]


def coded(size: int) -> tuple[bytes, bytes]:
    coder = zlib.compressobj(wbits=31)
    first = coder.compress(b"a" * size) + coder.flush(zlib.Z_SYNC_FLUSH)
    return first, coder.compress(b"b") + coder.flush()


def test_record_of_a_coded_answer_is_not_whole_at_its_coded_length(
    streaming: Callable[[bytes], FalProxy], told: list[CallRecord]
) -> None:
    # Of as many bytes as its first part has when it is decoded.
    size = next(size for size in range(200) if sum(map(len, coded(size))) == size)
    first, _ = coded(size)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % size
    content = iter(streaming(head + first)(environ_of(), start_response))
    assert next(filter(None, content)) == b"a" * size
    content.close()  # type: ignore[attr-defined]
    assert [(record.client_left, record.bytes_down) for record in told] == [(True, size)]


def test_record_of_an_answer_without_content_is_whole_with_its_head(
    observed: Proxied, told: list[CallRecord], fal: FakeFal
) -> None:
    fal.answer_next(204)
    observed()(environ_of(), start_response).close()  # type: ignore[attr-defined]
    assert [(record.status, record.client_left) for record in told] == [(204, False)]


def test_observer_is_told_of_an_answer_that_the_server_drops_without_close(
    streaming: Callable[[bytes], FalProxy], told: list[CallRecord]
) -> None:
    proxy = streaming(CHUNKED + EVENT)
    content = proxy(environ_of(), start_response)
    assert told == []
    # A destructor runs no code of the owner's. The next call does.
    del content
    gc.collect()
    list(proxy({"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()}, start_response))
    assert [record.client_left for record in told] == [True, False]


def test_observer_is_told_at_the_end_of_a_server_that_never_closes(
    observed: Proxied, told: list[CallRecord]
) -> None:
    content = observed()(environ_of(), start_response)
    list(content)
    assert len(told) == 1
    del content
    assert len(told) == 1


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
@pytest.mark.parametrize("target", [RUN, ""], ids=["relayed", "refused"])
def test_observer_is_told_once_of_an_error_in_start_response(
    observed: Proxied, told: list[CallRecord], error: type[BaseException], target: str
) -> None:
    def failing(status: str, headers: object, exc_info: object = None) -> Any:
        raise error

    with pytest.raises(error):
        observed()(environ_of(target), failing)
    assert [record.status for record in told] == [None]


def test_record_of_a_client_that_leaves_before_the_answer_is_left(
    told: list[CallRecord], tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()

    def script(connection: Connection) -> None:
        connection.read_request()
        theirs.close()
        connection.wait_for_close()

    with ours, RawServer(script) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager, observer=told.append)
        relay(proxy, environ_of(more={"gunicorn.socket": ours}))
    (record,) = told
    assert (record.reason, record.client_left) == ("client_gone", True)


def test_record_of_a_client_that_leaves_in_mid_answer_is_left(
    streaming: Callable[[bytes], FalProxy], told: list[CallRecord]
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        environ = environ_of(more={"gunicorn.socket": ours})
        content = iter(streaming(CHUNKED + EVENT)(environ, start_response))
        assert next(filter(None, content)) == b"data: 1\n"
        theirs.close()
        assert list(content) == []
    (record,) = told
    assert (record.status, record.client_left, record.truncated) == (200, True, False)


def test_observer_that_raises_is_logged_and_harmless(
    fal: FakeFal, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(record: CallRecord) -> None:
        message = "no metrics today"
        raise RuntimeError(message)

    proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), observer=failing)
    assert b"a secret prompt" in b"".join(relay(proxy, environ_of()))
    ((_, level, message),) = caplog.record_tuples
    assert (level, message) == (
        logging.ERROR,
        "The option observer raised; the request is not affected.",
    )
    assert "no metrics today" in caplog.text
    assert fal.key not in caplog.text


def test_exchange_without_an_observer_gives_a_whole_answer_as_a_list(tmp_path: Path) -> None:
    with RawServer(answering(WHOLE)) as server:
        proxy = FalProxy(key="k", pool_manager=server.pool_manager(tmp_path))
        assert proxy(environ_of(), start_response) == [b"{}"]


def test_observer_tells_requests_at_the_same_time_apart(
    observed: Proxied, told: list[CallRecord]
) -> None:
    proxy = observed(authorize=lambda request: Allow(request.environ["REMOTE_USER"]))
    threads = [
        threading.Thread(target=relay, args=(proxy, environ_of(more={"REMOTE_USER": str(number)})))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(str(record.identity) for record in told) == sorted(map(str, range(20)))

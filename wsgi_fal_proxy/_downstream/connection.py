"""The connection to the client, if the server exposes it: to watch it, and to break it off."""

from __future__ import annotations

import _socket
import socket
import struct
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIEnvironment

# waitress stores a method of its channel here, and the channel has the socket.
_WAITRESS_KEY: Final = "waitress.client_disconnected"
# Linux' struct tcp_info (linux/tcp.h): tcpi_notsent_bytes, tcpi_bytes_sent, tcpi_bytes_retrans.
_COUNTS: Final = struct.Struct("=144xI52xQQ")
_INFO_BYTES: Final = _COUNTS.size
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)
# Sent in place of a chunk's size (RFC 9112 section 7.1): "t" is not a hexadecimal digit.
_NO_CHUNK: Final = b"truncated\r\n"


def client_connection(environ: WSGIEnvironment) -> tuple[int | None, Any]:
    """Return the client's connection: its file descriptor and its socket.

    Each is None if the server does not expose it. The descriptor is also None if the connection
    is closed, or if it carries other requests as well, as in HTTP/2.
    """
    sock: Any = environ.get("gunicorn.socket")
    if sock is None:
        sock = environ.get("werkzeug.socket")
    if sock is None and _WAITRESS_KEY in environ:
        sock = getattr(_waitress_channel(environ), "socket", None)
    if sock is not None:
        if environ.get("SERVER_PROTOCOL", "HTTP/1.1")[:7] != "HTTP/1.":
            return None, sock
        fd: int = sock.fileno()
        return fd if fd >= 0 else None, sock
    # Only uWSGI has this module. Its connections carry one request at a time, even if
    # SERVER_PROTOCOL says HTTP/2, which is then what nginx in front of it speaks.
    uwsgi = sys.modules.get("uwsgi")
    return None if uwsgi is None else uwsgi.connection_fd(), None


def bytes_written(environ: WSGIEnvironment) -> int | None:
    """Return how many bytes the server has written to the client's connection so far.

    None if that is not known: the server does not expose the connection, it is not TCP, or the
    system does not count.
    """
    fd, _ = client_connection(environ)
    if fd is None or _TCP_INFO is None:
        return None
    sock = _socket.socket(fileno=fd)
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    finally:
        sock.detach()
    if len(info) < _INFO_BYTES:
        return None
    unsent, sent, repeated = _COUNTS.unpack(info)
    # waitress keeps what the system has not taken yet.
    kept: int = getattr(_waitress_channel(environ), "total_outbufs_len", 0)
    written: int = sent - repeated + unsent + kept
    return written


def input_stopper(environ: WSGIEnvironment) -> Callable[[], None] | None:
    """Return a function that ends the input of the client's connection.

    A read that waits for the client then returns, and the server closes the connection after the
    answer. The function may be called on any thread and raises nothing.

    Returns:
        The function. None if the server hides the connection.
    """
    fd, _ = client_connection(environ)
    return None if fd is None else partial(_stop_receiving, fd)


def _stop_receiving(fd: int) -> None:
    # Not by the server's own socket: a TLS socket would stop to encrypt what it sends. Nor by one
    # of gevent's, which belong to one thread.
    with suppress(OSError):
        connection = _socket.socket(fileno=fd)
        try:
            connection.shutdown(socket.SHUT_RD)
        finally:
            connection.detach()


def break_framing(environ: WSGIEnvironment) -> None:
    """Make a partly sent answer without Content-Length look truncated to every client.

    If an answer fails half-way, the server closes the connection. If the answer also said
    `Connection: close`, a client may take that for its end, even in mid-chunk: Node's fetch does.
    So this sends an invalid chunk size in a chunked answer, before the server closes. An answer
    that ends with its connection, as in HTTP/1.0, is reset instead.
    """
    fd, sock = client_connection(environ)
    if fd is None:
        return
    # uWSGI exposes no socket and sends no chunks: its answers end with the connection.
    if sock is None or not _is_chunked(environ):
        reset(fd)
        return
    channel = _waitress_channel(environ)
    write = sock.sendall if channel is None else channel.write_soon
    # If the client has left, each server raises an error of its own.
    with suppress(Exception):
        write(_NO_CHUNK)


def _is_chunked(environ: WSGIEnvironment) -> bool:
    """Whether the server chunks an answer that has no Content-Length."""
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return False
    # Werkzeug's server answers in HTTP/1.0 while it serves one request at a time.
    return (
        "werkzeug.socket" not in environ
        or bool(environ.get("wsgi.multithread"))
        or bool(environ.get("wsgi.multiprocess"))
    )


def reset(fd: int) -> None:
    """On Linux, reset a TCP connection at once: the client gets an error instead of an end.

    On other systems this does nothing.
    """
    # On Linux, connecting to AF_UNSPEC dissolves the association (connect(2)), and TCP sends a
    # reset. Python's own connect() cannot express that address.
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes longer to import than most of this package

        system, no_address = ctypes.CDLL(None), struct.pack("H14x", 0)
        system.connect(fd, no_address, len(no_address))
        # A server may still read what the client has sent: Werkzeug's does. After this call a read
        # returns end-of-input, not ENOTCONN, for which Werkzeug would log a traceback. The call
        # itself fails, since there is no connection; ignore that.
        system.shutdown(fd, socket.SHUT_RD)


def _waitress_channel(environ: WSGIEnvironment) -> Any:
    return getattr(environ.get(_WAITRESS_KEY), "__self__", None)

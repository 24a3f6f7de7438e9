"""The connection to the client, if the server exposes it: to watch it, and to break it off."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

# waitress stores a method of its channel here, and the channel has the socket.
_WAITRESS_KEY: Final = "waitress.client_disconnected"
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
    """Reset a TCP connection at once: the client gets an error instead of an end."""
    # On Linux, connecting to AF_UNSPEC dissolves the association (connect(2)), and TCP sends a
    # reset. Python's own connect() cannot express that address.
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes longer to import than most of this package

        system, no_address = ctypes.CDLL(None), struct.pack("H14x", 0)
        system.connect(fd, no_address, len(no_address))
        # A server may still read what the client has sent: Werkzeug's does. Without this, Linux
        # answers ENOTCONN, for which Werkzeug logs a traceback; with it, the end of the input. It
        # fails, since there is no connection, and takes effect all the same.
        system.shutdown(fd, socket.SHUT_RD)


def _waitress_channel(environ: WSGIEnvironment) -> Any:
    return getattr(environ.get(_WAITRESS_KEY), "__self__", None)

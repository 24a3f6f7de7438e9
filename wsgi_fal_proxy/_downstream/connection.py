"""The connection to the client, where the server hands it over: to watch, and to spoil."""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

# Under this waitress has a method of its channel, which has the socket.
_WAITRESS_KEY: Final = "waitress.client_disconnected"
# Where a chunk's size should be (RFC 9112 section 7.1), and is none: "t" is no hexadecimal digit.
_NO_CHUNK: Final = b"truncated\r\n"


def client_connection(environ: WSGIEnvironment) -> tuple[int | None, Any]:
    """Give the client's connection: its file descriptor, and its socket.

    Either is None where the server keeps it; the descriptor also where it is closed, and where it
    is other requests' as well, as in HTTP/2.
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
    # A module that uWSGI makes, and that is only there under it. Its connections have one request
    # at a time, even where nginx in front names HTTP/2, in which it was asked.
    uwsgi = sys.modules.get("uwsgi")
    return None if uwsgi is None else uwsgi.connection_fd(), None


def break_framing(environ: WSGIEnvironment) -> None:
    """Have an answer without Content-Length, of which a part has been sent, never look complete.

    What a server does about an answer that fails half-way is to close the connection. A client
    that was told `Connection: close` may take that for the end of the answer, in chunks or not:
    Node's fetch does. So before the server closes, a chunked answer goes on with what is no
    chunk; and one that ends with its connection, as in HTTP/1.0, by a reset.
    """
    fd, sock = client_connection(environ)
    if fd is None:
        return
    # uWSGI hands over no socket, and sends no chunks: its answer ends with the connection.
    if sock is None or not _is_chunked(environ):
        reset(fd)
        return
    channel = _waitress_channel(environ)
    write = sock.sendall if channel is None else channel.write_soon
    # The client may have left: servers have several errors for that.
    with suppress(Exception):
        write(_NO_CHUNK)


def _is_chunked(environ: WSGIEnvironment) -> bool:
    """Whether the server sends an answer without Content-Length in chunks."""
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return False
    # Werkzeug's server answers in HTTP/1.0 while it serves one request at a time.
    return (
        "werkzeug.socket" not in environ
        or bool(environ.get("wsgi.multithread"))
        or bool(environ.get("wsgi.multiprocess"))
    )


def reset(fd: int) -> None:
    """Reset a TCP connection at once, as nobody is to read from it any more."""
    # Connecting to no address dissolves an association (connect(2), on Linux), and TCP tells the
    # other side by a reset. Python's own connect() knows no such address.
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes longer to import than most of this package

        no_address = struct.pack("H14x", 0)
        ctypes.CDLL(None).connect(fd, no_address, len(no_address))


def _waitress_channel(environ: WSGIEnvironment) -> Any:
    return getattr(environ.get(_WAITRESS_KEY), "__self__", None)

"""An upstream that sends the exact bytes a test gives it, over real TLS or plain TCP."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import trustme

from wsgi_fal_proxy.testing import FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from wsgi_fal_proxy import FalProxy

WAIT_SECONDS = 10.0
"""For what must happen; a test that waits this long has failed."""


def head_end(data: bytes) -> int:
    return data.find(b"\r\n\r\n") + 4


@dataclass
class Connection:
    """One accepted connection, as the script of a test sees it."""

    sock: socket.socket
    number: int
    received: bytearray = field(default_factory=bytearray)
    byte_by_byte: bool = False
    """Whether each byte is sent in a record and a packet of its own."""

    def read_head(self) -> bytes:
        """Read one request head, and keep what came after it for `read`."""
        while b"\r\n\r\n" not in self.received:
            self._receive()
        end = head_end(bytes(self.received))
        head = bytes(self.received[:end])
        del self.received[:end]
        return head

    def read(self, count: int) -> bytes:
        while len(self.received) < count:
            self._receive()
        data = bytes(self.received[:count])
        del self.received[:count]
        return data

    def read_request(self) -> tuple[bytes, bytes]:
        """Read a request whose content has a Content-Length, or none."""
        head = self.read_head()
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, self.read(length)

    def read_line(self) -> bytes:
        while b"\r\n" not in self.received:
            self._receive()
        line, _, rest = bytes(self.received).partition(b"\r\n")
        self.received[:] = rest
        return line

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Answer the handshake of a connection that was accepted in plain text."""
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def send(self, data: bytes) -> None:
        if not self.byte_by_byte:
            self.sock.sendall(data)
            return
        for byte in data:
            self.sock.sendall(bytes([byte]))

    def send_below_tls(self, data: bytes) -> None:
        """Send bytes that are no TLS record of this connection's."""
        os.write(self.sock.fileno(), data)

    def wait_for_close(self) -> None:
        """Read until the other side has closed."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.sock.recv(65_536):
                pass

    def end(self) -> None:
        """End TLS properly, then TCP: everything sent was meant."""
        assert isinstance(self.sock, ssl.SSLSocket)
        with contextlib.suppress(OSError):
            self.sock = self.sock.unwrap()
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset, so that the other side reads an error."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def _receive(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionError("the other side closed")
        self.received += data


Script = Callable[[Connection], None]


class RawServer:
    """Runs a script for each connection, on a thread of its own; a context manager.

    Args:
        script: What to do with a connection; it is closed afterwards.
        tls: Whether to speak TLS, with a certificate for fal's hosts.
        hosts: The names in the certificate.
        authority: Who issues the certificate; one made on the spot, if None.
        plain: The numbers of the connections that are left to the script without TLS.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: bool = True,
        hosts: tuple[str, ...] = ("fal.run", "*.fal.run"),
        authority: trustme.CA | None = None,
        plain: Collection[int] = (),
    ) -> None:
        self._script = script
        self._plain = plain
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self._context: ssl.SSLContext | None = None
        self.authority: trustme.CA | None = None
        if tls:
            self.authority = authority or trustme.CA()
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(*hosts).configure_cert(self._context)

    def pool_manager(self, directory: Path) -> FakeFalPoolManager:
        """Make a pool manager that dials this server for every host."""
        if self.authority is None:
            return FakeFalPoolManager(self.port)
        ca_file = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(ca_file))
        return FakeFalPoolManager(self.port, ca_file)

    def listen(self) -> None:
        """Accept connections, which are refused before."""
        self._listener.listen()
        self._start(self._accept)

    def fill_backlog(self) -> list[socket.socket]:
        """Have the system accept as many connections as it will without us, and give them."""
        self._listener.listen(0)
        fillers: list[socket.socket] = []
        while True:
            fillers.append(socket.socket())
            fillers[-1].settimeout(0.1)
            try:
                fillers[-1].connect(("127.0.0.1", self.port))
            except TimeoutError:
                return fillers

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Wakes accept(), which close() alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self.threads:
            # A script that only now begins to wait tells that it waited in vain.
            thread.join(2 * WAIT_SECONDS)
        assert not self.errors, self.errors
        assert not any(thread.is_alive() for thread in self.threads), "a script did not end"

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(WAIT_SECONDS)
        # What is sent goes at once, and by itself.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, number)
        try:
            if self._context is not None and number not in self._plain:
                connection.start_tls(self._context)
            self._script(connection)
        except TimeoutError as error:
            # The other side has neither gone on nor left, and this wait would be invisible.
            self.errors.append(error)
        except OSError:
            pass  # the other side has left, as some tests have it do
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)
        finally:
            connection.sock.close()


def answering(*answers: bytes) -> Script:
    """Answer the requests on each connection with these, in turn, then close it."""

    def script(connection: Connection) -> None:
        for answer in answers:
            connection.read_request()
            connection.send(answer)

    return script


def close_connections(proxy: FalProxy) -> None:
    """Close what a proxy keeps open, or a server that expects more waits for it."""
    proxy._upstream._pools.reset_after_fork()


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect two sockets over TCP: the server's, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), WAIT_SECONDS)
        ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs

"""On PYTHONPATH, makes the name fal.run resolve to the benchmark's upstream and its port.

It replaces a function below the package and below gevent, so that both are measured unchanged.
"""

from __future__ import annotations

# The private module of the standard library, because `socket.getaddrinfo` calls its function, and
# so does gevent's resolver on its threads.
import _socket
import os
from typing import Any, Final

_PORT: Final = int(os.environ["UPSTREAM_PORT"])
_getaddrinfo: Final = _socket.getaddrinfo


def _resolve(host: Any, port: Any, *arguments: Any, **more: Any) -> list[Any]:
    if host == "fal.run":
        return _getaddrinfo("127.0.0.1", _PORT, *arguments, **more)
    return _getaddrinfo(host, port, *arguments, **more)


_socket.getaddrinfo = _resolve

"""On PYTHONPATH, makes fal's names resolve to the benchmark's upstream and its port.

If the variable UPSTREAM_LOST names a file and that exists, fal's main names are lost: they do not
resolve, or if the file holds a port, they lead to that. The backup names, such as falrun.com, stay.

It replaces a function below the package and below gevent, so that both are measured unchanged.
"""

from __future__ import annotations

# The private module of the standard library, because `socket.getaddrinfo` calls its function, and
# so does gevent's resolver on its threads.
import _socket
import os
from pathlib import Path
from typing import Any, Final

_PORT: Final = int(os.environ["UPSTREAM_PORT"])
_getaddrinfo: Final = _socket.getaddrinfo


_lost: Final = Path(os.environ.get("UPSTREAM_LOST", os.devnull))
_MAIN: Final = ("fal.run", "queue.fal.run")
_BACKUP: Final = ("falrun.com", "queue.falrun.com")


def _resolve(host: Any, port: Any, *arguments: Any, **more: Any) -> list[Any]:
    name = host.decode() if isinstance(host, bytes) else host
    if name in _MAIN and _lost.is_file():
        port = _lost.read_text()
        if not port:
            raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")
        return _getaddrinfo("127.0.0.1", int(port), *arguments, **more)
    if name in _MAIN or name in _BACKUP:
        return _getaddrinfo("127.0.0.1", _PORT, *arguments, **more)
    return _getaddrinfo(host, port, *arguments, **more)


_socket.getaddrinfo = _resolve

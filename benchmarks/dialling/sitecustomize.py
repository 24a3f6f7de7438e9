"""On PYTHONPATH, makes fal's names resolve to the benchmark's upstream, and its port.

Below everything of the package's, so that it is measured as it ships.
"""

from __future__ import annotations

import _socket
import os
from typing import Any, Final

_PORT: Final = int(os.environ["UPSTREAM_PORT"])
_getaddrinfo: Final = _socket.getaddrinfo


def _found(host: Any, port: Any, *arguments: Any, **more: Any) -> list[Any]:
    if host == "fal.run":
        return _getaddrinfo("127.0.0.1", _PORT, *arguments, **more)
    return _getaddrinfo(host, port, *arguments, **more)


# What the standard library's function calls, and gevent's on its threads.
_socket.getaddrinfo = _found

"""What a relayed request costs, by a measure that is the same on every machine.

`python -m benchmarks.speed` measures the time, `python -m benchmarks.guard` the instructions.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.raw_server import RawServer, answering
from wsgi_fal_proxy import FalProxy

if TYPE_CHECKING:
    from types import FrameType

# Calls of Python functions, which is what most of the time goes to: as many as there are on the
# version of Python, and with the urllib3, that make most of them. When fewer do, lower it.
MOST_CALLS = 81

BODY = b'{"prompt": "a red fox"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def calls_to_relay(proxy: FalProxy) -> Counter[str]:
    """Relay one POST, as a server would, and count the calls of each Python function."""
    environ = {
        "REQUEST_METHOD": "POST",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "HTTP_ACCEPT": "application/json",
        "HTTP_USER_AGENT": "test",
        "HTTP_X_FAL_TARGET_URL": "https://fal.run/fal-ai/flux/dev",
        "wsgi.input": io.BytesIO(BODY),
    }
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Any:
        statuses.append(status)

    calls: Counter[str] = Counter()

    def profile(  # pragma: no cover - while it runs nothing is traced
        frame: FrameType, event: str, argument: object
    ) -> None:
        if event == "call":
            code = frame.f_code
            calls[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1

    # On this thread alone, not on the upstream's; cProfile sees both, from Python 3.12 on.
    sys.setprofile(profile)
    try:
        content = proxy(environ, start_response)
        pieces = list(content)
        getattr(content, "close", lambda: None)()
    finally:
        sys.setprofile(None)
    assert (statuses, pieces) == (["200 OK"], [b"{}"])
    return calls


def test_proxy_takes_few_calls_for_a_request_on_a_kept_connection(tmp_path: Path) -> None:
    with RawServer(answering(*[ANSWER] * 4)) as server:
        proxy = FalProxy(key="k", pool_manager=server.pool_manager(tmp_path))
        # The second is the first one on a kept connection, which urllib3 prepares for.
        _, _, third, fourth = (calls_to_relay(proxy) for _ in range(4))
    assert server.connections == 1
    # The same each time, or a number would say little.
    assert third == fourth
    assert third.total() <= MOST_CALLS, third

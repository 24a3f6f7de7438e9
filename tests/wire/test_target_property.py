"""One sentence: whatever the target, 412, or one request to exactly the host that was checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import targets
from tests.support.environs import answer_to
from tests.support.raw_server import Connection, RawServer, close_connections
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy.testing import FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.connectionpool import HTTPConnectionPool

    from tests.support.network import NetworkGuard

EXAMPLES = int(os.environ.get("TARGET_PROPERTY_EXAMPLES", "1000"))

_parts = st.tuples(
    *(
        st.sampled_from(kind)
        for kind in (
            [*targets.SCHEMES[0], *targets.SCHEMES[1]],
            ["", *targets.BETWEEN],
            [*targets.HOSTS[0], *targets.HOSTS[1]],
            [*targets.PORTS[0], *targets.PORTS[1]],
            [*targets.PATHS[0], *targets.PATHS[1]],
            ["", *targets.BETWEEN],
            [*targets.QUERIES[0], *targets.QUERIES[1]],
        )
    )
).map("".join)
_near = st.randoms(use_true_random=False).map(targets.near_target)
# A WSGI server hands bytes over as latin-1 text.
_bytes = st.binary(max_size=200).map(lambda data: data.decode("latin-1"))
_fal_urls = st.builds(
    "https://{}.fal.{}{}".format,
    st.text(st.characters(codec="latin-1"), max_size=20),
    st.sampled_from(["run", "ai"]),
    st.text(st.characters(codec="latin-1"), max_size=40),
)


class Recording(FakeFalPoolManager):
    """Notes for which host a connection was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.hosts: list[str | None] = []

    def connection_from_host(self, host: str | None, *args: Any, **kw: Any) -> HTTPConnectionPool:
        self.hosts.append(host)
        return super().connection_from_host(host, *args, **kw)


class Upstream:
    def __init__(self, port: int, heads: list[bytes]) -> None:
        self.manager = Recording(port)
        self.heads = heads

    def answer_to(self, text: str) -> str:
        """Give the status of the answer to a request for a target."""
        # A proxy that has been used would know the host's connections.
        proxy = FalProxy(key="k", pool_manager=self.manager)
        status, _, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=text)
        close_connections(proxy)
        return status


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    heads: list[bytes] = []

    def script(connection: Connection) -> None:
        while True:  # until the client closes
            heads.append(connection.read_head())
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with RawServer(script, tls=False) as server:
        upstream = Upstream(server.port, heads)
        yield upstream
        upstream.manager.clear()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.one_of(_near, _parts, _fal_urls, _bytes))
@example(text="https://fal.run/")
@example(text="https://evil.example\\.fal.run/")
def test_target_of_any_text_is_412_or_one_request_to_the_host_that_was_checked(
    upstream: Upstream, network: NetworkGuard, text: str
) -> None:
    upstream.heads.clear()
    upstream.manager.hosts.clear()
    status = upstream.answer_to(text)
    if status == "200 OK":
        (head,) = upstream.heads
        (host,) = upstream.manager.hosts
        assert host is not None
        assert f"\r\nHost: {host}\r\n".encode() in head
        # Told without a parser: what stands between the scheme and the path.
        authority = text.lower().removeprefix("https://").partition("/")[0].partition("?")[0]
        assert authority.removesuffix(":443") == host
        assert f".{host}".endswith((".fal.run", ".fal.ai"))
    else:
        assert status[:3] == ("412" if text.strip(" \t") else "400")
        assert upstream.heads == []
        assert upstream.manager.hosts == []
    assert network.lookups == []

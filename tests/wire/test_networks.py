"""Connections to fal through networks that forget and drop, each in a namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="network namespaces need root"
    ),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

PORT = 18_443
PREAMBLE = """
import socket, sys, tempfile, threading, time
from pathlib import Path
from tests.support.environs import RUN, answer_to
from tests.support.raw_server import RawServer
from wsgi_fal_proxy import FalProxy

OK = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
proxy_of = lambda server, **options: FalProxy(
    key="k", pool_manager=server.pool_manager(Path(tempfile.mkdtemp())), **options
)
call = lambda proxy: answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)[0]
"""
# As a NAT does, it forgets what is silent for 4 seconds, and drops what comes later.
NAT = """
table inet nat_like {
  chain i {
    type filter hook input priority 0; policy accept
    tcp dport 18443 ct state invalid drop
    tcp sport 18443 ct state invalid drop
    tcp sport 18443 ct state new drop
  }
}
"""
FORGETTING = (
    "echo 4 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established;"
    " echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"
)
DROPPING = """
table inet dead {
  chain i {
    type filter hook input priority 0; policy accept
    ip6 daddr fd00::/8 drop
  }
}
"""


def run_in_namespace(rules: str, setup: str, program: str) -> str:
    shell = f"ip link set lo up && nft -f - <<'N'\n{rules}\nN\n{setup}\nexec {sys.executable} -"
    done = subprocess.run(
        ["unshare", "-rn", "bash", "-c", f"{shell} <<'P'\n{PREAMBLE}{textwrap.dedent(program)}\nP"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_connections_outlive_a_nat_that_forgets_silent_ones() -> None:
    program = """
        silence = [0.0]

        def script(connection):
            for _ in range(3):
                connection.read_request()
                time.sleep(silence[0])
                connection.send(OK)

        with RawServer(script) as server:
            # To the port that the rules name.
            relay = socket.create_server(("127.0.0.1", 18443))

            def pump(one, other):
                while data := one.recv(65536):
                    other.sendall(data)
                other.close()

            def accept():
                while True:
                    near, _ = relay.accept()
                    far = socket.create_connection(("127.0.0.1", server.port))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            port, server.port = server.port, 18443
            proxy = proxy_of(server, read_timeout=10)
            server.port = port
            print(call(proxy))
            time.sleep(6)
            print(call(proxy))
            silence[0] = 6
            print(call(proxy), server.connections)
    """
    assert run_in_namespace(NAT, FORGETTING, program) == "200 OK\n200 OK\n200 OK 1\n"


def test_dead_ipv6_addresses_cost_a_moment_on_the_first_connection_alone() -> None:
    program = """
        def script(connection):
            connection.read_request()
            connection.send(OK)

        with RawServer(script) as server:
            dead = [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"fd00::{n}", server.port, 0, 0))
                for n in (1, 2, 3)
            ]
            live = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
            socket.getaddrinfo = lambda *_, **__: [*dead, live]
            manager = server.pool_manager(Path(tempfile.mkdtemp()))
            trusted = manager.connection_pool_kw["ssl_context"]
            proxy = FalProxy(key="k", connect_timeout=40)
            proxy._upstream._pools._manager.connection_pool_kw["ssl_context"] = trusted
            proxy._upstream._pools.reset_after_fork()
            began = time.monotonic()
            print(call(proxy))
            first = time.monotonic()
            print(call(proxy))
            # A share of connect_timeout for each dead address was 10 seconds and more.
            print(first - began < 5, time.monotonic() - first < 5)
    """
    setup = "ip -6 addr add fd00::1/128 dev lo; ip -6 route add fd00::/8 dev lo"
    assert run_in_namespace(DROPPING, setup, program) == "200 OK\n200 OK\nTrue True\n"

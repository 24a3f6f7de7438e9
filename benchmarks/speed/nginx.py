"""nginx, as the upstream of small and large answers and as the cheapest possible proxy."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme

from benchmarks.common.calls import MEGABYTE, connected, read_answer
from benchmarks.common.processes import running
from benchmarks.common.servers import Served, free_ports, wait_until_served

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

SMALL: Final = (
    '{"images":[{"url":"https://v3.fal.media/files/penguin/VsXzZ0nQ8bM2hT5kWq1aL_red_fox.png",'
    '"width":1024,"height":768,"content_type":"image/png"}],"timings":{"inference":0.8214},'
    '"seed":3571884902,"has_nsfw_concepts":[false],"prompt":"a red fox in the snow, early morning"}'
)
"""The answer to each POST: 301 bytes, in the form of fal's answers."""
LARGE: Final = bytes(range(256)) * (MEGABYTE // 256)
LARGE_PATH: Final = "/files/large"

# One worker, because every proxy here is one process. No number of requests ends a connection.
_COMMON: Final = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 10000;
pid {directory}/pid;
error_log stderr error;
events {{ worker_connections 4000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  # Announced to the proxies, so that they keep idle connections while another one is measured.
  keepalive_timeout 600s 600s;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
"""
_UPSTREAM: Final = (
    _COMMON
    + """
  server {{
    listen 127.0.0.1:{port} ssl backlog=2048;
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/certificate.pem;
    default_type application/json;
    add_header x-fal-request-id $request_id;
    if ($http_authorization != "Key {key}") {{ return 401; }}
    location / {{ return 200 '{small}'; }}
    location /files/ {{ root {directory}; default_type image/png; }}
  }}
  server {{
    listen 127.0.0.1:{status_port};
    location / {{ stub_status; }}
  }}
}}
"""
)
_PROXY: Final = (
    _COMMON
    + """
  map $http_x_fal_target_url $fal_path {{ "~^https://fal\\.run(?<path>/.*)$" $path; }}
  upstream fal {{
    server 127.0.0.1:{upstream_port};
    keepalive 2000;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location = /api/fal/proxy {{
      if ($fal_path = "") {{ return 412; }}
      proxy_pass https://fal$fal_path;
      proxy_http_version 1.1;
      proxy_buffering off;
      # So that each event is in one chunk, as the benchmark's receiver expects.
      proxy_buffer_size 64k;
      proxy_buffers 8 64k;
      proxy_read_timeout 300s;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {ca_file};
      proxy_ssl_server_name on;
      proxy_ssl_name fal.run;
      proxy_set_header Host fal.run;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Key {key}";
      proxy_set_header Accept-Encoding identity;
    }}
  }}
}}
"""
)
# The three numbers of stub_status: accepted, handled, requests.
_COUNTS: Final = re.compile(rb"requests\s+([0-9]+) [0-9]+ ([0-9]+)")


class NginxUpstream:
    """The running upstream.

    Args:
        port: On 127.0.0.1, over TLS.
        ca_file: The authority that signed its certificate.
        status: A connection to its status page.
    """

    def __init__(self, port: int, ca_file: Path, status: socket.socket) -> None:
        self.port = port
        self.ca_file = ca_file
        self._status = status

    def counts(self) -> tuple[int, int]:
        """Return the number of accepted connections and of requests so far."""
        self._status.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found = _COUNTS.search(read_answer(self._status)[1])
        if found is None:
            raise ValueError("the status page of nginx has no counts")
        return int(found[1]), int(found[2])


@contextlib.contextmanager
def serve_nginx_upstream(key: str) -> Iterator[NginxUpstream]:
    """Serve the small and the large answer to requests with the key."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        certificate = authority.issue_cert("fal.run", "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "certificate.pem"))
        large = directory / LARGE_PATH.removeprefix("/")
        large.parent.mkdir()
        large.write_bytes(LARGE)
        port, status_port = free_ports(2)
        with (
            _nginx(_UPSTREAM, directory, port, status_port=status_port, key=key, small=SMALL),
            connected(status_port) as status,
        ):
            yield NginxUpstream(port, directory / "ca.pem", status)


@contextlib.contextmanager
def serve_nginx_proxy(upstream_port: int, ca_file: Path, key: str) -> Iterator[Served]:
    """Serve the cheapest possible proxy, which checks next to nothing."""
    with tempfile.TemporaryDirectory() as name:
        (port,) = free_ports(1)
        more = {"upstream_port": upstream_port, "ca_file": ca_file, "key": key}
        with _nginx(_PROXY, Path(name), port, **more) as served:
            yield served


@contextlib.contextmanager
def _nginx(configuration: str, directory: Path, port: int, **values: object) -> Iterator[Served]:
    # The worker reads files in a directory that only its owner may enter.
    user = "user root;" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    file.write_text(configuration.format(user=user, directory=directory, port=port, **values))
    command = ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(file)]
    with running(command) as (process, log):
        wait_until_served(port, process, log)
        yield Served(port, process, log)

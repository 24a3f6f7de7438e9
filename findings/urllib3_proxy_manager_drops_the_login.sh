#!/usr/bin/env bash
# One would guess that a proxy URL with a name and a password makes the client log in at the proxy.
# curl does it, and so does requests 2.34.2.
#
# ProxyManager of urllib3 2.8.0 does not. It takes "http://user:example@127.0.0.1:PORT", drops the
# name and the password without a warning, and sends no Proxy-Authorization. That holds for a plain
# http target and for the CONNECT of an https target. A caller must make the header with
# urllib3.make_headers(proxy_basic_auth=...) and give it as proxy_headers.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check urllib3==2.8.0 requests==2.34.2

cat >login.py <<'PY'
import base64
import os
import platform
import socket
import subprocess
import sys
import threading
import warnings

import requests
import urllib3

for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]

heads = []
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]


def proxy():
    """Keep the head of each request. Answer a plain one with 200 and a CONNECT with 403."""
    while True:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    break
                head += data
            if not head:
                continue
            heads.append(head.decode("latin-1"))
            status = b"403 Forbidden" if head.startswith(b"CONNECT") else b"200 OK"
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


threading.Thread(target=proxy, daemon=True).start()
proxy_url = f"http://user:example@127.0.0.1:{port}"
expected = "Basic " + base64.b64encode(b"user:example").decode()


def logins(call):
    """The Proxy-Authorization in each head that arrives at the proxy during the call."""
    del heads[:]
    call()
    found = []
    for head in heads:
        lines = [line.partition(":") for line in head.split("\r\n")[1:]]
        values = [value.strip() for name, _, value in lines if name.lower() == "proxy-authorization"]
        found.append((head.split(" ")[0], values[0] if values else None))
    return found


def with_urllib3(target, **options):
    def call():
        with urllib3.ProxyManager(proxy_url, **options) as manager:
            try:
                manager.request("GET", target, retries=False, timeout=5)
            except urllib3.exceptions.HTTPError:
                # The proxy refuses the CONNECT. What counts is the head that it got.
                assert target.startswith("https:")

    return call


def with_requests():
    requests.get("http://target.example/", proxies={"http": proxy_url}, timeout=5)


def with_curl():
    subprocess.run(["curl", "-s", "-x", proxy_url, "http://target.example/"], check=True, timeout=10)


curl = subprocess.run(["curl", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
print(f"Python {platform.python_version()}, urllib3 {urllib3.__version__}, requests {requests.__version__}, curl {curl}")
made = {"proxy_headers": urllib3.make_headers(proxy_basic_auth="user:example")}
cases = [
    ("urllib3, http target", with_urllib3("http://target.example/"), "GET", None),
    ("urllib3, https target", with_urllib3("https://target.example/"), "CONNECT", None),
    ("urllib3 with proxy_headers", with_urllib3("http://target.example/", **made), "GET", expected),
    ("requests, http target", with_requests, "GET", expected),
    ("curl, http target", with_curl, "GET", expected),
]
same = True
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name, call, method, login in cases:
        found = logins(call)
        print(f"{name}: " + ", ".join(f"{verb}, Proxy-Authorization {value}" for verb, value in found))
        same = same and found == [(method, login)]
print(f"warnings: {[str(warning.message) for warning in caught]}")
same = same and not caught
print("As described." if same else "No longer as described.")
sys.exit(0 if same else 1)
PY
venv/bin/python login.py

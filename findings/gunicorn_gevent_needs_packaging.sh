#!/usr/bin/env bash
# One would guess that gunicorn runs its gevent worker as soon as gunicorn and gevent are installed.
#
# With gunicorn 27.0.1 and gevent 26.9.0 it does not. The gevent worker imports packaging. Neither
# gunicorn nor gevent requires packaging: only the extra gunicorn[gevent] does. The server stops with
# "No module named 'packaging'". After packaging 26.4 is installed, the worker starts and answers.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
install() { venv/bin/pip install -qq --disable-pip-version-check "$@"; }
install gunicorn==27.0.1 gevent==26.9.0

cat >app.py <<'PY'
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
PY

cat >start.py <<'PY'
"""Start gunicorn with the gevent worker. Print what it answers, or the error with which it stops."""

import re
import subprocess
import sys
import threading
import urllib.request

command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:0"]
command += ["--worker-class", "gevent", "app:app"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
# A server that says nothing is no longer as described. The timer ends it.
timer = threading.Timer(60, server.kill)
timer.start()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
url = None
worker = None
try:
    for line in server.stdout:
        if found := re.search(r"Listening at: (http://127\.0\.0\.1:\d+)", line):
            url = found[1]
        if found := re.search(r"Using worker: (\S+)", line):
            worker = found[1]
        if re.match(r"\w*Error: ", line):
            print(f"  {line.strip()}")
        if url and "Booting worker" in line:
            with opener.open(url, timeout=20) as response:
                print(f"  worker {worker}: {response.status} {response.read().decode()}")
            server.terminate()
finally:
    server.terminate()
    print(f"  exit code {server.wait(20)}")
    timer.cancel()
PY

venv/bin/python --version
venv/bin/pip list --disable-pip-version-check --format freeze 2>pip.log | grep -E '^(gunicorn|gevent|packaging)=='
echo "Without packaging:"
venv/bin/python start.py | tee without.log
install packaging==26.4
echo "With packaging 26.4:"
venv/bin/python start.py | tee with.log

if grep -q "ModuleNotFoundError: No module named 'packaging'" without.log \
    && grep -q "exit code 1" without.log && ! grep -q "200 hello" without.log \
    && grep -q "worker gevent: 200 hello" with.log && grep -q "exit code 0" with.log; then
    echo "As described."
else
    echo "No longer as described."
    exit 1
fi

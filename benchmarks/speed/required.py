"""Programs and modules that the speed benchmark needs."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Final

# Program: Debian package.
_PROGRAMS: Final = {"nginx": "nginx", "wrk": "wrk", "node": "nodejs", "npm": "npm"}
_MODULES: Final = (
    *("fastapi", "flask", "gevent", "granian", "gunicorn", "httptools", "httpx", "matplotlib"),
    *("requests", "trustme", "uvicorn", "uvloop", "wsgi_fal_proxy"),
)
# Load average of the last minute: proc(5), loadavg.
_BUSY: Final = 0.7


def require() -> None:
    """Check that all of them are installed. Warn if the machine is busy.

    Raises:
        SystemExit: Something is missing. The message has the command that installs it.
    """
    lines = []
    if programs := [name for name in _PROGRAMS if shutil.which(name) is None]:
        packages = " ".join(_PROGRAMS[name] for name in programs)
        lines.append(f"Missing: {', '.join(programs)}. apt-get install {packages}")
    if modules := [name for name in _MODULES if find_spec(name) is None]:
        lines.append(f"Missing: {', '.join(modules)}. pip install -e '.[benchmarks]'")
    if lines:
        raise SystemExit("\n".join(lines))
    busy = os.getloadavg()[0]
    if busy > _BUSY:
        print(f"  This machine is busy: load {busy:.1f}. Figures will vary.", file=sys.stderr)

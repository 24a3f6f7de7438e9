"""The time of an import of the package."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import ROOT
from benchmarks.common.results import progress
from benchmarks.speed.measured import Measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.speed.scale import Scale

IMPORT: Final = "import after urllib3"
IMPORT_AFTER_WERKZEUG: Final = "import after urllib3 and Werkzeug"
PACKAGE: Final = "wsgi-fal-proxy"

# The package itself imports urllib3. Many apps import Werkzeug, too, and by that most of the
# standard library that the package needs.
_IMPORTS: Final = {IMPORT: "urllib3", IMPORT_AFTER_WERKZEUG: "urllib3, werkzeug"}
_TIMED: Final = """
import {before}
from time import perf_counter
begun = perf_counter()
import wsgi_fal_proxy
print((perf_counter() - begun) * 1e3)
"""


def imports(scale: Scale) -> Iterator[Measured]:
    """Measure the import of the package, each time in a new interpreter."""
    progress(f"importing the package {scale.imports} times")
    with tempfile.TemporaryDirectory() as directory:
        # With byte code, as in an installation.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # The first import compiles the package and does not count.
        for repeat in range(scale.imports + 1):
            for figure, before in _IMPORTS.items():
                took = subprocess.run(
                    [sys.executable, "-c", _TIMED.format(before=before)],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                if repeat:
                    yield Measured(figure, PACKAGE, float(took.stdout), "ms")

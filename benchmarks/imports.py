"""The figure of the time that an import takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from benchmarks.harness import progress
from benchmarks.measured import Measured
from tests.support.serving import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.speed import Scale

IMPORT: Final = "import after urllib3"
IMPORT_AFTER_WERKZEUG: Final = "import after urllib3 and Werkzeug"
PACKAGE: Final = "wsgi-fal-proxy"

# The package imports urllib3, and nothing of Werkzeug, which its development server uses. So the
# first figure is what an import adds; the second is what it adds in an app that has both, and
# with them most of the standard library that the package needs.
_IMPORTS: Final = {IMPORT: "urllib3", IMPORT_AFTER_WERKZEUG: "urllib3, werkzeug"}
_TIMED: Final = """
import {before}
from time import perf_counter
begun = perf_counter()
import wsgi_fal_proxy
print((perf_counter() - begun) * 1e3)
"""


def imports(scale: Scale) -> Iterator[Measured]:
    """How long it takes to import the package, in an interpreter of its own each time."""
    progress(f"importing the package {scale.imports} times")
    with tempfile.TemporaryDirectory() as directory:
        # Byte code as an installation has it, whatever the developer's own settings are.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # Once unmeasured, which compiles it.
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

"""The architecture: the contracts in pyproject.toml, and what they cannot say.

That one module reads the environment is a rule of Ruff's there (`banned-api`).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support.serving import ROOT


def test_layers_keep_import_linters_contracts() -> None:
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")  # pragma: no cover - the extra has it
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_let_the_request_body_alone_read_the_input() -> None:
    files = (ROOT / "wsgi_fal_proxy").rglob("*.py")
    readers = {path.name for path in files if '"wsgi.input"' in path.read_text()}
    # Django's view says where the body is if Django has read it.
    assert readers == {"django.py", "request_body.py"}

"""On PYTHONPATH, makes any program's default pool manager dial the fake fal.

So a program can be run as its users run it. What the proxy checks stays as it is.
"""

from __future__ import annotations

import os

from wsgi_fal_proxy._upstream import manager
from wsgi_fal_proxy.testing import FakeFalPoolManager


def _dial_the_fake_fal() -> FakeFalPoolManager:
    return FakeFalPoolManager(int(os.environ["FAKE_FAL_PORT"]), os.environ["FAKE_FAL_CA_FILE"])


manager.default_manager = _dial_the_fake_fal

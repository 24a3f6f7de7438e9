"""For servers under test: the relay in front of a fake fal in another process."""

from __future__ import annotations

import os

from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy.testing import FakeFalPoolManager

application = FalProxy(
    pool_manager=FakeFalPoolManager(
        int(os.environ["FAKE_FAL_PORT"]), os.environ.get("FAKE_FAL_CA_FILE")
    ),
    max_body_bytes=int(os.environ.get("MAX_BODY_BYTES", "33554432")),
)

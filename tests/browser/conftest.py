"""The browser."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support.raw_server import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser(node: str) -> Iterator[Browser]:
    """Chromium, headless; the client that pages use is installed."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("chromium is not installed")  # pragma: no cover - not everywhere
    expect.set_options(timeout=WAIT_SECONDS * 1000)
    with ExitStack() as stack:
        # In one: playwright starts greenlets, and coverage may miss the line after that.
        yield stack.enter_context(
            stack.enter_context(sync_playwright()).chromium.launch(executable_path=found)
        )

"""The target grammar against Node's `new URL`: what is accepted here means the same there."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess

import pytest

from tests.support.serving import ROOT
from tests.support.targets import near_target
from wsgi_fal_proxy._fal.target import Target
from wsgi_fal_proxy.errors import FalProxyError

EXAMPLES = int(os.environ.get("TARGET_WHATWG_EXAMPLES", "20000"))


def accepted_host(text: str) -> str | None:
    try:
        return Target.parse(text).host
    except FalProxyError:
        return None


def test_target_parse_accepts_only_what_whatwg_parses_to_the_same_https_host() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")  # pragma: no cover - not everywhere
    draw = random.Random(20261122)
    texts = (near_target(draw) for _ in range(EXAMPLES))
    accepted = [(text, host) for text in texts if (host := accepted_host(text)) is not None]
    assert len(accepted) > EXAMPLES // 20
    done = subprocess.run(
        [node, str(ROOT / "tests" / "support" / "js" / "whatwg.mjs")],
        input="".join(f"{json.dumps(text)}\n" for text, _ in accepted),
        capture_output=True,
        text=True,
        check=True,
    )
    parsed = map(json.loads, done.stdout.splitlines())
    different = [
        (text, theirs)
        for (text, host), theirs in zip(accepted, parsed, strict=True)
        if theirs != ["https:", host, "", "", "", ""]
    ]
    assert different == []

from __future__ import annotations

import pytest

from wsgi_fal_proxy.globs import compiled


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        pytest.param("fal-ai/flux", "fal-ai/flux", True, id="itself"),
        pytest.param("fal-ai/flux", "fal-ai/flux/dev", False, id="longer"),
        pytest.param("fal-ai/flux", "FAL-AI/flux", False, id="other-case"),
        pytest.param("fal-ai/*", "fal-ai/flux", True, id="star"),
        pytest.param("fal-ai/*", "fal-ai/", True, id="star-for-nothing"),
        pytest.param("fal-ai/*", "fal-ai/flux/dev", False, id="star-within-a-segment"),
        pytest.param("fal-ai/*-pro", "fal-ai/flux-pro", True, id="star-before"),
        pytest.param("fal-ai/**", "fal-ai/flux/dev", True, id="stars-cross"),
        pytest.param("**", "fal-ai/flux\n", True, id="stars-for-anything"),
        pytest.param("fal-ai/f.ux", "fal-ai/flux", False, id="dot"),
        pytest.param("fal-ai/flux", "fal-ai/flux\n", False, id="newline"),
    ],
)
def test_a_glob_matches_the_whole_text(glob: str, text: str, matches: bool) -> None:
    assert (compiled([glob]).fullmatch(text) is not None) is matches


def test_any_of_several_globs_may_match() -> None:
    both = compiled(["a", "b/**"])
    assert both.fullmatch("a")
    assert both.fullmatch("b/c/d")
    assert not both.fullmatch("a/c/d")

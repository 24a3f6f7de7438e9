"""How much one call takes from a limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._fal.patterns import compile_endpoint_patterns

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of owners, apps and paths, in lower case. fal may read any other path (dots, escapes, empty
# segments) as a different one.
_SEGMENT: Final = r"[a-z0-9_~-][a-z0-9_.~-]*+"
_PLAIN: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*+")
# What runs other models under a name of its own: workflows, ComfyUI graphs, and an owner's number,
# which fal's clients also join to the app ("110602490-veo3" is "110602490/veo3").
_OPAQUE: Final = re.compile(r"(?:workflows|comfy)(?:/|\Z)|[0-9]+(?:[/-]|\Z)")


class Costs:
    """What calls cost, by endpoint. If several patterns match, the highest cost applies.

    Args:
        costs: The option `costs`: patterns and whole numbers. None means that each call costs 1.
    """

    def __init__(self, costs: Mapping[str, int] | None) -> None:
        costs = costs or {}
        highest_first = sorted(costs.items(), key=lambda item: -item[1])
        self._all = [
            (compile_endpoint_patterns([pattern.lower()], in_namespaces=True), cost)
            for pattern, cost in highest_first
        ]
        # The patterns whose owner has no wildcard.
        self._with_owner = [
            (compile_endpoint_patterns([pattern.lower()]), cost)
            for pattern, cost in highest_first
            if "*" not in pattern.partition("/")[0]
        ]
        self._highest = max([1, *costs.values()])

    def cost_of(self, endpoint: str | None) -> int:
        """Return what a call costs: 1 if no pattern matches.

        Case does not matter, since fal may ignore it, too.

        Args:
            endpoint: The endpoint. None or a non-plain path costs the highest cost. So does a name
                that can stand for other models (a workflow, a ComfyUI graph, an owner's number),
                unless a pattern names its owner.
        """
        if not self._all:
            return 1
        if endpoint is None or not _PLAIN.fullmatch(endpoint.lower()):
            return self._highest
        path = f"/{endpoint.lower()}"
        if _OPAQUE.match(endpoint.lower()):
            return next(
                (cost for patterns, cost in self._with_owner if patterns.match(path)), self._highest
            )
        return next((cost for patterns, cost in self._all if patterns.match(path)), 1)

"""How much one call takes from a limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._fal.patterns import endpoint_globs

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
    """What calls cost, by endpoint. If several globs match, the highest cost applies.

    Args:
        costs: The option `costs`: globs and whole numbers. None means that each call costs 1.
    """

    def __init__(self, costs: Mapping[str, int] | None) -> None:
        costs = costs or {}
        highest_first = sorted(costs.items(), key=lambda item: -item[1])
        self._globs = [
            (endpoint_globs([glob.lower()], in_namespaces=True), cost)
            for glob, cost in highest_first
        ]
        # Those that name the owner, and do not just admit any.
        self._with_owner = [
            (endpoint_globs([glob.lower()]), cost)
            for glob, cost in highest_first
            if "*" not in glob.partition("/")[0]
        ]
        self._highest = max([1, *costs.values()])

    def of(self, endpoint: str | None) -> int:
        """Return what a call costs: 1 if no glob matches.

        Case does not matter, since fal may ignore it, too.

        Args:
            endpoint: None, or a path that is not plain, costs as much as the highest cost. So does
                a name that can stand for other models (a workflow, a ComfyUI graph, an owner's
                number), unless a glob names its owner.
        """
        if not self._globs:
            return 1
        if endpoint is None or not _PLAIN.fullmatch(endpoint.lower()):
            return self._highest
        path = f"/{endpoint.lower()}"
        if _OPAQUE.match(endpoint.lower()):
            return next(
                (cost for globs, cost in self._with_owner if globs.match(path)), self._highest
            )
        return next((cost for globs, cost in self._globs if globs.match(path)), 1)

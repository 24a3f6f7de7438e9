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
        self._highest = max([1, *costs.values()])

    def of(self, endpoint: str | None) -> int:
        """Return what a call costs: 1 if no glob matches.

        Case does not matter, since fal may ignore it, too.

        Args:
            endpoint: None, or a path that is not plain, costs as much as the highest cost.
        """
        if not self._globs:
            return 1
        if endpoint is None or not _PLAIN.fullmatch(endpoint.lower()):
            return self._highest
        path = f"/{endpoint.lower()}"
        return next((cost for globs, cost in self._globs if globs.match(path)), 1)

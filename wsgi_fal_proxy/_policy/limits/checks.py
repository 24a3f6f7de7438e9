"""Checks the values of the options `limits`, `costs` and `limits_storage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._fal.patterns import PatternInvalid, compile_endpoint_patterns
from wsgi_fal_proxy._policy.limits import notation, storage
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._policy.limits.notation import Limit

_INSTALL: Final = "this needs more libraries: pip install 'limits[redis]'"


def check_limits(name: str, texts: object) -> None:
    """Check that each limit can be read, and that each has a window of its own.

    Raises:
        SettingsError: One cannot be used, or the library is not installed.
    """
    if not isinstance(texts, list | tuple):
        raise SettingsError(name, texts, f"it must be a list of limits, {notation.ACCEPTED}")
    windows: set[tuple[int, bool]] = set()
    for text in texts:
        limit = _limit(name, text)
        window = (limit.seconds, limit.is_global)
        if window in windows:
            raise SettingsError(name, text, "there can be one limit for each window of time")
        windows.add(window)


def _limit(name: str, text: Any) -> Limit:
    try:
        return notation.parse_limit(text)
    except ImportError as error:
        raise SettingsError(name, text, _INSTALL) from error
    except notation.ZeroInLimit as error:
        raise SettingsError(name, text, "no number in a limit may be 0") from error
    except (ValueError, AttributeError) as error:
        raise SettingsError(name, text, f"each must be {notation.ACCEPTED}") from error


def check_costs(name: str, costs: object) -> None:
    """Check that costs are whole numbers by patterns of endpoints.

    Raises:
        SettingsError: They are not.
    """
    if not isinstance(costs, Mapping):
        why = "it must be costs by patterns of endpoints, such as {'fal-ai/veo3/**': 20}, or None"
        raise SettingsError(name, costs, why)
    for pattern, cost in costs.items():
        if not isinstance(pattern, str):
            why = "each must be a pattern of endpoints, such as 'fal-ai/veo3/**'"
            raise SettingsError(name, pattern, why)
        try:
            compile_endpoint_patterns([pattern])
        except PatternInvalid as error:
            raise SettingsError(name, pattern, error.why) from error
        if not isinstance(cost, int) or isinstance(cost, bool) or cost < 1:
            raise SettingsError(name, cost, "each must be a whole number, 1 or more")


def check_costs_within(name: str, costs: Mapping[str, int], limits: Sequence[str]) -> None:
    """Check that no call costs more than a limit, as no such call could ever pass.

    Raises:
        SettingsError: One does, or there is no limit.
    """
    if not limits:
        raise SettingsError(name, costs, "costs have no effect without limits: set limits, too")
    for cost in costs.values():
        for limit in map(notation.parse_limit, limits):
            if cost > limit.amount:
                why = f"it exceeds a limit, so no such call could pass: {limit.text}"
                raise SettingsError(name, cost, why)


def check_storage(name: str, uri: Any) -> None:
    """Check that a URI names a store. This does not connect to it.

    Raises:
        SettingsError: It does not, or a library is not installed.
    """
    try:
        storage.make_store(uri)
    except ImportError as error:
        raise SettingsError(name, uri, _INSTALL) from error
    except (ValueError, AttributeError) as error:
        raise SettingsError(name, uri, f"it must be {storage.ACCEPTED}") from error

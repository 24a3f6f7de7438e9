"""The options: checked once, at construction, then frozen.

What checks an option that is not usual, and reads it, is loaded where it is set: a start takes so
much less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self

from wsgi_fal_proxy._fal.headers import NEVER_FORWARDED, NEVER_FORWARDED_PREFIXES
from wsgi_fal_proxy._http.fields import TOKEN
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import TypedDict

    import urllib3

    from wsgi_fal_proxy._core.record import Observer
    from wsgi_fal_proxy._fal.key import KeySource
    from wsgi_fal_proxy._policy.authorize import Authorize
    from wsgi_fal_proxy._policy.limits.notation import Limit

    class Options(TypedDict, total=False):
        """The keyword options of `FalProxy`, which documents them."""

        key: str | KeySource | None
        authorize: Authorize | None
        allowed_urls: Collection[str] | None
        allowed_endpoints: Collection[str] | None
        report_only: bool
        limits: Sequence[str]
        costs: Mapping[str, int] | None
        limits_storage: str
        limits_fail_open: bool
        cors_origins: Collection[str]
        observer: Observer | None
        connect_timeout: float | None
        read_timeout: float | None
        total_timeout: float | None
        max_concurrent: int | None
        max_body_bytes: int
        forward_headers: Collection[str]
        pool_manager: urllib3.PoolManager | None


DEFAULT_PREFIX: Final = "/api/fal/proxy"
"""Rule 1 of the formula; also where fal's own proxies answer."""

IN_MEMORY: Final = "memory://"
_SHOWN_LENGTH: Final = 16
# Eleven days. A socket cannot wait for longer than 2^31 milliseconds.
_MAX_SECONDS: Final = 1_000_000


# Nobody compares them, and what is in them need not be shown.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Settings:
    """The options of `FalProxy`, which documents them. What cannot be used cannot be held."""

    key: str | KeySource | None = None
    authorize: Authorize | None = None
    allowed_urls: Collection[str] | None = None
    allowed_endpoints: Collection[str] | None = None
    report_only: bool = False
    limits: Sequence[str] = ()
    costs: Mapping[str, int] | None = None
    limits_storage: str = IN_MEMORY
    limits_fail_open: bool = False
    cors_origins: Collection[str] = ()
    observer: Observer | None = None
    connect_timeout: float | None = 10.0
    read_timeout: float | None = 300.0
    total_timeout: float | None = None
    max_concurrent: int | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    forward_headers: Collection[str] = ()
    pool_manager: urllib3.PoolManager | None = None

    def __post_init__(self) -> None:
        if not (self.key is None or callable(self.key) or _is_key_text(self.key)):
            why = (
                "it must be the key as text, a callable that returns it, or None for the"
                " environment"
            )
            raise SettingsError("key", self.key, why)
        if not (self.authorize is None or callable(self.authorize)):
            why = "it must be a callable that is given a FalRequest, or None to serve every caller"
            raise SettingsError("authorize", self.authorize, why)
        _check_patterns("allowed_urls", self.allowed_urls)
        _check_patterns("allowed_endpoints", self.allowed_endpoints)
        _check_report_only(self)
        _check_costs(self.costs, _checked_limits(self.limits))
        _check_storage(self.limits_storage)
        _check_bool("limits_fail_open", self.limits_fail_open)
        _check_origins(self.cors_origins)
        if not (self.observer is None or callable(self.observer)):
            raise SettingsError("observer", self.observer, "it must be a callable, or None")
        _check_seconds("connect_timeout", self.connect_timeout)
        _check_seconds("read_timeout", self.read_timeout)
        _check_seconds("total_timeout", self.total_timeout)
        _check_count("max_concurrent", self.max_concurrent)
        _check_bytes("max_body_bytes", self.max_body_bytes)
        _check_forwarded(self.forward_headers)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> Self:
        """Make settings of keyword options.

        Raises:
            SettingsError: An option is unknown, or its value cannot be used.
        """
        refuse_unknown(options, cls.names())
        return cls(**options)

    @classmethod
    def names(cls) -> list[str]:
        """Give the options' names."""
        return [option.name for option in fields(cls)]


def refuse_unknown(
    given: Mapping[str, object], known: Collection[str], *, prefix: str = ""
) -> None:
    """Raise `SettingsError` for the first name that is not known, with the nearest that is.

    Args:
        given: Names and values.
        known: The names that there are.
        prefix: What all names begin with, which makes none of them alike.
    """
    for name, value in given.items():
        if name not in known:
            bare = [option.removeprefix(prefix) for option in known]
            import difflib  # noqa: PLC0415 - for who misspelled, and not for each start

            alike = difflib.get_close_matches(name.removeprefix(prefix), bare, n=1, cutoff=0.7)
            near = [prefix + option for option in alike]
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
            raise SettingsError(name, shortened(value), f"there is no such option; {hint}")


def shortened(value: object) -> object:
    """Give what may be shown of a value that was set where it does not belong: it may be the key.

    That is a long text.
    """
    return "..." if isinstance(value, str) and len(value) > _SHOWN_LENGTH else value


def _is_key_text(key: object) -> bool:
    return isinstance(key, str) and bool(key.strip())


def _check_patterns(name: str, patterns: object) -> None:
    if patterns is None:
        return
    from wsgi_fal_proxy._fal.patterns import PatternInvalid, endpoint_globs, url_globs  # noqa: PLC0415

    compiled = url_globs if name == "allowed_urls" else endpoint_globs
    if not isinstance(patterns, list | tuple | set | frozenset):
        raise SettingsError(name, patterns, "it must be a list of patterns, or None to allow all")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SettingsError(name, pattern, "each pattern must be text")
        try:
            compiled([pattern])
        except PatternInvalid as error:
            raise SettingsError(name, pattern, error.why) from error


def _check_report_only(settings: Settings) -> None:
    name, value = "report_only", settings.report_only
    _check_bool(name, value)
    if value and not (settings.allowed_urls or settings.allowed_endpoints):
        why = "there is nothing to report without allowed_urls or allowed_endpoints"
        raise SettingsError(name, value, why)


def _check_seconds(name: str, value: Any) -> None:
    if value is None:
        return
    # A bool is an int to Python, and "timeout=True" is a mistake.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS:
        why = f"it must be a number of seconds above 0, up to {_MAX_SECONDS}, or None for no limit"
        raise SettingsError(name, value, why)


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingsError(
            name, value, "it must be a whole number, 1 or more, or None for no limit"
        )


def _check_bytes(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SettingsError(name, value, "it must be a whole number of bytes, 0 or more")


def _check_origins(origins: object) -> None:
    option = "cors_origins"
    if not isinstance(origins, list | tuple | set | frozenset):
        raise SettingsError(option, origins, "it must be a list of origins")
    if not origins:
        return
    from wsgi_fal_proxy._http.cors import wrong_origin  # noqa: PLC0415

    for origin in origins:
        if why := wrong_origin(origin):
            raise SettingsError(option, origin, why)


def _check_forwarded(names: object) -> None:
    option = "forward_headers"
    if not isinstance(names, list | tuple | set | frozenset):
        raise SettingsError(option, names, "it must be a list of header names")
    for name in names:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise SettingsError(option, name, "each must be a header name, such as x-request-id")
        # In a WSGI environ the two are one.
        lower = name.lower().replace("_", "-")
        if lower in NEVER_FORWARDED or lower.startswith(NEVER_FORWARDED_PREFIXES):
            why = "this header is never forwarded, or is the proxy's own to set"
            raise SettingsError(option, name, why)


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SettingsError(name, value, "it must be True or False")


_INSTALL: Final = "this needs more libraries: pip install 'limits[redis]'"


def _checked_limits(texts: object) -> list[Limit]:
    if isinstance(texts, list | tuple) and not texts:
        return []
    from wsgi_fal_proxy._policy.limits import notation  # noqa: PLC0415

    if not isinstance(texts, list | tuple):
        raise SettingsError("limits", texts, f"it must be a list of limits, {notation.ACCEPTED}")
    limits: list[Limit] = []
    for text in texts:
        try:
            limit = notation.limit(text)
        except ImportError as error:
            raise SettingsError("limits", text, _INSTALL) from error
        except notation.ZeroInLimit as error:
            raise SettingsError("limits", text, "no number in a limit may be 0") from error
        except (ValueError, AttributeError) as error:
            raise SettingsError("limits", text, f"each must be {notation.ACCEPTED}") from error
        if any((limit.seconds, limit.is_global) == (a.seconds, a.is_global) for a in limits):
            raise SettingsError("limits", text, "there can be one limit for each window of time")
        limits.append(limit)
    return limits


def _check_costs(costs: object, limits: list[Limit]) -> None:
    if costs is None:
        return
    from wsgi_fal_proxy._fal.patterns import PatternInvalid, endpoint_globs  # noqa: PLC0415

    if not isinstance(costs, Mapping):
        why = (
            "it must be globs and what their calls count for, such as {'fal-ai/veo3/**': 20}, or"
            " None"
        )
        raise SettingsError("costs", costs, why)
    if costs and not limits:
        raise SettingsError("costs", costs, "what calls count for needs limits: set limits, too")
    for glob, cost in costs.items():
        if not isinstance(glob, str):
            why = "each must be a pattern of endpoints, such as 'fal-ai/veo3/**'"
            raise SettingsError("costs", glob, why)
        try:
            endpoint_globs([glob])
        except PatternInvalid as error:
            raise SettingsError("costs", glob, error.why) from error
        if not isinstance(cost, int) or isinstance(cost, bool) or cost < 1:
            raise SettingsError("costs", cost, "each must be a whole number, 1 or more")
        for limit in limits:
            if cost > limit.amount:
                why = f"none may be over a limit, or no such call is ever made: {limit.text}"
                raise SettingsError("costs", cost, why)


def _check_storage(uri: Any) -> None:
    if uri == IN_MEMORY:
        return
    from wsgi_fal_proxy._policy.limits import store  # noqa: PLC0415

    try:
        store.store(uri)
    except ImportError as error:
        raise SettingsError("limits_storage", uri, _INSTALL) from error
    except (ValueError, AttributeError) as error:
        raise SettingsError("limits_storage", uri, f"it must be {store.ACCEPTED}") from error


def path_prefix(prefix: object) -> str:
    """Check a prefix, and give it in the form of `PATH_INFO`.

    Raises:
        SettingsError: It is not a path that begins with "/" and does not end with one.
    """
    usable = (
        isinstance(prefix, str)
        and prefix.startswith("/")
        and not prefix.endswith("/")
        and all(map(_is_in_paths, prefix))
    )
    if not usable:
        why = (
            "it must be a path that begins with '/' and does not end with one, such as"
            " '/api/fal/proxy'"
        )
        raise SettingsError("prefix", prefix, why)
    # PEP 3333, "Unicode Issues": the bytes of the path, each as one character.
    return str(prefix).encode().decode("latin-1")


def _is_in_paths(character: str) -> bool:
    """Whether it may be in `PATH_INFO`.

    Not what no path holds, nor what a path holds percent-encoded, nor half of a surrogate pair,
    which has no bytes.
    """
    is_half = "\ud800" <= character <= "\udfff"
    return character >= " " and character not in "\x7f?#%" and not is_half

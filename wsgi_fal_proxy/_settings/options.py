"""The options, each declared once: its default, its check, its form as text and its help.

The docstring of `FalProxy`, the command's `--help`, the variables, the ini names and the README's
tables derive from these declarations: see `reference`, `environment` and `ini`.

A check loads the module of its subject only for a value that is not the default: `import
wsgi_fal_proxy` stays fast.
"""

# ruff: noqa: RUF009 - `option` makes a field of the dataclass, as `dataclasses.field` does
from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

from wsgi_fal_proxy._settings import checks, text
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import TypedDict

    import urllib3

    from wsgi_fal_proxy._fal.key import KeySource
    from wsgi_fal_proxy._policy.authorize import Authorize
    from wsgi_fal_proxy._policy.call_record import Observer

    class Options(TypedDict, total=False):
        """The keyword options of `FalProxy` for type checkers; a test compares it to `Settings`."""

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
        egress_proxy: str | None
        backup_domains: bool
        pool_manager: urllib3.PoolManager | None


DEFAULT_PREFIX: Final = "/api/fal/proxy"
"""Rule 1 of the formula; also where fal's own proxies answer."""

_SHOWN_LENGTH: Final = 16
_OPTION: Final = "option"


class Option:
    """The declaration of one option. Its name and type are those of its field in `Settings`.

    Args:
        default: The value if the option is not given.
        check: Takes a name to report and a value, and raises `SettingsError` for one that cannot
            be used.
        parse: Reads a value from text; None for an option that only Python can express.
        example: An example of that text.
        has_variable: Whether a `FAL_PROXY_*` variable sets it, too.
        see: The title of the README's section on it.
        help: Plain sentences, with code in backticks. The first one says what the option is, and
            stands alone in `--help`. The others give the unit, the meaning of `None` or an empty
            value, and what a number does not bound. The default is added.
    """

    __slots__ = ("check", "default", "example", "has_variable", "help", "is_text", "parse", "see")

    def __init__(  # noqa: PLR0913 - each is a part of the declaration
        self,
        default: Any,
        *,
        check: Callable[[str, Any], None],
        help: str,  # noqa: A002 - as argparse calls it
        parse: Callable[[str], Any] | None = None,
        example: str = "",
        has_variable: bool = True,
        see: str = "",
    ) -> None:
        self.default: Any = default
        self.check = check
        self.is_text: bool = parse is not None
        self.parse = parse or text.keep_text
        self.example = example
        self.has_variable: bool = has_variable and self.is_text
        self.see = see
        self.help = help


def option(default: Any, **declared: Any) -> Any:
    """Make a field of `Settings`; see `Option`."""
    return field(default=default, metadata={_OPTION: Option(default, **declared)})


PREFIX: Final = Option(
    DEFAULT_PREFIX,
    check=checks.check_prefix,
    parse=text.keep_text,
    example="/fal",
    help=(
        "The path at which the proxy answers. It also answers below it: `/fal` takes `/fal`,"
        " `/fal/` and `/fal/x`, and leaves `/falx` to the app. The proxy compares it with"
        " `PATH_INFO`, so it works under any mount point (`SCRIPT_NAME`)."
    ),
)
"""The option that `FalProxyMiddleware` has, but `FalProxy` does not."""


# Never compared; a repr could show the key.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Settings:
    """The options of `FalProxy`. An instance holds only values that can be used."""

    key: str | KeySource | None = option(
        None,
        check=checks.check_key,
        parse=text.parse_key,
        example="key_id:key_secret",
        has_variable=False,
        help=(
            "The fal key. It is text, or a callable that takes the WSGI environ and returns the"
            " key for this request; `KeyFile(path)` is one that reads a file again when it"
            " changes. `None`: the proxy looks in the environment at each request, for `FAL_KEY`,"
            " then for `FAL_KEY_FILE` (the path of a file), then for `FAL_KEY_ID` and"
            " `FAL_KEY_SECRET`."
        ),
    )
    authorize: Authorize | None = option(
        None,
        check=checks.check_function(
            "a callable that takes a FalRequest, or None to serve every caller"
        ),
        see="Who may call",
        help=(
            "Decides who may call. It is a callable that takes a `FalRequest` and returns `Allow`,"
            " perhaps with an identity, or `Refuse`. If it raises an exception, the proxy refuses"
            " the call. It must not read the body. `None`: every caller is served."
        ),
    )
    allowed_urls: Collection[str] | None = option(
        None,
        check=checks.check_urls,
        parse=text.parse_urls,
        example="strict, api.fal.ai/v1/models",
        see="Which models",
        help=(
            "Patterns of the URLs that may be called. Host, path and query must match one of them,"
            " exactly as the proxy will send them. `*` stays within a segment, `**` crosses"
            " segments, and no other character is special: `queue.fal.run/fal-ai/**`."
            " `STRICT_URLS`, as text `strict`, holds what fal's own clients call. `None` or empty:"
            " all of `fal.ai` and `fal.run`."
        ),
    )
    allowed_endpoints: Collection[str] | None = option(
        None,
        check=checks.check_endpoints,
        parse=text.parse_endpoints,
        example="fal-ai/flux/dev, fal-ai/kling-video/**",
        see="Which models",
        help=(
            "Patterns of the fal endpoints that may be run. The endpoint, such as"
            " `fal-ai/flux/dev`, must match one of them. Uploads, and the status, result and"
            " cancel of a queued request, are free and pass. The proxy refuses every other call"
            " that names no endpoint. It checks tokens and WebRTC sessions by the app that the"
            " body names, and sends no unknown `x-fal-*` header. `None` or empty: every endpoint."
        ),
    )
    report_only: bool = option(
        False,
        check=checks.check_switch,
        parse=text.parse_switch,
        example="true",
        see="Which models",
        help=(
            "Whether to log what the two allowlists would refuse, and relay it. It needs"
            " `allowed_urls` or `allowed_endpoints`."
        ),
    )
    limits: Sequence[str] = option(
        (),
        check=checks.check_limits,
        parse=text.parse_limits,
        example="20/minute, 1000/day global",
        see="How much",
        help=(
            "How many calls each caller may make. Each limit counts calls per second, minute, hour"
            ' or day, or per several of these: `["20/minute", "500/7 days", "1000/day global"]`. A'
            " caller is the identity that `authorize` gives, else a remote address; `global`"
            " counts all callers together. It needs `pip install 'limits[redis]'`. Empty: no"
            " limit."
        ),
    )
    costs: Mapping[str, int] | None = option(
        None,
        check=checks.check_costs,
        parse=text.parse_costs,
        example="fal-ai/veo3/**=20, fal-ai/flux/**=2",
        see="How much",
        help=(
            "How many calls one call counts for, by patterns of its endpoint. With"
            ' `{"fal-ai/veo3/**": 20}` one call of Veo 3 counts as 20; `**` also stands for'
            " nothing, so `fal-ai/veo3` is among them. Upper and lower case are the same. If"
            " several patterns match, the highest cost counts; if none does, 1. It needs `limits`."
            " `None`: every call counts as 1."
        ),
    )
    limits_storage: str = option(
        "memory://",
        check=checks.check_storage,
        parse=text.keep_text,
        example="redis://localhost:6379/0",
        see="How much",
        help=(
            "Where calls are counted. `memory://`: in each process separately. `redis://...`,"
            " `rediss://...` (over TLS) or `redis+unix://...`: together for all processes and"
            " machines."
        ),
    )
    limits_fail_open: bool = option(
        False,
        check=checks.check_switch,
        parse=text.parse_switch,
        example="true",
        see="How much",
        help=(
            "Whether to relay calls uncounted while `limits_storage` does not answer. `False`:"
            " calls that spend get 503 meanwhile."
        ),
    )
    cors_origins: Collection[str] = option(
        (),
        check=checks.check_origins,
        parse=text.parse_names,
        example="https://app.example.com, localhost",
        see="From another origin",
        help=(
            "Other origins whose pages may use the proxy. Write each as browsers do, such as"
            " `https://app.example.com`; `localhost` stands for this machine, on any port. Empty:"
            " no other origin."
        ),
    )
    observer: Observer | None = option(
        None,
        check=checks.check_function("a callable that takes a CallRecord, or None"),
        see="What happened",
        help=(
            "Takes a `CallRecord` of each request. The proxy calls it once, when the request is"
            " over, on the thread that served it. If the server drops the answer without calling"
            " `close()`, that is the thread of the next call, or the watcher's. If it raises an"
            " exception, the proxy logs that, and the request is not affected. `None`: no record is"
            " made."
        ),
    )
    connect_timeout: float | None = option(
        10.0,
        check=checks.check_seconds,
        parse=text.parse_seconds,
        example="5",
        help=(
            "Seconds to connect to fal. They cover all of the host's addresses and the TLS"
            " handshake together. They begin after the name lookup, which only `total_timeout`"
            " bounds. If the `pool_manager` dials in its own way, such as for SOCKS, they apply to"
            " each address, and again to the handshake. `None`: as long as the system waits."
        ),
    )
    read_timeout: float | None = option(
        300.0,
        check=checks.check_seconds,
        parse=text.parse_seconds,
        example="120",
        help=(
            "Seconds from the sent request to fal's whole response head, and then between two"
            " pieces of the answer. They are seconds of the wall clock, so a head that comes byte"
            " by byte does not extend them. They do not bound the whole answer, nor a client that"
            " stalls while it sends its body. Node's fetch, on which fal's own proxy runs, has the"
            " same default. `None`: no limit."
        ),
    )
    total_timeout: float | None = option(
        None,
        check=checks.check_seconds,
        parse=text.parse_seconds,
        example="600",
        help=(
            "Seconds for a whole call, from its acceptance to the end of its answer. A call that"
            " takes longer is broken off. They do not bound a client that stalls while it sends"
            " its body; such a call gets 504 once its body is there. `None`: no limit."
        ),
    )
    max_concurrent: int | None = option(
        None,
        check=checks.check_count,
        parse=text.parse_count,
        example="48",
        help=(
            "How many requests each process relays at a time. One more gets 503 at once, so that"
            " the server's other threads stay free for the app's other routes: set it below the"
            " server's number of threads. It does not keep threads free of clients that stall"
            " while they send their bodies, and such a client may hold a place. `None`: no limit"
            " but the server's."
        ),
    )
    max_body_bytes: int = option(
        32 * 1024 * 1024,
        check=checks.check_size,
        parse=text.parse_size,
        example="1048576",
        help=(
            "Bytes of the largest request body that is relayed. The default, 32 MiB, has room for"
            " two photographs of 12 MB each as base64. It does not bound memory: bodies go up in"
            " pieces of 64 KiB."
        ),
    )
    forward_headers: Collection[str] = option(
        (),
        check=checks.check_forwarded,
        parse=text.parse_names,
        example="x-request-id, traceparent",
        see="Headers",
        help="Names of request headers to relay besides the usual ones. Empty: no others.",
    )
    egress_proxy: str | None = option(
        None,
        check=checks.check_egress_proxy,
        parse=text.keep_text,
        example="http://egress.internal:3128",
        help=(
            "The proxy through which calls leave a company's network. It is a URL, perhaps with a"
            " login: `http://user:password@egress.internal:3128`. It may also be `https://`, or,"
            " with `pip install pysocks`, `socks5://` and `socks5h://`. `environment`: what"
            " `HTTPS_PROXY` and `NO_PROXY` say, as for curl and requests; the stand-alone proxy"
            " does so by default. `none`: calls go to fal directly. `None`: likewise, and the"
            " proxy warns if `HTTPS_PROXY` is set."
        ),
    )
    backup_domains: bool = option(
        True,
        check=checks.check_switch,
        parse=text.parse_switch,
        example="false",
        help=(
            "Whether to try fal's backup domain if `fal.run` or `queue.fal.run` does not resolve or"
            " connect: `falrun.com` or `queue.falrun.com`, once, before anything is sent, as fal's"
            " own Python client does. `connect_timeout` then applies to each domain, and is at most"
            " 5 seconds. While a main domain fails, its backup goes first. An egress proxy"
            " gets no such calls. `False`: only the target's own host is called."
        ),
    )
    pool_manager: urllib3.PoolManager | None = option(
        None,
        check=checks.check_anything,
        help=(
            "Makes and keeps the connections to fal: a `urllib3.PoolManager`, such as one with a"
            " TLS context of your own. Its timeouts, retries and headers do not apply. `None`: one"
            " that trusts the certificates that the system trusts, or those of `SSL_CERT_FILE`,"
            " and goes by `egress_proxy`."
        ),
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            if (value := getattr(self, one.name)) is not one.default:
                one.metadata[_OPTION].check(one.name, value)
        if self.report_only and not (self.allowed_urls or self.allowed_endpoints):
            why = "there is nothing to report without allowed_urls or allowed_endpoints"
            raise SettingsError("report_only", self.report_only, why)
        if self.pool_manager is not None and self.egress_proxy is not None:
            why = "either egress_proxy or pool_manager can be set, not both"
            raise SettingsError("egress_proxy", self.egress_proxy, why)
        if self.costs:
            from wsgi_fal_proxy._policy.limits.checks import check_costs_within  # noqa: PLC0415

            check_costs_within("costs", self.costs, self.limits)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> Self:
        """Build settings from keyword options.

        Raises:
            SettingsError: An option is unknown, or its value cannot be used.
        """
        refuse_unknown(options, cls.names())
        return cls(**options)

    @classmethod
    def names(cls) -> list[str]:
        """Return the options' names."""
        return [one.name for one in fields(cls)]


def declared() -> dict[str, Option]:
    """Return all options by name: `prefix`, then those of `Settings`."""
    return {"prefix": PREFIX} | {one.name: one.metadata[_OPTION] for one in fields(Settings)}


def read(option_name: str, name: str, written: str) -> Any:
    """Read and check the text of an option.

    Args:
        option_name: The option, as `declared` names it.
        name: The name under which it was set; an error calls it so.
        written: The text.

    Raises:
        SettingsError: The text cannot be parsed, or the value cannot be used.
    """
    declaration = declared()[option_name]
    try:
        value = declaration.parse(written.strip())
        declaration.check(name, value)
    except SettingsError as error:
        why = error.why.replace("None for no", "none for no")
        raise SettingsError(name, written, why) from error
    return value


def refuse_unknown(
    given: Mapping[str, object], known: Collection[str], *, prefix: str = ""
) -> None:
    """Raise `SettingsError` for the first unknown name, with the known name that is most like it.

    Args:
        given: Names and values.
        known: The names that exist.
        prefix: The beginning of all names. It is left out when names are compared.
    """
    for name, value in given.items():
        if name not in known:
            bare = [one.removeprefix(prefix) for one in known]
            import difflib  # noqa: PLC0415 - only for a name that is misspelled

            alike = difflib.get_close_matches(name.removeprefix(prefix), bare, n=1, cutoff=0.7)
            near = [prefix + one for one in alike]
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
            raise SettingsError(name, shortened(value), f"there is no such option; {hint}")


def shortened(value: object) -> object:
    """Return "..." for a long text, which may be a misplaced key, and any other value as it is."""
    return "..." if isinstance(value, str) and len(value) > _SHOWN_LENGTH else value


def path_prefix(prefix: object) -> str:
    """Check a prefix and return it in the form of `PATH_INFO`.

    Raises:
        SettingsError: It is not a path that begins with "/" and does not end with one.
    """
    PREFIX.check("prefix", prefix)
    # PEP 3333, "Unicode Issues": the bytes of the path, each as one character.
    return str(prefix).encode().decode("latin-1")

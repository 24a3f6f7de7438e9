"""The proxy on a development server: `python -m wsgi_fal_proxy`, or `wsgi-fal-proxy`."""

from __future__ import annotations

import argparse
import gc
import logging
import os.path
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from werkzeug.sansio.utils import host_is_trusted
from werkzeug.serving import make_server
from werkzeug.utils import ImportStringError, import_string

from wsgi_fal_proxy._core.error_response import error_response
from wsgi_fal_proxy._core.middleware import FalProxyMiddleware
from wsgi_fal_proxy._core.proxy import live_proxies
from wsgi_fal_proxy._core.standalone import StandaloneProxy
from wsgi_fal_proxy._fal.key import Key
from wsgi_fal_proxy._policy.authorize import allow_anyone
from wsgi_fal_proxy._settings.environment import has_key, options_from_environment
from wsgi_fal_proxy._settings.options import DEFAULT_PREFIX
from wsgi_fal_proxy._settings.reference import command_help
from wsgi_fal_proxy._upstream.egress import ENVIRONMENT
from wsgi_fal_proxy._version import __version__
from wsgi_fal_proxy.errors import FalProxyError, HostNotAllowed, SettingsError
from wsgi_fal_proxy.playground import PATH, Playground
from wsgi_fal_proxy.testing import FakeFal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_DESCRIPTION: Final = """\
Run the fal proxy on a development server, on localhost.

With FAL_KEY set it relays to fal, and fal bills you for it. Without a key, or with --fake, it
relays to a fake fal in this same process: it costs nothing, and answers with made-up pictures.

With MODULE:APP it wraps that WSGI application, which then answers all paths but the proxy's own:

    wsgi-fal-proxy myproject.wsgi:application

If importing the application (or Django's URLs) creates a fal proxy, the command does not wrap it
but serves it unchanged. Its proxy calls the real fal.

With --playground a page at /playground/ tries fal's own client through the proxy: the queue,
streams, uploads, cancels, errors. Its client comes from a CDN, or from --playground-client.
"""
_EPILOG: Final = """\
environment, with examples (none is no limit, commas separate the items of a list):
{variables}

This server is for development. To serve others: gunicorn wsgi_fal_proxy.wsgi
"""
_NOT_FAKED: Final = (
    "it has a fal proxy of its own, which calls fal; to use a fake fal, configure its own proxy"
    " with the key and pool_manager of a FakeFal (see the README, 'Test your app')"
)
_ITS_OWN: Final = """\
The application has a fal proxy of its own, and is served as it is. The FAL_PROXY_* variables do
not apply to it.

  {url}/

Press CTRL+C to stop.
"""
_DEFAULT_PORT: Final = 8000
_PORTS: Final = range(65_536)
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The arguments after the command's name. None: those of this process.
    """
    given = _parser().parse_args(arguments)
    given.playground |= given.playground_client is not None
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        try:
            options = options_from_environment()
            prefix = options.get("prefix", DEFAULT_PREFIX)
            wrapped, has_its_own = _import_application(given.app)
            is_faked = _is_faked(given, has_its_own=has_its_own)
            fake = stack.enter_context(FakeFal()) if is_faked else None
            application = wrapped if has_its_own else _add_proxy(wrapped, fake, options)
            if given.playground:
                application = _with_playground(application, prefix, fake, given.playground_client)
        except (SettingsError, FalProxyError) as error:
            sys.exit(f"wsgi-fal-proxy: {error}")
        if given.host in _LOOPBACK:
            application = _for_this_machine(application)
        server = make_server(given.host, given.port, application, threaded=True)
        url = f"http://{_url_host(given.host)}:{server.port}{quote(prefix)}"
        if given.playground:
            sys.stdout.write(f"Playground: {url.removesuffix(quote(prefix))}{PATH}/\n\n")
        if has_its_own:
            sys.stdout.write(_ITS_OWN.format(url=url.removesuffix(quote(prefix))))
        else:
            sys.stdout.write(_welcome(url, quote(prefix), _whose(given, is_fake=is_faked)))
        sys.stdout.flush()
        server.serve_forever()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wsgi-fal-proxy",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(variables=command_help()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("app", nargs="?", metavar="MODULE:APP", help="a WSGI application to wrap")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s; others can spend your money on 0.0.0.0)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=_DEFAULT_PORT,
        help="port to listen on, 0 for any that is free (default: %(default)s)",
    )
    parser.add_argument("--fake", action="store_true", help="use the fake fal even with a key")
    parser.add_argument("--playground", action="store_true", help="also serve a page for trying it")
    parser.add_argument(
        "--playground-client",
        metavar="DIRECTORY",
        help="the same, without the internet: npm has installed @fal-ai/client in this directory",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _is_faked(given: argparse.Namespace, *, has_its_own: bool) -> bool:
    if not has_its_own:
        return given.fake or not has_key()
    if given.fake:
        raise SettingsError("--fake", given.app, _NOT_FAKED)
    return False


def _add_proxy(
    wrapped: WSGIApplication | None, fake: FakeFal | None, options: dict[str, Any]
) -> WSGIApplication:
    if fake is not None:
        options |= {"key": fake.key, "pool_manager": fake.pool_manager(), "egress_proxy": None}
    options.setdefault("egress_proxy", ENVIRONMENT)
    # No warning: the welcome text says who pays.
    options["authorize"] = allow_anyone
    Key(options.get("key")).authorization({})
    return StandaloneProxy(**options) if wrapped is None else FalProxyMiddleware(wrapped, **options)


def _with_playground(
    application: WSGIApplication, prefix: str, fake: FakeFal | None, client: str | None
) -> WSGIApplication:
    if f"{prefix}/".startswith(f"{PATH}/"):
        why = f"it must be another path: the playground is at {PATH}"
        raise SettingsError("FAL_PROXY_PREFIX", prefix, why)
    fake_url = None if fake is None else fake.url
    try:
        return Playground(
            application, proxy_url=quote(prefix), fake_url=fake_url, client_directory=client
        )
    except SettingsError as error:
        raise SettingsError("--playground-client", client, error.why) from error


def _import_application(name: str | None) -> tuple[Any, bool]:
    """Return the application of this name, and whether it has created a fal proxy of its own.

    The command must not wrap such an application: the outer proxy would serve everyone, without
    the application's checks.
    """
    if name is None:
        return None, False
    # Like `python -m` and gunicorn, import from the current directory.
    sys.path.insert(0, os.path.abspath(os.curdir))
    before = set(live_proxies)
    try:
        application = import_string(name)
    except ImportStringError as error:
        # The message of ImportStringError itself is a page of guesses.
        raise SettingsError("app", name, str(error.exception)) from error
    except ValueError as error:
        why = "it must be a module and an application in it, MODULE:APP"
        raise SettingsError("app", name, why) from error
    if not callable(application):
        raise SettingsError("app", name, "it must be a WSGI application, which can be called")
    _load_views(application)
    # Collect proxies that are already unreferenced.
    gc.collect()
    return application, not before.issuperset(live_proxies)


def _load_views(application: object) -> None:
    """Make Django create its views now. By itself it does so at the first request."""
    handlers = sys.modules.get("django.core.handlers.wsgi")
    if handlers is not None and isinstance(application, handlers.WSGIHandler):
        from django.urls import get_resolver  # noqa: PLC0415 - only where it is used

        _ = get_resolver().url_patterns


def _port(text: str) -> int:
    with suppress(ValueError):
        if (port := int(text)) in _PORTS:
            return port
    message = f"{text!r} is not a port, from {_PORTS[0]} to {_PORTS[-1]}"
    raise argparse.ArgumentTypeError(message)


def _for_this_machine(application: WSGIApplication) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if host_is_trusted(environ.get("HTTP_HOST"), _LOOPBACK):
            return application(environ, start_response)
        return error_response(HostNotAllowed(), environ, start_response)

    return answer


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _whose(given: argparse.Namespace, *, is_fake: bool) -> str:
    if is_fake:
        why = "" if given.fake else ", as there is no key"
        return f"a fake fal{why}: nothing is billed"
    if given.host in _LOOPBACK:
        return "fal, with your key: fal bills you"
    return "fal, with your key: fal bills you for whoever can reach this machine"


def _welcome(url: str, prefix: str, whose: str) -> str:
    return f"""\
The fal proxy relays from {url}
to {whose}.

Try it:

  curl -s {url} \\
    -H 'x-fal-target-url: https://fal.run/fal-ai/flux/dev' \\
    -H 'content-type: application/json' \\
    -d '{{"prompt": "a red fox in the snow"}}'

In a page of the same origin: fal.config({{ proxyUrl: "{prefix}" }})
Press CTRL+C to stop.
"""


if __name__ == "__main__":
    main()

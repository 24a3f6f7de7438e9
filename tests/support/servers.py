"""The WSGI servers that the README names: how each is started, and what each can and cannot do.

Commands are the README's, word for word; `tests/project/test_readme.py` compares. What is said of a
server here is what `tests/servers/test_servers.py` asserts of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from string import Template

import pytest

from tests.support.serving import ROOT, Served, free_port, running, serve_command, wait_for_port

Serve = Callable[[Mapping[str, str]], AbstractContextManager[Served]]


class Cut(Enum):
    """To whom an answer that breaks off is shown as such; one with a Content-Length is to all."""

    ALL = "yes"
    HTTP_1_1 = "yes, except to HTTP/1.0 clients"
    BY_RESET = "yes, except to Node's `fetch`"
    WITH_LENGTH = "only if it has a `Content-Length`"


class Shutdown(Enum):
    """What becomes of a stream that is under way when the server is told to end, by SIGTERM."""

    ENDS = "comes to its end"
    IS_CUT = "is cut"


# Of the statuses with which the tests' requests are refused.
NONE: frozenset[int] = frozenset()
ALL = frozenset({400, 404, 405, 412, 413, 415})


@dataclass(frozen=True)
class Server:
    """A way to serve.

    Attributes:
        name: As in the README's table.
        command: As in the README.
        serve: Serves the stand-alone proxy in a given environment.
        cut: To whom it shows that an answer has broken off.
        at_once: Whether a client that leaves is noticed while nothing is written to it.
        chunked: The status that a request in chunks is answered with that is to be relayed.
        closes_after: The refusals after which the connection is closed.
        joins: Whether two headers of one name reach the application as one, for it to see.
        shutdown: What becomes of a stream.
    """

    name: str
    command: str
    serve: Serve
    cut: Cut = Cut.ALL
    at_once: bool = True
    chunked: int = 200
    closes_after: frozenset[int] = NONE
    joins: bool = True
    shutdown: Shutdown = Shutdown.ENDS


def _found(program: str) -> str:
    """Find a program, first among those of this Python's environment, or skip."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    found = shutil.which(program, path=path)
    if found is None:
        pytest.skip(f"{program} is not installed")  # pragma: no cover - not everywhere
    return found


@contextlib.contextmanager
def _serve(
    environment: Mapping[str, str], command: str, options: tuple[str, ...], prefix: tuple[str, ...]
) -> Iterator[Served]:
    program, *arguments = shlex.split(command.replace("8000", "{port}"))
    with tempfile.TemporaryDirectory() as directory:
        given = [option.replace("DIRECTORY", directory) for option in options]
        # What comes last is the application.
        command_line = [*prefix, _found(program), *arguments[:-1], *given, *arguments[-1:]]
        with serve_command(environment, *command_line[1:], program=command_line[0]) as served:
            yield served


def _by(command: str, *options: str, prefix: tuple[str, ...] = ()) -> tuple[str, Serve]:
    """Give a command of the README, and what serves by it on a free port instead of 8000.

    Args:
        command: It ends with the application.
        options: Those that the tests add; DIRECTORY stands for an empty one.
        prefix: Another program by which it is run.
    """
    return command, lambda environment: _serve(environment, command, options, prefix)


def _behind_nginx(serve: Serve, location: str) -> Serve:
    """Put nginx in front, with a `location` as in the README."""

    @contextlib.contextmanager
    def serve_both(environment: Mapping[str, str]) -> Iterator[Served]:
        with serve(environment) as behind, nginx(location, behind.port) as served:
            yield served

    return serve_both


@contextlib.contextmanager
def nginx(location: str, behind: int) -> Iterator[Served]:
    """Run nginx with this `location`, which names port 8000, in front of another port."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        settings = {
            "directory": directory,
            "port": port,
            "location": location.replace("127.0.0.1:8000", f"127.0.0.1:{behind}"),
            # As root it would give up its rights, and could not read a directory of ours.
            "user": "user root;" if os.geteuid() == 0 else "",
        }
        Path(directory, "uwsgi_params").symlink_to("/etc/nginx/uwsgi_params")
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(_NGINX.substitute(settings))
        command = [_found("nginx"), "-p", directory, "-e", "stderr", "-c", str(configuration)]
        with running(command) as (process, log):
            wait_for_port(port)
            yield Served(port, process, log)


_NGINX = Template("""
daemon off;
$user
pid $directory/pid;
events {}
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    uwsgi_temp_path $directory/uwsgi;
    fastcgi_temp_path $directory/fastcgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 127.0.0.1:$port;
        $location
    }
}
""")

_README = (ROOT / "README.md").read_text()
_proxy_pass, _uwsgi_pass = re.findall(r"```nginx\n(.*?)```", _README, re.DOTALL)
PROXY_PASS: str = _proxy_pass
"""The README's `location` in front of a server that speaks HTTP."""
UWSGI_PASS: str = _uwsgi_pass
"""The README's `location` in front of uWSGI."""

_GTHREAD = "gunicorn --bind 127.0.0.1:8000 --worker-class gthread --threads 64 wsgi_fal_proxy.wsgi"
_UWSGI = (
    "uwsgi --http-socket 127.0.0.1:8000 --socket-timeout 60 --master --enable-threads --threads 64"
    " --hook-master-start 'unix_signal:15 gracefully_kill_them_all'"
    " --need-app --module=wsgi_fal_proxy.wsgi"
)
# uWSGI is told of the environment of the Python that runs the tests.
_HOME = ("--virtualenv", sys.prefix)
# Apache serves nothing as root. As nobody it could not read what is root's, so it keeps that right.
_NOT_ROOT = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)


_ANY_GUNICORN = "gunicorn (`sync`, `gthread`, `gevent`; `--preload`)"

SERVERS = {
    "gunicorn sync": Server(
        _ANY_GUNICORN,
        *_by("gunicorn --bind 127.0.0.1:8000 wsgi_fal_proxy.wsgi"),
        closes_after=ALL,
    ),
    "gunicorn gthread": Server(_ANY_GUNICORN, *_by(_GTHREAD)),
    "gunicorn preload": Server(_ANY_GUNICORN, *_by(_GTHREAD, "--preload")),
    "gunicorn gevent": Server(
        _ANY_GUNICORN,
        *_by("gunicorn --bind 127.0.0.1:8000 --worker-class gevent wsgi_fal_proxy.wsgi"),
    ),
    "waitress": Server(
        "waitress",
        *_by("waitress-serve --listen 127.0.0.1:8000 --threads 64 wsgi_fal_proxy.wsgi:application"),
        shutdown=Shutdown.IS_CUT,
    ),
    "werkzeug": Server(
        "Werkzeug's development server",
        *_by("wsgi-fal-proxy --port 8000"),
        closes_after=ALL,
        shutdown=Shutdown.IS_CUT,
    ),
    "cheroot": Server(
        "cheroot",
        *_by("cheroot --bind 127.0.0.1:8000 --threads 64 wsgi_fal_proxy.wsgi:application"),
        cut=Cut.HTTP_1_1,
        at_once=False,
        closes_after=frozenset({413}),
        joins=False,
        shutdown=Shutdown.IS_CUT,
    ),
    "granian": Server(
        "Granian",
        *_by(
            "granian --interface wsgi --port 8000 --blocking-threads 64"
            " wsgi_fal_proxy.wsgi:application",
        ),
        cut=Cut.HTTP_1_1,
        at_once=False,
    ),
    "uwsgi": Server("uWSGI", *_by(_UWSGI, *_HOME), cut=Cut.BY_RESET, chunked=400, closes_after=ALL),
    "mod_wsgi": Server(
        "mod_wsgi",
        *_by(
            "mod_wsgi-express start-server --host 127.0.0.1 --port 8000 --threads 64"
            " --request-timeout 600 --limit-request-body 33554432 --chunked-request"
            " --application-type module wsgi_fal_proxy.wsgi",
            *("--server-root", "DIRECTORY"),
            prefix=_NOT_ROOT if os.geteuid() == 0 else (),
        ),
        cut=Cut.WITH_LENGTH,
        at_once=False,
        closes_after=frozenset({400, 413}),
        shutdown=Shutdown.IS_CUT,
    ),
    "nginx, gunicorn": Server(
        "nginx before gunicorn",
        _GTHREAD,
        _behind_nginx(_by(_GTHREAD)[1], PROXY_PASS),
        cut=Cut.HTTP_1_1,
        shutdown=Shutdown.IS_CUT,
    ),
    "nginx, uwsgi": Server(
        "nginx before uWSGI",
        _UWSGI,
        _behind_nginx(
            _by(_UWSGI.replace("--http-socket", "--uwsgi-socket"), *_HOME)[1], UWSGI_PASS
        ),
        cut=Cut.HTTP_1_1,
        joins=False,  # nginx before 1.23
        shutdown=Shutdown.IS_CUT,
    ),
}
"""By the name that the tests give it."""

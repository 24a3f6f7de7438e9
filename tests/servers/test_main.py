"""The command: in this process for what it decides, in one of its own for how it behaves."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import urllib3

import wsgi_fal_proxy.__main__ as command
from tests.support.command import Visits, read_until
from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import running
from wsgi_fal_proxy import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from wsgiref.types import WSGIApplication

    from werkzeug.serving import BaseWSGIServer

    from tests.support.network import NetworkGuard

_APP: Final = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]
"""
_WITH_ITS_OWN: Final = (
    _APP.replace("def application(", "def beside(")
    + """
from wsgi_fal_proxy import FalProxyMiddleware, Refuse

application = FalProxyMiddleware(beside, key="k", authorize=lambda request: Refuse(401))
"""
)


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An application in the current directory, which is not on the path yet; its name."""
    (tmp_path / "site_to_wrap.py").write_text(_APP)
    monkeypatch.chdir(tmp_path)
    yield "site_to_wrap:application"
    sys.modules.pop("site_to_wrap", None)


@pytest.fixture
def with_its_own(wrapped: str) -> str:
    """An application in the current directory that has a fal proxy of its own; its name."""
    Path("site_to_wrap.py").write_text(_WITH_ITS_OWN)
    return wrapped


# In this process


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    visits = Visits()
    monkeypatch.setattr(command, "make_server", visits.make_server)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return visits


def test_command_without_a_key_relays_to_the_fake_fal(
    visits: Visits, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--port", "0"])

    relayed, beside, _ = visits.answers
    assert relayed.json["partial"] is False
    assert beside.json["reason"] == "not_found"
    url = f"http://127.0.0.1:{visits.servers[0].port}/api/fal/proxy"
    said, errors = capsys.readouterr()
    assert f"relays from {url}\nto a fake fal, as there is no key: nothing is billed.\n" in said
    assert 'fal.config({ proxyUrl: "/api/fal/proxy" })' in said
    assert errors == ""


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1", "host_not_allowed"), ("127.0.0.2", "not_found")]
)
def test_command_on_localhost_answers_to_no_other_name(
    visits: Visits, host: str, reason: str
) -> None:
    command.main(["--host", host, "--port", "0"])

    assert visits.answers[2].json["reason"] == reason


def test_command_tells_a_caller_by_another_name_how_to(visits: Visits) -> None:
    command.main(["--port", "0"])

    assert "start it with --host 0.0.0.0" in visits.answers[2].json["message"]


def test_command_beyond_this_machine_says_whose_calls_are_billed(
    visits: Visits, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAL_KEY", "id:s3cret")

    command.main(["--host", "127.0.0.2", "--port", "0"])

    assert "bills you for whoever can reach this machine.\n" in capsys.readouterr().out


def test_command_with_fake_does_not_say_that_there_is_no_key(
    visits: Visits, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--fake", "--port", "0"])

    assert "\nto a fake fal: nothing is billed.\n" in capsys.readouterr().out


def test_command_with_a_key_relays_to_fal(
    visits: Visits,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    network: NetworkGuard,
) -> None:
    monkeypatch.setenv("FAL_KEY", "id:s3cret")
    monkeypatch.setenv("FAL_PROXY_BACKUP_DOMAINS", "no")

    command.main(["--port", "0"])

    assert visits.answers[0].json["reason"] == "upstream_unresolvable"
    assert network.lookups == ["fal.run"]
    said, _ = capsys.readouterr()
    assert "to fal, with your key: fal bills you.\n" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "key", [pytest.param("id:secret", id="good"), pytest.param("se cret", id="malformed")]
)
def test_command_with_fake_does_not_use_a_key(
    visits: Visits, monkeypatch: pytest.MonkeyPatch, network: NetworkGuard, key: str
) -> None:
    monkeypatch.setenv("FAL_KEY", key)

    command.main(["--fake", "--port", "0"])

    assert visits.answers[0].json["partial"] is False
    assert network.lookups == []


def test_command_wraps_an_application_of_the_current_directory(
    visits: Visits, wrapped: str
) -> None:
    command.main([wrapped, "--port", "0"])

    relayed, beside, _ = visits.answers
    assert relayed.json["partial"] is False
    assert beside.body == b"the app"


@pytest.mark.parametrize("environment", [{}, {"FAL_KEY": "another"}], ids=["no-key", "key"])
def test_command_leaves_an_application_its_own_proxy(
    visits: Visits,
    with_its_own: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    command.main([with_its_own, "--port", "0"])

    refused, beside, elsewhere = visits.answers
    assert (refused.status_int, refused.json["reason"]) == (401, "unauthenticated")
    assert beside.body == b"the app"
    assert elsewhere.json["reason"] == "host_not_allowed"
    said = capsys.readouterr().out
    assert "fal proxy of its own" in said
    assert f"http://127.0.0.1:{visits.servers[0].port}/\n" in said
    assert "curl" not in said


def test_command_finds_the_applications_own_proxy_wherever_it_keeps_it(
    visits: Visits, with_its_own: str
) -> None:
    # Out of the garbage collector's sight, as before a fork.
    with Path("site_to_wrap.py").open("a") as file:
        file.write("import gc\ngc.freeze()\n")
    try:
        command.main([with_its_own, "--port", "0"])
    finally:
        gc.unfreeze()
    assert visits.answers[0].status_int == 401


def test_command_takes_no_proxy_that_was_dropped_for_the_applications_own(
    visits: Visits, with_its_own: str
) -> None:
    with Path("site_to_wrap.py").open("a") as file:
        file.write("application.proxy.cycle = application.proxy\napplication = beside\n")
    command.main([with_its_own, "--port", "0"])
    assert visits.answers[0].json["partial"] is False


def test_command_with_fake_refuses_an_application_with_its_own_proxy(
    visits: Visits, with_its_own: str
) -> None:
    with pytest.raises(SystemExit, match=r"--fake=.* it has a fal proxy of its own, which calls"):
        command.main([with_its_own, "--fake", "--port", "0"])
    assert visits.servers == []


@pytest.mark.parametrize(
    ("prefix", "quoted"),
    [
        pytest.param("/fal", "/fal", id="plain"),
        pytest.param("/a b&c'd", "/a%20b%26c%27d", id="not-for-a-shell"),
        pytest.param("/ü", "/%C3%BC", id="non-ascii"),
    ],
)
def test_command_prints_the_prefix_as_part_of_a_url(
    visits: Visits,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    quoted: str,
) -> None:
    monkeypatch.setenv("FAL_PROXY_PREFIX", prefix)
    visits.prefix = quoted

    command.main(["--port", "0"])

    assert visits.answers[0].json["partial"] is False
    assert f":{visits.servers[0].port}{quoted} \\\n" in capsys.readouterr().out


def test_command_prints_an_ipv6_address_as_part_of_a_url(
    visits: Visits, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--host", "::1", "--port", "0"])

    url = f"http://[::1]:{visits.servers[0].port}/api/fal/proxy"
    assert f"relays from {url}\n" in capsys.readouterr().out


def test_command_serves_on_port_8000_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    served = Visits()

    def made(host: str, port: int, app: WSGIApplication, *, threaded: bool) -> BaseWSGIServer:
        asked.append((host, port))
        return served.make_server(host, 0, app, threaded=threaded)

    monkeypatch.setattr(command, "make_server", made)

    command.main([])

    assert asked == [("127.0.0.1", 8000)]


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        pytest.param(
            {"FAL_PROXY_READ_TIMEOUT": "soon"},
            [],
            "FAL_PROXY_READ_TIMEOUT='soon' cannot be used:"
            " it must be a number of seconds above 0, or none for no limit",
            id="variable",
        ),
        pytest.param(
            {"FAL_PROXY_PREFIX": "fal"},
            ["--fake"],
            "FAL_PROXY_PREFIX='fal' cannot be used: it must be a path that begins with '/' and does"
            " not end with one, such as '/api/fal/proxy'",
            id="variable-for-the-fake",
        ),
        pytest.param(
            {"FAL_KEY": "id:se cret"},
            [],
            "The fal key on the server is malformed: the character at position 6 is a space, a"
            " quotation mark, a control character or not ASCII. It must be the bare key, without a"
            " word before it.",
            id="malformed-key",
        ),
        pytest.param(
            {"FAL_KEY_FILE": "/nowhere"},
            [],
            "The file for the fal key on the server (FAL_KEY_FILE or KeyFile) cannot be read:"
            " No such file or directory.",
            id="key-file",
        ),
        pytest.param(
            {},
            ["nowhere:application"],
            "app='nowhere:application' cannot be used: No module named 'nowhere'",
            id="no-module",
        ),
        pytest.param(
            {},
            [":application"],
            "app=':application' cannot be used: it must be a module and an application in it,"
            " MODULE:APP",
            id="empty-module",
        ),
        pytest.param(
            {},
            ["site_to_wrap:app"],
            "app='site_to_wrap:app' cannot be used: module 'site_to_wrap' has no attribute 'app'",
            id="no-attribute",
        ),
        pytest.param(
            {},
            ["site_to_wrap:__name__"],
            "app='site_to_wrap:__name__' cannot be used: it must be a WSGI application, which can"
            " be called",
            id="no-application",
        ),
    ],
)
@pytest.mark.usefixtures("wrapped")
def test_command_does_not_start_with(
    visits: Visits,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    arguments: list[str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as caught:
        command.main(arguments)

    assert caught.value.code == f"wsgi-fal-proxy: {message}"
    assert visits.servers == []


@pytest.mark.parametrize(
    ("port", "message"),
    [
        pytest.param("65536", "'65536' is not a port, from 0 to 65535", id="above"),
        pytest.param("-1", "'-1' is not a port, from 0 to 65535", id="below"),
        pytest.param("http", "'http' is not a port, from 0 to 65535", id="no-number"),
    ],
)
def test_command_refuses_a_port_that_is_none(
    visits: Visits, capsys: pytest.CaptureFixture[str], port: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([f"--port={port}"])

    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument --port: {message}\n")
    assert visits.servers == []


def test_command_is_run_by_python_m(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wsgi_fal_proxy", "--version"])
    monkeypatch.delitem(sys.modules, command.__name__)

    with pytest.raises(SystemExit) as caught:
        runpy.run_module("wsgi_fal_proxy", run_name="__main__")

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"wsgi-fal-proxy {__version__}\n"


# In a process of its own


@dataclass(frozen=True)
class Started:
    """The command, running.

    Attributes:
        process: Its process.
        said: What it had written to its standard output when it began to serve.
        log: The file that has its standard error.
    """

    process: subprocess.Popen[bytes]
    said: str
    log: Path

    @property
    def curl(self) -> str:
        """The command that it proposes."""
        start = self.said.index("curl")
        return self.said[start : self.said.index("\n\n", start)]


@contextlib.contextmanager
def started(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Started]:
    parts = [sys.executable, "-m", "wsgi_fal_proxy", *arguments]
    # What it says must come at once where Python keeps it back for a while, too.
    given = {"PYTHONUNBUFFERED": "", **(environment or {})}
    with running(parts, given, directory=Path.cwd(), stdout=subprocess.PIPE) as (process, log):
        yield Started(process, read_until("CTRL+C", process), log)


def ask(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        method, url, body=body, headers=headers, retries=False, timeout=WAIT_SECONDS
    )


def done_as(curl: str) -> urllib3.BaseHTTPResponse:
    """Do what a curl command of this form does."""
    parser = argparse.ArgumentParser("curl")
    parser.add_argument("-s", dest="url")
    parser.add_argument("-H", dest="headers", action="append")
    parser.add_argument("-d", dest="content")
    name, *arguments = shlex.split(curl.replace("\\\n", " "))
    assert name == "curl"
    given = parser.parse_args(arguments)
    headers = dict(header.split(": ") for header in given.headers)
    return ask("POST", given.url, given.content.encode(), headers)


def url_of(running_command: Started) -> str:
    """Give where the command serves, without its prefix."""
    url = shlex.split(running_command.curl)[2]
    return url.removesuffix("/api/fal/proxy")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param((), {}, id="no-key"),
        pytest.param(("--fake",), {"FAL_KEY": "id:secret"}, id="fake"),
        pytest.param((), {"FAL_PROXY_PREFIX": "/it's &c"}, id="odd-prefix"),
    ],
)
def test_command_proposes_what_gives_a_picture(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    with started("--port", "0", *arguments, environment=environment) as running_command:
        response = done_as(running_command.curl)
        picture = ask("GET", response.json()["images"][0]["url"])

    assert response.status == 200
    assert picture.data.startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_command_proposes_what_can_be_pasted_into_a_shell() -> None:
    environment = {"FAL_PROXY_PREFIX": "/it's &c"}
    with started("--port", "0", environment=environment) as running_command:
        answer = subprocess.run(
            ["sh", "-c", running_command.curl],
            stdout=subprocess.PIPE,
            check=True,
            timeout=WAIT_SECONDS,
        )
        picture = ask("GET", json.loads(answer.stdout)["images"][0]["url"])

    assert picture.data.startswith(b"\x89PNG\r\n\x1a\n")


def test_command_serves_the_application_that_it_wraps(wrapped: str) -> None:
    with started("--port", "0", wrapped) as running_command:
        response = done_as(running_command.curl)
        beside = ask("GET", url_of(running_command) + "/")

    assert response.status == 200
    assert beside.data == b"the app"


@pytest.mark.parametrize(
    ("environment", "arguments", "begin"),
    [
        pytest.param(
            {"FAL_PROXY_PREFIX": "fal"}, (), "FAL_PROXY_PREFIX='fal' cannot", id="variable"
        ),
        pytest.param({"FAL_KEY": "se cret"}, (), "The fal key on the server is", id="key"),
        pytest.param({}, ("nowhere:app",), "app='nowhere:app' cannot be used: No mod", id="module"),
        pytest.param({}, ("json:app",), "app='json:app' cannot be used: module", id="attribute"),
    ],
)
def test_command_says_in_one_line_what_keeps_it_from_starting(
    environment: dict[str, str], arguments: tuple[str, ...], begin: str
) -> None:
    parts = [sys.executable, "-m", "wsgi_fal_proxy", "--port", "0", *arguments]
    with running(parts, environment) as (process, log):
        status = process.wait(WAIT_SECONDS)
        (line,) = log.read_text().splitlines()

    assert status == 1
    assert line.startswith(f"wsgi-fal-proxy: {begin}")


def test_command_tells_a_port_that_is_taken_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running([sys.executable, "-m", "wsgi_fal_proxy", "--port", port]) as (process, log):
            status = process.wait(WAIT_SECONDS)
            said = log.read_text()

    assert status == 1
    assert f"Port {port} is in use" in said
    assert "Traceback" not in said


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_command_ends_by_ctrl_c_without_a_word() -> None:
    with started("--port", "0") as running_command:
        # It serves, so it is past its start.
        assert ask("GET", url_of(running_command) + "/healthz").status == 200
        running_command.process.send_signal(signal.SIGINT)
        status = running_command.process.wait(WAIT_SECONDS)
        errors = running_command.log.read_text()

    assert status == 0
    (logged,) = errors.splitlines()
    assert "GET /healthz" in logged

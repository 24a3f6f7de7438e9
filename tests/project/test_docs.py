"""Every snippet of the pages in `docs/` is run, or checked by the tool that reads it."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottle
import flask
import kubernetes_validate
import pytest
import trustme
import urllib3
import yaml
from gunicorn.config import KNOWN_SETTINGS
from pyramid.config import Configurator
from pyramid.response import Response
from werkzeug.test import Client

from tests.support.examples import CALL, call
from tests.support.serving import ROOT, dialling, free_port, running, serve_gunicorn, wait_for_port
from wsgi_fal_proxy import FalProxy, FalProxyMiddleware, KeyFile
from wsgi_fal_proxy._process.variables import KEY_VARIABLES
from wsgi_fal_proxy._settings.environment import options_from_environment, variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tests.support.network import NetworkGuard
    from wsgi_fal_proxy.testing import FakeFal

PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = [
    (kind, text)
    for content in PAGES.values()
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", content, re.DOTALL | re.MULTILINE)
]
BIN = Path(sys.executable).parent


def block(kind: str, part: str = "") -> str:
    (found,) = (text for text in blocks(kind) if part in text)
    return found


def blocks(kind: str) -> list[str]:
    return [text for of_kind, text in BLOCKS if of_kind == kind]


def tool(name: str) -> str:
    """Give the path of a program, of the environment's own or the system's."""
    path = os.pathsep.join((str(BIN), os.environ["PATH"], "/usr/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")  # pragma: no cover - not everywhere
    return found


def check(*command: str | Path, **options: Any) -> str:
    """Run a checker, which must be content and have nothing to say against what it reads."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    said: str = done.stdout
    assert done.returncode == 0, said
    return said


def relays(url: str, http: urllib3.PoolManager) -> None:
    answer = call(http, f"{url}/api/fal/proxy")
    assert (answer.status, answer.json()["prompt"]) == (200, "a fox")


def test_docs_have_only_blocks_of_known_kinds() -> None:
    checked = {"dockerfile", "ini", "js", "nft", "nginx", "python", "sh", "squid", "systemd"}
    assert {kind for kind, _ in BLOCKS} == checked | {"uwsgi", "yaml"}


# All pages


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_docs_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    assert links
    for name, anchor in links:
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), anchor


def test_docs_variables_exist() -> None:
    named = set(re.findall(r"\bFAL_(?:KEY|PROXY_)\w*", "".join(PAGES.values())))
    assert named <= {*KEY_VARIABLES, *variables()}


def test_docs_limits_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in block("sh", "FAL_PROXY_LIMITS=").splitlines():
        name, _, value = line.partition("=")
        (text,) = shlex.split(value)
        monkeypatch.setenv(name, text)
    options = options_from_environment()
    assert set(options) == {"limits", "limits_storage"}
    assert FalProxy(**options)


@pytest.mark.parametrize("text", blocks("sh"))
def test_docs_shell_can_be_read(text: str) -> None:
    check("bash", "-n", "-c", text)


@pytest.mark.parametrize("text", blocks("js"))
def test_docs_javascript_can_be_read(node: str, tmp_path: Path, text: str) -> None:
    file = tmp_path / "snippet.mjs"
    file.write_text(text)
    check(node, "--check", file)


@pytest.mark.parametrize("text", blocks("python"))
def test_docs_python_can_be_read(text: str) -> None:
    assert ast.parse(text).body


# frameworks.md


def rows(text: str, title: str) -> list[list[str]]:
    table = text.partition(title)[2].partition("\n\n")[0]
    lines = [re.split(r"(?<!\\)\|", line.strip("|")) for line in table.splitlines()[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]


@pytest.mark.parametrize("title", ["| framework | in front", "| framework | behind its own check"])
def test_docs_have_each_line_in_its_example(title: str) -> None:
    found = rows(PAGES["frameworks.md"], title)
    assert len(found) > 4
    for _, line, example in found:
        name = example[2 : example.index("`]")]
        written = (ROOT / "examples" / name).read_text().splitlines()
        assert line.strip("`") in [code.partition("  # type:")[0].strip() for code in written]


def test_docs_settings_of_pyramid_can_be_used(tmp_path: Path) -> None:
    lines = block("ini").splitlines()
    settings = dict(line.split(" = ") for line in lines if " = " in line)
    del settings["use"]
    settings["fal_proxy.key_file"] = str(tmp_path / "key")
    made = Configurator(settings=settings).make_wsgi_app()
    assert Client(made).post("/api/fal/proxy").status_code == 400


# README.md


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"of the app"]


def flask_app() -> dict[str, Any]:
    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "of the app")
    return {"app": app}


def pyramid_config() -> dict[str, Any]:
    config = Configurator()
    config.add_route("hello", "/")
    config.add_view(lambda request: Response("of the app"), route_name="hello")
    return {"config": config}


def bottle_app() -> dict[str, Any]:
    app = bottle.Bottle()
    app.get("/", callback=lambda: "of the app")
    return {"app": app}


PREPARED: dict[str, Callable[[], dict[str, Any]]] = {
    "Flask": flask_app,
    "Django, in `wsgi.py`": lambda: {"get_wsgi_application": lambda: hello},
    "Pyramid": pyramid_config,
    "Bottle, Falcon, any other": bottle_app,
}


def test_readme_line_for_each_framework_does_it() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = dict(rows(readme, "| app | the line"))
    assert lines.pop("none").startswith("[`gunicorn wsgi_fal_proxy.wsgi`]")
    assert set(lines) == set(PREPARED)
    for name, line in lines.items():
        made = {"FalProxyMiddleware": FalProxyMiddleware, **PREPARED[name]()}
        exec(line.split("`")[1], made)
        client = Client(made.get("application") or made["app"])
        assert client.get("/").text == "of the app"
        assert client.post("/api/fal/proxy").json["reason"] == "target_missing"  # type: ignore[index]


# deployment.md


def test_docs_gunicorns_settings_exist_and_are_those_of_the_example() -> None:
    known = {setting.name for setting in KNOWN_SETTINGS}
    example = runpy.run_path(str(ROOT / "examples" / "gunicorn.conf.py"))
    table = {name.strip("`"): value for name, value, _ in rows(PAGES["deployment.md"], "it:\n\n")}
    assert set(table) - {"control_socket_disable"} <= known
    for name in known & set(example):
        if name != "bind":
            value = example[name]
            assert re.split("[`,]", table[name].removeprefix("`"))[0] == str(value), name


def test_docs_systemd_unit_is_verified(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / "fal-proxy.service"
    unit.write_text(block("systemd").replace("/opt/fal-proxy/bin/gunicorn", str(BIN / "gunicorn")))
    # It has words for what it ignores, and status 0 all the same.
    said = check(analyze, "verify", "--man=no", "--recursive-errors=no", unit)
    assert "fal-proxy" not in said, said


def test_docs_nginx_relays_over_tls(fal: FakeFal, tmp_path: Path) -> None:
    nginx = tool("nginx")
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("app.example.com")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "app.example.com.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "app.example.com.key"))
    with serve_gunicorn("wsgi_fal_proxy.wsgi", environment=dialling(fal)) as behind:
        server = (
            block("nginx")
            .replace("127.0.0.1:8000", f"127.0.0.1:{behind.port}")
            .replace("listen 443", f"listen 127.0.0.1:{port}")
            .replace("/etc/ssl", str(tmp_path))
        )
        paths = "".join(
            f"{name}_temp_path {tmp_path}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
        )
        # As root it would give up its rights, and could not read this directory.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            f"daemon off; {user} pid {tmp_path}/pid; events {{}}\n"
            f"http {{ access_log off; {paths}\n{server} }}\n"
        )
        command = [nginx, "-p", str(tmp_path), "-e", "stderr", "-c", str(configuration)]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with (
            running(command),
            urllib3.HTTPSConnectionPool(
                "127.0.0.1",
                port,
                ssl_context=context,
                assert_hostname="app.example.com",
                server_hostname="app.example.com",
            ) as http,
        ):
            wait_for_port(port)
            answer = http.request("POST", "/api/fal/proxy", json={"prompt": "a fox"}, headers=CALL)
    assert (answer.status, answer.json()["prompt"]) == (200, "a fox")


def test_docs_uwsgi_relays(fal: FakeFal, tmp_path: Path) -> None:
    uwsgi, port = tool("uwsgi"), free_port()
    file = tmp_path / "fal-proxy.ini"
    # Without nginx in front, which alone speaks uWSGI's own protocol.
    file.write_text(
        block("uwsgi").replace("uwsgi-socket = 127.0.0.1:8000", f"http-socket = 127.0.0.1:{port}")
    )
    command = [uwsgi, "--virtualenv", sys.prefix, "--ini", str(file)]
    with running(command, dialling(fal)), urllib3.PoolManager() as http:
        wait_for_port(port)
        relays(f"http://127.0.0.1:{port}", http)


def instruction(name: str) -> list[str]:
    (line,) = re.findall(rf"^{name} (?:CMD )?(\[.*\])$", block("dockerfile"), re.MULTILINE)
    words: list[str] = json.loads(line)
    return words


def test_docs_dockerfile_is_linted_and_does_not_run_as_root() -> None:
    check(tool("hadolint"), "-", input=block("dockerfile"))
    (user,) = re.findall(r"^USER (\d+)$", block("dockerfile"), re.MULTILINE)
    assert user != "0"
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", block("dockerfile"), re.MULTILINE)
    assert f"Python :: {python}" in (ROOT / "pyproject.toml").read_text()


def test_docs_dockerfile_copies_what_there_is_and_all_that_is_needed() -> None:
    lines = re.findall(r"^COPY (.*) /\S*$", block("dockerfile"), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert all((ROOT / source).exists() for source in copied)
    needed = {"README.md", "LICENSE", "pyproject.toml", "wsgi_fal_proxy"}
    assert copied == {*needed, "examples/gunicorn.conf.py"}


def test_docs_dockerfiles_command_relays_and_its_health_check_tells(fal: FakeFal) -> None:
    port = free_port()

    def placed(words: list[str]) -> list[str]:
        places = {
            "0.0.0.0:8000": f"127.0.0.1:{port}",
            ":8000/": f":{port}/",
            "/etc/fal-proxy/": f"{ROOT}/examples/",
        }
        for there, here in places.items():
            words = [word.replace(there, here) for word in words]
        return [str(BIN / words[0]), *words[1:]]

    health = placed(instruction("HEALTHCHECK"))
    with running(placed(instruction("CMD")), dialling(fal)), urllib3.PoolManager() as http:
        wait_for_port(port)
        relays(f"http://127.0.0.1:{port}", http)
        check(*health)
    with running(placed(instruction("CMD"))):
        wait_for_port(port)
        assert subprocess.run(health, capture_output=True, check=False).returncode != 0


def test_docs_way_to_rotate_a_key_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old\n")
    file.chmod(0o640)
    key = KeyFile(file)
    assert key({}).strip() == "old"

    script = block("sh", "NEW_KEY").replace("/etc/fal-proxy", shlex.quote(str(tmp_path)))
    check("bash", "-euc", script, env={**os.environ, "NEW_KEY": "id:new"})

    assert key({}).strip() == "id:new"
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_docs_squids_configuration_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "squid.conf"
    # Squid begins by looking its own name up.
    file.write_text(block("squid") + f"visible_hostname localhost\npid_filename {tmp_path}/pid\n")
    said = check(tool("squid"), "-k", "parse", "-f", file)
    assert not re.search("WARNING|ERROR|FATAL", said), said


def test_docs_egress_proxy_is_dialled(
    network: NetworkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAL_KEY", "id:secret")
    made: dict[str, Any] = {}
    exec(block("python", "egress_proxy="), made)

    answer = Client(made["application"]).get("/", headers=CALL)

    assert answer.status_code == 502
    assert network.lookups == ["egress.internal"]


def test_docs_packet_filter_is_checked() -> None:
    if os.geteuid() != 0:
        pytest.skip("nft asks the kernel, as root")  # pragma: no cover - not everywhere
    check(tool("nft"), "--check", "--file", "-", input=block("nft"))


def test_docs_network_policy_is_valid() -> None:
    kubernetes_validate.validate(yaml.safe_load(block("yaml")), "1.30", strict=True)


# moving.md


def test_docs_python_that_replaces_express_authorizes() -> None:
    made: dict[str, Any] = {"app": hello, "known": {"Bearer ada": "ada"}.get}
    exec(block("python", "def authorize"), made)
    client = Client(made["app"])

    def answer(endpoint: str, authorization: str) -> tuple[int, str]:
        target = {"x-fal-target-url": f"https://fal.run/{endpoint}"}
        answered = client.get("/api/fal/proxy", headers={**target, "Authorization": authorization})
        return answered.status_code, answered.json["reason"]  # type: ignore[index]

    assert answer("fal-ai/flux/dev", "Bearer eve") == (401, "unauthenticated")
    assert answer("fal-ai/veo3", "Bearer ada") == (412, "endpoint_not_allowed")
    assert answer("fal-ai/flux/dev", "Bearer ada") == (500, "key_missing")


@pytest.mark.parametrize("part", ["app.wsgi_app", "fal_view(authorize=signed_in)"])
def test_docs_have_what_comes_after_in_an_example(part: str) -> None:
    (line,) = (line for line in block("python", part).splitlines() if part in line)
    code = "\n".join(path.read_text() for path in (ROOT / "examples").glob("*.py"))
    assert line.removeprefix("urlpatterns = [").removesuffix("]") in code


def test_docs_have_all_options_of_fals_own_proxy() -> None:
    text = PAGES["moving.md"]
    ours = {"allowed_urls", "allowed_endpoints", "authorize", "key", "prefix"}
    theirs = {
        *("allowedUrlPatterns", "allowedEndpoints", "allowUnauthorizedRequests"),
        *("isAuthenticated", "resolveFalAuth", "resolveApiKey", "credentials", "route"),
    }
    named = {name for row in rows(text, "1.2.1:\n\n") for name in re.findall(r"`(\w+)`", row[0])}
    assert named >= theirs
    assert all(f"`{name}`" in text for name in ours)

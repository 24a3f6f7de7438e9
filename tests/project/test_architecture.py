"""`docs/architecture.md` says of the code what is so."""

from __future__ import annotations

import ast
import re
import sys
import threading
import tomllib
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client

from tests.support.environs import RUN, TARGET
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.support.serving import ROOT
from wsgi_fal_proxy import Allow, FalProxy
from wsgi_fal_proxy._core.exchange import Exchange

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "wsgi_fal_proxy"
CODE = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(text: str) -> list[str]:
    """Give what is in code marks."""
    return re.findall(r"`([^`]+)`", text)


def test_page_is_linked_from_the_readme_and_short() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/architecture.md)" in readme.partition("\n### Tests\n")[2].partition("\n## ")[0]
    assert len(PAGE.splitlines()) < 150


def test_page_has_the_layers_of_the_import_linter() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (
        contract["layers"]
        for contract in contracts
        if contract.get("containers") == ["wsgi_fal_proxy"]
    )
    assert [named(names) for names, _ in table(section("The tree"))] == [
        layer.split(" | ") for layer in layers
    ]


def test_page_names_every_folder_of_the_package() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("__init__.py")}
    tree = section("The tree")
    names = {f"wsgi_fal_proxy/{name}" for name in named(tree)}
    assert folders - {"wsgi_fal_proxy"} <= names


def functions() -> dict[str, str]:
    """Give the file of each function of the package, by its qualified name."""
    return {
        f"{getattr(scope, 'name', '')}.{node.name}".lstrip("."): file
        for file, path in CODE.items()
        for scope in ast.walk(ast.parse(path.read_text()))
        if isinstance(scope, ast.Module | ast.ClassDef)
        for node in scope.body
        if isinstance(node, ast.FunctionDef)
    }


def test_page_follows_a_request_in_the_order_of_the_calls(tmp_path: Path) -> None:
    called: list[str] = []
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        assert go_on.wait(WAIT_SECONDS)
        connection.send(b"{}")

    def profile(
        frame: FrameType, event: str, argument: object
    ) -> None:  # pragma: no cover - no tracer sees a profiler
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            called.append(code.co_qualname)

    with RawServer(script) as server:
        proxy = FalProxy(
            key="k",
            pool_manager=server.pool_manager(tmp_path),
            authorize=lambda request: Allow("someone"),
            allowed_endpoints=["fal-ai/**"],
            limits=["9/minute"],
            max_concurrent=1,
        )
        sys.setprofile(profile)
        try:
            answer = Client(proxy).post(json={"prompt": "a"}, headers={TARGET: RUN})
            go_on.set()
            assert answer.data == b"{}"
        finally:
            sys.setprofile(None)
    known = functions()
    steps = [name for name in named(section("The path of a request")) if name in known]
    # A request that is not refused.
    steps.remove("FalProxy._refuse")
    assert steps == sorted(steps, key=called.index)
    assert len(steps) > 20


def test_page_names_what_there_is() -> None:
    known = {*functions(), *CODE}
    internals = section("Internals of other packages that we use")
    for name in named(PAGE.replace(internals, "")):
        if re.fullmatch(r"(?!PoolManager)[A-Z]\w+\.\w+", name):
            assert name in known or hasattr(Exchange, name.partition(".")[2]), name
        elif "/" in name and name.endswith(".py"):
            file = name.removeprefix("wsgi_fal_proxy/")
            assert file in known or (ROOT / name).is_file(), name


def test_page_has_every_lock_and_every_destructor() -> None:
    text = section("Threads and locks")
    locks = {named(file)[0] for file, _, _ in table(text)}
    sources = {file: path.read_text() for file, path in CODE.items() if "testing/" not in file}
    calls = re.compile(r"\b(?:allocate_r?lock|R?Lock|Condition|Semaphore)\(")
    assert locks == {file for file, source in sources.items() if calls.search(source)}
    ends = {file for file, source in sources.items() if re.search(r"__del__|finalize\(", source)}
    assert ends == {"_core/response_body.py", "_upstream/pool.py"}
    assert "ResponseBody.__del__" in text
    assert "A pool that is dropped" in text


# Internals of other packages that we use.

INTERNALS = table(section("Internals of other packages that we use"))


@pytest.mark.parametrize("row", INTERNALS, ids=lambda row: str(row[1]))
def test_internals_are_used_where_the_list_says_and_tested(row: list[str]) -> None:
    _, names, used_in, why, test = row
    source = CODE[named(used_in)[0]].read_text()
    for name in named(names):
        for part in name.split("."):
            assert re.search(rf"\b{part}\b", source), part
    assert why
    (test_name,) = named(test)
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert sum(f"\ndef {test_name}(" in text for text in tests) == 1


def test_internals_list_has_every_protected_name_that_is_used() -> None:
    used, ours = set(), set()
    for path in CODE.values():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                    ours.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    ours.add(name)
                case ast.Attribute(attr=name):
                    used.add(name)
    theirs = {name for name in used - ours if re.match("_[a-z]", name)}
    theirs -= {"_replace"}  # a named tuple's own, and documented
    listed = {name for _, names, *_ in INTERNALS for name in re.findall(r"\w+", names)}
    assert theirs >= {"_get_conn", "_dns_host"}
    assert theirs <= listed

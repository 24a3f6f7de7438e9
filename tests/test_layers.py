from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import wsgi_fal_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "wsgi_fal_proxy"
# Imports go from a higher level to a lower one, those for type checkers included.
LEVELS = {
    **dict.fromkeys(("errors", "environment", "globs", "rates", "version"), 0),
    **dict.fromkeys(("headers", "target", "body", "credentials", "client", "watcher"), 1),
    **dict.fromkeys(("answers", "coding", "cors", "counting", "http1", "operations"), 2),
    **dict.fromkeys(("authorize", "observer"), 3),
    "settings": 4,
    **dict.fromkeys(("allowlist", "limiting"), 5),
    **dict.fromkeys(("gate", "upstream"), 6),
    "relaying": 7,
    "relay": 8,
    "middleware": 9,
    **dict.fromkeys(("configuration", "site"), 10),
}
# What users import and start: above all levels.
ENTRY_POINTS = frozenset({"__init__", "__main__", "paste", "wsgi"})

# Only the modules at the top: the fake fal in `testing` is a package of its own.
TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"), path.name)
    for path in sorted(Path(wsgi_fal_proxy.__file__).parent.glob("*.py"))
}
every_module = pytest.mark.parametrize("module", TREES)


def imported(node: ast.AST) -> Iterator[str]:
    """Give the dotted names that a statement imports, if it is an import."""
    match node:
        case ast.Import(names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module, names, level):
            # What is relative is the package's own: these modules are at its top.
            origin = [PACKAGE] * level + [module] * (module is not None)
            yield from (".".join([*map(str, origin), alias.name]) for alias in names)


def all_imported(tree: ast.AST) -> set[str]:
    return {name for node in ast.walk(tree) for name in imported(node)}


def siblings(tree: ast.AST) -> set[str]:
    """Give the modules of the package that are imported; "" is the package itself."""
    names = [name.split(".") for name in all_imported(tree)]
    own = [parts[1:] for parts in names if parts[0] == PACKAGE]
    modules = [next(iter(parts), "") for parts in own]
    return {module if module in LEVELS or module in ENTRY_POINTS else "" for module in modules}


def imports_at_run_time(node: ast.AST) -> Iterator[str]:
    """Give what is imported other than under `if TYPE_CHECKING:`."""
    yield from imported(node)
    for child in ast.iter_child_nodes(node):
        match node:
            case ast.If(ast.Name("TYPE_CHECKING"), body) if child in body:
                continue
        yield from imports_at_run_time(child)


def touches_urllib3(tree: ast.AST) -> bool:
    return any(f"{name}.".startswith("urllib3.") for name in imports_at_run_time(tree))


def touches_environment(tree: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(names & attributes or {f"os.{name}" for name in names} & all_imported(tree))


def touches_input(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Constant) and node.value == "wsgi.input" for node in ast.walk(tree)
    )


def test_every_module_has_a_level() -> None:
    assert set(TREES) - ENTRY_POINTS == set(LEVELS)


@pytest.mark.parametrize("module", LEVELS)
def test_imports_go_to_a_lower_level(module: str) -> None:
    level = LEVELS[module]
    # An entry point, or the package itself, is at no level that could be lower.
    assert {name for name in siblings(TREES[module]) if LEVELS.get(name, 10) >= level} == set()


@every_module
def test_only_upstream_imports_urllib3(module: str) -> None:
    assert touches_urllib3(TREES[module]) is (module == "upstream")


@every_module
def test_only_environment_reads_the_environment(module: str) -> None:
    assert touches_environment(TREES[module]) is (module == "environment")


@every_module
def test_only_body_reads_the_input(module: str) -> None:
    assert touches_input(TREES[module]) is (module == "body")


# The rules see what they should.


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        pytest.param("import os", set(), id="other"),
        pytest.param("import wsgi_fal_proxy_more.errors", set(), id="longer-name"),
        pytest.param("import wsgi_fal_proxy.errors", {"errors"}, id="import"),
        pytest.param("import os, wsgi_fal_proxy.errors as e", {"errors"}, id="import-as"),
        pytest.param("from wsgi_fal_proxy import errors, http1", {"errors", "http1"}, id="from"),
        pytest.param("from wsgi_fal_proxy.errors import Refusal", {"errors"}, id="from-module"),
        pytest.param("from .errors import Refusal", {"errors"}, id="relative-module"),
        pytest.param("from . import errors", {"errors"}, id="relative"),
        pytest.param("import wsgi_fal_proxy", {""}, id="package"),
        pytest.param("from wsgi_fal_proxy import FalProxy", {""}, id="from-package"),
        pytest.param("from wsgi_fal_proxy.wsgi import application", {"wsgi"}, id="entry-point"),
        pytest.param("from wsgi_fal_proxy.testing import fake", {""}, id="testing"),
        pytest.param("def f():\n import wsgi_fal_proxy.errors", {"errors"}, id="in-a-function"),
        pytest.param(
            "if TYPE_CHECKING:\n from wsgi_fal_proxy.errors import Refusal", {"errors"}, id="typing"
        ),
    ],
)
def test_imports_of_the_package_are_found(source: str, modules: set[str]) -> None:
    assert siblings(ast.parse(source)) == modules


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("import urllib3", True, id="import"),
        pytest.param("import os, urllib3.util as u", True, id="import-as"),
        pytest.param("from urllib3.exceptions import HTTPError", True, id="from"),
        pytest.param("def f():\n import urllib3", True, id="in-a-function"),
        pytest.param("if A:\n import urllib3", True, id="under-another-condition"),
        pytest.param("if TYPE_CHECKING:\n pass\nelse:\n import urllib3", True, id="otherwise"),
        pytest.param("if TYPE_CHECKING:\n import urllib3", False, id="typing"),
        pytest.param("import urllib.request", False, id="urllib"),
        pytest.param("x = 'import urllib3'", False, id="text"),
    ],
)
def test_imports_of_urllib3_are_found(source: str, found: bool) -> None:
    assert touches_urllib3(ast.parse(source)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("os.environ['A']", True, id="environ"),
        pytest.param("os.getenv('A')", True, id="getenv"),
        pytest.param("from os import environ as e", True, id="from-import"),
        pytest.param("o.environb", True, id="os-by-another-name"),
        pytest.param("environ['A']", False, id="wsgi-environ"),
        pytest.param("import os", False, id="os-alone"),
    ],
)
def test_uses_of_the_environment_are_found(source: str, found: bool) -> None:
    assert touches_environment(ast.parse(source)) is found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("environ['wsgi.input']", True, id="key"),
        pytest.param("environ.get('wsgi.input')", True, id="get"),
        pytest.param("environ['wsgi.input_terminated']", False, id="longer-key"),
        pytest.param("'''Reads `wsgi.input`.'''", False, id="docstring"),
    ],
)
def test_uses_of_the_input_are_found(source: str, found: bool) -> None:
    assert touches_input(ast.parse(source)) is found

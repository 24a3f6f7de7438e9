"""What is built and installed: the wheel, the source distribution, what they say of themselves."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import ROOT
from wsgi_fal_proxy import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_THE_SDIST = (".ci", ".github", "benchmarks", "docs", "examples", "tests", "wsgi_fal_proxy")
# What is made by running the project, and is not of it.
MADE = re.compile(r"(^|/)(__pycache__|node_modules|\.\w+_cache)(/|$)")


def files(directory: str) -> Iterator[str]:
    """Give the project's files below a directory, by their paths from the root."""
    for path in sorted((ROOT / directory).rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and not MADE.search(name):
            yield name


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the source distribution, and the wheel that was built from that."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    (path,) = built.glob("*.whl")
    assert path.name == f"wsgi_fal_proxy-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def sdist(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    directory = tmp_path_factory.mktemp("sdist")
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        opened.extractall(directory, filter="data")
    return directory / f"wsgi_fal_proxy-{__version__}"


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    about = f"wsgi_fal_proxy-{__version__}.dist-info/"
    names = {name for name in wheel.namelist() if not name.startswith(about)}
    assert names == set(files("wsgi_fal_proxy"))
    assert {"wsgi_fal_proxy/py.typed", "wsgi_fal_proxy/playground/page/index.html"} < names
    assert f"{about}licenses/LICENSE" in wheel.namelist()


def test_wheel_has_its_metadata(wheel: zipfile.ZipFile) -> None:
    about = f"wsgi_fal_proxy-{__version__}.dist-info/"
    metadata = email.message_from_bytes(wheel.read(f"{about}METADATA"))
    assert metadata["Name"] == "wsgi-fal-proxy"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split("[<>]", line)[0] for line in required) == ["urllib3", "werkzeug"]
    scripts = wheel.read(f"{about}entry_points.txt").decode()
    assert "wsgi-fal-proxy = wsgi_fal_proxy.__main__:main" in scripts
    assert "[paste.app_factory]" in scripts
    assert "[paste.filter_app_factory]" in scripts


def test_wheel_works_where_nothing_else_of_the_project_is(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(path)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    code = (
        "import wsgi_fal_proxy, wsgi_fal_proxy.playground, wsgi_fal_proxy.pyramid, sys;"
        "assert not {'django', 'pyramid'} & set(sys.modules);"
        "print(wsgi_fal_proxy.__file__)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(said.strip()).parent.parent == tmp_path


def test_sdist_holds_the_project(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    of_the_project = {name for directory in IN_THE_SDIST for name in files(directory)}
    # hatchling adds the last two.
    alone = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert names == of_the_project | alone


def test_sdist_has_tests_that_can_be_run(sdist: Path) -> None:
    pytest_ = [sys.executable, "-m", "pytest", "--quiet", "--no-cov", "-p", "no:cacheprovider"]
    subprocess.run([*pytest_, "--collect-only"], cwd=sdist, check=True, capture_output=True)
    some = ["tests/project/test_readme.py", "tests/unit/test_settings.py"]
    done = subprocess.run([*pytest_, *some], cwd=sdist, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def constraints(file: str) -> dict[str, str]:
    """Give the version of each package that a constraints file of CI's pins."""
    lines = (ROOT / ".ci" / file).read_text().splitlines()
    pins = [line.partition(";")[0].strip() for line in lines if not line.startswith("#")]
    pinned = dict(pin.split("==") for pin in pins)
    assert len(pinned) == len(pins)
    return {normalized(name): version for name, version in pinned.items()}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_ci_tests_the_oldest_dependencies_and_every_python() -> None:
    lower = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in PROJECT["dependencies"]]
    oldest = {found[1]: f"{found[2]}.*" for found in lower if found}
    assert constraints("oldest.txt") == oldest | {"flask": "3.0.*"}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert f"python: {classified}".replace("'", '"') in workflow
    assert 'python: "3.14t"' in workflow
    assert "VERSIONS: oldest" in workflow


def test_ci_pins_all_that_the_tests_install_and_tries_the_newest_every_week() -> None:
    pinned = constraints("constraints.txt")
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"]]
    for extra in ("lint", "limits", "servers", "test", "testing"):
        required += extras[extra]
    names = {normalized(re.split(r"[\[<>=]", line)[0]) for line in required}
    assert names - {PROJECT["name"]} <= set(pinned)
    assert PROJECT["name"] not in pinned
    assert set(constraints("oldest.txt")) <= set(pinned)
    workflow = (ROOT / ".github" / "workflows" / "newest.yml").read_text()
    assert "schedule:" in workflow
    assert "workflow_dispatch:" in workflow
    assert "VERSIONS: newest" in workflow

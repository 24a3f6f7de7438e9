"""What derives from the options' declarations."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.readme import README, with_tables, write
from wsgi_fal_proxy.__main__ import _parser
from wsgi_fal_proxy._settings.docstring import documents_options
from wsgi_fal_proxy._settings.environment import variables
from wsgi_fal_proxy._settings.options import Settings, declared

if TYPE_CHECKING:
    from pathlib import Path


@documents_options
class Documented:
    """Takes options.

    Args:
        **options: All optional.
    """


def test_docstring_has_every_option_with_its_type_and_default() -> None:
    text = inspect.getdoc(Documented)
    assert text is not None
    assert text.startswith(
        "Takes options.\n\nArgs:\n    **options: All optional.\n\n"
        "        key (str | KeySource | None): The fal key."
    )
    documented = re.split(r"\n {8}(?=\w+ \()", text)[1:]
    assert [entry.partition(" ")[0] for entry in documented] == Settings.names()
    (entry,) = (entry for entry in documented if entry.startswith("read_timeout"))
    assert entry.startswith("read_timeout (float | None): Seconds from the sent request to fal's")
    assert entry.endswith("`None`: no limit. Default: 300.")


def test_docstring_is_shown_by_help_in_lines_of_a_terminal() -> None:
    shown = pydoc.plain(pydoc.render_doc(Documented))
    assert "pool_manager (urllib3.PoolManager | None): Makes" in shown
    assert max(map(len, str(Documented.__doc__).splitlines())) <= 100


def test_docstring_that_python_dropped_stays_dropped() -> None:
    undocumented = type("Undocumented", (), {})
    assert documents_options(undocumented).__doc__ is None


def test_docstring_is_rendered_only_when_it_is_read() -> None:
    code = (
        "import sys; from wsgi_fal_proxy import FalProxy; FalProxy(key='k');"
        "sys.exit('wsgi_fal_proxy._settings.reference' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_of_the_command_has_every_variable_with_an_example() -> None:
    shown = _parser().format_help()
    named = re.findall(r"^  (FAL_\w+)(?==|$)", shown, re.MULTILINE)
    assert named[:4] == ["FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET"]
    assert named[4:] == list(variables())
    assert (
        "\n  FAL_PROXY_CONNECT_TIMEOUT=5\n      Seconds to connect to fal. Default: 10.\n" in shown
    )
    assert "\n  FAL_PROXY_LIMITS='20/minute, 1000/day global'\n      How many calls" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_help_of_an_option_says_what_none_or_nothing_means() -> None:
    for name, option in declared().items():
        if option.default is None:
            assert "`None`: " in option.help or "`None` or empty: " in option.help, name
        elif option.default == ():
            assert "Empty: " in option.help, name
        assert option.help.endswith("."), name


def test_tables_of_the_readme_are_those_of_the_declarations() -> None:
    text = README.read_text()
    assert with_tables(text) == text, "run: python -m tests.support.readme"


def test_tables_of_the_readme_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    text = README.read_text()
    file.write_text(text.replace("| `FAL_PROXY_COSTS` |", "| `FAL_PROXY_COST` |"))
    write(file)
    assert file.read_text() == text


def test_tables_of_the_readme_need_their_marks() -> None:
    with pytest.raises(AssertionError, match="options"):
        with_tables("no marks")

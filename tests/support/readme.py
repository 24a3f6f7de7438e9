"""The tables of the README that derive from the options: `python -m tests.support.readme`.

The command writes them. A test compares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wsgi_fal_proxy._settings.reference import options_table, variables_table

README: Final = Path(__file__).parents[2] / "README.md"
_TABLES: Final = {"options": options_table, "variables": variables_table}


def with_tables(text: str) -> str:
    """Give a text with its tables as they are now, each between its two marks."""
    for name, table in _TABLES.items():
        mark = f"<!-- {name}: python -m tests.support.readme -->\n"
        begin, _, rest = text.partition(mark)
        _, end, after = rest.partition(mark)
        assert end, name
        text = f"{begin}{mark}\n{table()}\n{mark}{after}"
    return text


def write(path: Path) -> None:
    """Bring the tables in a file up to date."""
    path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":  # pragma: no cover - a test calls `write`
    write(README)

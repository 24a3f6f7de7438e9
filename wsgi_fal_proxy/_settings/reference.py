"""Renders the declared options for people: in the docstring, in `--help` and in the README."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import cleandoc
from shlex import quote
from textwrap import fill
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._settings.environment import variables
from wsgi_fal_proxy._settings.options import Settings, declared

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_fal_proxy._settings.options import Option

_WIDTH: Final = 100
_KEY_VARIABLES: Final = {
    "FAL_KEY": "The fal key.",
    "FAL_KEY_FILE": (
        "A file that holds the fal key. The proxy reads it again when it changes; replace it by a"
        " rename, so that it is never half written. Used if `FAL_KEY` is not set."
    ),
    "FAL_KEY_ID": "The first half of the fal key. Used if neither of the above is set.",
    "FAL_KEY_SECRET": "The second half of the fal key.",
}


def with_options(docstring: str) -> str:
    """Return a docstring with all options below its last argument, `**options` (Google style)."""
    options = declared()
    described = [
        _wrapped(
            f"{field.name} ({field.type}): {options[field.name].help}"
            f" Default: {_default(options[field.name])}.",
            first=8,
            others=12,
        )
        for field in fields(Settings)
    ]
    return "\n".join([cleandoc(docstring), "", *described])


def command_help() -> str:
    """Return the part of `--help` on the environment."""
    described = [(name, _first_sentence(meaning)) for name, meaning in _KEY_VARIABLES.items()]
    for name, option in variables().items():
        declaration = declared()[option]
        default = f" Default: {_plain(declaration.default)}." if declaration.default else ""
        meaning = _first_sentence(declaration.help) + default
        described.append((f"{name}={quote(declaration.example)}", meaning))
    return "\n".join(
        f"  {name}\n{_wrapped(meaning.replace('`', ''), first=6, others=6)}"
        for name, meaning in described
    )


def options_table() -> str:
    """Return the README's table of options."""
    return _table(
        ("option", "default", "meaning"),
        (
            (f"`{name}`", f"`{_default(option)}`", option.help + _see(option))
            for name, option in declared().items()
        ),
    )


def variables_table() -> str:
    """Return the README's table of variables."""
    rows = [(f"`{name}`", meaning) for name, meaning in _KEY_VARIABLES.items()]
    for name, option in variables().items():
        example = declared()[option].example
        rows.append((f"`{name}`", f"The option `{option}`, such as `{example}`."))
    return _table(("variable", "meaning"), rows)


def _default(option: Option) -> str:
    if isinstance(option.default, str):
        return f'"{option.default}"'
    return _plain(option.default)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _see(option: Option) -> str:
    if not option.see:
        return ""
    anchor = option.see.lower().replace(" ", "-")
    return f" See [{option.see}](#{anchor})."


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def _wrapped(text: str, *, first: int, others: int) -> str:
    return fill(
        text,
        _WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    ruled = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    return ruled + "".join(f"| {' | '.join(row)} |\n" for row in rows)

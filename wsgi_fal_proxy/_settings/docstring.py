"""Adds the declared options to a class's docstring when it is read."""

from __future__ import annotations

from typing import TypeVar

_Class = TypeVar("_Class", bound=type)


class _Docstring:
    """A docstring that is completed when it is read, so that an import does not take longer."""

    def __init__(self, docstring: str) -> None:
        self._docstring = docstring

    def __get__(self, instance: object, owner: type) -> str:
        from wsgi_fal_proxy._settings.reference import with_options  # noqa: PLC0415

        return with_options(self._docstring)


def documents_options(documented: _Class) -> _Class:
    """Decorate a class whose docstring ends with `**options`: all options are added to it."""
    if documented.__doc__ is not None:  # None under `python -OO`
        documented.__doc__ = _Docstring(documented.__doc__)  # type: ignore[assignment]
    return documented

"""The fal key: where it comes from, what it may look like, and the one value it ends up in."""

from __future__ import annotations

import errno
import os
import re
import stat
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._process.environment import variable
from wsgi_fal_proxy.errors import FalProxyError, KeyMalformed, KeyMissing

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

KeySource = Callable[["WSGIEnvironment"], "str | None"]
"""Gives the key for one request; None or an empty string mean that there is none."""

# RFC 9110 section 11.4 leaves credentials to their scheme; a fal key is one run of visible ASCII.
# Nor is there a quotation mark in it, which stays in a value that no shell has read.
_NOT_IN_A_KEY: Final = re.compile(r"[^!#-&(-~]")
# Secret files and pasted values end in these.
_STRIPPED: Final = " \t\r\n\v\f"
_GAVE_NONE: Final = "The callable that gives the fal key on the server gave none."
_FILE_EMPTY: Final = (
    "The server's file for the fal key, which FAL_KEY_FILE or KeyFile names, is empty."
)
# A fal key has about 70 characters; what is larger is some other file.
_MAX_KEY_FILE_BYTES: Final = 4_096


class Secret(str):
    """Text that does not show in a repr, hence not in a traceback's or an error report's locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<redacted>"

    def __getitem__(self, key: Any) -> Secret:
        """Give a part that does not show either: error reports cut long values."""
        return Secret(super().__getitem__(key))


class Credentials:
    """Turns the key of each request into the value of its `Authorization` header.

    Args:
        key: The key itself; or a callable that is given the WSGI environ and returns it, for a
            key per request; or None for the environment: `FAL_KEY`, else the file that
            `FAL_KEY_FILE` names, else `FAL_KEY_ID` and `FAL_KEY_SECRET`. The environment is
            looked up at each request, so a key that is set late still counts.
    """

    def __init__(self, key: str | KeySource | None) -> None:
        self._source = _source(key)
        # What to say where the environment is not to blame.
        self._gives_none = _GAVE_NONE if callable(key) else None
        # The last key and its value, so that a key is checked when it changes and not at each
        # request. One tuple, so that two threads that set it at once cannot mix two keys up.
        self._last: tuple[Secret, Secret] = (Secret(), Secret())

    def authorization(self, environ: WSGIEnvironment) -> Secret:
        """Give the value `Key <key>` (rule 5 of the formula).

        Raises:
            KeyMissing: There is no key.
            KeyMalformed: It holds a space, a quotation mark, a control character or a character
                outside ASCII.
        """
        known, authorization = self._last
        raw = self._raw(environ)
        if raw and raw == known:
            return authorization
        # From here on it could show in an error's traceback.
        raw = Secret(raw)
        if not raw and self._gives_none is not None:
            raise KeyMissing(self._gives_none)
        authorization = Secret(f"Key {_checked(raw)}")
        self._last = (raw, authorization)
        return authorization

    def _raw(self, environ: WSGIEnvironment) -> str:
        try:
            raw = self._source(environ) or ""
        except FalProxyError:
            raise
        except Exception as error:  # noqa: BLE001 - the owner's callable can raise anything
            # Without the error's message, and its cause: either could hold a key.
            detail = f"The callable that gives the fal key raised {type(error).__name__}."
            where = _where_raised(error)
        else:
            if isinstance(raw, str):
                return raw
            # It may be the key all the same, and this frame is in the error's traceback.
            del raw
            raise KeyMalformed("The callable that gives the fal key gave something else than text.")
        raise KeyMissing(detail, for_the_log=f" ({where})")


def _where_raised(error: Exception) -> str:
    """Tell which code raised an error that this module has caught, and nothing that is in it.

    Neither the line's text, which may hold a key, nor the values that it had. First the owner's
    own code, then what it called in the end.
    """
    places = [
        f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if len(places) < 2:  # noqa: PLR2004 - the first is this module's
        return "as it was called, with the WSGI environ"
    return ", from where ".join(dict.fromkeys((places[1], places[-1])))


def _checked(raw: Secret) -> Secret:
    key = Secret(raw.strip(_STRIPPED))
    if not key:
        raise KeyMissing
    if wrong := _NOT_IN_A_KEY.search(key):
        detail = (
            "The fal key on the server is malformed: the character at position"
            f" {wrong.start() + 1} is a space, a quotation mark, a control character or not ASCII."
            " It must be the bare key, without a word before it."
        )
        # Not the match either: it would carry the key along in this frame.
        del wrong
        raise KeyMalformed(detail)
    return key


def _source(key: str | KeySource | None) -> KeySource:
    if key is None:
        return _EnvironmentKey()
    if callable(key):
        return key
    secret = Secret(key)
    return lambda _: secret


class KeyFile:
    """A key source for `key=`: a file that is read again when it changes.

    Args:
        path: The file. It holds the key, alone; white space around it does not matter.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Not to be shown: what was meant as the key itself may have been given for its path.
        self.path: str = Secret(os.fspath(path))
        self._last: tuple[tuple[int, ...] | None, Secret] = (None, Secret())

    def __call__(self, environ: WSGIEnvironment) -> str:
        """Give the key that the file holds now.

        Raises:
            KeyMissing: The file cannot be read, or is empty.
            KeyMalformed: It is larger than any key.
        """
        try:
            return self._current()
        except OSError as error:
            why = error.strerror
        except ValueError:
            why = "its name is no path"
        # Outside the except blocks: the errors hold the path.
        detail = f"The server's file for the fal key (FAL_KEY_FILE) cannot be read: {why}."
        raise KeyMissing(detail)

    def _current(self) -> Secret:
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file")
        seen = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        known, key = self._last
        if seen != known:
            key = self._read()
            self._last = (seen, key)
        return key

    def _read(self) -> Secret:
        with open(self.path, "rb") as file:
            # latin-1 turns each byte into one character, so that a stray one has a position.
            content = Secret(file.read(_MAX_KEY_FILE_BYTES + 1).decode("latin-1"))
        if len(content) > _MAX_KEY_FILE_BYTES:
            raise KeyMalformed("The file that should hold the fal key on the server is too large.")
        if not content.strip(_STRIPPED):
            raise KeyMissing(_FILE_EMPTY)
        return content


class _EnvironmentKey:
    def __init__(self) -> None:
        self._file: KeyFile | None = None

    def __call__(self, environ: WSGIEnvironment) -> str | None:
        if key := variable("FAL_KEY"):
            return key
        if path := Secret(variable("FAL_KEY_FILE") or ""):
            return self._file_at(path)(environ)
        key_id = Secret(variable("FAL_KEY_ID") or "")
        key_secret = Secret(variable("FAL_KEY_SECRET") or "")
        if bool(key_id) != bool(key_secret):
            detail = "Of FAL_KEY_ID and FAL_KEY_SECRET only one is set on the server."
            raise KeyMissing(detail)
        return f"{key_id}:{key_secret}" if key_id else None

    def _file_at(self, path: str) -> KeyFile:
        if self._file is None or self._file.path != path:
            self._file = KeyFile(path)
        return self._file

"""The fal key: its sources, its form, and the `Authorization` value made of it."""

from __future__ import annotations

import errno
import os
import re
import stat
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._process.variables import read_variable
from wsgi_fal_proxy.errors import FalProxyError, KeyMalformed, KeyMissing

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

KeySource = Callable[["WSGIEnvironment"], "str | None"]
"""Returns the key for one request. None or an empty string means that there is no key."""

# RFC 9110 section 11.4 leaves the form of credentials to each scheme. A fal key is visible ASCII
# without spaces. A quotation mark is a mistake: it stays in a value that no shell has read.
_NOT_IN_A_KEY: Final = re.compile(r"[^!#-&(-~]")
# Files and pasted values end in these.
_STRIPPED: Final = " \t\r\n\v\f"
_NOTHING_RETURNED: Final = "The callable for the fal key on the server returned no key."
_EMPTY_FILE: Final = "The file for the fal key on the server (FAL_KEY_FILE or KeyFile) is empty."
# A fal key has about 70 characters. A larger file is not a key file.
_MAX_KEY_FILE_BYTES: Final = 4_096


class Hidden(str):
    """Text that its repr hides. So tracebacks and error reports with locals do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<redacted>"

    def __getitem__(self, key: Any) -> Hidden:
        """Return a part, which is hidden, too: error reporters slice long values."""
        return Hidden(super().__getitem__(key))


class Key:
    """The option `key`: gives each request the value of its `Authorization` header.

    Args:
        key: The key itself; or a callable that takes the WSGI environ and returns the key for that
            request. None means the environment: `FAL_KEY`, else the file that `FAL_KEY_FILE`
            names, else `FAL_KEY_ID` and `FAL_KEY_SECRET`. Each request reads the environment, so
            a key can be set after the start.
    """

    def __init__(self, key: str | KeySource | None) -> None:
        # A key that is given as text need not be asked for.
        self._fixed = Hidden(key) if isinstance(key, str) else None
        self._source: KeySource = key if callable(key) else _EnvironmentKey()
        self._missing_detail = _NOTHING_RETURNED if callable(key) else None
        # The last key and its header value: a key is checked only when it changes. It is one
        # tuple, so that two threads cannot mix two keys up.
        self._last: tuple[Hidden, Hidden] = (Hidden(), Hidden())

    def authorization(self, environ: WSGIEnvironment) -> Hidden:
        """Return the header value `Key <key>` (rule 5 of the formula).

        Raises:
            KeyMissing: There is no key.
            KeyMalformed: The key holds a character that no fal key holds, such as a space.
        """
        known, authorization = self._last
        raw = self._fixed or self._raw(environ)
        if raw is known or (raw and raw == known):
            return authorization
        # From here on, an error can have this frame in its traceback.
        raw = Hidden(raw)
        if not raw and self._missing_detail is not None:
            raise KeyMissing(self._missing_detail)
        authorization = Hidden(f"Key {_checked(raw)}")
        self._last = (raw, authorization)
        return authorization

    def _raw(self, environ: WSGIEnvironment) -> str:
        try:
            raw = self._source(environ) or ""
        except FalProxyError:
            raise
        except Exception as error:  # noqa: BLE001 - the owner's callable can raise anything
            # Neither the error's message nor the error as a cause: both could hold a key.
            detail = f"The callable for the fal key on the server raised {type(error).__name__}."
            where = _where_raised(error)
        else:
            if isinstance(raw, str):
                return raw
            # The value may be the key in another type, and the error's traceback has this frame.
            del raw
            raise KeyMalformed("The callable for the fal key on the server must return a str.")
        raise KeyMissing(detail, for_the_log=f" ({where})")


def _where_raised(error: Exception) -> str:
    """Return the places in the code where the owner's callable failed, for the log.

    The first place is in the owner's own code; the last one raised the error. A place has neither
    the line's text nor any values, since both may hold a key.
    """
    places = [
        f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if len(places) < 2:  # noqa: PLR2004 - the first is this module's
        return "when it was called with the WSGI environ"
    return "; raised at ".join(dict.fromkeys((places[1], places[-1])))


def _checked(raw: Hidden) -> Hidden:
    key = Hidden(raw.strip(_STRIPPED))
    if not key:
        raise KeyMissing
    if wrong := _NOT_IN_A_KEY.search(key):
        detail = (
            "The fal key on the server is malformed: the character at position"
            f" {wrong.start() + 1} is a space, a quotation mark, a control character or not ASCII."
            " It must be the bare key, without a word before it."
        )
        # The match holds the key, and the error's traceback has this frame.
        del wrong
        raise KeyMalformed(detail)
    return key


class KeyFile:
    """A value for the option `key`: a file, which is read again when it changes.

    Args:
        path: The file. It holds nothing but the key; white space around the key is ignored.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Hidden, because an owner may pass the key itself by mistake.
        self.path: str = Hidden(os.fspath(path))
        self._last: tuple[tuple[int, ...] | None, Hidden] = (None, Hidden())

    def __call__(self, environ: WSGIEnvironment) -> str:
        """Return the key that the file holds now.

        Raises:
            KeyMissing: The file cannot be read, or is empty.
            KeyMalformed: The file is larger than any key.
        """
        try:
            return self._current()
        except OSError as error:
            why = error.strerror
        except ValueError:
            why = "its name is not a path"
        # Raised outside the except blocks, because their errors hold the path.
        detail = (
            "The file for the fal key on the server (FAL_KEY_FILE or KeyFile) cannot be read:"
            f" {why}."
        )
        raise KeyMissing(detail)

    def _current(self) -> Hidden:
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file")
        version = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        known, key = self._last
        if version != known:
            key = self._read()
            self._last = (version, key)
        return key

    def _read(self) -> Hidden:
        with open(self.path, "rb") as file:
            # latin-1 makes each byte one character, so that a wrong byte has a position.
            content = Hidden(file.read(_MAX_KEY_FILE_BYTES + 1).decode("latin-1"))
        if len(content) > _MAX_KEY_FILE_BYTES:
            raise KeyMalformed("The file for the fal key on the server is too large.")
        if not content.strip(_STRIPPED):
            raise KeyMissing(_EMPTY_FILE)
        return content


class _EnvironmentKey:
    def __init__(self) -> None:
        self._file: KeyFile | None = None

    def __call__(self, environ: WSGIEnvironment) -> str | None:
        if key := read_variable("FAL_KEY"):
            return key
        if path := Hidden(read_variable("FAL_KEY_FILE") or ""):
            return self._file_at(path)(environ)
        key_id = Hidden(read_variable("FAL_KEY_ID") or "")
        key_secret = Hidden(read_variable("FAL_KEY_SECRET") or "")
        if bool(key_id) != bool(key_secret):
            detail = "Only one of FAL_KEY_ID and FAL_KEY_SECRET is set on the server: set both."
            raise KeyMissing(detail)
        return f"{key_id}:{key_secret}" if key_id else None

    def _file_at(self, path: str) -> KeyFile:
        if self._file is None or self._file.path != path:
            self._file = KeyFile(path)
        return self._file

from __future__ import annotations

import contextlib
import gc
import json
import os
import traceback
import weakref
from typing import TYPE_CHECKING

import pytest

from tests.support.environs import answer_to
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._fal.key import Hidden, Key, KeyFile, KeySource
from wsgi_fal_proxy.errors import FalProxyError, KeyMalformed, KeyMissing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN = "https://fal.run/fal-ai/flux/dev"
KEY = "0b1c-id:5e6f-secret"
VARIABLES = ("FAL_KEY", "FAL_KEY_FILE", "FAL_KEY_ID", "FAL_KEY_SECRET")


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "key"


def authorization(credentials: Key) -> str:
    return str(credentials.authorization({}))


def set_variables(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def age(path: Path, seconds: int) -> None:
    """Set the time of the last change, for clocks that are too coarse to tell two writes apart."""
    os.utime(path, (seconds, seconds))


# The value.


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(KEY, id="id-and-secret"),
        pytest.param("!~", id="bounds-of-visible-ascii"),
        pytest.param("k", id="one-character"),
    ],
)
def test_key_becomes_the_authorization(key: str) -> None:
    assert authorization(Key(key)) == f"Key {key}"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(f"{KEY}\n", id="newline"),
        pytest.param(f"{KEY}\r\n", id="carriage-return-and-newline"),
        pytest.param(f" \t\v\f{KEY} \t\v\f\n\n", id="all-kinds-around"),
    ],
)
def test_key_may_have_white_space_around_it(raw: str) -> None:
    assert authorization(Key(raw)) == f"Key {KEY}"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("", id="empty"),
        pytest.param(" ", id="space"),
        pytest.param("\r\n\t\v\f", id="white-space"),
    ],
)
def test_key_that_is_blank_is_missing(raw: str) -> None:
    with pytest.raises(KeyMissing) as caught:
        Key(raw).authorization({})
    assert (caught.value.reason, caught.value.status[:3]) == ("key_missing", "500")


@pytest.mark.parametrize(
    ("raw", "position"),
    [
        pytest.param("private key", 8, id="space"),
        pytest.param("Key private", 4, id="scheme-before-it"),
        pytest.param("private\tx", 8, id="tab"),
        pytest.param("private\nX-Evil: 1", 8, id="newline"),
        pytest.param("private\rx", 8, id="carriage-return"),
        pytest.param("private\x00", 8, id="null"),
        pytest.param("private\x7f", 8, id="delete"),
        pytest.param("private\xa0", 8, id="no-break-space-at-the-end"),
        pytest.param("private\x85", 8, id="next-line-at-the-end"),
        pytest.param("\xe9private", 1, id="latin-1"),
        pytest.param("\ufeffprivate", 1, id="byte-order-mark"),
        pytest.param("private\u200b", 8, id="zero-width-space"),
        pytest.param("p\u0430private", 2, id="cyrillic"),
        pytest.param("private" + " " * 100_000 + "x", 8, id="many-spaces"),
        pytest.param("private\u2026 \xe9", 8, id="first-of-more"),
    ],
)
def test_key_that_is_malformed_is_refused_by_position(raw: str, position: int) -> None:
    with pytest.raises(KeyMalformed) as caught:
        Key(raw).authorization({})
    assert (caught.value.reason, caught.value.status[:3]) == ("key_malformed", "500")
    assert f"position {position} is" in caught.value.detail


def traceback_of_a_failure(credentials: Key) -> str:
    """Give all that a traceback can show, the locals of every frame included."""
    with pytest.raises(FalProxyError) as caught:
        credentials.authorization({})
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    return "".join(trace.format())


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        pytest.param({}, "private key", id="given"),
        pytest.param({}, lambda _: "private key", id="callable"),
        pytest.param({"FAL_KEY": "private key"}, None, id="variable"),
        pytest.param({"FAL_KEY_ID": "private", "FAL_KEY_SECRET": "a b"}, None, id="id-and-secret"),
    ],
)
def test_key_that_is_malformed_does_not_show_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str | KeySource | None
) -> None:
    set_variables(monkeypatch, environment)
    trace = traceback_of_a_failure(Key(key))
    assert "KeyMalformed" in trace
    assert "private" not in trace
    # It would lead to the key, though it does not show it.
    assert "re.Match" not in trace


def test_key_file_with_a_malformed_key_does_not_show_it_in_a_traceback(key_file: Path) -> None:
    key_file.write_text("private key")
    trace = traceback_of_a_failure(Key(KeyFile(key_file)))
    assert "position 8 is" in trace
    assert "private" not in trace


def test_key_does_not_show_in_a_repr() -> None:
    credentials = Key("private")
    value = credentials.authorization({})
    assert "private" not in repr([value, credentials, vars(credentials)])


def test_secret_does_not_show_in_a_repr() -> None:
    secret = Hidden("private")
    assert (repr(secret), f"{secret!r}", repr({"a": secret})) == (
        "<redacted>",
        "<redacted>",
        "{'a': <redacted>}",
    )


def test_secret_is_its_text_otherwise() -> None:
    assert (str(Hidden("a")), Hidden("a"), Hidden("a") + "b") == ("a", "a", "ab")


# A callable.


def test_key_callable_gives_the_key_of_each_request() -> None:
    credentials = Key(lambda environ: environ["key"])
    keys = [credentials.authorization({"key": key}) for key in ("a", "b", "b", "a")]
    assert keys == ["Key a", "Key b", "Key b", "Key a"]


@pytest.mark.parametrize(
    "key",
    [pytest.param(None, id="none"), pytest.param("", id="empty"), pytest.param(" ", id="blank")],
)
def test_key_is_missing_if_the_callable_gives_none(key: str | None) -> None:
    with pytest.raises(KeyMissing):
        Key(lambda _: key).authorization({})


def test_key_of_an_earlier_request_does_not_stand_in_for_one_that_is_missing() -> None:
    credentials = Key(lambda environ: environ.get("key"))
    credentials.authorization({"key": "a"})
    with pytest.raises(KeyMissing):
        credentials.authorization({})


def test_key_of_an_earlier_request_does_not_stand_in_for_one_that_is_malformed() -> None:
    credentials = Key(lambda environ: environ.get("key"))
    credentials.authorization({"key": "a"})
    with pytest.raises(KeyMalformed):
        credentials.authorization({"key": "a b"})


def failing_source(_: object) -> str:
    raise LookupError("private")


def test_key_is_missing_if_the_callable_raises() -> None:
    with pytest.raises(KeyMissing, match="raised LookupError") as caught:
        Key(failing_source).authorization({})
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_key_callable_that_raised_is_located_for_the_log_alone() -> None:
    def source(environ: object) -> str:
        return json.dumps(environ, default=failing_source)

    with pytest.raises(KeyMissing) as caught:
        Key(source).authorization({"": object()})
    # The owner's own code, and what it called in the end; not what is between.
    line, last = (code.co_firstlineno + 1 for code in (source.__code__, failing_source.__code__))
    assert caught.value.for_the_log == (
        f" ({__file__}, line {line}, in source; raised at {__file__}, line {last}, in"
        " failing_source)"
    )
    assert caught.value.detail == "The callable for the fal key on the server raised LookupError."


def test_key_callable_may_raise_an_error_without_a_place() -> None:
    class Untraceable(Exception):
        __traceback__ = None

    def source(_: object) -> str:
        raise Untraceable("private")

    with pytest.raises(KeyMissing) as caught:
        Key(source).authorization({})
    assert caught.value.__context__ is None


def test_key_callable_that_raised_does_not_keep_what_it_was_given() -> None:
    class Environ(dict[str, object]):
        """Can be referred to weakly."""

    environ = Environ()
    given = weakref.ref(environ)
    gc.disable()
    try:
        with contextlib.suppress(KeyMissing):
            Key(failing_source).authorization(environ)
        del environ
        assert given() is None
    finally:
        gc.enable()


def test_key_callable_that_cannot_be_called_with_an_environ_is_told_so() -> None:
    source: Callable[..., str] = lambda: "private"  # noqa: E731 - its arguments are the mistake
    with pytest.raises(KeyMissing, match="raised TypeError") as caught:
        Key(source).authorization({})
    assert caught.value.for_the_log == " (when it was called with the WSGI environ)"


def test_key_callable_that_raised_is_logged_without_what_it_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, _, content = answer_to(FalProxy(key=failing_source), HTTP_X_FAL_TARGET_URL=RUN)
    message = "The callable for the fal key on the server raised LookupError."
    line = failing_source.__code__.co_firstlineno + 1
    assert caplog.messages == [
        f"key_missing: {message} ({__file__}, line {line}, in failing_source)"
    ]
    assert "private" not in caplog.text
    assert json.loads(content)["message"] == message


def test_key_callable_that_raised_does_not_show_in_a_traceback() -> None:
    trace = traceback_of_a_failure(Key(failing_source))
    assert "KeyMissing" in trace
    assert "private" not in trace


def test_key_callable_that_gives_bytes_does_not_give_a_key() -> None:
    source: Callable[..., object] = lambda _: b"private"  # noqa: E731 - its type is the mistake
    with pytest.raises((TypeError, FalProxyError)):
        Key(source).authorization({})  # type: ignore[arg-type]


# The environment.


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        pytest.param({"FAL_KEY": "k"}, "k", id="key"),
        pytest.param({"FAL_KEY_ID": "i", "FAL_KEY_SECRET": "s"}, "i:s", id="id-and-secret"),
        pytest.param(
            {"FAL_KEY": "k", "FAL_KEY_ID": "i", "FAL_KEY_SECRET": "s"}, "k", id="key-comes-first"
        ),
        pytest.param(
            {"FAL_KEY": "", "FAL_KEY_ID": "i", "FAL_KEY_SECRET": "s"}, "i:s", id="key-empty"
        ),
        pytest.param(
            {"FAL_KEY": "k", "FAL_KEY_FILE": "/nowhere"}, "k", id="key-comes-before-the-file"
        ),
        pytest.param(
            {"FAL_KEY_FILE": "", "FAL_KEY_ID": "i", "FAL_KEY_SECRET": "s"}, "i:s", id="file-empty"
        ),
    ],
)
def test_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str
) -> None:
    set_variables(monkeypatch, environment)
    assert authorization(Key(None)) == f"Key {key}"


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"FAL_KEY": ""}, id="key-empty"),
        pytest.param({"FAL_KEY": " \n"}, id="key-blank"),
        pytest.param({"FAL_KEY_ID": "i"}, id="id-alone"),
        pytest.param({"FAL_KEY_SECRET": "s"}, id="secret-alone"),
        pytest.param({"FAL_KEY_ID": "i", "FAL_KEY_SECRET": ""}, id="secret-empty"),
        pytest.param({"FAL_KEY_ID": "", "FAL_KEY_SECRET": "s"}, id="id-empty"),
        pytest.param(
            {"FAL_KEY_FILE": "/nowhere/key", "FAL_KEY_ID": "i", "FAL_KEY_SECRET": "s"},
            id="file-that-is-not-there-comes-before-id-and-secret",
        ),
    ],
)
def test_key_is_missing_if_the_environment_has_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    set_variables(monkeypatch, environment)
    with pytest.raises(KeyMissing):
        Key(None).authorization({})


def test_key_that_is_set_late_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Key(None)
    with pytest.raises(KeyMissing):
        credentials.authorization({})
    monkeypatch.setenv("FAL_KEY", "k")
    assert authorization(credentials) == "Key k"


def test_key_that_changes_in_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Key(None)
    monkeypatch.setenv("FAL_KEY", "a")
    assert authorization(credentials) == "Key a"
    monkeypatch.setenv("FAL_KEY", "b")
    assert authorization(credentials) == "Key b"


def test_key_that_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "environment")
    assert authorization(Key("given")) == "Key given"


def test_key_file_of_the_environment_comes_before_id_and_secret(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    key_file.write_text(f"{KEY}\n")
    monkeypatch.setenv("FAL_KEY_FILE", str(key_file))
    monkeypatch.setenv("FAL_KEY_ID", "i")
    monkeypatch.setenv("FAL_KEY_SECRET", "s")
    assert authorization(Key(None)) == f"Key {KEY}"


def test_key_file_of_the_environment_is_read_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.setenv("FAL_KEY_FILE", str(key_file))
    credentials = Key(None)
    key_file.write_text("first")
    age(key_file, 1)
    assert authorization(credentials) == "Key first"
    key_file.write_text("other")
    age(key_file, 2)
    assert authorization(credentials) == "Key other"


def test_key_file_of_the_environment_may_be_another_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = Key(None)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    monkeypatch.setenv("FAL_KEY_FILE", str(tmp_path / "a"))
    assert authorization(credentials) == "Key a"
    monkeypatch.setenv("FAL_KEY_FILE", str(tmp_path / "b"))
    assert authorization(credentials) == "Key b"


# A file.


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(KEY.encode(), id="bare"),
        pytest.param(KEY.encode() + b"\n", id="newline"),
        pytest.param(b"\n " + KEY.encode() + b"\r\n", id="white-space-around"),
        pytest.param(KEY.encode() + b"\n" * 100, id="many-newlines"),
    ],
)
def test_key_file_holds_the_key(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    assert authorization(Key(KeyFile(key_file))) == f"Key {KEY}"


def test_key_file_may_be_named_by_text(key_file: Path) -> None:
    key_file.write_text("k")
    assert authorization(Key(KeyFile(str(key_file)))) == "Key k"


@pytest.mark.parametrize(
    "content", [pytest.param(b"", id="empty"), pytest.param(b" \r\n", id="blank")]
)
def test_key_file_that_is_blank_means_that_the_key_is_missing(
    key_file: Path, content: bytes
) -> None:
    key_file.write_bytes(content)
    with pytest.raises(KeyMissing) as caught:
        Key(KeyFile(key_file)).authorization({})
    assert caught.value.detail == (
        "The file for the fal key on the server (FAL_KEY_FILE or KeyFile) is empty."
    )


def test_key_file_of_the_environment_that_is_blank_is_told_of(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.setenv("FAL_KEY_FILE", str(key_file))
    key_file.write_bytes(b"")
    with pytest.raises(KeyMissing, match="is empty"):
        Key(None).authorization({})
    key_file.write_bytes(b"k")
    assert authorization(Key(None)) == "Key k"


@pytest.mark.parametrize(
    ("content", "position"),
    [
        pytest.param(b"private\nsecond", 8, id="two-lines"),
        pytest.param(b"FAL_KEY = private", 8, id="assignment"),
        pytest.param(b"private\xff", 8, id="not-utf-8"),
        pytest.param("\ufeffprivate".encode(), 1, id="byte-order-mark"),
        pytest.param("private".encode("utf-16-le"), 2, id="utf-16"),
        pytest.param(b"\x7fELF", 1, id="binary"),
    ],
)
def test_key_file_that_holds_no_key_is_refused_by_position(
    key_file: Path, content: bytes, position: int
) -> None:
    key_file.write_bytes(content)
    with pytest.raises(KeyMalformed, match=f"position {position} is"):
        Key(KeyFile(key_file)).authorization({})


def test_key_file_that_is_too_large_is_refused(key_file: Path) -> None:
    key_file.write_bytes(b"a" * 5_000)
    with pytest.raises(FalProxyError):
        Key(KeyFile(key_file)).authorization({})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("nowhere", id="not-there"),
        pytest.param(".", id="directory"),
        pytest.param("a\0b", id="no-path"),
    ],
)
def test_key_file_that_cannot_be_read_means_that_the_key_is_missing(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(KeyMissing) as caught:
        Key(KeyFile(tmp_path / name)).authorization({})
    assert (caught.value.reason, caught.value.status[:3]) == ("key_missing", "500")
    # A path may be the key, given in the wrong place.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "file" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


def test_key_file_that_changes_in_size_is_read_again(key_file: Path) -> None:
    source = KeyFile(key_file)
    key_file.write_text("a")
    age(key_file, 1)
    assert source({}) == "a"
    key_file.write_text("bb")
    age(key_file, 1)
    assert source({}) == "bb"


def test_key_file_that_changes_in_time_is_read_again(key_file: Path) -> None:
    source = KeyFile(key_file)
    key_file.write_text("a")
    age(key_file, 1)
    assert source({}) == "a"
    key_file.write_text("b")
    age(key_file, 2)
    assert source({}) == "b"


def test_key_file_that_is_replaced_is_read_again(key_file: Path, tmp_path: Path) -> None:
    source = KeyFile(key_file)
    key_file.write_text("a")
    age(key_file, 1)
    assert source({}) == "a"
    other = tmp_path / "other"
    other.write_text("b")
    age(other, 1)
    other.replace(key_file)
    assert source({}) == "b"


def test_key_file_that_has_not_changed_is_not_read_again(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = KeyFile(key_file)
    key_file.write_text("a")
    assert source({}) == "a"
    monkeypatch.delattr("builtins.open")
    assert source({}) == "a"


def test_key_file_that_changes_under_its_old_time_is_read_again(key_file: Path) -> None:
    source = KeyFile(key_file)
    key_file.write_text("a")
    age(key_file, 1)
    assert source({}) == "a"
    key_file.write_text("b")
    age(key_file, 1)
    assert source({}) == "b"


def test_secret_does_not_show_in_part_either() -> None:
    assert repr(Hidden("private")[:3]) == "<redacted>"
    assert Hidden("private")[:3] == "pri"


def test_key_file_that_goes_away_is_not_remembered(key_file: Path) -> None:
    credentials = Key(KeyFile(key_file))
    key_file.write_text("a")
    assert authorization(credentials) == "Key a"
    key_file.unlink()
    with pytest.raises(KeyMissing):
        credentials.authorization({})


def test_key_file_that_comes_late_counts(key_file: Path) -> None:
    credentials = Key(KeyFile(key_file))
    with pytest.raises(KeyMissing):
        credentials.authorization({})
    key_file.write_text("a")
    assert authorization(credentials) == "Key a"


def test_key_of_a_file_does_not_show_in_a_repr(key_file: Path) -> None:
    source = KeyFile(key_file)
    key_file.write_text("private")
    assert "private" not in repr([source({}), source, vars(source)])


@pytest.mark.parametrize("name", ["FAL_KEY_ID", "FAL_KEY_SECRET"])
def test_key_of_the_environment_that_is_half_there_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "half")
    with pytest.raises(KeyMissing, match="Only one of FAL_KEY_ID and FAL_KEY_SECRET"):
        Key(None).authorization({})


def test_key_callable_that_gives_no_key_is_to_blame_itself() -> None:
    with pytest.raises(KeyMissing, match="The callable for the fal key"):
        Key(lambda _: None).authorization({})

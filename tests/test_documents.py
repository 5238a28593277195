"""Files and JSON from outside: anything at all gives a value or one clear line, in linear time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.documents import (
    as_array,
    as_integer,
    as_number,
    as_object,
    as_text,
    parse_json,
    read_bytes,
    read_json,
    regular_file,
)
from anchorshot.core.errors import InputError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_json_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value).encode(), "x") == value


@given(values, st.data())
def test_damaged_json_is_one_line_or_a_value(value: object, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_json(bytes(text), "x")
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"a": 1, "a": 2}', "field twice"),
        ("[NaN]", "finite"),
        ("[-Infinity]", "finite"),
        ("[1e999]", "finite"),
        ("[" + "9" * 500 + "]", "digits"),
        ("[" * 65 + "]" * 65, "deeper"),
        ("[" * 100_000, "deeper"),
        ('{"a": ' * 70 + "1" + "}" * 70, "deeper"),
        ("[" + "1," * 1_000_000 + "1]", "values"),
        ("{a: 1}", "JSON"),
        (b"\xff\xfe", "UTF-8"),
        ("", "JSON"),
    ],
)
def test_refused_json(text: str | bytes, rule: str) -> None:
    before = time.process_time()
    with pytest.raises(InputError, match=rule):
        parse_json(text, "manifest")
    assert time.process_time() - before < 5


def test_limits_are_inclusive() -> None:
    assert parse_json("[" * 64 + "]" * 64, "x") is not None
    assert parse_json("[1, 2]", "x", max_values=3) == [1, 2]
    with pytest.raises(InputError):
        parse_json("[1, 2]", "x", max_values=2)


def test_types_are_named() -> None:
    assert as_object({"a": 1}, "x") == {"a": 1}
    assert (as_array([1], "x"), as_text("t", "x"), as_number(2, "x"), as_integer(3.0, "x")) == ([1], "t", 2.0, 3)
    for check, bad in [
        (as_object, []), (as_array, {}), (as_text, 1), (as_number, True), (as_number, "1"), (as_number, 10**400),
        (as_integer, 1.5), (as_integer, True), (as_integer, None),
    ]:  # fmt: skip
        with pytest.raises(InputError, match="weights: must be"):
            check(bad, "weights")
    with pytest.raises(InputError, match="at least 1 and at most 4"):
        as_integer(5, "rank", 1, 4)


def test_only_regular_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[1]")
    assert regular_file(file, "x") == file
    assert read_json(file, "x") == [1]
    (tmp_path / "link").symlink_to(file)
    assert read_bytes(tmp_path / "link", "x", limit=3) == b"[1]"
    with pytest.raises(InputError, match="at most 2 bytes"):
        read_bytes(file, "x", limit=2)
    os.symlink("ring", tmp_path / "ring")
    for path in (tmp_path, tmp_path / "none", file / "inside", tmp_path / "ring", "a" * 3000, "zero\0byte"):
        with pytest.raises(InputError, match="studio.file"):
            read_bytes(path, "studio.file", limit=10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InputError, match="regular"):
            read_bytes(path, "x", limit=10)

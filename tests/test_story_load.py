"""Story files: YAML, JSON, CSV and text, the shipped examples, and what happens to broken ones."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import anchorshot
from anchorshot.core.errors import InputError
from anchorshot.core.files import atomic_path, sha256_file, write_atomic
from anchorshot.story.load import MAX_BYTES, read_story_text
from anchorshot.story.schema import SCHEMA_FILE, schema_text, storyboard_schema
from anchorshot.story.storyboard import Storyboard, load_storyboard, parse_storyboard

ROOT = Path(anchorshot.__file__).parent
EXAMPLES = ROOT / "stories"
YAML = """\
title: Test
characters:
  Mira: a fox
places:
  dunes: the desert
shots:
  - id: s01
    place: dunes
    scene: <Mira> waits.
  - id: s02
    scene: <Mira> runs.
    seconds: 2
"""


def test_examples_are_one_film_in_three_formats():
    board = load_storyboard(EXAMPLES / "two_friends.yaml")
    assert board.title == "Two friends" and board.fps == 8 and board.size == (160, 80) and len(board.shots) == 6
    captions = board.captions()
    assert captions == load_storyboard(EXAMPLES / "shot_list.csv").captions()
    assert captions == load_storyboard(EXAMPLES / "paragraphs.txt").captions()
    assert sum("a yellow square with a crown" in c.prompt for c in captions) == 1
    assert {s.place for s in board.shots[2:]} <= {s.place for s in board.shots[:2]}  # from shot 3 on, places come again
    assert {name for c in captions for name in c.names} == {"Mira", "Pip"}
    lengths = [s.timeline(board.fps).chunks for s in board.shots]
    assert sorted(lengths) == [[9, 9]] * 2 + [[17]] * 4
    csv = load_storyboard(EXAMPLES / "shot_list.csv")
    assert [s.timeline(csv.fps) for s in csv.shots] == [s.timeline(board.fps) for s in board.shots]


def test_yaml_and_json_read_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "a.yml").write_bytes(b"\xef\xbb\xbf" + YAML.replace("\n", "\r\n").encode())
    (tmp_path / "a.json").write_text(json.dumps(yaml.safe_load(YAML)), encoding="utf-8")
    boards = [load_storyboard(tmp_path / name) for name in ("a.yaml", "a.yml", "a.json")]
    assert boards[0] == boards[1] == boards[2]
    assert parse_storyboard(YAML).captions() == boards[0].captions()
    (tmp_path / "B.JSON").write_text(json.dumps(boards[0].to_dict()), encoding="utf-8")
    assert load_storyboard(str(tmp_path / "B.JSON")) == boards[0]


def fails(path: Path, content: str | bytes | None) -> InputError:
    if content is not None:
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_storyboard(path)
    text = str(caught.value)
    assert "\n" not in text and "(got " in text and len(text) < 500 and caught.value.fix
    return caught.value


def test_errors_name_the_line_and_the_field(tmp_path):
    path = tmp_path / "a.yaml"
    for old, new, start in (
        ("seconds: 2", "seconds: -2", "a.yaml line 12, shots[1].seconds: must be greater than 0 (got -2); "),
        ("place: dunes", "place: dune", "a.yaml line 8, shots[0].place: is not in places"),
        ("<Mira> runs", "<Myra> runs", "a.yaml line 11, shots[1].scene: has a <Name> tag"),
        ("seconds: 2", "secs: 2", "a.yaml line 12, shots[1].secs: is not a known field"),
        ("Mira: a fox", "Mira:", "a.yaml line 3, characters.Mira: must be text (got nothing)"),
        ("- id: s02", "- id: s01", "a.yaml line 10, shots[1].id: must be unique"),
        ("title: Test", "title: 2024-01-01", "a.yaml line 1, title: must be text"),
        ("title: Test", "title: yes", "a.yaml line 1, title: must be text (got True); put it in quotes"),
    ):
        assert str(fails(path, YAML.replace(old, new))).startswith(start)


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("title: [a, b\nshots: x", "a.yaml line 2, column"),
        ("title: a: b", "a.yaml line 1, column 9: is not valid YAML: mapping values"),
        ("title: x\n\tshots: []", "a.yaml line 2, column 1: is not valid YAML"),
        ('title: "x', "a.yaml line 1, column"),
        ("title: x\n---\ntitle: y", "a.yaml line 2, column 1"),
        ("title: *x", "a.yaml line 1, column 8: is not valid YAML: found undefined alias"),
        ("title: !!python/object/apply:os.system [ls]", "a.yaml line 1, column 8: is not valid YAML: could not"),
        ("title: x\ntitle: y", "a.yaml line 2: must not give a field twice"),
        ("shots:\n- id: a\n  id: b", "a.yaml line 3: must not give a field twice"),
        ("[1, 2]: x", "a.yaml line 1: must have text as field names"),
        ("a: \x07", "a.yaml line 1: must not hold control characters"),
        ("a: x\nb: \0", "a.yaml line 2: must be plain text"),
        ("title: 2024-13-45", "a.yaml: holds a value that YAML cannot read"),
        ("title: " + "9" * 5000, "a.yaml line 1: must not hold numbers of more than 400 digits"),
        ("[" * 100_000, "a.yaml: must not nest deeper"),
        ("- " * 50_000, "a.yaml line 1: must not nest deeper"),
        ("a: " + "[" * 40 + "]" * 40, "a.yaml line 1: must not nest deeper"),
        ("a: &a [*a]", "a.yaml line 1: must not nest deeper"),
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)), "a.yaml line"),
        ("", "a.yaml: is empty"),
        ("  \n\n", "a.yaml: is empty"),
        ("# only a comment", "a.yaml, storyboard: must be a mapping"),
        ("- 1\n- b", "a.yaml line 1, shots[0]: must be a mapping"),
        ("just words", "a.yaml, storyboard: must be a mapping"),
        ("title: x", "a.yaml line 1, shots: is required"),
    ],
)  # fmt: skip
def test_broken_yaml(tmp_path, content, start):
    assert str(fails(tmp_path / "a.yaml", content)).startswith(start)


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ('{"title": "x",}', "a.json: is not valid JSON: expecting property name enclosed in double quotes in line 1"),
        ('{\n  "title" "x"\n}', "a.json: is not valid JSON: expecting ':' delimiter in line 2, column 11"),
        ('{"a": 1, "a": 2}', "a.json: must not give a field twice"),
        ("[" * 200_000, "a.json: must not nest deeper"),
        ('{"fps": ' + "9" * 5000 + "}", "a.json: must not hold numbers of more than 400 digits"),
        ('{"fps": NaN, "shots": [{"id": "a", "scene": "x"}]}', "a.json: must hold finite numbers only"),
        ("[]", "a.json, shots: must hold at least 1"),
        ("[1]", "a.json, shots[0]: must be a mapping"),
        ("null", "a.json, storyboard: must be a mapping"),
    ],
)
def test_broken_json(tmp_path, content, start):
    assert str(fails(tmp_path / "a.json", content)).startswith(start)


def test_files_that_cannot_be_read(tmp_path):
    assert "must be an existing storyboard file" in str(fails(tmp_path / "gone.yaml", None))
    assert "must be a regular storyboard file" in str(fails(tmp_path, None))
    assert "must end in .yaml" in str(fails(tmp_path / "film.docx", "x"))
    assert "must end in .yaml" in str(fails(tmp_path / "film", "x"))
    assert "UTF-8" in str(fails(tmp_path / "a.yaml", "title: Zoë".encode("latin-1")))
    assert "whole UTF-16" in str(fails(tmp_path / "a.csv", "scene\nx".encode("utf-16")[:-1]))
    assert f"at most {MAX_BYTES} bytes" in str(fails(tmp_path / "a.txt", "x" * (MAX_BYTES + 1)))
    assert "must be a readable storyboard file" in str(fails(tmp_path / ("n" * 5000 + ".yaml"), None))
    assert fails(tmp_path / "a\0.yaml", None).field == "story"
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "must be a regular storyboard file" in str(fails(tmp_path / "pipe.yaml", None))
    with pytest.raises(InputError, match="must be one of auto, yaml, json, csv, txt"):
        read_story_text("x", "toml")


def test_csv_reads_columns_in_any_order_and_separator():
    text = (
        "# title: A; B\n# size: 320 x 160\n# fps: 24\n# a plain remark\n\n"
        "Duration;Shot;description;Location;seed;transition;keyframes;angle\n"
        '00:00:02:01;one;"<Mira: a fox> runs; then stops.";the Desert;7;blend;"0; 1.5";low angle\n'
        ";;<Mira> sleeps.;The desert.;;;;\n"
        ";;A storm.;desert storm;;;;\n\n"
    )
    board = parse_storyboard(text, "csv")
    assert (board.title, board.size, board.fps) == ("A; B", (320, 160), 24)
    assert board.characters == {"Mira": "a fox"}
    assert board.places == {"desert": "the Desert", "desert-storm": "desert storm"}
    first, second, third = board.shots
    assert first.id == "one" and first.seed == 7 and first.transition == "blend" and first.camera.angle == "low angle"
    assert first.scene == "<Mira> runs; then stops." and first.timeline(24).requested.frame == 49
    assert [k.at for k in first.keyframes] == [0, 1.5]
    assert (second.id, second.place, third.id, third.place) == ("s02", "desert", "s03", "desert-storm")


def test_csv_keyframe_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.csv").write_text("scene,keyframes\nA fox.,0=a.png|1.0\n", encoding="utf-8")
    board = load_storyboard(tmp_path / "a.csv")
    assert board.title == "a" and board.image_path(board.shots[0].keyframes[0]) == (tmp_path / "a.png").resolve()
    assert "a.csv line 2, shots[0].keyframes[0].image: is a picture that does not exist" in str(
        fails(tmp_path / "a.csv", "scene,keyframes\nA fox.,0=b.png\n")
    )


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("scene,secnds\nx,2", 'a.csv line 1: has an unknown column (got "secnds"); did you mean `seconds`?'),
        ("scene,scene\nx,2", "a.csv line 1: has a column twice"),
        ("id,place\na,b", "a.csv line 1: must have a column scene or action"),
        ("<Mira: a fox> runs,2", "a.csv line 1: must have a column scene or action"),
        ("scene,seconds\nx,two", "a.csv line 2, seconds: must be a length of time"),
        ("scene,seconds\nx,00:99:00:00", "a.csv line 2, seconds: has a part out of range"),
        ('scene,seconds\nx,"2,5,1"', "a.csv line 2, seconds: must be a length of time"),
        ("scene,seconds\nx,-1", "a.csv line 2, shots[0].seconds: must be greater than 0"),
        ("scene,seconds\nx,nan", "a.csv line 2, seconds: must be a length of time"),
        ("scene,frames\nx,99999", "a.csv line 2, shots[0].seconds: must be at most 4801 frames"),
        ("scene,frames\nx,1_7", "a.csv line 2, frames: must be a whole number"),
        ("scene,keyframes\nx,0;x", "a.csv line 2, keyframes: must be a number"),
        ("scene,id\nx,a\ny,a", "a.csv line 3, shots[1].id: must be unique"),
        ("scene,id\nx,../a", "a.csv line 2, shots[0].id: must be 1 to 64"),
        ("scene,id\n\n\n<Mira> runs,a", "a.csv line 4, shots[0].scene: has a <Name> tag"),
        ("scene,id\n<Mira: a fox> runs,a\n<Mira: a cat> runs,b", "a.csv line 3, scene: describes <Mira> a second time"),
        ("scene,id\na,b,c", "a.csv line 2: has 3 cells for 2 columns"),
        ('scene,id\n"a,b', "a.csv line 2: is not valid CSV"),
        ("scene,id", "a.csv, shots: must hold at least one shot"),
        ("# fps: fast\nscene\nx", "a.csv line 1, fps: must be a number"),
        ("# size: big\nscene\nx", "a.csv line 1, size: must be WIDTHxHEIGHT"),
        ("# size: 100x80\nscene\nx", "a.csv line 1, size[0]: must be a multiple of 16"),
        ("scene,id\n,a", "a.csv line 2, shots[0].scene: must say what is seen"),
        ("scene,scale\nx,huge", "a.csv line 2, shots[0].camera.scale: must be one of"),
    ],
)
def test_broken_csv(tmp_path, content, start):
    assert str(fails(tmp_path / "a.csv", content)).startswith(start)


def test_text_keeps_the_place_and_reads_brackets():
    board = parse_storyboard(
        "# fps: 24\n\n[the old town; Close Up; pan left; 1.5 s; blend; low angle] <Zoë: a fox>\nruns home.\n \n"
        "<Zoë> sleeps.\n# a remark\nDeeply.\n\n\n[on the moon]\nA storm.\n",
        "txt",
    )
    one, two, three = board.shots
    assert one.camera.model_dump() == {"scale": "close-up", "angle": "low angle", "movement": "pan left"}
    assert (one.seconds, one.transition, one.scene) == (1.5, "blend", "<Zoë> runs home.")
    assert two.place == one.place == "old-town" and two.scene == "<Zoë> sleeps. Deeply."
    assert board.captions()[2].prompt == "wide shot, static, on the moon. A storm."
    assert [s.id for s in board.shots] == ["s01", "s02", "s03"] and three.place == "on-the-moon"
    assert parse_storyboard("A dog runs.", "txt").captions()[0].prompt == "wide shot, static. A dog runs."


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("A.\n\n[the desert A fox.", "a.txt line 3: has a [ without a ]"),
        ("[the desert; the town] A fox.", "a.txt line 1: must not give place twice"),
        ("[wide shot; close-up] A fox.", "a.txt line 1: must not give scale twice"),
        ("A.\n\n[the desert]\n\nB.", "a.txt line 3, shots[1].scene: must say what is seen"),
        ("A.\n\n<Mira> runs.", "a.txt line 3, shots[1].scene: has a <Name> tag that is not in characters"),
        ("<: a fox> runs.", "a.txt line 1, characters.: must be a name"),
        ("<Mira: > runs.", "a.txt line 1, characters.Mira: must not be empty"),
        ("[; 0 s] A.", "a.txt line 1, shots[0].seconds: must be greater than 0"),
        ("# title: x\n# fps: 8", "a.txt, shots: must hold at least one shot"),
    ],
)
def test_broken_text(tmp_path, content, start):
    assert str(fails(tmp_path / "a.txt", content)).startswith(start)


def test_published_schema_is_current_and_knows_every_field():
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == storyboard_schema(), (
        "run: python -m anchorshot.story.schema"
    )
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    schema = storyboard_schema()
    example = yaml.safe_load((EXAMPLES / "two_friends.yaml").read_text(encoding="utf-8"))
    assert set(example) <= set(schema["properties"]) and schema["additionalProperties"] is False
    for shot in example["shots"]:
        assert set(shot) <= set(schema["$defs"]["Shot"]["properties"])


def test_the_documented_storyboards_load():
    text = (ROOT / "docs" / "storyboard.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(yaml|csv|text)\n(.*?)```", text, re.DOTALL)
    assert {kind for kind, _ in blocks} == {"yaml", "csv", "text"}
    for kind, block in blocks:
        assert parse_storyboard(block, kind.replace("text", "auto")).captions()
    for field in ("title", "fps", "size", "characters", "places", *storyboard_schema()["$defs"]["Shot"]["properties"]):
        assert f"`{field}`" in text


def test_reading_does_not_change_what_was_given():
    data = yaml.safe_load(YAML)
    before = copy.deepcopy(data)
    Storyboard.parse(data)
    assert data == before


def test_atomic_files(tmp_path):
    target = tmp_path / "deep" / "film.mp4"
    assert write_atomic(target, "žluť\n") == target and target.read_bytes() == "žluť\n".encode()
    write_atomic(target, b"\x00\x01")
    assert target.read_bytes() == b"\x00\x01"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".mp4" and temporary.name.startswith(".")
        temporary.write_bytes(b"half")
        assert target.read_bytes() == b"\x00\x01"  # readers see the old file until the new one is whole
    assert target.read_bytes() == b"half"
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(b"broken")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass
    assert target.read_bytes() == b"half" and os.listdir(target.parent) == ["film.mp4"]


def test_sha256_of_a_file_longer_than_a_block(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "b").write_bytes(b"a" * 3_000_000)
    (tmp_path / "c").write_bytes(b"a" * 2_999_999 + b"b")
    assert len({sha256_file(tmp_path / n) for n in "abc"}) == 3


SYNTAX = st.sampled_from(
    ["{", "[", "]", ":", "- ", "&a ", "*a", "!!float ", '"', "\t", "\n", "<", ">", "#", "%", "|", "?"]
)
SEEDS = {
    "yaml": YAML,
    "json": json.dumps(yaml.safe_load(YAML)),
    "csv": "# fps: 24\nid,place,scene,seconds,keyframes\na,the desert,<Mira: a fox> runs.,2,0;1\nb,the town,<Mira>,,\n",
    "txt": "# fps: 24\n\n[the desert; close-up] <Mira: a fox> runs.\n\n<Mira> waits.\n",
}


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(sorted(SEEDS)), st.floats(0, 1), st.integers(0, 12), st.text(max_size=6) | SYNTAX)
def test_a_damaged_story_is_read_or_refused_with_one_error(kind, where, cut, noise):
    text = SEEDS[kind]
    at = int(where * len(text))
    try:
        board = parse_storyboard(text[:at] + noise + text[at + cut :], kind)
    except InputError as error:
        assert str(error).isprintable() and "(got " in str(error)
    else:
        assert len(board.captions()) == len(board.shots) >= 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("shots:\n  - {id: s01, action: hello}\n  - id: s02\n    action: hi\n    seconds: -3\n", 5),
        ("id,action,seconds\ns01,hi,2\ns02,ho,-2\n", 3),
    ],
)
def test_an_error_in_a_text_without_a_file_names_the_line(text: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        parse_storyboard(text, "auto")
    assert str(caught.value).startswith(f"line {line}, shots[1].seconds: must be greater than 0")

"""What people write and paste: told apart, read as they mean it, or refused with what to write."""

from __future__ import annotations

from fractions import Fraction

import pytest
from story_texts import read, told

from anchorshot.core.errors import InputError
from anchorshot.story.formats import guess_kind, named_file
from anchorshot.story.lengths import read_length, read_span
from anchorshot.story.storyboard import load_storyboard, parse_storyboard
from anchorshot.story.terms import TERMS, camera_term, fold_term
from anchorshot.story.timeline import Time

NTSC = Fraction(30_000, 1001)


def refused(text: str, kind: str = "auto") -> str:
    with pytest.raises(InputError) as caught:
        parse_storyboard(text, kind)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    return message


# --- which format ----------------------------------------------------------------------------------------------------

YAML = "shots:\n  - {id: a1, scene: A fox runs., seconds: 2}\n  - {id: a2, scene: A hen sits., seconds: 3}\n"
SAME = {
    "yaml": YAML,
    "fenced": f"Of course! Here is the film:\n\n```yaml\n{YAML}```\nTell me what to change.\n",
    "json": '{"shots": [{"id": "a1", "scene": "A fox runs.", "seconds": 2}, {"id": "a2", "scene": "A hen sits.", '
    '"seconds": 3}]}',
    "list": '[{"id": "a1", "scene": "A fox runs.", "seconds": 2},\n {"id": "a2", "scene": "A hen sits.", '
    '"seconds": 3}]',
    "csv": "Shot,Description,Duration\na1,A fox runs.,2s\na2,A hen sits.,0:03\n",
    "tsv": "Shot\tDescription\tDuration\na1\tA fox runs.\t2\na2\tA hen sits.\t3\n",
    "german": 'sep=;\nshot;description;duration\na1;A fox runs.;"2,0"\na2;A hen sits.;3,0\n',
    "markdown": "| Shot | Description | Duration |\n|:--|---|--:|\n"
    "| a1 | A fox runs. | 2 s |\n| a2 | A hen sits. | 3 s |\n",
}


@pytest.mark.parametrize("name", SAME)
def test_one_film_in_many_forms(name, tmp_path):
    shots = read(YAML).shots
    assert read(SAME[name]).shots == shots
    assert read("\ufeff" + SAME[name].replace("\n", "\r\n")).shots == shots
    # A text file of the same bytes is the same film, whatever it holds, and so is one in UTF-16.
    (tmp_path / "a.txt").write_text(SAME[name], encoding="utf-8")
    (tmp_path / "b.txt").write_text(SAME[name], encoding="utf-16")
    assert load_storyboard(tmp_path / "a.txt").shots == load_storyboard(tmp_path / "b.txt").shots == shots


def test_formats_by_their_look():
    for kind, text in {
        "json": '{"title": "x"}',
        "yaml": "- scene: a fox\n- scene: a hen",
        "timed": "[1s: a fox] [3s: a hen]",
        "fountain": "INT. BARN - DAY\n\nA fox.",
        "fdx": '<?xml version="1.0"?>\n<FinalDraft/>',
        "csv": "scene,seconds\na,2",
        "txt": "A fox sits, and waits.",
    }.items():
        assert guess_kind(text) == kind
    assert guess_kind("<Mira: a fox> runs.") == guess_kind("[the desert; close-up] A fox.") == "txt"
    assert named_file(" films/my story.Fountain\n") == "films/my story.Fountain"
    assert named_file("A fox.\n\nstory.yaml") is named_file("A fox runs.") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a woman walks\nshe turns around\n# a remark\nshe runs", "may be one shot or 3"),
        ("1,desert,A fox runs,2\n2,town,A hen sits,2", "must have a column scene or action"),
        ("1\tdesert\tA fox runs\n2\ttown\tA hen sits", "must have a column scene or action"),
        ("list.tsv", "is the name of a file"),
        ("board.xlsx", "is the name of a file"),
        ("42", "is only a number or time"),
        ("12A", "is only a number or time"),
        ("0:03", "must have an end or a prompt after it"),
        ("A fox.\n\n1. one\n2. two", "has a list beside other text"),
        ("A fox sits. [CU] A hen.", "has a bracket within the text"),
        ("[[x]] A fox.", "has a bracket within a bracket"),
        ("[[the desert; CU]] A fox.\n\nA hen.", "has a bracket within a bracket"),
        ("[[the desert] [CU]] A fox.", "has a bracket within a bracket"),
        ("A fox.\n\n[[x]] A hen.", "has a bracket within a bracket"),
        ("A fox. [[x]]\n\nA hen.", "has double brackets within the text"),
        ("```yaml\nshots: []\n", "is not closed"),
        ("```yaml\nshots: []\n```\n```yaml\nshots: []\n```", "must have one ``` block"),
        ("```python\nprint()\n```", "in another format"),
        ("scenes:\n  - a\n  - b", "scenes: is not a known field"),
        ("[]", "must hold at least 1"),
        ('["a fox", 3]', "shots[1]: must be a mapping"),
        ("Title: x\nshots:\n- scene: a", "did you mean `title`"),
    ],
)
def test_what_looks_like_something_else_is_refused(text, words):
    assert words in refused(text)


def test_lines_of_fenced_blocks_are_those_of_the_whole_text():
    assert "yaml text line 4, column" in refused("Here:\n```yaml\nshots:\n  - scene: a: b\n```")


def test_lists_and_labels():
    for text in (
        "1. A fox runs.\n2. A hen\n   sits.",
        "- A fox runs.\n\n- A hen sits.",
        "Shot 1: A fox runs.\nShot 2: A hen sits.",
        "Scene 1\nA fox runs.\n\nScene 2\nA hen sits.",
        "Here are the shots:\n\n**1.** A fox runs.\n**2.** A hen sits.",
        '["A fox runs.", "A hen sits."]',
        "- A fox runs.\n- A hen sits.\n",
    ):
        assert told(text) == ["A fox runs.", "A hen sits."], text
    assert "left out the words before the list" in read("Here are the shots:\n1. A fox.\n2. A hen.").notes[0]
    assert read("1. Wide shot: A fox.\n2. CU: A hen.").shots[1].camera.scale == "close-up"
    board = read(
        "**Scene 1: The Beach**\n\n**Shot 1** – CU: A fox.\n\n**Shot 2** - A hen.\n\n**Scene 2: a barn**\n**Shot 3** A."
    )
    assert [(s.scene, s.place) for s in board.shots] == [("A fox.", "beach"), ("A hen.", "beach"), ("A.", "barn")]
    wrapped = "A fox that has run all day over the hills and through the wide woods\nsits down."
    assert told(wrapped) == [wrapped.replace("\n", " ")]


# --- brackets --------------------------------------------------------------------------------------------------------


def test_brackets_read_short_forms_and_lengths():
    board = read(
        "[the desert; CU; 2,5 s] A fox.\n\n[MS] A hen.\n\n[0:03; OTS; dissolve] A cat.\n\n[90 ms] A cow.\n\n"
        "[a house, by the sea, WS, 2s] A dog.\n[INT. BARN - NIGHT] [pan left] A pig.\n\n[16 frames] A goat."
    )
    assert [s.seconds for s in board.shots] == [2.5, 2.125, 3.0, 0.09, 2.0, 2.125, 2.0]
    assert [s.camera.scale for s in board.shots][:3] == ["close-up", "medium shot", "wide shot"]
    assert board.shots[2].camera.angle == "over the shoulder" and board.shots[2].transition == "blend"
    places = [board.places[s.place] for s in board.shots]
    assert places[:4] == ["the desert"] * 4  # a shot without a place stays where the one before it was
    assert places[4:] == ["a house, by the sea"] + ["inside the barn at night"] * 2
    assert board.shots[5].camera.movement == "pan left"


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("12A", "a number that is no length"),
        ("scene 2", "a number that is no length"),
        ("3", "a number that is no length"),
        ("clos up", "did you mean close-up?"),
        ("XYZ", "is no place"),
        ("slow zoom", "is no place"),
        ("f/2.8", "is no place"),
        ("85mm lens", "is no place"),
        ("she turns around.", "is no place"),
        ("camera: close", "is no place"),
        ("the desert [CU]", "a bracket within a bracket"),
        ("[CU]", "a bracket within a bracket"),
        ("0:75", "part out of range"),
        ("CU; MS", "must not give scale twice"),
    ],
)
def test_bracket_items_that_nothing_knows_are_no_places(inside, words):
    assert words in refused(f"[{inside}] A fox.", "txt")


def test_camera_words():
    short = {
        "ECU": "extreme close-up",
        "MCU": "medium close-up",
        "LS": "wide shot",
        "MLS": "medium wide shot",
        "EWS": "extreme wide shot",
        "POV": "point of view",
        "push in": "dolly in",
        "Pan L": "pan left",
    }
    assert {word: fold_term(word) for word in short} == short
    assert all(camera_term(term) and fold_term(term.upper()) == term for term in TERMS)
    assert camera_term("a fox") is None and fold_term(7) == 7
    assert read('{"shots": [{"scene": "a", "camera": {"scale": "CU"}}]}').shots[0].camera.scale == "close-up"


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2),
        ("2.5", 2.5),
        ("2,5", 2.5),
        ("2s", 2),
        ("2,5 sec.", 2.5),
        ("~3 s", 3),
        ("250 ms", 0.25),
        ("2 min", 120),
        ("1m30s", 90),
        ("0:03", 3),
        ("0:03.5", 3.5),
        ("1:02:03", 3723),
        ("60 frames", 2.002),
        ("00:00:02:00", 2.002),
        ('3"', 3),
        ("-1", -1),
        ("two", None),
        ("²", None),
        ("2-3", None),
        ("1_0", None),
        ("1" * 100, None),
        ("", None),
    ],
)
def test_lengths(text, seconds):
    length = read_length(text, NTSC)
    assert length is None if seconds is None else float(length) == pytest.approx(seconds)


def test_spans():
    assert read_span("0.0-2.5s", NTSC) == (0, Fraction(5, 2))
    assert read_span("00:00:01,000 --> 00:00:03,500", NTSC) == (1, Fraction(7, 2))
    assert read_span("1-2 min", NTSC) == (60, 120) and read_span("0:03 – 0:05", NTSC) == (3, 5)
    assert read_span("a-b", NTSC) is read_span("5", NTSC) is None


def test_drop_frame_timecode():
    # SMPTE ST 12-1: an hour of drop-frame timecode is 107892 frames, 3.6 ms short of an hour of the clock.
    assert Time.from_timecode("01:00:00;00", 29.97).frame == 107_892
    assert Time.from_timecode("01;00;00;00", 59.94).frame == 215_784
    assert Time.from_timecode("00:00:59;29", 29.97).frame + 1 == Time.from_timecode("00:01:00;02", 29.97).frame
    assert Time.from_timecode("00:09:59;29", 29.97).frame + 1 == Time.from_timecode("00:10:00;00", 29.97).frame
    for code, fps, words in (("00:01:00;01", 29.97, "leaves out"), ("00:00:01;00", 24, "24 fps does not have")):
        with pytest.raises(InputError, match=words):
            Time.from_timecode(code, fps)
    shots = parse_storyboard("# fps: 29.97\nscene,seconds\na,00:00:02;01\n", "csv").shots
    assert shots[0].seconds == pytest.approx(61 * 1001 / 30_000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("[0s: a fox] [2s: a hen]\n[5s: a cow]", [2, 3, 3]),
        ("[1s: a fox] [3s: a hen] [5s: a cow]", [3, 2, 2]),  # the first is on from the start
        ("[0.0-2.5s] a fox\n[2.5-5s] a hen [5-6s] a cow", [2.5, 2.5, 1]),
        ("0:00 a fox\n0:02 a hen\n0:05 a cow", [2, 3, 3]),
        ("0:00 - 0:02 a fox\n0:02 - 0:05 a hen\n0:05 - 0:06 a cow", [2, 3, 1]),
        ("[0s] a fox\n\n[2s] a hen\n\n[5s] a cow", [2, 3, 3]),
        ('# fps: 8\n"0": "a fox",\n"16": "a hen",\n"40": "a cow"', [2, 3, 3]),
        ('{"0": "a fox", "16": "a hen", "40": "a cow"}', [2, 3, 3]),
        (
            "1\n00:00:00,000 --> 00:00:02,000\na fox\n\n2\n00:00:02,000 --> 00:00:05,000\na hen\n\n3\n"
            "00:00:05,000 --> 00:00:06,500\na cow",
            [2, 3, 1.5],
        ),
    ],
)
def test_timed_prompts_become_lengths(text, seconds):
    board = read(text)
    assert [s.scene for s in board.shots] == ["a fox", "a hen", "a cow"] and [s.seconds for s in board.shots] == seconds


def test_timed_prompts_that_cannot_be():
    assert "must be later than the one before" in refused("[3s: a fox] [1s: a hen]")
    assert "has text outside of the timed prompts" in refused("[1s: a fox] and [3s: a hen]")
    assert "must end after its start" in refused("[3-2s] a fox")
    assert told("3 seconds later, she turns.") == ["3 seconds later, she turns."]
    assert [s.seconds for s in read("[2s] a fox\n\n[3s] a hen").shots] == [2, 3]  # lengths, not starts


def test_a_place_keeps_its_own_preposition():
    for words, located in {
        "the desert": "in the desert",
        "on the moon": "on the moon",
        "On the moon": "on the moon",
        "off the coast": "off the coast",
        "next to the well": "next to the well",
        "Atop a hill": "atop a hill",
    }.items():
        assert read(f"[{words}] A fox.").captions()[0].prompt == f"wide shot, static, {located}. A fox."


# --- ids -------------------------------------------------------------------------------------------------------------


def test_shots_without_ids_number_themselves():
    board = read("shots:\n- scene: a\n- {id: s03, scene: b}\n- scene: c\n- scene: d\n")
    assert [s.id for s in board.shots] == ["s01", "s03", "s03b", "s04"]
    assert [s.id for s in read(YAML.replace("id: a1, ", "")).shots] == ["s01", "a2"]
    assert "shots[0].id" in refused("shots:\n- {id: '', scene: a}\n")


@pytest.mark.parametrize("before", ["", "Shot 1: A cat.\n"])
def test_words_between_a_scene_and_its_first_shot_are_refused(before: str) -> None:
    """They are no part of the shot before, and whether they are a shot only the writer knows."""
    text = f"{before}Scene 2: The beach\nThe sun rises.\nShot 3: A fox.\nShot 4: A hen."
    with pytest.raises(InputError, match="stands between a scene and its first shot .got .The sun rises."):
        parse_storyboard(text, "txt")
    assert parse_storyboard(text.replace("The sun rises.\n", ""), "txt").shots[-1].scene == "A hen."


def test_a_scene_s_heading_is_its_place_and_no_part_of_the_prompt() -> None:
    board = parse_storyboard("Scene 1 - Beach\nA cat walks.\n\nScene 2: Old town\nA dog runs.", "auto")
    assert [(board.places[shot.place or ""], shot.scene) for shot in board.shots] == [
        ("Beach", "A cat walks."),
        ("Old town", "A dog runs."),
    ]
    wrapped = parse_storyboard("Scene 1: A cat walks along the\nbeach at dawn.\n\nScene 2: A dog runs.", "auto")
    assert [shot.scene for shot in wrapped.shots] == ["A cat walks along the beach at dawn.", "A dog runs."]

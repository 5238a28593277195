"""The storyboard: what it accepts, how it captions, and one clear error for every kind of fault."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from anchorshot.core.errors import InputError, closest, show_value
from anchorshot.pocket.world import ACTIONS, MOVEMENTS, PLACES, SCALES, SIDES, make_story
from anchorshot.story.names import expand_names, introduce_names
from anchorshot.story.shot import MAX_SEED, Camera, Keyframe, Shot
from anchorshot.story.storyboard import MAX_SHOTS, Caption, Storyboard
from anchorshot.story.timeline import MAX_FRAMES

BASE = {
    "title": "Two friends",
    "fps": 8,
    "size": [160, 80],
    "characters": {"Mira": "a yellow square with a crown", "Pip": "a pink circle with a bow"},
    "places": {"dunes": "the desert", "town": "the town"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> waves on the left."},
        {"id": "s02", "place": "town", "scene": "<Mira> stands on the left.", "action": "<Pip> jumps on the right."},
        {"id": "s03", "place": "dunes", "action": "<Pip> walks on the left.", "seconds": 2.125,
         "keyframes": [{"at": 0}, {"at": 1.0}]},
    ],
}  # fmt: skip


def changed(path: str, value: object) -> dict:
    """BASE with the value at a path such as ``shots.1.seconds`` set (or, for ``DELETE``, removed)."""
    data = copy.deepcopy(BASE)
    here: object = data
    *steps, last = (int(p) if p.isdigit() else p for p in path.split("."))
    for step in steps:
        if isinstance(here, dict):
            here = here.setdefault(step, {})
        else:
            here = here[step]
    if value == "DELETE":
        del here[last]
    else:
        here[last] = value
    return data


FAULTS = [
    # path, value, field named, words that must stand in the message
    ("shots.0.place", "dune", "shots[0].place", ["not in places", '"dune"', "did you mean `dunes`"]),
    ("shots.0.place", "xyzzy", "shots[0].place", ["add `xyzzy:", "dunes, town"]),
    ("shots.1.action", "<Pep> waves.", "shots[1].action", ["not in characters", "did you mean <Pip>"]),
    ("shots.1.scene", "<Zebedee> waves.", "shots[1].scene", ["<Mira>, <Pip>"]),
    ("shots.1.scene", "<mira> waves.", "shots[1].scene", ["did you mean <Mira>"]),
    ("shots.1.scene", "<Mira waves.", "shots[1].scene", ["no `>`"]),
    ("shots.1.scene", "<> waves.", "shots[1].scene", ["not in characters"]),
    ("shots.1.id", "s01", "shots[1].id", ["unique", "shots[0]"]),
    ("shots.1.id", "S01", "shots[1].id", ["unique"]),
    ("shots.1.id", "../x", "shots[1].id", ["letters, digits", '"../x"']),
    ("shots.1.id", "a/b", "shots[1].id", ["letters, digits"]),
    ("shots.1.id", "a b", "shots[1].id", ["letters, digits"]),
    ("shots.1.id", "", "shots[1].id", ["letters, digits"]),
    ("shots.1.id", "x" * 65, "shots[1].id", ["1 to 64"]),
    ("shots.1.id", "s01\n", "shots[1].id", ["letters, digits"]),
    ("shots.1.id", "..", "shots[1].id", ["letters, digits"]),
    ("shots.1.id", "NUL", "shots[1].id", ["device name"]),
    ("shots.1.id", 2, "shots[1].id", ["must be text", "quotes"]),
    ("shots.2.keyframes.1.at", -0.5, "shots[2].keyframes[1].at", ["at least 0"]),
    ("shots.2.keyframes.1.at", 2.2, "shots[2].keyframes[1].at", ["beyond", "at most 2"]),
    ("shots.2.keyframes.1.at", 99.0, "shots[2].keyframes[1].at", ["beyond"]),
    ("shots.2.keyframes.1.at", 0.0, "shots[2].keyframes[1].at", ["one frame", "frame 0"]),
    ("shots.2.keyframes.1.at", 0.06, "shots[2].keyframes[1].at", ["one frame", "both fall on frame 0"]),
    ("shots.2.keyframes.0.at", 1.5, "shots[2].keyframes[1].at", ["order"]),
    ("shots.2.keyframes.1.at", math.nan, "shots[2].keyframes[1].at", ["finite"]),
    ("shots.2.keyframes.1.at", "1.0", "shots[2].keyframes[1].at", ["must be a number", "without quotes"]),
    ("shots.2.keyframes.1", {"image": "a.png"}, "shots[2].keyframes[1].at", ["required"]),
    ("shots.2.keyframes", [], "shots[2].keyframes", ["at least 1"]),
    ("shots.2.keyframes", None, "shots[2].keyframes", ["must be a list", "got nothing"]),
    ("shots.2.keyframes", [{"at": 0.2 * k} for k in range(65)], "shots[2].keyframes", ["at most 64"]),
    ("shots.0.frames", 16, "shots[0].frames", ["4n+1", "use 13 or 17"]),
    ("shots.0.frames", 2, "shots[0].frames", ["4n+1", "use 1 or 5"]),
    ("shots.0.frames", 0, "shots[0].frames", ["at least 1"]),
    ("shots.0.frames", 17.5, "shots[0].frames", ["whole number"]),
    ("shots.0.frames", MAX_FRAMES + 4, "shots[0].frames", ["at most"]),
    ("shots.2.frames", 17, "shots[2].frames", ["beside seconds"]),
    ("shots", [], "shots", ["at least 1"]),
    ("shots", "DELETE", "shots", ["required"]),
    ("shots", {"s01": {}}, "shots", ["must be a list"]),
    ("shots.1", "jump", "shots[1]", ["must be a mapping"]),
    ("shots.1", {"id": "s02"}, "shots[1].scene", ["must say what is seen"]),
    ("shots.1", {"id": "s02", "scene": " ", "action": "\n"}, "shots[1].scene", ["must say what is seen"]),
    ("shots.0.seconds", 0, "shots[0].seconds", ["greater than 0"]),
    ("shots.0.seconds", -2.0, "shots[0].seconds", ["greater than 0", "got -2.0"]),
    ("shots.0.seconds", math.nan, "shots[0].seconds", ["finite"]),
    ("shots.0.seconds", math.inf, "shots[0].seconds", ["finite"]),
    ("shots.0.seconds", 1e12, "shots[0].seconds", ["between"]),
    ("shots.0.seconds", 3600, "shots[0].seconds", ["frames", "split"]),
    ("shots.0.seconds", True, "shots[0].seconds", ["must be a number"]),
    ("shots.0.seconds", "2 s", "shots[0].seconds", ["must be a number"]),
    ("shots.0.seconds", [2], "shots[0].seconds", ["must be a number"]),
    ("size", [100_000, 100_000], "size[0]", ["at most 4096"]),
    ("size", [4096, 4096], "size", ["pixels"]),
    ("size", [160, 90], "size[1]", ["multiple of 16", "use 80 or 96"]),
    ("size", [0, 80], "size[0]", ["at least 32"]),
    ("size", [-160, 80], "size[0]", ["at least 32"]),
    ("size", [160], "size[1]", ["required", "[160, 80]"]),
    ("size", [160, 80, 3], "size", ["at most 2"]),
    ("size", "160x80", "size", ["must be a list", "[160, 80]"]),
    ("size", ["160", 80], "size[0]", ["whole number"]),
    ("size", [160.0, 80], "size[0]", ["whole number"]),
    ("fps", 0, "fps", ["at least 1"]),
    ("fps", -8, "fps", ["at least 1"]),
    ("fps", 1000, "fps", ["at most 120"]),
    ("fps", math.inf, "fps", ["finite"]),
    ("fps", "8", "fps", ["must be a number"]),
    ("fps", None, "fps", ["must be a number", "got nothing"]),
    ("title", 7, "title", ["must be text", "quotes"]),
    ("title", "", "title", ["must not be empty"]),
    ("title", "a\x07b", "title", ["control characters", "U+0007"]),
    ("title", "a\ud800b", "title", ["U+D800"]),
    ("characters", ["Mira"], "characters", ["must be a mapping"]),
    ("characters.Mira", "", "characters.Mira", ["must not be empty"]),
    ("characters.Mira", 3, "characters.Mira", ["must be text"]),
    ("characters.Mira", "<Pip> in a coat", "characters.Mira", ["plain words"]),
    ("characters.a<b", "x", "characters.a<b", ["name of 1 to 40"]),
    ("characters.Mira", "x" * 401, "characters.Mira", ["at most 400"]),
    ("characters", {f"n{i}": "x" for i in range(201)}, "characters", ["at most 200"]),
    ("places.dunes", "the <Mira> desert", "places.dunes", ["plain words"]),
    ("places.a b", "x", "places.a b", ["letters, digits"]),
    ("place", {"dunes": "x"}, "place", ["not a known field", "did you mean `places`"]),
    ("shots.0.secnds", 2, "shots[0].secnds", ["not a known field", "did you mean `seconds`"]),
    ("shots.0.camera", {"scael": "close-up"}, "shots[0].camera.scael", ["did you mean `scale`"]),
    ("shots.0.colour", "red", "shots[0].colour", ["remove it", "keyframes"]),
    ("shots.2.keyframes.1.time", 1, "shots[2].keyframes[1].time", ["at, image"]),
    ("shots.0.camera", {"scale": "huge"}, "shots[0].camera.scale", ["must be one of", "close-up"]),
    ("shots.0.camera", {"movement": "pan lefft"}, "shots[0].camera.movement", ["did you mean `pan left`"]),
    ("shots.0.camera", "wide shot", "shots[0].camera", ["must be a mapping"]),
    ("shots.0.transition", "disolve", "shots[0].transition", ["cut, blend"]),
    ("shots.0.transition", "blendd", "shots[0].transition", ["did you mean `blend`"]),
    ("shots.0.seed", -1, "shots[0].seed", ["at least 0"]),
    ("shots.0.seed", MAX_SEED + 1, "shots[0].seed", ["at most"]),
    ("shots.0.seed", 1.5, "shots[0].seed", ["whole number"]),
    ("shots.0.seed", False, "shots[0].seed", ["whole number"]),
    ("shots.0.scene", "word " * 500, "shots[0].scene", ["at most 2000"]),
    ("shots.0.scene", {"text": "x"}, "shots[0].scene", ["must be text"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "field", "words"), FAULTS, ids=lambda v: repr(v)[:40])
def test_every_fault_gives_one_clear_error(path, value, field, words):
    with pytest.raises(InputError) as caught:
        Storyboard.parse(changed(path, value))
    error, text = caught.value, str(caught.value)
    assert error.field == field, text
    assert "\n" not in text and len(text) < 700
    assert text.startswith(f"{field}: ") and "(got " in text and error.fix and text.endswith(error.fix)
    for word in words:
        assert word in text


def test_too_many_shots():
    shots = [{"id": f"s{i}", "scene": "x"} for i in range(MAX_SHOTS + 1)]
    with pytest.raises(InputError, match=f"^shots: must hold at most {MAX_SHOTS}"):
        Storyboard.parse({"shots": shots})


@pytest.mark.parametrize("data", [None, [], "text", 7, [{"id": "s01"}]])
def test_a_storyboard_must_be_a_mapping(data):
    with pytest.raises(InputError, match="^storyboard: must be a mapping"):
        Storyboard.parse(data)


def test_keys_must_be_text():
    for data in ({7: "x", **BASE}, {**BASE, "shots": [{True: 1, "id": "s01", "scene": "x"}]}):
        with pytest.raises(InputError):
            Storyboard.parse(data)


BAD_IMAGES = [
    "../x.png", "a/../../x.png", "/etc/x.png", "~/x.png", "C:\\x.png", "C:/x.png", "a\\x.png", "//host/x.png", "",
    "x.gif", "x", "a\0.png", "weights.safetensors", "..", "a/..",
]  # fmt: skip


@pytest.mark.parametrize("image", BAD_IMAGES)
def test_images_cannot_leave_the_folder_or_be_anything_but_pictures(image, tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(InputError) as caught:
            Storyboard.parse(changed("shots.2.keyframes.1.image", image), folder=folder)
        assert caught.value.field == "shots[2].keyframes[1].image"


def test_images_are_found_beside_the_storyboard_and_links_out_are_refused(tmp_path):
    folder = tmp_path / "story"
    folder.mkdir()
    (folder / "in.png").write_bytes(b"x")
    (tmp_path / "out.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "ring.png").symlink_to(folder / "ring.png")
    board = Storyboard.parse(changed("shots.2.keyframes.1.image", "in.png"), folder=folder)
    assert [board.image_path(k) for k in board.shots[2].keyframes] == [None, (folder / "in.png").resolve()]
    faults = {"link.png": "inside", "gone.png": "does not exist", "ring.png": "ring.png", "n" * 300 + ".png": "nnn"}
    for image, words in faults.items():
        with pytest.raises(InputError, match=words) as caught:
            Storyboard.parse(changed("shots.2.keyframes.1.image", image), folder=folder)
        assert caught.value.field == "shots[2].keyframes[1].image"
    unplaced = Storyboard.parse(changed("shots.2.keyframes.1.image", "in.png"))
    with pytest.raises(InputError, match="needs the storyboard's folder"):
        unplaced.image_path(unplaced.shots[2].keyframes[1])


def test_defaults_and_round_trip():
    board = Storyboard.parse(BASE)
    shot = board.shots[0]
    assert shot.seconds == 2.125 and shot.frames is None and shot.seed is None and shot.transition == "cut"
    assert shot.camera == Camera(scale="wide shot", angle="eye level", movement="static")
    assert shot.keyframes == [Keyframe(at=0.0)]
    assert board.size == (160, 80) and board.frame_size == (80, 160) and board.rate == 8
    assert isinstance(board.fps, int)
    assert Storyboard.parse(json.loads(json.dumps(board.to_dict()))) == board
    assert Storyboard.parse(json.loads(board.model_dump_json())) == board
    with pytest.raises(ValidationError):
        board.title = "other"
    small = Storyboard.parse({"shots": [{"id": "a", "scene": "A dog."}]})
    assert small.fps == 8 and small.size == (160, 80) and small.captions()[0].prompt == "wide shot, static. A dog."


def test_frames_in_place_of_seconds_and_the_shot_timeline():
    board = Storyboard.parse(changed("shots.0.frames", 21))
    assert board.shots[0].timeline(board.fps).chunks == [21]
    assert board.shots[2].timeline(board.fps).chunks == [9, 9]
    assert Storyboard.parse(changed("fps", 23.976)).rate.denominator == 1001
    with pytest.raises(InputError, match=r"^shots\[0\]\.keyframes\[0\]\.at: "):
        Storyboard.parse(changed("shots.0", {"id": "a", "scene": "x", "frames": 5, "keyframes": [{"at": 0.6}]}))


def test_camera_terms_do_not_turn_on_case_or_hyphens():
    camera = Storyboard.parse(changed("shots.0.camera", {"scale": "Close Up", "movement": "PAN_left"})).shots[0].camera
    assert camera.scale == "close-up" and camera.movement == "pan left"


def test_captions_tell_looks_once_in_the_film_and_queries_always():
    captions = Storyboard.parse(BASE).captions()
    assert captions[0] == Caption(
        "wide shot, static, in the desert. <Mira>, a yellow square with a crown, waves on the left.",
        "wide shot, static, in the desert. a yellow square with a crown waves on the left.",
        ("Mira",),
    )
    assert captions[1].prompt == (
        "wide shot, static, in the town. <Mira> stands on the left. "
        "<Pip>, a pink circle with a bow, jumps on the right."
    )
    assert captions[1].names == ("Mira", "Pip")
    assert captions[2].prompt == "wide shot, static, in the desert. <Pip> walks on the left."
    assert captions[2].query == "wide shot, static, in the desert. a pink circle with a bow walks on the left."


@pytest.mark.parametrize("seed", range(12))
def test_captions_equal_what_the_pocket_models_are_trained_on(seed):
    story = make_story(seed, 10, split="test")
    shots = []
    for i, spec in enumerate(story.shots):
        lines = [f"<{a.name}> {ACTIONS[a.action]} on the {SIDES[a.side]}." for a in spec.actors]
        shots.append({
            "id": f"s{i:02d}", "place": f"p{spec.layout.place}", "scene": " ".join(lines[:-1]), "action": lines[-1],
            "camera": {"scale": SCALES[spec.scale], "movement": MOVEMENTS[spec.movement]},
        })  # fmt: skip
    places = {f"p{lay.place}": f"the {PLACES[lay.place]}" for lay in story.layouts}
    board = Storyboard.parse(
        {"characters": {n: look.describe() for n, look in story.cast.items()}, "places": places, "shots": shots}
    )
    captions = board.captions()
    assert [c.prompt for c in captions] == [s.prompt for s in story.shots]
    assert [c.query for c in captions] == [s.query for s in story.shots]


def test_a_keyframe_may_have_a_text_of_its_own():
    data = changed("shots.0.keyframes", [{"at": 0}, {"at": 1.0, "text": "<Pip> enters, <Mira> smiles"}, {"at": 2.0}])
    board = Storyboard.parse(data)
    first, second, third = board.keyframe_captions()
    shots = board.captions()
    assert first[0] == shots[0] and first[1] == Caption(
        "wide shot, static, in the desert. <Pip>, a pink circle with a bow, enters, <Mira> smiles.",
        "wide shot, static, in the desert. a pink circle with a bow enters, a yellow square with a crown smiles.",
        ("Pip", "Mira"),
    )
    assert first[2].query == shots[0].query and "crown" not in first[2].prompt  # told two keyframes earlier
    assert [c.query for c in second] == [shots[1].query] * len(second) and third[0] == shots[2]
    assert "bow" in shots[1].prompt and "bow" not in second[0].prompt  # the keyframes met Pip in the first shot
    assert board.cast[1].shots == ("s01", "s02", "s03")
    assert Storyboard.parse(board.to_dict()).keyframe_captions() == board.keyframe_captions()
    with pytest.raises(InputError, match=r"shots\[0\].keyframes\[1\].text: has a <Name> tag .* did you mean <Pip>"):
        Storyboard.parse(changed("shots.0.keyframes", [{"at": 0}, {"at": 1.0, "text": "<Pipp> enters"}]))


def test_without_texts_of_their_own_keyframes_show_their_shots():
    board = Storyboard.parse(changed("shots.1.keyframes", [{"at": 0}, {"at": 0.5}, {"at": 1.0, "text": " "}]))
    captions = board.captions()
    counts = [len(shot.keyframes) for shot in board.shots]
    assert board.keyframe_captions() == [[caption] * n for caption, n in zip(captions, counts, strict=True)]
    assert max(counts) == 3


def test_captions_with_angle_own_preposition_and_missing_full_stops():
    data = changed("places.town", "on the moon")
    data["shots"][1].update(scene="<Mira> stands there", action="<Pip> jumps", camera={"angle": "low angle"})
    assert Storyboard.parse(data).captions()[1].prompt == (
        "wide shot, low angle, static, on the moon. <Mira> stands there. <Pip>, a pink circle with a bow, jumps."
    )


def test_introductions_in_prose():
    looks = {"Mira": "a fox", "Pip": "an owl"}
    known: set[str] = set()
    text = introduce_names("<Mira> and <Pip>: they meet <Mira>.", looks, known)
    assert text == "<Mira>, a fox, and <Pip>, an owl: they meet <Mira>." and known == {"Mira", "Pip"}
    assert introduce_names("Far from <Mira>'s den sits <Pip>.", looks, set()) == (
        "Far from <Mira>'s (a fox) den sits <Pip>, an owl."
    )
    assert expand_names("<Mira>'s den, <Pip>, <Nobody>", looks) == "a fox's den, an owl, <Nobody>"


def test_cast_lists_where_characters_appear():
    cast = Storyboard.parse(BASE).cast
    assert [(c.tag, c.shots) for c in cast] == [("<Mira>", ("s01", "s02")), ("<Pip>", ("s02", "s03"))]


def test_subset():
    data = copy.deepcopy(BASE)
    data["shots"] = [{"id": i, "scene": "x"} for i in ("s01", "s02", "s03", "s04", "s05", "a-b", "s06")]
    board = Storyboard.parse(data)
    assert board.subset(None) == [0, 1, 2, 3, 4, 5, 6]
    assert board.subset("s02,s04-s06") == [1, 3, 4, 5, 6]
    assert board.subset("a-b") == [5] and board.subset("s05-a-b") == [4, 5] and board.subset("a-b-s06") == [5, 6]
    assert board.subset(" s03 , s01 , s03 ") == [0, 2]
    for bad, words in (
        ("", "list shot ids"), ("s01,,s02", "list shot ids"), ("s09", "did you mean"), ("zzz", "the ids are"),
        ("s04-s02", "backwards"), ("s01-s99", 'got "s99"'), ("-", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words) as caught:
            board.subset(bad)
        assert caught.value.field == "--shots"


def test_noise_seed_is_the_given_one_or_stable_by_id():
    shot = Shot(id="s01", scene="x")
    assert Shot(id="s01", scene="x", seed=7).noise_seed(3) == 7
    assert shot.noise_seed(3) == Shot(id="s01", scene="other").noise_seed(3)
    assert len({shot.noise_seed(0), shot.noise_seed(1), Shot(id="s02", scene="x").noise_seed(0)}) == 3
    assert 0 <= shot.noise_seed() <= MAX_SEED


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PATHS = ["title", "fps", "size", "characters", "places", "shots", "shots.0", "shots.0.id", "shots.1.seconds",
         "shots.1.seed", "shots.2.keyframes", "shots.2.keyframes.1", "shots.0.camera", "shots.0.scene",
         "places.dunes"]  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(PATHS), JSONISH)
def test_any_value_anywhere_is_either_accepted_or_one_input_error(path, value):
    try:
        board = Storyboard.parse(changed(path, value))
    except InputError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        assert len(board.captions()) == len(board.shots)
        assert Storyboard.parse(json.loads(json.dumps(board.to_dict()))) == board


def test_errors_are_one_line_and_survive_pickling():
    error = InputError("a", "must\nbe", "x\n\x1b[31m" + "y" * 500, "fix it", "f.yaml line 3")
    assert str(error).startswith('f.yaml line 3, a: must be (got "x\\n\\x1b[31myyy') and "\n" not in str(error)
    assert len(str(error)) < 200
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes, a line above)
    assert str(again) == str(error) and isinstance(again, ValueError)
    bomb: list = []
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(show_value(bomb)) <= 80 and show_value(None) == "nothing"
    for long in ("/a/long/folder" * 9 + "/story.yaml", "C:\\films\\" * 99 + "story.yaml"):
        shown = show_value(long)
        assert len(shown) <= 90 and shown[1:4] == long[:3] and shown.endswith('story.yaml"') and "…" in shown
    assert show_value("word " * 99).endswith('…"')
    assert closest("Wdie Shot", ["wide shot", "close-up"]) == "wide shot" and closest("zzz", ["wide shot"]) is None


def test_importing_the_storyboard_stays_light():
    heavy = ("torch", "numpy", "diffusers", "transformers")
    code = f"import sys, anchorshot.story.storyboard; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

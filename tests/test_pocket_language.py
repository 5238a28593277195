"""The pocket world's words: what generators write is what the reader reads, and the reader reads what people wrote."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.evaluation.written_stories import WRITTEN, load_stories, padded
from anchorshot.pocket.lexicon import LEXICON, PLAIN, VERBS, meanings, words_of
from anchorshot.pocket.reading import read_caption
from anchorshot.pocket.telling import tell_story
from anchorshot.pocket.world import ACTIONS, SIDES, make_story
from anchorshot.story.storyboard import Storyboard

LOOKS = ("colour", "shape", "accessory")


def said(reading):
    return {name: (SIDES[facts["side"]], ACTIONS[facts["action"]]) for name, facts in reading.actors.items()}


@given(st.integers(0, 2**30), st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_what_an_author_writes_is_what_the_shot_shows(seed, author):
    story = make_story(seed, 6, max_cast=4, max_places=4)
    board = Storyboard.parse(tell_story(story, random.Random(author)))
    for shot, caption in zip(story.shots, board.captions(), strict=True):
        reading = read_caption(caption.prompt)
        assert said(reading) == {a.name: (SIDES[a.side], ACTIONS[a.action]) for a in shot.actors}, caption.prompt
        setting = {"place": shot.layout.place, "scale": shot.scale, "movement": shot.movement}
        assert reading.setting == setting, caption.prompt
        for actor in shot.actors:
            told = {fact: reading.actors[actor.name].get(fact) for fact in LOOKS}
            looks = {fact: getattr(actor.look, fact) for fact in LOOKS}
            assert told == (looks if actor.name in shot.described else dict.fromkeys(LOOKS)), caption.prompt


def test_authors_differ():
    """Both orders, both ways to split a shot, and many words for one thing: what the first studio never saw."""
    story = make_story(7, 12)
    tellings = [tell_story(story, random.Random(n)) for n in range(40)]
    texts = [Storyboard.parse(telling).captions() for telling in tellings]
    assert len({texts[n][3].prompt for n in range(40)}) > 30
    pair = next(n for n, shot in enumerate(story.shots) if len(shot.actors) == 2)
    first = Counter(caption[pair].names[0] for caption in texts)
    assert min(first.values()) > 8
    splits = Counter((bool(shot["scene"]), bool(shot["action"])) for telling in tellings for shot in telling["shots"])
    assert len(splits) == 3 and min(splits.values()) > 40


@pytest.mark.parametrize(
    "text, want",
    [
        ("<Kim> stands on the left. <Bo> waves on the right.", {"Kim": ("left", "stands"), "Bo": ("right", "waves")}),
        ("<Bo> waves on the right. <Kim> stands on the left.", {"Kim": ("left", "stands"), "Bo": ("right", "waves")}),
        ("On the left, <Kim> hops, on the right <Bo> strolls.", {"Kim": ("left", "jumps"), "Bo": ("right", "walks")}),
        ("<Bo> sways to the right of <Kim>, who waits.", {"Bo": ("right", "dances"), "Kim": ("left", "stands")}),
        ("<Kim> and <Bo> leap, <Kim> on the right.", {"Kim": ("right", "jumps"), "Bo": ("left", "jumps")}),
        (
            "<Kim> is on the left, <Bo> on the right. They both wave.",
            {"Kim": ("left", "waves"), "Bo": ("right", "waves")},
        ),
        ("<Kim> is on the left. She dances.", {"Kim": ("left", "dances")}),
        ("Waving on the right is <Bo>.", {"Bo": ("right", "waves")}),
        ("<Kim> and <Bo> wave.", {"Kim": ("left", "waves"), "Bo": ("right", "waves")}),
    ],
)
def test_reader(text, want):
    assert said(read_caption(f"wide shot, static, in the woods. {text}")) == want


def test_reader_agrees_with_the_hand_made_truth():
    """On stories that were written and labelled without it: what it misses are objects of verbs and ellipses."""
    agreed = total = 0
    for path in sorted(WRITTEN.glob("*.yaml")):
        truth = yaml.safe_load((WRITTEN / "truth" / path.name).read_text(encoding="utf-8"))
        board = Storyboard.parse(yaml.safe_load(path.read_text(encoding="utf-8")))
        for shot, caption in zip(board.shots, board.captions(), strict=True):
            row = truth["shots"][shot.id]
            want = {row[side][0]: (side, row[side][1]) for side in SIDES if side in row}
            total += 1
            agreed += said(read_caption(caption.prompt)) == want
    assert total >= 200 and agreed / total > 0.95


def test_written_stories_are_many_and_cover_the_world():
    stories = load_stories(WRITTEN)
    shots = [shot for story in stories for shot in story.shots]
    assert len(stories) >= 30 and len(shots) >= 200
    assert max(len(story.shots) for story in stories) == 20 and max(len(story.cast) for story in stories) >= 3
    actors = [actor for shot in shots for actor in shot.actors]
    for counts, classes in (
        (Counter(shot.layout.place for shot in shots), 6),
        (Counter(actor.action for actor in actors), 5),
        (Counter(actor.side for actor in actors), 2),
        (Counter(look.colour for story in stories for look in story.cast.values()), 8),
    ):
        assert len(counts) == classes and min(counts.values()) > 0.5 * counts.total() / classes
    again = padded(stories, 20)
    assert all(len(story.shots) == 20 for story in again)
    assert len(load_stories(WRITTEN, 3)) == 3


STORY = """
title: Mine
characters: {Ana: a green triangle with a hat, Bo: blue star with a scarf}
places: {luna: on the moon}
shots:
  - {place: luna, action: <Bo> waves on the right. <Ana> hops on the left.}
"""


def test_a_folder_of_ones_own(tmp_path):
    """Without a truth the captions tell it; what they leave open is refused by name."""
    story = STORY + "  - {place: luna, action: <Ana> waits on the right.}\n"
    (tmp_path / "mine.yaml").write_text(story)
    (mine,) = load_stories(tmp_path)
    assert [(a.name, a.side, ACTIONS[a.action]) for a in mine.shots[0].actors] == [
        ("Ana", 0, "jumps"),
        ("Bo", 1, "waves"),
    ]
    assert mine.shots[0].described == ("Bo", "Ana") and "<Ana>" in mine.shots[1].prompt
    assert "triangle" in mine.shots[1].query
    (tmp_path / "mine.yaml").write_text(story.replace("a green triangle with a hat", "a robot"))
    with pytest.raises(InputError, match=r"mine\.yaml: characters\.Ana"):
        load_stories(tmp_path)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "mine.yaml").write_text("characters: {Ana: [green, box, hat]}\nshots: {}\n")
    with pytest.raises(InputError, match=r"truth/mine\.yaml"):
        load_stories(tmp_path)
    with pytest.raises(InputError, match="set"):
        load_stories(tmp_path / "nowhere")


def test_lexicon_is_unambiguous():
    phrases = [phrase for classes in LEXICON.values() for words in classes.values() for phrase in words]
    assert len(phrases) == len(set(phrases)) == len(meanings())
    assert not set(words_of()) & PLAIN - {"and", "down", "hello", "in", "shot", "still", "up"}


def test_the_documentation_lists_every_word():
    page = (Path(__file__).resolve().parent.parent / "docs" / "pocket.md").read_text(encoding="utf-8")
    listed = page[page.index("| colour |") : page.index("What no word tells")]
    for fact, classes in LEXICON.items():
        for name, phrases in classes.items():
            forms = [verb[0] for verb in VERBS[name]] if fact == "action" else phrases
            assert all(form in listed for form in forms), (fact, name)
    example = Storyboard.parse(yaml.safe_load(page.split("```yaml\n")[1].split("```")[0]))
    read = [said(read_caption(caption.prompt)) for caption in example.captions()]
    assert read == [
        {"Bo": ("right", "waves"), "Kim": ("left", "walks")},
        {"Kim": ("left", "dances"), "Bo": ("right", "dances")},
        {"Bo": ("right", "jumps"), "Kim": ("left", "stands")},
    ]


TRUTH = """
characters: {Ana: [green, triangle, hat], Bo: [blue, star, scarf]}
shots:
  s01: {place: moon, scale: wide shot, movement: static, left: [Ana, jumps], right: [Bo, waves]}
"""


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("left:", "lefft:", r"shots\.s01: .*lefft"),
        ("left: [Ana, jumps], ", "", r"shots\.s01: .*whom the caption names"),
        ("[Ana, jumps]", "[Bo, jumps]", r"shots\.s01: .*once each"),
        ("[Ana, jumps]", "Ana", r"shots\.s01\.left"),
        ("[Ana, jumps]", "[Ana, hops]", r"shots\.s01\.left: must be one of stands"),
        ("moon", "mars", r"shots\.s01\.place: must be one of desert"),
        ("s01:", "s02:", "shots: must be the story's"),
        ("[green, triangle, hat]", "[green, hat]", r"characters\.Ana"),
    ],
)
def test_truths_must_fit_their_story(tmp_path, old, new, words):
    (tmp_path / "truth").mkdir()
    (tmp_path / "mine.yml").write_text(STORY)
    truth = tmp_path / "truth" / "mine.yaml"
    truth.write_text(TRUTH)
    assert load_stories(tmp_path)[0].shots[0].actors[0].name == "Ana"
    truth.write_text(TRUTH.replace(old, new))
    with pytest.raises(InputError, match=words):
        load_stories(tmp_path)


def test_two_on_one_side_are_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text(STORY.replace("on the right", "on the left"))
    with pytest.raises(InputError, match="one character on each side"):
        load_stories(tmp_path)
    with pytest.raises(InputError, match="set"):
        load_stories(tmp_path / ("x" * 300))


def test_reading_takes_time_in_proportion_to_the_text():
    """What took minutes when every name looked back over all others."""
    start = time.process_time()
    for text in ("<A> ", "on the left ", "<A> and ", "left <A> waves "):
        read_caption(text * 10_000)
    assert time.process_time() - start < 10

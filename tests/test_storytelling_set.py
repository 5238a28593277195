"""The storytelling benchmark: its shape is the paper's, every prompt can be read alone, and a choice of it is fair."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import open_clip
import pytest
import yaml

from anchorshot.core.errors import InputError
from anchorshot.evaluation.suites.text2story.storytelling_set import (
    DATA,
    Cast,
    Member,
    Scene,
    ScenePrompts,
    SetStory,
    StorytellingSet,
    prompt_pair,
    storytelling_set,
)

SET = StorytellingSet.read()
PLOTS = storytelling_set()
CLIP_TOKENS = 77
MEMBERS = {cast.id: (cast.a, cast.b) for cast in SET.casts}


def prompts() -> Iterator[tuple[str, SetStory, str, bool]]:
    """(where, plot, text, whether it is for CLIP) of all that the set tells."""
    for plot in PLOTS:
        for number, pair in enumerate(plot.pairs, 1):
            for kind in ("scene", "action"):
                yield f"{plot.place}/{plot.cast} {kind} {number}", plot, getattr(pair, kind), False
                query = getattr(pair, f"{kind}_query")
                yield f"{plot.place}/{plot.cast} {kind} query {number}", plot, query, True


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_shape_is_the_papers() -> None:
    """App. A.7: 3 places of 12 scenes and 5 of 13, one of them with a single star, four casts: 404 prompt pairs."""
    places = {plot.place: len(plot.pairs) for plot in PLOTS}
    assert sorted(places.values()) == [12] * 3 + [13] * 5
    assert Counter(plot.place for plot in PLOTS) == dict.fromkeys(places, 4)
    assert Counter(plot.cast for plot in PLOTS) == dict.fromkeys(MEMBERS, 8) and len(MEMBERS) == 4
    assert sum(len(plot.pairs) for plot in PLOTS) == 404
    single = {plot.place for plot in PLOTS if len(plot.names) == 1}
    assert len(single) == 1 and places[single.pop()] == 12
    assert all(len(plot.names) <= 2 and plot.names == tuple(m.name for m in MEMBERS[plot.cast])[: len(plot.names)]
               for plot in PLOTS)  # fmt: skip


def test_no_slot_stays_open_and_sentences_are_whole() -> None:
    bad = [where for where, _, text, _ in prompts() if not re.fullmatch(r"[A-Z][A-Za-z,;' -]*[a-z]\.", text)]
    assert not bad, bad
    bad = [where for where, _, text, _ in prompts() if re.search(r" {2}| [,;.]|[,;]{2}|,[;.]|\b(\w+) \1\b", text)]
    assert not bad, bad


def test_every_prompt_names_its_whole_cast_and_nobody_else() -> None:
    """Prompts tell name and look of all who star, once; queries the look alone, for names mean nothing to CLIP."""
    for where, plot, text, query in prompts():
        stars = MEMBERS[plot.cast][: len(plot.names)]
        for member in (m for pair in MEMBERS.values() for m in pair):
            told = member.look if query else f"{member.name}, {member.look}"
            assert text.lower().count(told.lower()) == (member in stars), (where, text)
            assert text.count(member.name) == (member in stars and not query), (where, text)


def test_looks_and_names_are_told_apart() -> None:
    members = [member for pair in MEMBERS.values() for member in pair]
    for field in ("name", "look"):
        assert len({getattr(member, field).lower() for member in members}) == 8
    for member in members:
        article, following = member.look.split()[:2]
        assert article == ("an" if following[0] in "aeiou" else "a")
    # The clothes and coats of a pair have no colour in common: each colour says who it is.
    for a, b in MEMBERS.values():
        assert not set(a.look.split()) & set(b.look.split()) & {"red", "green", "blue", "yellow", "orange", "black"}


def test_a_later_mention_agrees_with_whom_it_means() -> None:
    """The pronoun is the member's own; it is put in after the look and nowhere else."""
    for a, b in MEMBERS.values():
        assert a.later != b.later  # or "after her" could mean either
        for member in (a, b):
            for word, pronoun in (("woman", "her"), ("man", "him")):
                assert word not in member.look.split() or member.later == pronoun
    seen = Counter()
    for place in SET.places:
        for index, scene in enumerate(place.scenes):
            for kind in ("scene", "action"):
                for slot in re.findall(r"\{([ab])\}", getattr(scene, kind)):
                    for cast in SET.casts:
                        pronoun = getattr(cast, slot).later
                        other = "him" if pronoun == "her" else "her"
                        words = re.findall(r"\w+", getattr(SET.story(place, cast).pairs[index], kind))
                        assert pronoun in words and other not in words
                        seen[pronoun] += 1
    assert seen["her"] and seen["him"]
    templates = [text for place in SET.places for scene in place.scenes for text in (scene.scene, scene.action)]
    assert not [text for text in templates if re.search(r"\b(he|she|his|hers?|him|himself|herself|itself)\b", text)]


def test_nothing_is_told_twice() -> None:
    for kind in ("scene", "action", "scene_query", "action_query"):
        # Templates differ, not only names: counted within a cast.
        for cast in MEMBERS:
            texts = [getattr(pair, kind) for plot in PLOTS if plot.cast == cast for pair in plot.pairs]
            assert len(set(texts)) == len(texts) == 101
    assert len({text for _, _, text, query in prompts() if not query}) == 2 * 404


def test_a_plot_moves_on_within_its_setting() -> None:
    """Neighbours differ in setting and deed, yet share what they show: more than the same scenes in another order."""
    idle = set("a an and the in on at of by to with its is are stand stands sit sits it into as from up".split())

    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w\}", "", text).lower())) - idle

    def linked(scenes: Sequence[Scene]) -> float:
        """Mean share of a scene's words that were told in the scene before it."""
        told = [words(scene.scene) | words(scene.action) for scene in scenes]
        new = [words(scene.scene) for scene in scenes]
        return fmean(len(before & after) / len(after) for before, after in zip(told, new[1:], strict=False))

    for place in SET.places:
        for before, after in pairwise(place.scenes):
            assert words(before.scene) != words(after.scene) and words(before.action) != words(after.action)
        shuffled = [random.Random(seed).sample(place.scenes, len(place.scenes)) for seed in range(100)]
        assert sum(linked(scenes) < linked(place.scenes) for scenes in shuffled) >= 95, place.id


def test_prompts_fit_into_clip() -> None:
    """Also scene and action in one query, as CLIP-combined takes them: CLIP would cut what is longer, silently."""
    tokenizer = open_clip.SimpleTokenizer()

    def length(text: str) -> int:
        return len(tokenizer.encode(text)) + 2  # start and end

    for where, _, text, _ in prompts():
        assert 12 < length(text) <= CLIP_TOKENS, where
    joined = [f"{pair.scene_query} {pair.action_query}" for plot in PLOTS for pair in plot.pairs]
    assert max(map(length, joined)) <= CLIP_TOKENS


def test_a_template_is_filled() -> None:
    """An apposition stands between commas, unless the sentence's own mark stands there."""
    cast = Cast(
        id="x",
        a=Member(name="Ovi", look="an owl with grey feathers", later="it"),
        b=Member(name="Tam", look="a man in a red coat", later="him"),
    )
    assert cast.fill("{A} flies past {B}.") == "Ovi, an owl with grey feathers, flies past Tam, a man in a red coat."
    assert cast.fill("At dawn, {B}, alone, calls {A}; it rains on {a} and {b}.") == (
        "At dawn, Tam, a man in a red coat, alone, calls Ovi, an owl with grey feathers; it rains on it and him."
    )
    assert cast.fill("{A} flies to {B} and sits on {b}.", query=True) == (
        "An owl with grey feathers flies to a man in a red coat and sits on him."
    )


# --- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stories", range(1, 33))
def test_a_choice_is_spread_over_places_and_casts(stories: int) -> None:
    for seed in (0, 7):
        plots = storytelling_set(stories=stories, seed=seed)
        assert len({(plot.place, plot.cast) for plot in plots}) == stories
        for counts, of in (
            (Counter(plot.place for plot in plots), 8),
            (Counter(plot.cast for plot in plots), 4),
        ):
            assert max(counts.values()) - (min(counts.values()) if len(counts) == of else 0) <= 1


@pytest.mark.parametrize("places", [1, 3, 6])
@pytest.mark.parametrize("casts", [1, 2, 3, 4])
def test_a_choice_from_some_is_spread_too(places: int, casts: int) -> None:
    ids = [place.id for place in SET.places][:places], list(MEMBERS)[:casts]
    told = [(plot.place, plot.cast) for plot in storytelling_set(*ids, stories=places * casts)]
    assert sorted(told) == sorted((place, cast) for place in ids[0] for cast in ids[1])
    for end in range(1, len(told) + 1):
        for column, of in ((0, places), (1, casts)):
            counts = Counter(row[column] for row in told[:end])
            assert max(counts.values()) - (min(counts.values()) if len(counts) == of else 0) <= 1


def test_a_choice_depends_on_its_seed_alone() -> None:
    few, many = storytelling_set(stories=5, seed=3), storytelling_set(stories=20, seed=3)
    assert few == many[:5] == storytelling_set(stories=5, seed=3)
    told = {tuple((p.place, p.cast) for p in storytelling_set(stories=8, seed=seed)) for seed in range(20)}
    assert len(told) == 20
    # Written down, so that another machine or version cannot quietly choose others.
    assert [(plot.place, plot.cast) for plot in few] == [
        ("city", "sefa-brann"),
        ("farm", "borlo-fenna"),
        ("village", "mozzel-pirra"),
        ("forest", "ilka-joren"),
        ("harbour", "sefa-brann"),
    ]
    assert set(storytelling_set(stories=32)) == set(PLOTS)


def test_scenes_are_taken_from_the_beginning() -> None:
    for plot, whole in zip(storytelling_set(scenes=4), PLOTS, strict=True):
        assert plot.pairs == whole.pairs[:4] and plot[:3] == whole[:3]
    assert len(storytelling_set(["forest"], scenes=13)[0].pairs) == 13


def test_places_and_casts_are_chosen_by_id() -> None:
    plots = storytelling_set(["farm", "city"], ["borlo-fenna"])
    assert [(plot.place, plot.cast, plot.names) for plot in plots] == [
        ("farm", "borlo-fenna", ("Borlo", "Fenna")),
        ("city", "borlo-fenna", ("Borlo",)),
    ]
    assert plots[1] in PLOTS


def test_a_batch_is_one_scene_of_all() -> None:
    plots = storytelling_set(stories=3)
    pair = prompt_pair(plots, 2)
    for row, plot in enumerate(plots):
        told = (pair.scene[row], pair.action[row], pair.scene_query[row], pair.action_query[row])
        assert ScenePrompts(*told) == plot.pairs[2]
    assert pair.plain[0] == f"{plots[0].pairs[2].scene} {plots[0].pairs[2].action}"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"places": ["habour"]}, "places[0]", "did you mean harbour?"),
        ({"places": ["farm", "moon"]}, "places[1]", "must be one of city, harbour"),
        ({"places": []}, "places", "at least one"),
        ({"places": "farm"}, "places", "must be a list"),
        ({"places": [["farm"]]}, "places[0]", "must be one of"),
        ({"casts": ["ilka-joren", "ilka-joren"]}, "casts[1]", "twice"),
        ({"casts": ["nobody"]}, "casts[0]", "borlo-fenna"),
        ({"stories": 0}, "stories", "from 1 to 32"),
        ({"stories": 33}, "stories", "from 1 to 32"),
        ({"stories": True}, "stories", "whole number"),
        ({"stories": 2.0}, "stories", "whole number"),
        ({"stories": 5, "places": ["farm"]}, "stories", "from 1 to 4"),
        ({"scenes": 13}, "scenes", "from 1 to 12"),
        ({"scenes": 14, "places": ["farm"]}, "scenes", "from 1 to 13"),
        ({"scenes": 0}, "scenes", "from 1 to 12"),
        ({"seed": -1}, "seed", "from 0"),
    ],
)
def test_a_wrong_choice_is_named(asked: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        storytelling_set(**asked)
    assert caught.value.field == field and words in str(caught.value)


@pytest.mark.parametrize("index", [12, -1])
def test_a_batch_needs_the_scene_in_every_plot(index: int) -> None:
    with pytest.raises(InputError, match="index: must be a whole number from 0 to 11"):
        prompt_pair(storytelling_set(["forest", "city"], ["sefa-brann"]), index)


def test_a_batch_needs_a_plot() -> None:
    with pytest.raises(InputError, match="stories: must hold at least one"):
        prompt_pair([], 0)


CITY, HARBOUR = (["places", i, "scenes", 1, "action"] for i in (0, 1))


@pytest.mark.parametrize(
    ("at", "value", "field", "words"),
    [
        (HARBOUR, "{A} waits.", "places[1].scenes[1].action", "must hold {B} once"),
        (HARBOUR, "{A} and {A} wait for {B}.", "places[1].scenes[1].action", "must hold {A} once"),
        (HARBOUR, "{B} looks for {a} and {A}.", "places[1].scenes[1].action", "must hold {A} before {a}"),
        (HARBOUR, "{A} sees {B} and {C}.", "places[1].scenes[1].action", "use A, B, a, b"),
        (HARBOUR, "{A} sees {B} and {.", "places[1].scenes[1].action", "must close every slot"),
        (HARBOUR, "", "places[1].scenes[1].action", "must not be empty"),
        (CITY, "{A} sees {B}.", "places[0].scenes[1].action", "must hold known slots"),
        (["places", 0, "starring"], 3, "places[0].starring", "must be one of 1, 2"),
        (["places", 2, "id"], "city", "places[2].id", "must differ from the others"),
        (["casts", 1, "id"], "ilka-joren", "casts[1].id", "must differ from the others"),
        (["casts", 1, "a", "later"], "hm", "casts[1].a.later", "must be one of her, him, it"),
        (["casts", 1, "a", "name"], "{A}", "casts[1].a.name", "letters, digits"),
        (["casts", 1, "a", "looks"], "a man", "casts[1].a.looks", "did you mean `look`?"),
        (["places"], [], "places", "must hold at least 1"),
    ],
)
def test_a_fault_in_the_file_is_named(at: list[Any], value: object, field: str, words: str, tmp_path: Path) -> None:
    data = deepcopy(yaml.safe_load(DATA.read_text(encoding="utf-8")))
    part = data
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    file = tmp_path / "set.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        StorytellingSet.read(file)
    assert caught.value.field == field and words in str(caught.value)
    assert caught.value.where.startswith("set.yaml line ")


def test_a_file_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a mapping"):
        StorytellingSet.parse([1])
    with pytest.raises(InputError, match="must be an existing"):
        StorytellingSet.read(tmp_path / "none.yaml")

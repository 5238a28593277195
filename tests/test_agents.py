"""Director and Refiner: whatever a model answers ends in a valid storyboard or one clear error."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from chat_server import Answer, chatting, said, waited

from anchorshot.agents.client import Message
from anchorshot.agents.director import direct
from anchorshot.agents.endpoint import EndpointClient
from anchorshot.agents.refiner import refine, shot_brief
from anchorshot.agents.repair import json_values
from anchorshot.agents.rules import RulesClient
from anchorshot.core.errors import InputError
from anchorshot.pocket.lexicon import LEXICON, PLAIN, words_of
from anchorshot.pocket.reading import read_caption
from anchorshot.pocket.world import ACTIONS, COLOURS, PLACES
from anchorshot.story.storyboard import Storyboard, parse_storyboard
from anchorshot.story.terms import VOCABULARIES
from anchorshot.story.vocabulary import Vocabulary, unknown_words
from anchorshot.story.writer import story_text

SHOTS = 3
SECRET = "Nobody shall read this thought"


def film(**changed: Any) -> dict[str, Any]:
    """A good answer of three shots."""
    shot = {"place": "harbour", "scene": "<Mira> stands at the quay.", "action": "<Mira> waves to <Pip>.",
            "scale": "wide shot", "angle": "eye level", "movement": "dolly in", "seconds": 3.5}  # fmt: skip
    return {
        "reasoning": f"{SECRET}: Mira waits, Pip comes.",
        "title": "The harbour",
        "characters": [
            {"name": "Mira", "looks": "a tall woman in a yellow coat"},
            {"name": "Pip", "looks": "a boy with red hair"},
        ],
        "places": [{"name": "harbour", "looks": "the old harbour at dawn"}],
        "shots": [dict(shot) for _ in range(SHOTS)],
    } | changed


def shots(**changed: Any) -> str:
    """A good answer whose second shot is changed."""
    data = film()
    data["shots"][1] |= changed
    return json.dumps(data)


GOOD = json.dumps(film())
LONG = "very " * 900

# Name: (first answer, second answer, whether a storyboard comes out)
MALFORMED: dict[str, tuple[str | Answer, str | Answer, bool]] = {
    "fenced": (f"```json\n{GOOD}\n```", GOOD, True),
    "prose around": (f"Sure! Here is your storyboard:\n\n{GOOD}\n\nShall I go on?", GOOD, True),
    "thoughts before": (f"<think>{{not this}} hm</think>\n{GOOD}", GOOD, True),
    "an example first": ('Like {"shots": []}? No:\n' + GOOD, GOOD, True),
    "cut, then good": (GOOD[:700], GOOD, True),
    "cut twice": (GOOD[:700], GOOD[:720], False),
    "cut within the reasoning": (GOOD[:40], GOOD[:40], False),
    "cut at the limit": (said(GOOD, finish="length"), said(GOOD, finish="length"), True),
    "only the last bracket missing": (GOOD[:-1], GOOD[:-1], True),
    "trailing commas": (GOOD.replace("}]", "},]").replace('"}', '",}'), "no", True),
    "single quotes": (GOOD.replace('"', "'"), "no", True),
    "curly quotes": (GOOD.replace('"', "“", 1).replace('"', "”", 1), "no", True),
    "unquoted keys": (GOOD.replace('"title"', "title").replace('"scale"', "scale"), "no", True),
    "comments": (GOOD.replace('"title"', '// the title\n"title" /* short */', 1), "no", True),
    "python words": (GOOD.replace('"movement": "dolly in"', '"movement": None', 1), "no", True),
    "line breaks in a text": (shots(scene="<Mira> stands.").replace("stands.", "stands\nstill."), "no", True),
    "quotes in a text": (shots(action="PLACE").replace("PLACE", 'A sign says "closed" and <Mira> waves.'), "no", True),
    "too few shots": (json.dumps(film(shots=film()["shots"][:2])), GOOD, True),
    "too few shots twice": (json.dumps(film(shots=film()["shots"][:2])), json.dumps(film(shots=[])), False),
    "too many shots twice": (
        json.dumps(film(shots=film()["shots"] * 3)), json.dumps(film(shots=film()["shots"] * 2)), True,
    ),
    "shots as a mapping": (json.dumps(film(shots={f"shot {n}": s for n, s in enumerate(film()["shots"])})), "no", True),
    "wrapped": (json.dumps({"storyboard": film()}), "no", True),
    "a list of shots alone": (json.dumps(film()["shots"]).replace("<", "").replace(">", ""), "no", True),
    "other names for fields": (
        json.dumps({"Title": "x", "cast": {"Mira": {"appearance": "tall"}}, "scenes": [
            {"Location": "harbour", "description": "<Mira> waits.", "Shot size": "CU", "Camera movement": "push in",
             "Duration": "3s"}] * 3}),
        "no", True,
    ),
    "German": (
        json.dumps({"titel": "Der Hafen", "figuren": [{"name": "Mira", "looks": "eine große Frau"}], "shots": [
            {"Ort": "der Hafen", "Beschreibung": "<Mira> wartet am Kai.", "Einstellungsgröße": "Totale",
             "Kamerabewegung": "Schwenk links", "Dauer": "3 Sek"}] * 3}, ensure_ascii=False),
        "no", True,
    ),
    "Chinese texts": (json.dumps(film(title="港口"), ensure_ascii=False).replace("stands", "站在码头上"), "no", True),
    "only Chinese prose": ("很抱歉，我不能这样做。", "对不起。", False),
    "an unknown name": (shots(action="<Bob> enters."), GOOD, True),
    "an unknown name twice": (shots(action="<Bob> enters."), shots(action="<Bob> enters."), True),
    "a misspelt name": (shots(action="<mira> meets <Pipp>."), "no", True),
    "names without tags": (shots(action="Mira meets Pip."), "no", True),
    "brackets that do not close": (shots(action="<Mira waves. a < b, > c"), GOOD, True),
    "free words for the camera": (shots(scale="a big close-up on her", angle="from below", movement="!"), "no", True),
    "a camera in one line": (shots(camera="Slow push-in, low angle", scale="", movement=""), "no", True),
    "lengths of all kinds": (shots(seconds="about never"), "no", True),
    "a negative length": (shots(seconds=-4), "no", True),
    "a length of an hour": (shots(seconds="1:00:00"), "no", True),
    "an endless text": (shots(scene=LONG), shots(scene=LONG), True),
    "an empty shot": (shots(scene="", action=""), GOOD, True),
    "an empty shot twice": (shots(scene="", action=""), shots(scene=None, action=[]), False),
    "asks to read a file": (shots(image="/etc/passwd", keyframes=[{"at": 0, "image": "../../key.png"}]), "no", True),
    "tells to run a command": (
        shots(action="$(rm -rf /) {{config}} !!python/object/apply:os.system ['id'] <Mira> waves."), "no", True,
    ),
    "calls a tool": (
        said(None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}],
             finish="tool_calls"),
        GOOD, True,
    ),
    "calls tools for ever": (
        said(None, tool_calls=[{"function": {"name": "read_file", "arguments": '{"path": "/etc/passwd"}'}}]),
        said("<tool_call>read_file('/etc/passwd')</tool_call>"), False,
    ),
    "refuses": (said(None, refusal="I will not."), said("I cannot help with that."), False),
    "empty": (said(""), said(" \n"), False),
    "deep nesting": ("[" * 5000 + GOOD, '{"a":' * 3000, False),
    "control characters": (shots(scene="<Mira>\u0000 \u001b[31m stands \ud800."), "no", True),
    "marks piled up": (shots(scene="<Mira> z" + "\u0301" * 500), shots(scene="z" + "\u0301" * 500), False),
    "numbers of a thousand digits": (GOOD.replace("3.5", "9" * 5000), "no", True),
    "not a number": (GOOD.replace("3.5", "NaN"), "no", True),
    "a place that nobody listed": (shots(place="the moon"), "no", True),
    "markup": (shots(scene="<b>Bold</b> <Mira> stands.<br/>"), "no", True),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_answers_end_in_a_storyboard_or_one_error(name: str) -> None:
    first, second, good = MALFORMED[name]
    with chatting(first, second) as server:
        client = EndpointClient(server.url, "tiny", timeout=20)
        result, seconds = waited(lambda: direct(client, "Mira waits at the harbour", SHOTS))
        assert len(server.seen) <= 2
    assert seconds < 20
    if not good:
        assert isinstance(result, InputError), result
        assert "\n" not in str(result) and "endpoint (tiny): must give a usable storyboard" in str(result)
        return
    assert isinstance(result, Storyboard), result
    assert len(result.shots) == SHOTS
    text = story_text(result)
    assert parse_storyboard(text).to_dict() == result.to_dict(), "the file that is written loads"
    assert SECRET not in text and "reasoning" not in text, "thoughts are kept out"
    assert "image" not in text and "passwd" not in text, "no file is named"


def test_forty_answers_and_more() -> None:
    assert len(MALFORMED) >= 40


def director(*answers: str | Answer, count: int | None = SHOTS) -> Storyboard:
    """The storyboard that comes of these answers."""
    with chatting(*answers) as server:
        return direct(EndpointClient(server.url, "tiny", timeout=20), "Mira waits", count)


def test_an_answer_becomes_its_storyboard() -> None:
    story = director(GOOD)
    assert story.title == "The harbour" and list(story.characters) == ["Mira", "Pip"]
    assert story.places == {"old-harbour-at-dawn": "the old harbour at dawn"}
    shot = story.shots[0]
    assert (shot.scene, shot.action) == ("<Mira> stands at the quay.", "<Mira> waves to <Pip>.")
    assert (shot.camera.scale, shot.camera.angle, shot.camera.movement) == ("wide shot", "eye level", "dolly in")
    assert shot.seconds == 3.5 and shot.place == "old-harbour-at-dawn" and story.notes == ()


def test_words_are_mapped_to_the_nearest_term_and_to_the_cast() -> None:
    camera = (
        director(shots(scale="a big close up on her face", angle="from a low angle", movement="swoosh")).shots[1].camera
    )
    assert (camera.scale, camera.angle, camera.movement) == ("extreme close-up", "low angle", "static")
    one_line = shots(camera="Slow push in, low angle", scale=None, angle=None, movement=None)
    camera = director(one_line).shots[1].camera
    assert (camera.angle, camera.movement) == ("low angle", "dolly in")
    assert director(shots(action="Mira meets <pipp>.")).shots[1].action == "<Mira> meets <Pip>."
    story = director(*[shots(action="<Bob> meets <Mira>.")] * 2)
    assert story.shots[1].action == "Bob meets <Mira>." and "Bob" in story.notes[0]


def test_the_second_question_names_what_was_wrong() -> None:
    with chatting(shots(action="<Bob> enters."), GOOD) as server:
        direct(EndpointClient(server.url, "tiny", timeout=20), "Mira waits", SHOTS)
    first, second = (request.body["messages"] for request in server.seen)
    assert [turn["role"] for turn in first] == ["system", "user"]
    assert [turn["role"] for turn in second] == ["system", "user", "assistant", "user"]
    assert "<Bob> is not in characters, which has <Mira>, <Pip>" in second[-1]["content"]
    assert "Mira waits" in first[1]["content"] and "exactly 3" in first[1]["content"]
    for terms in VOCABULARIES.values():
        assert all(term in first[0]["content"] for term in terms)


def test_a_free_number_of_shots() -> None:
    assert len(director(json.dumps(film(shots=film()["shots"] * 2)), count=None).shots) == 6
    assert len(director(GOOD[:-120], GOOD[:-120], count=None).shots) == 2  # the half one is left out


@pytest.mark.parametrize(("theme", "count", "said"), [("", 3, "theme"), (" \n ", 3, "theme"), ("x" * 5000, 3, "theme"),
                                                      ("x", 0, "shots"), ("x", 101, "shots")])  # fmt: skip
def test_what_cannot_be_asked_is_refused_at_once(theme: str, count: int, said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}: "):
        direct(RulesClient(), theme, count)


@pytest.mark.parametrize(
    ("film_of", "said"),
    [({"size": (161, 80)}, "width: must be a multiple"), ({"size": (160, 0)}, "height: "), ({"fps": -1.0}, "fps: ")],
)
def test_a_film_that_cannot_be_is_refused_before_anybody_is_asked(film_of: dict[str, Any], said: str) -> None:
    client = RulesClient()
    with pytest.raises(InputError, match=said):
        direct(client, "Mira waits", SHOTS, **film_of)
    assert not client.cost.requests


def test_repair_takes_time_in_proportion() -> None:
    for text in ('{"a": "' + '" "' * 100_000, "{" * 200_000, "[{" * 100_000, '{"a": ' + "/* " * 100_000, "{'" * 100_000,
                 '{"a": [' + '"x", ' * 100_000, "\\" * 300_000, '{"' + " " * 300_000):  # fmt: skip
        began = time.thread_time()  # of this thread alone, on however busy a machine
        json_values(text)
        assert time.thread_time() - began < 5, text[:10]


# The rules of the pocket world


THEMES = (
    "Two friends meet in the desert and dance",
    "Mira, a scarlet box with a tiara, leaps in the woods",
    "Three strangers wave on the moon in 8 shots",
    "A detective hunts a killer in Paris",
    "<Émile> and <Mira>",
    "愛",
)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("count", [None, 1, 2, 5, 24])
def test_rules_write_what_the_pocket_studio_reads(theme: str, count: int | None) -> None:
    story = direct(RulesClient(), theme, count)
    assert story == direct(RulesClient(), theme, count), "the same question, the same film"
    assert count is None or len(story.shots) == count
    known = Vocabulary([*words_of(), *PLAIN], LEXICON)
    assert unknown_words(story, known) == {}
    for shot, caption in zip(story.shots, story.captions(), strict=True):
        reading = read_caption(caption.prompt)
        assert set(reading.actors) == set(caption.names) and {"place", "scale", "movement"} <= set(reading.setting)
        assert all({"side", "action"} <= set(facts) for facts in reading.actors.values())
        assert len({facts["side"] for facts in reading.actors.values()}) == len(reading.actors)
        assert shot.seconds == 2.125


def test_rules_use_what_the_theme_says() -> None:
    story = direct(
        RulesClient(), "Mira, a scarlet box with a tiara, and Zorro, a blue ball, leap in the woods in 4 shots"
    )
    assert story.characters["Mira"] == "a red square with a crown" and "blue circle" in story.characters["Zorro"]
    assert len(story.shots) == 4 and "forest" in story.places and "jumps" in story.shots[0].action
    assert direct(RulesClient(1), THEMES[0]) != direct(RulesClient(2), THEMES[0])
    assert "beach" in direct(RulesClient(), "two friends at the sea").places
    assert {"desert", "snow"} <= direct(RulesClient(), "a camel's winter dream").places.keys()
    assert len(direct(RulesClient(), "Three strangers wave on the moon").characters) == 3
    everything = {COLOURS[n] for n in range(8)} | set(PLACES) | set(ACTIONS)
    drawn = " ".join(story_text(direct(RulesClient(seed), "x", 12)) for seed in range(20))
    assert all(word in drawn for word in everything)


# The Refiner


def test_the_refiner_shows_both_frames_and_takes_the_prompt() -> None:
    story = director(GOOD)
    start, end = torch.zeros(3, 80, 160), torch.ones(3, 1600, 800)
    with chatting("Sorry?", json.dumps({"reasoning": SECRET, "prompt": "A woman\nwaves."})) as server:
        prompt = refine(EndpointClient(server.url, "sees", timeout=20), shot_brief(story, 0), start, end)
    assert prompt == "A woman waves."
    content = server.seen[1].body["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in content[:2])
    text = content[2]["text"]
    assert "a tall woman in a yellow coat waves" in text and "<Mira>" not in text, "a video model knows no names"
    assert "wide shot, eye level, dolly in. Length: 3.625 seconds" in text


def test_rules_refine_to_the_pocket_caption() -> None:
    story = direct(RulesClient(), THEMES[0])
    z = np.zeros((80, 160, 3), np.uint8)
    prompt = refine(RulesClient(), shot_brief(story, 5), z, z)
    name = next(iter(story.captions()[5].names))
    assert f"<{name}>, {story.characters[name]}, " in prompt and prompt.startswith(story.shots[5].camera.scale)


def test_frames_that_are_none_are_refused() -> None:
    brief = shot_brief(director(GOOD), 0)
    with chatting("{}") as server:
        client = EndpointClient(server.url, "sees", timeout=20)
        for bad in (torch.full((3, 8, 8), torch.nan), torch.zeros(8, 8), torch.zeros(3, 0, 8)):
            with pytest.raises(InputError, match=r"images\[1\]"):
                refine(client, brief, torch.zeros(3, 8, 8), bad)
        assert server.seen == []


def test_rules_know_their_two_questions_only() -> None:
    from anchorshot.agents.client import AnswerSchema

    with pytest.raises(InputError, match="Director and Refiner only"):
        RulesClient().ask([Message("user", "hello")], AnswerSchema("x", {}, lambda data, last: data))

"""A language model of transformers, tiny and random: under the grammar even noise is JSON by the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import waited

pytest.importorskip("llguidance", reason="constrained decoding needs the extra anchorshot[agents]")

from tiny_language import bytes_tokenizer, save_qwen_vl
from tiny_weights import gap

from anchorshot.agents.answers import director_schema
from anchorshot.agents.cache import AnswerCache
from anchorshot.agents.client import AnswerSchema, BadAnswer, Message
from anchorshot.agents.deadline import Deadline
from anchorshot.agents.director import direct
from anchorshot.agents.grammar import Grammar
from anchorshot.agents.local import TransformersClient
from anchorshot.agents.pictures import to_picture
from anchorshot.agents.refiner import refine, shot_brief
from anchorshot.agents.rules import RulesClient
from anchorshot.core.errors import InputError
from anchorshot.story.storyboard import parse_storyboard
from anchorshot.story.terms import VOCABULARIES
from anchorshot.story.writer import story_text


@pytest.fixture(scope="session")
def qwen_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen_vl(tmp_path_factory.mktemp("qwen-vl"))


def raw_schema(shots: int) -> AnswerSchema[dict[str, Any]]:
    """The Director's schema, read with every word of it checked."""
    schema = director_schema(shots, title="x", fps=8, size=(160, 80))

    def read(data: Any, last: bool) -> dict[str, Any]:
        assert list(data) == ["reasoning", "title", "characters", "places", "shots"]
        assert len(data["shots"]) == shots and len(data["reasoning"]) <= 2500
        for shot in data["shots"]:
            assert list(shot) == ["place", "scene", "action", *VOCABULARIES, "seconds"]
            assert all(shot[field] in terms for field, terms in VOCABULARIES.items())
            assert 1 <= shot["seconds"] <= 20 and len(shot["scene"]) <= 600
        return dict(data)

    return AnswerSchema("storyboard", schema.json, read)


def test_random_weights_write_json_by_the_schema(qwen_vl: Path) -> None:
    client = TransformersClient(qwen_vl, seed=0, temperature=1.5)
    messages = [Message("system", "Answer."), Message("user", "Well?")]
    schema = raw_schema(1)
    answer = client.complete(messages, schema, [], Deadline(300, "test"))
    assert not answer.cut
    schema.read(json.loads(answer.text), False)  # by Python's own reader: nothing had to be repaired
    assert client.cost.prompt_tokens > 20 and client.cost.completion_tokens > 300


def test_a_random_director_makes_a_film_that_loads(qwen_vl: Path, tmp_path: Path) -> None:
    story = direct(TransformersClient(qwen_vl, seed=3, cache=AnswerCache(tmp_path)), "Two friends", 1)
    assert len(story.shots) == 1
    assert parse_storyboard(story_text(story)).to_dict() == story.to_dict()
    assert direct(TransformersClient(qwen_vl, seed=3), "Two friends", 1) == story, "the same seed, the same film"
    client = TransformersClient(qwen_vl, seed=3, cache=AnswerCache(tmp_path))
    assert direct(client, "Two friends", 1) == story and client.cost.cached == 1
    assert client._loaded is None, "an answer that was kept needs no model"


def test_pictures_reach_the_model_in_their_order(qwen_vl: Path) -> None:
    client = TransformersClient(qwen_vl)
    model, processor = client._load()
    black, white = (to_picture(torch.full((3, 56, 84), value), "x") for value in (0.0, 1.0))

    def logits(*pictures: Any) -> torch.Tensor:
        with torch.inference_mode():
            return model(**client._inputs(processor, [Message("user", "x")], pictures)).logits[:, -1]

    assert gap(logits(black, white), logits(black, black)) > 1e-3
    assert gap(logits(black, white), logits(white, black)) > 1e-3


def test_the_refiner_gets_its_prompt(qwen_vl: Path) -> None:
    brief = shot_brief(direct(RulesClient(), "Two friends", 2), 1)
    prompt = refine(TransformersClient(qwen_vl, seed=1), brief, torch.zeros(3, 56, 84), torch.ones(3, 56, 84))
    assert prompt and "\n" not in prompt


def test_pictures_are_eight_bit_for_the_processor(qwen_vl: Path) -> None:
    """Floats in 0…1 would be divided by 255 once more, without a word."""
    client = TransformersClient(qwen_vl)
    _, processor = client._load()
    grey = to_picture(torch.full((3, 56, 56), 0.5), "x")
    inputs = client._inputs(processor, [Message("user", "x")], [grey, grey])
    mean, std = torch.tensor(processor.image_processor.image_mean), torch.tensor(processor.image_processor.image_std)
    expected = ((128 / 255 - mean) / std).mean()
    assert inputs["pixel_values"].mean() == pytest.approx(float(expected), abs=0.02)
    assert "mm_token_type_ids" in inputs and processor.tokenizer.padding_side == "left"
    assert int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum()) == 2 * 4


def test_the_deadline_holds(qwen_vl: Path) -> None:
    client = TransformersClient(qwen_vl, seed=1, timeout=0.2)
    client._load()
    result, seconds = waited(lambda: direct(client, "Two friends", 24))
    assert isinstance(result, InputError) and "must answer within 0.2 s" in str(result) and seconds < 10


def test_a_limit_of_length_cuts_and_is_one_error(qwen_vl: Path) -> None:
    result, _ = waited(lambda: direct(TransformersClient(qwen_vl, seed=1, max_new_tokens=60), "Two friends", 2))
    assert isinstance(result, InputError) and "twice did not" in str(result)


def test_folders_that_are_no_models(qwen_vl: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^model: must be a folder of transformers"):
        TransformersClient(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(InputError, match="^model: must be a language model of transformers"):
        direct(TransformersClient(tmp_path), "x", 1)


# The grammar by itself


def allowed(schema: dict[str, Any], text: str) -> str:
    """The characters that may follow `text` under a schema; ``.`` for the end."""
    words = bytes_tokenizer()
    end = words.eos_token_id
    grammar = Grammar(words, schema, len(words), [end])
    for token in words(text, add_special_tokens=False)["input_ids"]:
        grammar.take(token)
    logits = grammar.mask(torch.zeros(1, len(words)))[0]
    ids = torch.isfinite(logits).nonzero()[:, 0].tolist()
    return "".join(sorted("." if i == end else words.decode([i]) for i in ids))


def test_the_grammar_lets_nothing_else_through() -> None:
    assert allowed({"enum": ["wide shot", "wide"]}, "") == '"'
    assert allowed({"enum": ["wide shot", "wide"]}, '"wide') == ' "'
    assert allowed({"enum": ["a", "b"]}, '"a"') == "."
    items = {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2}
    assert allowed(items, "[1") == "," and allowed(items, "[1,1") == "]"
    assert allowed({"type": "number", "minimum": 1, "maximum": 20}, "3") != "" and "-" not in allowed(
        {"type": "number", "minimum": 1, "maximum": 20}, ""
    )
    text = {"type": "string", "maxLength": 2}
    assert allowed(text, '"ab') == '"' and "\\" in allowed(text, '"a')


@pytest.mark.parametrize("value", ['Jack "Red" Miller', "Jack\nMiller", "C:\\clips"])
def test_a_choice_that_json_must_escape_is_written_whole(value: str) -> None:
    schema, written = {"enum": ["Ann", value]}, json.dumps(value)
    for length in range(2, len(written)):
        assert allowed(schema, written[:length]).rstrip("u") == written[length]  # \n may also be written \u000a
    assert allowed(schema, written) == "."


def test_what_cannot_be_enforced_is_refused() -> None:
    for keyword in ({"uniqueItems": True}, {"contains": {"const": 1}}, {"not": {"type": "string"}}):
        with pytest.raises(InputError, match="must be enforceable"):
            Grammar(bytes_tokenizer(), {"type": "array", **keyword}, 264, [257])


def test_a_token_outside_the_schema_is_told() -> None:
    words = bytes_tokenizer()
    grammar = Grammar(words, {"type": "number"}, len(words), [words.eos_token_id])
    with pytest.raises(InputError, match="must stay within the schema"):
        grammar.take(words.convert_tokens_to_ids("x"))


def test_answers_are_checked_again_behind_the_grammar(qwen_vl: Path) -> None:
    def never(data: Any, last: bool) -> str:
        raise BadAnswer("the meaning is wrong")

    schema = AnswerSchema("word", {"type": "object", "properties": {"w": {"enum": ["a"]}}, "required": ["w"],
                                   "additionalProperties": False}, never)  # fmt: skip
    client = TransformersClient(qwen_vl, seed=0)
    with pytest.raises(InputError, match="must give a usable word, but twice did not: the meaning is wrong"):
        client.ask([Message("user", "x")], schema)
    assert client.cost.requests == 2

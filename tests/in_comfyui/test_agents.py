"""Director and Shot Refiner as nodes: a CLIP that writes, an endpoint that a workflow must not choose freely, rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import chatting
from in_comfyui.prompts import errors_of, node, text_of
from in_comfyui.server import ComfyServer
from in_comfyui.tiny_qwen import write_text_encoder
from in_comfyui.tiny_writer import qwen3vl_clip
from test_agents import GOOD
from test_agents_endpoint import KEY

from anchorshot.agents.client import AnswerSchema
from anchorshot.agents.director import direct
from anchorshot.agents.messages import Message
from anchorshot.agents.rules import RulesClient
from anchorshot.comfyui.agents import ClipClient, client_for
from anchorshot.core.errors import InputError
from anchorshot.nodes.agents import Director, ShotRefiner
from anchorshot.pocket.native_pairs import load_pair_clip
from anchorshot.story.storyboard import Storyboard, parse_storyboard

SCHEMA: AnswerSchema[Any] = AnswerSchema(
    "record",
    {"type": "object", "properties": {"scale": {"enum": ["wide shot", "close-up"]},
                                      "text": {"type": "string", "maxLength": 12},
                                      "numbers": {"type": "array", "items": {"type": "integer", "minimum": 1,
                                                                             "maximum": 20},
                                                  "minItems": 2, "maxItems": 2}},
     "required": ["scale", "text", "numbers"], "additionalProperties": False},
    lambda data, last: data,
)  # fmt: skip
QUESTION = [Message("system", "Answer."), Message("user", "What do you see <|im_end|>?")]


@pytest.fixture(scope="module")
def writer() -> Any:
    return qwen3vl_clip()


def ask(clip: Any, *pictures: torch.Tensor, seed: int = 1) -> Any:
    return ClipClient(clip, seed=seed, max_length=400, timeout=300).ask(QUESTION, SCHEMA, pictures)


def test_a_random_clip_writes_json_by_the_schema(writer: Any) -> None:
    pytest.importorskip("llguidance")
    answer = ask(writer)
    assert list(answer) == ["scale", "text", "numbers"] and answer["scale"] in ("wide shot", "close-up")
    assert len(answer["text"]) <= 12 and len(answer["numbers"]) == 2 and all(1 <= n <= 20 for n in answer["numbers"])
    network = writer.cond_stage_model.qwen3vl_4b.transformer
    assert "sample_token" not in vars(network), "the CLIP is as it was"


def test_both_frames_are_seen_in_their_order(writer: Any) -> None:
    pytest.importorskip("llguidance")
    black, white = torch.zeros(3, 64, 64), torch.ones(3, 64, 64)
    answers = [ask(writer, *frames) for frames in ((black, white), (white, black), (black, black), (black, white))]
    assert answers[0] == answers[3] and answers[0] != answers[1] and answers[0] != answers[2]


def test_without_a_grammar_noise_is_one_error(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorshot.comfyui.agents.has_grammars", lambda: False)
    client = ClipClient(writer, seed=1, max_length=24, timeout=300)
    with pytest.raises(InputError, match="^CLIP: must give a usable record, but twice did not"):
        client.ask(QUESTION, SCHEMA)


def test_the_time_is_kept_and_the_clip_is_as_it_was(writer: Any) -> None:
    with pytest.raises(InputError, match=r"^CLIP: must answer within 0\.01 s"):
        ClipClient(writer, seed=1, max_length=4000, timeout=0.01).ask(QUESTION, SCHEMA)
    assert "sample_token" not in vars(writer.cond_stage_model.qwen3vl_4b.transformer)


def test_a_qwen25_vl_is_refused_with_the_reason(tmp_path: Path) -> None:
    clip = load_pair_clip(write_text_encoder(tmp_path))
    with pytest.raises(InputError, match="with Qwen2.5-VL ComfyUI cannot") as caught:
        Director.execute("x", 2, 160, 80, 8.0, 0, clip=clip)
    assert "Qwen3-VL, Qwen3.5 or Gemma" in caught.value.fix


def test_a_text_encoder_that_only_reads_is_refused(studio: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="^clip: must be able to write, this one only reads"):
        Director.execute("x", 2, 160, 80, 8.0, 0, clip=studio["clip"])


# Rules


def test_rules_direct_and_refine_for_the_pocket_studio(pictures: torch.Tensor) -> None:
    board, text, count = Director.execute("Two friends in the desert", 3, 160, 80, 8.0, 7).args
    assert isinstance(board, Storyboard) and count == 3
    assert parse_storyboard(text).to_dict() == board.to_dict()
    assert board == direct(RulesClient(7), "Two friends in the desert", 3), "as the command line has it"
    lists = {"storyboard": [board], "start": [pictures[:1], pictures[1:2]], "end": [pictures[2:4]], "shot": ["2"],
             "seed": [0]}  # fmt: skip
    (prompts,) = ShotRefiner.execute(**lists).args
    assert len(prompts) == 2 and all("on the" in prompt for prompt in prompts)
    with pytest.raises(InputError, match="^end: must hold as many frames as start, 1"):
        ShotRefiner.execute(**{**lists, "start": [pictures[:1]]})
    with pytest.raises(InputError, match="^start: must hold at most 1 frames"):
        ShotRefiner.execute(**{**lists, "shot": ["s03"]})


# The endpoint


def test_a_workflow_cannot_send_the_key_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANCHORSHOT_API_KEY", KEY)
    for url in ("https://evil.example/v1", "http://10.0.0.7/v1", "http://localhost.evil.example/v1"):
        with pytest.raises(InputError, match="must lie on this machine, or be the address in the environment"):
            client_for(None, url, "m", 0, 100, 10)
    with pytest.raises(InputError, match="^url: must be the endpoint's address"):
        client_for(None, "", "m", 0, 100, 10)
    monkeypatch.setenv("ANCHORSHOT_API_URL", "https://good.example/v1")
    client_for(None, "https://good.example/other", "m", 0, 100, 10)
    for url in ("https://good.example:8443/v1", "http://good.example/v1", "https://good.example.evil/v1"):
        with pytest.raises(InputError, match="must lie on this machine"):
            client_for(None, url, "m", 0, 100, 10)


def test_only_the_address_of_the_environment_gets_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANCHORSHOT_API_KEY", KEY)
    with chatting(GOOD) as own, chatting(GOOD) as other:
        monkeypatch.setenv("ANCHORSHOT_API_URL", own.url)
        for url in ("", own.url, other.url):
            result = Director.execute("x", 3, 160, 80, 8.0, 0, url=url, model="m")
            assert result.args[2] == 3 and KEY not in json.dumps(str(result.args)) + str(result.ui)
        assert [request.headers["Authorization"] for request in own.seen] == [f"Bearer {KEY}"] * 2
        assert len(other.seen) == 1 and "Authorization" not in other.seen[0].headers


# A server


def test_a_directed_film_runs_on_a_server(server: ComfyServer) -> None:
    """Director → Storyboard by its text, and the Refiner on frames: in a real graph, with lists."""
    prompt = {
        "director": node("AnchorshotDirector", theme="Mira and Pip wave in the desert", shots=2, width=160, height=80,
                         fps=8.0, seed=1),
        "story": node("AnchorshotStoryboard", story=["director", 1]),
        "frames": node("EmptyImage", width=160, height=80, batch_size=2, color=0),
        "refiner": node("AnchorshotShotRefiner", storyboard=["director", 0], start=["frames", 0], end=["frames", 0],
                        shot="1", seed=0),
        "prompts": text_of("refiner", 0),
        "read": text_of("story", 1),
    }  # fmt: skip
    history = server.run(prompt, timeout=300)
    assert errors_of(history) == [] and history["status"]["status_str"] == "success"
    told, read = (history["outputs"][name]["text"] for name in ("prompts", "read"))
    assert len(told) == len(read) == 2 and all("in the desert" in text for text in told + read)
    assert told[0] == read[0] and "<Mira>, a" in told[0]
    far = {**prompt, "director": node("AnchorshotDirector", theme="x", shots=2, width=160, height=80, fps=8.0, seed=1,
                                      url="https://evil.example/v1", model="m")}  # fmt: skip
    (error,) = errors_of(server.run(far, timeout=300))
    assert "must lie on this machine" in error

"""Runs that follow each other on one server: interrupted, queued together, with and without our patches."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import torch
from in_comfyui.prompts import STORY, film, node
from in_comfyui.server import ComfyServer
from safetensors.torch import load_file
from torch import Tensor

Prompt = dict[str, Any]


def keyframes(story: str = STORY, seed: int = 0, again: int = 0) -> Prompt:
    """The keyframes of a film, kept as latents, so that every bit of two runs can be compared.

    Args:
        again: another number makes the samplers run again, for the same result: at cfg 1 the negative prompt it is in
            does nothing.
    """
    parts = film()
    prompt = {name: parts[name] for name in ("studio", "story", "text", "context", "empty", "keyframes")}
    prompt["story"]["inputs"]["story"] = story
    prompt["keyframes"]["inputs"] |= {"seed": seed, "negative": ["against", 0]}
    prompt["against"] = node("CLIPTextEncode", text=f"a star {again}", clip=["studio", 2])
    prompt["save"] = node("SaveLatent", samples=["keyframes", 1], filename_prefix=f"keyframes{again}")
    return prompt


def stock(model: int, clip: int, empty: Prompt, again: int) -> Prompt:
    """Core nodes alone on one of the pocket studio's models."""
    return {
        "studio": node("AnchorshotPocketStudio"),
        "text": node("CLIPTextEncode", text="wide shot, static, in the desert.", clip=["studio", clip]),
        "against": node("CLIPTextEncode", text=f"a star {again}", clip=["studio", clip]),
        "empty": empty,
        "sample": node(
            "KSampler", model=["studio", model], positive=["text", 0], negative=["against", 0],
            latent_image=["empty", 0], seed=3, steps=3, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix=f"stock{again}"),
    }  # fmt: skip


def latents(server: ComfyServer, history: dict[str, Any]) -> list[Tensor]:
    """What Save Latent kept, after a run that computed it."""
    assert history["status"]["status_str"] == "success", history["status"]
    (cached,) = (data["nodes"] for kind, data in history["status"]["messages"] if kind == "execution_cached")
    assert not {"sample", "keyframes", "save"} & set(cached)
    saved = history["outputs"]["save"]["latents"]
    return [load_file(server.base / "output" / s["subfolder"] / s["filename"])["latent_tensor"] for s in saved]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("stage", ["keyframes", "clips"])
def test_interrupt_in_the_middle_leaves_the_server_usable(server: ComfyServer, stage: str) -> None:
    """Cancel while a sampler is at work: it stops, and the next run gives what it gave before."""
    before = latents(server, server.run(keyframes(seed=21, again=100)))
    prompt = film()
    prompt["keyframes"]["inputs"]["seed"] = {"keyframes": 7, "clips": 8}[stage]
    prompt[stage]["inputs"]["steps"] = 1000
    printed = len(server.log)
    prompt_id = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    deadline = time.monotonic() + 120
    while not re.search(r"\b[1-9]\d{0,2}/1000 ", server.log[printed:]):  # the sampler's own count of its steps
        assert time.monotonic() < deadline, server.log[printed:]
        time.sleep(0.02)
    server.post("/interrupt", {})
    history = server.wait(prompt_id)
    (stopped,) = (data for kind, data in history["status"]["messages"] if kind == "execution_interrupted")
    assert stopped["node_id"] == stage and "save" not in history["outputs"]
    again = {"keyframes": 101, "clips": 102}[stage]
    assert equal(latents(server, server.run(keyframes(seed=21, again=again))), before)


@pytest.mark.parametrize(
    ("model", "clip", "empty"),
    [
        (0, 2, node("EmptySD3LatentImage", width=160, height=80, batch_size=1)),
        (1, 3, node("EmptyHunyuanLatentVideo", width=160, height=80, length=9, batch_size=1)),
    ],
    ids=["keyframe model", "video model"],
)
def test_a_model_is_clean_after_our_nodes(server: ComfyServer, model: int, clip: int, empty: Prompt) -> None:
    """The same loaded model in a core sampler, before and after a film through our patches: equal to the last bit."""
    before = latents(server, server.run(stock(model, clip, empty, again=0)))
    between = film()
    between["keyframes"]["inputs"]["seed"] = 30 + model
    assert server.run(between)["status"]["status_str"] == "success"
    assert equal(latents(server, server.run(stock(model, clip, empty, again=1))), before)


def test_queued_films_do_not_mix_their_memories(server: ComfyServer) -> None:
    """Two stories wait in the queue, sampled in turn by one model: each comes out as it does alone."""
    other = STORY.replace("a yellow square with a crown", "a blue star with a scarf").replace("desert", "beach")
    stories = [STORY, other]
    alone = [latents(server, server.run(keyframes(story, seed=40, again=200))) for story in stories]
    queued = [
        [server.post("/prompt", {"prompt": keyframes(story, seed=40, again=again)})["prompt_id"] for story in stories]
        for again in (201, 202)
    ]
    for turn in queued:
        for prompt_id, expected in zip(turn, alone, strict=True):
            assert equal(latents(server, server.wait(prompt_id)), expected)
    assert (alone[0][1] - alone[1][1]).norm() / alone[1][1].norm() > 0.1

"""Odd graphs on the real server; `ODD_GRAPHS=400` runs so many in place of a few."""

from __future__ import annotations

import json
import os
from typing import Any

from in_comfyui.odd_graphs import Maker, attack, bases
from in_comfyui.prompts import errors_of, node
from in_comfyui.server import ComfyServer

from anchorshot.nodes import NODES


def test_odd_graphs_succeed_or_say_what_is_wrong(server: ComfyServer) -> None:
    counts, faults = attack(server, int(os.environ.get("ODD_GRAPHS", "20")), seed=7)
    assert not faults, "\n".join(faults)
    assert counts["clear"] > 3 and counts["health runs"] > 0, counts


def test_the_generator_reaches_every_input_and_repeats_itself(server: ComfyServer) -> None:
    info = server.get("/object_info")
    used = {entry["class_type"] for prompt in bases().values() for entry in prompt.values()}
    assert {n.GET_SCHEMA().node_id for n in NODES} <= used
    first, again = (zip(range(40), Maker(info, 3), strict=False) for _ in range(2))
    assert json.dumps([graph for _, graph in first]) == json.dumps([graph for _, graph in again])


def test_a_list_of_pictures_is_joined_as_the_message_says(server: ComfyServer) -> None:
    """A list runs a node once for each picture; Rebatch Images makes one batch of it."""

    def sampled(batch: int) -> dict[str, Any]:
        prompt = bases()["video"]
        prompt["joined"] = node("RebatchImages", images=["pictures", 0], batch_size=batch)
        prompt["plan"]["inputs"].pop("keyframes")
        prompt["clips"]["inputs"]["keyframes"] = ["joined", 0]
        return server.run(prompt)

    (said,) = errors_of(sampled(1))
    assert said.startswith("keyframes: must be 2 images, the timeline's keyframes (got 1)") and "Rebatch Images" in said
    assert errors_of(sampled(2)) == []


def test_a_timeline_given_as_an_object(server: ComfyServer) -> None:
    prompt = {
        "plan": node("AnchorshotKeyframeTimeline", fps=8.0, seconds=2.125,
                     timeline={"keyframes": [{"requested": 0}, {"requested": 1.0}]}),
        "show": node("PreviewAny", source=["plan", 4]),
    }  # fmt: skip
    (text,) = server.run(prompt)["outputs"]["show"]["text"]
    assert [key["requested"] for key in json.loads(text)["keyframes"]] == [0.0, 1.0]

"""The pocket film, by the shipped workflow on a real server and by the command line: the same pictures and figures.

Both start from the story's seeds and see nothing of each other: the server's pictures are read from the files that it
writes, the command's from its run folder. `pytest -s` prints the figures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import av
import pytest
import torch
from in_comfyui.graphs import shipped, to_prompt
from in_comfyui.server import ROOT, ComfyServer
from torch import Tensor

from anchorshot.evaluation.metrics.classifier import Scores, StoryTruth
from anchorshot.evaluation.metrics.pixels import frame_change
from anchorshot.evaluation.suites.keyframes.run import classify_frames
from anchorshot.media.frames import psnr
from anchorshot.media.image import read_image
from anchorshot.media.video import VideoReader
from anchorshot.pocket.recogniser import Recogniser, load_recogniser
from anchorshot.pocket.world import (
    ACCESSORIES,
    ACTIONS,
    COLOURS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    Actor,
    Layout,
    Look,
    ShotSpec,
)
from anchorshot.story.storyboard import load_storyboard

STORY = ROOT / "stories" / "two_friends.yaml"
BOARD = load_storyboard(STORY)
SAME = 1e-3
"""Relative error of a picture, rounded to 8 bits as the command's files are."""

SAME_FROM_FILES = 4e-3
"""And of the frames of a whole film: the command films from keyframes in 8-bit files, ComfyUI from what it sampled."""


@dataclass(frozen=True)
class Film:
    """What one host made: keyframes `[K, 3, H, W]`, frames of all shots `[T, 3, H, W]`, and the finished video.

    `folder` is the command's, and `summary` what it wrote there.
    """

    keyframes: Tensor
    frames: Tensor
    video: VideoReader
    folder: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """`anchorshot film`."""
    out = tmp_path_factory.mktemp("headless")
    command = [sys.executable, "-m", "anchorshot.cli", "film", str(STORY), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr[-2000:]
    keyframes = [read_image(path) for path in sorted((out / "keyframes").glob("*.png"))]
    clips = [torch.stack(list(VideoReader(path))) for path in sorted((out / "clips").glob("*.mkv"))]
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    return Film(torch.stack(keyframes), torch.cat(clips), VideoReader(out / "film.mp4"), out, summary)


@pytest.fixture(scope="module")
def native(server: ComfyServer) -> Film:
    """The workflow as shipped, through /prompt."""
    return run(server, to_prompt(shipped("pocket_film")))


def run(server: ComfyServer, prompt: dict[str, Any]) -> Film:
    """The film of a prompt, its pictures saved in 16 bits: previews cut to 8, by up to one level."""
    named = {node["class_type"]: name for name, node in prompt.items()}

    def exact(node: str, output: int) -> dict[str, Any]:
        depth = {"format": "png", "format.bit_depth": "16-bit", "format.input_color_space": "sRGB"}
        inputs = {"images": [named[node], output], "filename_prefix": "parity", **depth}
        return {"class_type": "SaveImageAdvanced", "inputs": inputs}

    keys, frames = exact("AnchorshotInterleavedKeyframeSampler", 0), exact("AnchorshotFilm", 1)
    history = server.run({**prompt, "keyframes": keys, "frames": frames}, timeout=900)
    assert history["status"]["status_str"] == "success", history["status"]

    def saved(node: str) -> list[Path]:
        entries = history["outputs"][node]["images"]
        return [server.base / e["type"] / e["subfolder"] / e["filename"] for e in entries]

    (video,) = saved(named["SaveVideo"])
    pictures = [torch.stack([read_exact(path) for path in saved(node)]) for node in ("keyframes", "frames")]
    return Film(*pictures, VideoReader(video))


def read_exact(path: Path) -> Tensor:
    """`[3, H, W]` of a 16-bit PNG, which Pillow would read as 8 bits, rounded as the command rounds."""
    with av.open(str(path)) as file:
        (frame,) = file.decode(video=0)
    values = torch.from_numpy(frame.to_ndarray(format="rgb48le").astype("float32")) / 65535
    return (values.movedim(-1, 0) * 255).round() / 255


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return load_recogniser(ROOT / "pocket" / "weights" / "recogniser.safetensors")


def relative(a: Tensor, b: Tensor) -> list[float]:
    """Relative error of every picture of `a` `[N, 3, H, W]`."""
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).tolist()


def truth() -> StoryTruth:
    """What the storyboard's keyframes show. No story tells a layout; `Scores` compares it with a place's first shot."""

    def look(text: str) -> Look:
        _, colour, shape, *_, accessory = text.split()
        return Look(COLOURS.index(colour), SHAPES.index(shape), ACCESSORIES.index(accessory))

    looks = {name: look(text) for name, text in BOARD.characters.items()}
    met: set[str] = set()
    shots = []
    for shot in BOARD.shots:
        actors = []
        for sentence in filter(None, [shot.scene, shot.action]):  # "<Mira> waves on the left."
            name, action, *_, side = sentence.rstrip(".").split()
            actors.append(Actor(name[1:-1], looks[name[1:-1]], SIDES.index(side), ACTIONS.index(action)))
        told = tuple(actor.name for actor in actors if actor.name not in met)
        met |= set(told)
        place = PLACES.index(BOARD.places[shot.place].removeprefix("the "))
        spec = ShotSpec(Layout(place, 0, 0, 1), tuple(actors), SCALES.index(shot.camera.scale), 0, told)
        later = ShotSpec(spec.layout, spec.actors, spec.scale, 0)  # names only: their looks are told once
        shots += [spec, *[later] * (len(shot.keyframes) - 1)]
    return StoryTruth.of([shots])


def figures(film: Film, recogniser: Recogniser) -> dict[str, float]:
    """Shares that the recogniser reads right in the keyframes, and the command's own figures of the clips."""
    reading = classify_frames(recogniser, film.keyframes[None])
    scores = Scores(reading, truth()).all()
    starts, wanted = 0, []
    motion = []
    for shot in BOARD.shots:
        planned = shot.timeline(BOARD.fps)
        wanted += [starts + frame for frame in planned.keyframe_frames]
        motion.append(frame_change(film.frames[starts : starts + planned.frames]).mean())
        starts += planned.frames
    assert starts == len(film.frames)
    measured = {name: value for name, value in scores.items() if value is not None}
    measured["keyframe_psnr_db"] = float(psnr(film.frames[wanted], film.keyframes).mean())
    measured["motion"] = float(torch.stack(motion).mean())
    return measured


def compare(name: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest relative error, which is also printed."""
    assert ours.shape == theirs.shape
    apart, equal = relative(ours, theirs), (ours == theirs).float().mean()
    print(f"{name}: {len(ours)}, relative error at most {max(apart):.1e}, {equal:.2%} of 8-bit values equal")
    assert median(relative(ours.flip(0), theirs)) > 0.1  # what the measure says of pictures that are others
    return max(apart)


def test_the_same_pictures(native: Film, headless: Film) -> None:
    """Every keyframe, every frame, and the film as people see it."""
    assert compare("keyframes", native.keyframes, headless.keyframes) <= SAME
    assert compare("frames", native.frames, headless.frames) <= SAME_FROM_FILES
    ours, theirs = native.video, headless.video
    assert (ours.frames, ours.size, ours.fps) == (theirs.frames, theirs.size, theirs.fps)
    shown = [torch.stack(list(video)) for video in (ours, theirs)]
    assert compare("frames of the mp4, from two encoders", *shown) <= 0.1


def test_the_same_frames_from_the_same_keyframes(server: ComfyServer, headless: Film) -> None:
    """The command's keyframes as own pictures in the storyboard: what is left is the video stage alone."""
    assert headless.folder is not None
    shutil.copytree(headless.folder / "keyframes", server.base / "input" / "parity")
    story = BOARD.to_dict()
    for shot in story["shots"]:
        for index, key in enumerate(shot["keyframes"]):
            key["image"] = f"parity/{shot['id']}_{index:02d}.png"
    prompt = to_prompt(shipped("pocket_film"))
    (board,) = (node for node in prompt.values() if node["class_type"] == "AnchorshotStoryboard")
    board["inputs"]["story"] = json.dumps(story)
    film = run(server, prompt)
    assert torch.equal(film.keyframes, headless.keyframes)
    assert compare("frames through the command's keyframes", film.frames, headless.frames) <= SAME


def test_the_same_figures(native: Film, headless: Film, recogniser: Recogniser) -> None:
    """Identity, place, layout and the rest as read by the recogniser; keyframes in the clips; motion."""
    ours, theirs = figures(native, recogniser), figures(headless, recogniser)
    for name in theirs:
        print(f"{name:18} ComfyUI {ours[name]:.4f}   command line {theirs[name]:.4f}")
    assert ours.keys() == theirs.keys() >= {"identity", "place", "layout", "alignment"}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=0.02 if name.endswith("_db") else 1e-3), name
    assert theirs["identity"] > 0.9 and theirs["place"] == 1  # figures of a good film, not of two equal bad ones
    keys = [key["psnr_db"] for shot in headless.summary["shots"] for key in shot["keyframes"]]
    assert theirs["keyframe_psnr_db"] == pytest.approx(sum(keys) / len(keys), abs=0.02)
    expected = classify_frames(recogniser, headless.frames[None])
    for name, seen in classify_frames(recogniser, native.frames[None]).items():
        assert (seen == expected[name]).float().mean() > 0.98, name  # frames between two poses can be read as either

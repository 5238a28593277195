"""Keyframe SR in one process: windows, cuts, keyframes, sizes, and what goes in and comes out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from comfy_execution.graph_utils import ExecutionBlocker
from in_comfyui.node_inputs import STORY, encode
from in_comfyui.tiny_wan import TEXT, headless, native, noise, pixels, vae_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from anchorshot.comfyui import upscale, upscale_source
from anchorshot.comfyui.upscale_inputs import film_of, read_times
from anchorshot.comfyui.video import chunk_vae
from anchorshot.core.errors import InputError
from anchorshot.models.layouts.upscale import plan_upscale
from anchorshot.models.layouts.video_latents import COLOUR_CELL, PLAN
from anchorshot.models.studio import load_studio
from anchorshot.nodes.upscale import KeyframeSR
from anchorshot.pipelines.upscale.hold import AHEAD
from anchorshot.pocket.native import load_video_vae
from anchorshot.sampling.super_resolution import upscale_clip
from anchorshot.story.storyboard import Storyboard, parse_storyboard
from anchorshot.story.timeline import Timeline

WORDS = [[noise(1, 7, TEXT, seed=5), {}]]
DEFAULTS = {part.id: part.default for part in KeyframeSR.define_schema().inputs if hasattr(part, "default")}
DEFAULTS |= {"steps": 1, "cuts": "none", "keep_colour": False, "mode": "bridge"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A MODEL that makes pictures within 0…1 of these latents, and its VAE."""
    model = native(headless())
    return {"model": model, "vae": load_video_vae(vae_file(tmp_path_factory.mktemp("vae")))}


def run(tiny: dict[str, Any], video: Any, **changed: Any) -> tuple[Any, Any, str]:
    widgets = {key: value for key, value in DEFAULTS.items() if value is not None}
    return KeyframeSR.execute(**tiny, **{"video": video, "positive": WORDS} | widgets | changed).args


def test_pictures_come_out_larger_with_their_keyframes(tiny: dict[str, Any]) -> None:
    """As the VAE shows them: what encoding and decoding make of the pictures."""
    large = pixels(2, 32, 64, seed=3)
    video, images, report = run(tiny, pixels(7), keyframes=large, keyframe_times="0, 4 frames", fps=8.0)
    assert tuple(images.shape) == (7, 32, 64, 3) and "keyframes at frames: 0, 4" in report
    for frame, picture in ((0, large[:1]), (4, large[1:])):
        shown = tiny["vae"].decode(tiny["vae"].encode(picture))[0]
        assert torch.allclose(images[frame], shown.clamp(0, 1), atol=1e-5)
    parts = video.get_components()
    assert parts.frame_rate == 8 and torch.equal(parts.images, images)


def test_a_shot_comes_out_as_it_would_alone(tiny: dict[str, Any], board: Storyboard) -> None:
    """Windows do not cross the storyboard's cut: bit for bit. A dissolve is no cut."""
    assert film_of(board).cuts == []
    hard = parse_storyboard(STORY.replace("transition: blend", "transition: cut"))
    film = film_of(hard)
    frames = pixels(film.frames, seed=1)
    assert film.cuts == [5] and film.keyframes[:2] == [0, 5]
    whole = run(tiny, frames, storyboard=hard, window=0)[1]
    for shot in (slice(0, 5), slice(5, None)):
        assert torch.equal(whole[shot], run(tiny, frames[shot], window=0)[1])


def test_tiles_are_blended_where_they_overlap(tiny: dict[str, Any]) -> None:
    """In the middle of it; elsewhere a tile is what it is alone, keyframe included."""
    frames, large = pixels(3, 32, 64, seed=1), pixels(1, 64, 128, seed=2)
    images = run(tiny, frames, tile=48, tile_overlap=16, keyframes=large)[1]
    left, right = frames[:, :, :48], frames[:, :, 32:]
    assert torch.equal(images[:, :, :76], run(tiny, left, keyframes=large[:, :, :96])[1][:, :, :76])
    assert torch.equal(images[:, :, 84:], run(tiny, right, keyframes=large[:, :, 64:])[1][:, :, 20:])


def test_cuts_are_found_by_looking(tiny: dict[str, Any], folders: Path) -> None:
    """In pictures and in a file: the same."""
    shots = torch.cat([pixels(1, seed=seed).expand(6, -1, -1, -1) + 0.02 * pixels(6, seed=9) for seed in (1, 2)])
    frames = shots.clamp(0, 1)
    file = InputImpl.VideoFromFile(str(recorded(folders / "input" / "cut.mp4", frames)))
    for video in (frames, file):
        assert "cuts at frames: 6\nwindows: 0–5, 6–11" in run(tiny, video, cuts="auto")[2]


def test_windows_share_what_they_overlap(tiny: dict[str, Any]) -> None:
    """Outside of the blend a window is what it is alone."""
    frames = pixels(14, seed=1)
    images, report = run(tiny, frames, window=13, overlap=5)[1:]
    assert "windows: 0–12, 8–13" in report
    first, second = (run(tiny, frames[part], window=0)[1] for part in (slice(0, 13), slice(8, 14)))
    assert torch.equal(images[:9], first[:9]) and torch.equal(images[12:], second[4:])
    assert torch.allclose(images[9], (3 * first[9] + second[1]) / 4, atol=1e-6)


def test_what_stands_still_stays_still(tiny: dict[str, Any]) -> None:
    """Across windows, as the mean of some frames; a keyframe is shown as it is, and kept from there on."""
    frames, large = pixels(1, seed=1).expand(14, -1, -1, -1), pixels(1, 32, 64, seed=3)
    given = {"keyframes": large, "keyframe_times": "10 frames", "window": 9, "overlap": 3}
    held, plain = (run(tiny, frames, hold=hold, **given)[1] for hold in (2.0, 0.0))
    assert torch.equal(held[:10], held[:1].expand(10, -1, -1, -1))
    assert torch.allclose(held[0], plain[: 1 + AHEAD].mean(0), atol=1e-6)
    assert torch.equal(held[10:], plain[10:11].expand(4, -1, -1, -1))
    assert not torch.equal(plain[0], plain[1]) and not torch.equal(plain[0], plain[10])


def test_colours_are_the_small_videos(tiny: dict[str, Any]) -> None:
    """With areas of one pixel the result, shrunk again, is nearly the video that came in; the MODEL may say so."""
    frames = pixels(5) * 0.6 + 0.2
    plain, kept = (run(tiny, frames, keep_colour=keep, colour_cell=1)[1] for keep in (False, True))

    def off(images: Tensor) -> float:
        return float((avg_pool2d(images.movedim(-1, 1), 2) - frames.movedim(-1, 1)).abs().mean())

    assert off(kept) < 0.5 * off(plain)
    told = {**tiny, "model": tiny["model"].clone()}
    told["model"].set_attachments(COLOUR_CELL, 1)
    assert torch.equal(run(told, frames, keep_colour=True)[1], kept)
    assert not torch.equal(run(tiny, frames, keep_colour=True)[1], kept)


def test_times_of_keyframes(tiny: dict[str, Any]) -> None:
    assert read_times("0, 2.5\n00:00:03:12", Fraction(24)) == [0, Fraction(5, 2), Fraction(7, 2)]
    large = pixels(2, 32, 64)
    own = Timeline.plan(8, 1.0, [0.0, 0.5])  # nine frames: snapped
    assert f"frames: 0, {own.keyframe_frames[1]}" in run(tiny, pixels(own.frames), keyframes=large, timeline=own)[2]
    assert "frames: 0, 4" in run(tiny, pixels(6), keyframes=large, timeline=own)[2]
    assert "frames: 0\n" in run(tiny, pixels(6), keyframes=large[:1])[2]


def test_a_latent_takes_the_place_of_the_frames(tiny: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """That the VAE made of the same frames in the same chunks: nothing changes; in other chunks it is left out."""
    frames, large, vae = pixels(6), pixels(1, 32, 64), chunk_vae(tiny["vae"])
    plan = plan_upscale(6, [1])
    encoded = vae.encode_chunks(frames.movedim(-1, 1)[None, plan.source], plan.video.chunks)
    latent = {"samples": encoded, PLAN: plan.video}
    given = {"keyframes": large, "keyframe_times": "1 frame", "hold": 0.0}  # which looks at the frames themselves
    images = run(tiny, frames, **given)[1]
    assert torch.allclose(run(tiny, torch.zeros_like(frames), latent=latent, **given)[1], images, atol=1e-5)
    assert torch.equal(run(tiny, frames, latent=latent)[1], run(tiny, frames)[1]) and "other chunks" in caplog.text


def test_the_pocket_upscales_as_the_command_line(studio: dict[str, Any]) -> None:
    """The same files on both hosts: with a keyframe, in the studio's own way."""
    text, frames, large = "<Mira> jumps.", pixels(6), pixels(1, 32, 64)
    home = load_studio("pocket")
    parts = upscale_clip(
        home.upscale, home.upscale_vae, home.upscale_text.encode([text]), frames.movedim(-1, 1),
        {2: large[0].movedim(-1, 0)}, settings=home.defaults.upscale.sampling,
    )  # fmt: skip
    models = {"model": studio["upscale_model"], "vae": studio["upscale_vae"]}
    images, report = run(models, frames, mode="auto", steps=home.defaults.upscale.steps, keyframes=large,
                         keyframe_times="2 frames", positive=encode(studio["video_clip"], text))[1:]  # fmt: skip
    assert "bridge" in report
    assert (images.movedim(-1, 1) - torch.cat(list(parts)).clamp(0, 1)).abs().max() < 1e-4


def test_small_keyframes_are_left_out(tiny: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    report = run(tiny, pixels(5), keyframes=pixels(1))[2]
    assert "keyframes at frames: none" in report and "no more than the video" in caplog.text
    assert "keyframes at frames: none" in run(tiny, pixels(5), keyframes=pixels(1, 16, 64))[2]  # cropped to its half


def held_in_memory(frames: Tensor, rate: int = 8) -> Any:
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(rate)))


def test_what_is_not_read_is_said(tiny: dict[str, Any], board: Storyboard, caplog: pytest.LogCaptureFixture) -> None:
    short = board.shots[0].timeline(board.fps)
    sound = {"waveform": torch.zeros(1, 1, 800), "sample_rate": 8000}
    large = pixels(len(short.keyframes), 32, 64)
    for changed, words in (
        ({"keyframe_times": "0, 1"}, "keyframe_times: there are no keyframes"),
        ({"audio": sound}, "a VIDEO keeps its own sound"),
        ({"width": 128, "height": 32}, "of another shape"),
        ({"storyboard": board}, "storyboard: its film has"),
        ({"timeline": short, "keyframes": large}, f"timeline: has {short.frames} frames, and the video 1"),
    ):
        caplog.clear()
        run(tiny, held_in_memory(pixels(1)), **changed)
        assert words in caplog.text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"keyframes": pixels(2, 32, 64)}, "keyframes.*one moment for each"),
        ({"keyframes": pixels(2, 32, 64), "keyframe_times": "0.5, 0"}, "keyframe_times: must rise"),
        ({"keyframes": pixels(1, 32, 64), "keyframe_times": "9"}, "keyframe_times: must lie within"),
        ({"keyframes": pixels(1, 32, 64), "keyframe_times": "soon"}, "keyframe_times: must be moments.*soon"),
        ({"keyframes": pixels(1, 40, 64), "fit": "off"}, "keyframes: must be 64x32"),
        ({"width": 64}, "height: is needed"),
        ({"width": 16, "height": 32}, "width: must be at least"),
        ({"window": 8, "overlap": 8}, "window: must be 0, or at least"),
        ({"sampler_name": "euler_ancestral"}, "sampler.*deterministic"),
        ({"video": pixels(0)}, "video.*empty"),
        ({"video": None}, "video"),
        ({"video": held_in_memory(pixels(2) / 0)}, "video: must hold finite pictures"),
        ({"video": held_in_memory(pixels(2) * 255)}, "video: must hold values in 0…1"),
        ({"video": held_in_memory(pixels(2), 0)}, "video: must have a frame rate above 0"),
        ({"positive": [[noise(1, 7, 32), {}]]}, "positive: must be 24 wide"),
    ],
)
def test_errors_name_the_input(tiny: dict[str, Any], changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(tiny, **{"video": pixels(5)} | changed)


def recorded(path: Path, frames: Tensor, rate: int = 8) -> Path:
    """A video file with sound."""
    sound = {"waveform": torch.sin(torch.arange(8000) / 9)[None, None], "sample_rate": 8000}
    parts = Types.VideoComponents(images=frames, audio=sound, frame_rate=Fraction(rate))
    InputImpl.VideoFromComponents(parts).save_to(str(path))
    return path


def test_a_file_is_streamed_into_a_file(tiny: dict[str, Any], folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times, sound, size; frames that would not fit come as video only; nothing is left behind by an interrupt."""
    source = InputImpl.VideoFromFile(str(recorded(folders / "input" / "small.mp4", pixels(8))))
    video, images, _ = run(tiny, source, window=6, overlap=2, scale=1.5)
    assert tuple(images.shape) == (8, 24, 48, 3)
    with av.open(video.get_stream_source()) as made, av.open(source.get_stream_source()) as given:
        times, wanted = ([frame.time for frame in each.decode(video=0)] for each in (made, given))
        assert times == wanted and made.streams.audio[0].codec_context.name == "aac"
    monkeypatch.setattr(upscale_source, "IN_MEMORY", 1)
    assert isinstance(run(tiny, source, keyframes=pixels(1, 32, 64))[1], ExecutionBlocker)

    kept = set((folders / "temp").iterdir())
    monkeypatch.setattr(upscale, "stop_if_asked", lambda: (_ for _ in ()).throw(InterruptedError()))
    with pytest.raises(InterruptedError):
        run(tiny, source)
    assert set((folders / "temp").iterdir()) == kept


def test_a_trimmed_video_keeps_its_sound(tiny: dict[str, Any], folders: Path) -> None:
    source = InputImpl.VideoFromFile(str(recorded(folders / "input" / "small.mp4", pixels(8))), start_time=0.5)
    video, images, _ = run(tiny, source)
    parts = video.get_components()
    assert len(images) == 4 and parts.audio is not None and parts.frame_rate == 8

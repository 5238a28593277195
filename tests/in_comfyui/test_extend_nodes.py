"""Extend Video and Extended Video: frames or a file in, both parts as one video out, and the file's own untouched."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from anchorshot.core.errors import InputError
from anchorshot.nodes import extend, video
from anchorshot.story.timeline import Timeline

MORE = Timeline.plan(8, 0.6, [])


def shot(size: tuple[int, int] = (80, 160), frames: int = 6) -> Tensor:
    """A picture that moves to the right."""
    ramp = torch.linspace(0.1, 0.8, size[1])[None, :, None].expand(*size, 3)
    return torch.stack([ramp.roll(4 * n, 1) for n in range(frames)])


def recording(path: Path, frames: Tensor) -> Any:
    """A VIDEO of H.264 with sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=8)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for frame in frames:
            shown = av.VideoFrame.from_ndarray((255 * frame).byte().numpy(), format="rgb24").reformat(format="yuv420p")
            container.mux(picture.encode(shown))
        for _ in range(10):
            tone = av.AudioFrame.from_ndarray(np.full((1, 1024), 0.1, np.float32), format="fltp", layout="mono")
            tone.sample_rate = 16000
            container.mux(sound.encode(tone))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    return InputImpl.VideoFromFile(str(path))


def laid(studio: dict[str, Any], clip: Any, timeline: Timeline = MORE, **inputs: Any) -> dict[str, Any]:
    """Extend Video's latent with something in the place of what would be sampled."""
    latent = extend.ExtendVideo.execute(
        studio["video_model"], studio["video_vae"], clip, timeline, inputs.pop("context_frames", 5), **inputs
    ).args[1]
    mask = latent["noise_mask"].expand_as(latent["samples"])
    return latent | {"samples": torch.where(mask > 0.5, latent["samples"].mean(), latent["samples"])}


def joined(studio: dict[str, Any], latent: Any, clip: Any, audio: Any = None) -> tuple[Any, Any, Tensor]:
    return extend.ExtendedVideo.execute(latent, studio["video_vae"], clip, audio).args


def decoded(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_frames_are_followed_by_what_is_new(studio: dict[str, Any]) -> None:
    clip, audio = shot(), {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
    made, images, new = joined(studio, laid(studio, clip), clip, audio)
    assert len(new) == MORE.frames - 1 and torch.equal(images, torch.cat([clip, new]))
    parts = made.get_components()
    assert torch.equal(parts.images, images) and parts.frame_rate == Fraction(8) and parts.audio is audio
    plain = video.MultiChunkDecode.execute(laid(studio, clip), studio["video_vae"]).args[0]
    assert (plain - new).abs().max() < 0.1 and torch.allclose(plain, new, atol=0.05)


def test_a_files_own_frames_and_sound_are_untouched_also_after_saving(studio: dict[str, Any], tmp_path: Path) -> None:
    """Its sides make no whole tokens: what is new is made at other ones."""
    clip = recording(tmp_path / "clip.mp4", shot((88, 176), 12))
    latent = laid(studio, clip)
    assert latent["samples"].shape[-2:] == (96 // 8, 176 // 8)
    made, images, new = joined(studio, latent, clip)
    assert new.shape[1:] == (88, 176, 3) and len(images) == 12 + len(new)
    made.save_to(str(tmp_path / "saved.mp4"))
    before, after = decoded(str(tmp_path / "clip.mp4")), decoded(str(tmp_path / "saved.mp4"))
    assert len(after) == len(images) and all(map(np.array_equal, before, after))
    sounds = []
    for name in ("clip.mp4", "saved.mp4"):
        with av.open(str(tmp_path / name)) as container:
            sounds.append([(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size])
    assert sounds[0] == sounds[1]


def test_a_trimmed_video_is_joined_as_frames(studio: dict[str, Any], tmp_path: Path) -> None:
    clip = recording(tmp_path / "clip.mp4", shot(frames=12)).as_trimmed(0.5, 0.75)
    made, images, new = joined(studio, laid(studio, clip), clip)
    parts = clip.get_components()
    assert len(images) == len(parts.images) + len(new) and torch.equal(images[: len(parts.images)], parts.images)
    assert made.get_components().frame_rate == parts.frame_rate


def test_what_does_not_go_on_is_refused(studio: dict[str, Any], tmp_path: Path) -> None:
    clip = recording(tmp_path / "clip.mp4", shot())
    with pytest.raises(InputError, match=r"clip_fps: must be the timeline's 12 frames"):
        laid(studio, clip, Timeline.plan(12, 0.6, []))
    other = video.MultiChunkModel.execute(
        studio["video_model"], studio["video_vae"], MORE, "multi_chunk", width=160, height=80
    ).args[1]
    with pytest.raises(InputError, match="latent: must go on from a clip"):
        joined(studio, other, clip)
    latent = laid(studio, clip)
    with pytest.raises(InputError, match=r"latent: must be of one video \(got \"a batch of 2\"\)"):
        joined(studio, latent | {"samples": latent["samples"].expand(2, -1, -1, -1, -1)}, clip)
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="clip: must be a readable video"):
        laid(studio, clip)

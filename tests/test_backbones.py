"""A backbone is one description: a tiny one, registered from here alone, is detected, loaded and used by a studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import save_file
from torch import Tensor

from anchorshot.core.errors import InputError
from anchorshot.models import backbones
from anchorshot.models.backbones import (
    BACKBONES,
    DEFAULT_KEYFRAME,
    DEFAULT_VIDEO,
    Backbone,
    Native,
    NativeModel,
    find_backbone,
    native_models,
)
from anchorshot.models.backbones.native_fit import text_width
from anchorshot.models.backbones.wan.spec import WAN_2
from anchorshot.models.cost import cost_of
from anchorshot.models.encoders.kinds import TEXT_KINDS
from anchorshot.models.io.keymaps import detect_kind, from_public, infer_config, is_public, lora_table, to_public
from anchorshot.models.io.kinds import UNET_PREFIXES, KeyMap
from anchorshot.models.io.loading import load_transformer, load_vae
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.story_stage import story_grid, story_model, story_parts, video_settings
from anchorshot.sampling.text2story.segments import PromptPair, StorySampler, StorySettings


class Haze(ModelMixin, ConfigMixin):
    """Velocity of a video from its own latents and the mean of its text: enough to be a backbone."""

    @register_to_config
    def __init__(self, in_channels: int = 16, text_dim: int = 128) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(in_channels, in_channels)
        self.read = torch.nn.Linear(text_dim, in_channels)


class HazeVideo(Haze):
    """With the method that samplers call."""

    @classmethod
    def adopt(cls, model: Haze) -> HazeVideo:
        model.__class__ = cls
        return model  # type: ignore[return-value]

    def forward_chunks(
        self, latents: Tensor, timestep: Tensor, text: Tensor, rope_index: Tensor | None = None
    ) -> Tensor:
        x = self.mix(latents.movedim(1, -1)) + self.read(text.mean(1))[:, None, None, None]
        return x.movedim(-1, 1) * timestep[:, None, :, None, None]


def _from_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("haze."): value for key, value in state.items()}


def _to_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"haze.{key}": value for key, value in state.items()}


def _infer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, text = state["haze.read.weight"].shape
    return {"in_channels": channels, "text_dim": text}


HAZE = Backbone(
    kind="haze",
    title="Haze",
    keys=KeyMap(
        _from_public,
        _infer,
        _to_public,
        public_keys=("haze.mix.weight", "haze.read.weight"),
        own_keys=("mix.weight", "read.weight"),
        prefixes=UNET_PREFIXES,
    ),
    network=lambda: Haze,
    adopt=lambda: HazeVideo.adopt,
    vae=WAN_2.vae,
    text=("t5",),
    tasks=frozenset({"text_to_video"}),
    temporal_stride=4,
    natives={16: Native((32, 64), 9, 8)},
    bounded=True,
    defaults={"defaults.video": {"steps": 3}},
    unused_settings=frozenset({"boundary"}),
)


@pytest.fixture
def haze(tiny_studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of a studio whose video model is a Haze, from a file in public names without a config."""
    monkeypatch.setattr(backbones, "BACKBONES", (*BACKBONES, HAZE))
    state = {f"model.diffusion_model.{k}": v.contiguous() for k, v in to_public("haze", Haze().state_dict()).items()}
    save_file(state, tmp_path / "haze.safetensors")
    data = yaml.safe_load(tiny_studio.read_text())
    for part in ("keyframe", "keyframe_text", "defaults"):
        del data[part]
    data |= {"video": {"kind": "haze", "file": str(tmp_path / "haze.safetensors")}}
    data |= {"video_text": {"kind": "t5", "file": "t5.safetensors"}, "models_dir": str(tiny_studio.parent)}
    path = tmp_path / "haze.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def studio_of(path: Path, **changes: Any) -> Studio:
    data = yaml.safe_load(path.read_text()) | changes
    path.with_name("changed.yaml").write_text(yaml.safe_dump(data))
    return load_studio(path.with_name("changed.yaml"))


def test_its_files_are_detected_and_loaded(haze: Path) -> None:
    path = haze.with_name("haze.safetensors")
    model = load_transformer("haze", path)
    assert type(model) is HazeVideo and dict(model.config)["in_channels"] == 16
    state = model.state_dict()
    public = to_public("haze", state)
    assert detect_kind(public) == detect_kind(state) == "haze" and is_public("haze", public)
    assert infer_config("haze", public) == {"in_channels": 16, "text_dim": 128}
    assert all(torch.equal(value, state[key]) for key, value in from_public("haze", public).items())
    with pytest.raises(InputError, match="file must hold a Wan transformer.*a Haze transformer"):
        load_transformer("wan", path)
    with pytest.raises(InputError, match="file must hold a Haze transformer.*a Wan VAE"):
        load_transformer("haze", studio_of(haze).roots[0] / "vae.safetensors")
    with pytest.raises(InputError, match="LoRA files are read for flux, wan, mochi, qwen_image and qwen_vl"):
        lora_table("haze")


def test_a_studio_makes_video_from_text_with_it(haze: Path) -> None:
    studio = load_studio(haze)
    studio.check()
    assert studio.backbone is HAZE and story_grid(studio) == 4 and studio.defaults.video.steps == 3
    assert "boundary" not in video_settings(studio) and "video" in story_parts(studio)
    model = story_model(studio, 9, (32, 64))
    sampler = StorySampler(model, StorySettings(dipw=None, gamma=0))
    made = sampler.segment(PromptPair(["a square"], ["it waves"]), generator=torch.Generator().manual_seed(0))
    # By hand: Euler along the schedule, v = t·(W z + text).
    text = model.encode(["a square it waves"]).tokens
    z = torch.randn(1, 16, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    for t, after in zip(model.sigmas[:-1], model.sigmas[1:], strict=True):
        z = z + (after - t) * studio.video.forward_chunks(z, t.expand(1, 3), text)
    torch.testing.assert_close(made.latents, z.detach(), atol=1e-5, rtol=1e-5)
    assert torch.cat(list(model.decode(made.latents)), 1).shape == (1, 9, 3, 32, 64)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keyframe": {"file": "a"}}, "keyframe: Haze makes video from text alone"),
        ({"video_text": {"kind": "umt5", "file": "a"}}, "video_text.kind: Haze reads T5"),
        ({"video_vae": {"kind": "mochi_vae", "file": "a"}}, "video_vae.kind: the video VAE is Haze's.*use wan_vae"),
        ({"video": {"kind": "haz", "file": "a"}}, "video.kind: must be one of wan, mochi, haze.*did you mean `haze`"),
        ({"video": {"kind": "haze", "file": "a", "low": {"file": "b"}}}, "video.low: Haze is one model"),
        ({"defaults": {"video": {"boundary": 0.5}}}, "defaults.video.boundary: is for Wan "),
        ({"defaults": {"video": {"shift": -1}}}, "defaults.video.shift: must be greater than 0"),
    ],
)
def test_errors_name_its_title(haze: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        studio_of(haze, **changes)


def test_what_it_cannot_do_is_refused(haze: Path) -> None:
    studio = load_studio(haze)
    with pytest.raises(InputError, match="video.kind: must be wan for film; haze makes video from text alone"):
        studio.check_task("film")
    with pytest.raises(InputError, match=r"a chunk has 4n\+1 frames"):
        story_model(studio, 8, (32, 64))
    model = story_model(studio, 5, (32, 64))
    text = model.encode(["a square"])
    with pytest.raises(InputError, match="clean_latents: must be empty: Haze takes text alone"):
        model.denoise(lambda t: text, 1, None, clean_latents=torch.zeros(1, 16, 1, 4, 8))
    with pytest.raises(InputError, match="backbone: must have a closed form of its cost.*Haze"):
        cost_of(HAZE)


def test_every_description_stands_for_what_is_there() -> None:
    """Names of classes are text until they are asked for."""
    for backbone in BACKBONES:
        network = backbone.network()
        assert isinstance(network, type) and issubclass(network, ModelMixin)
        assert callable(backbone.adopt()) and issubclass(backbone.vae.network(), ModelMixin)
        assert backbone.vae.codec().__name__ in ("ImageVAE", "VideoVAE", "MochiVAE")
        assert backbone.cost is None or callable(cost_of(backbone))
        if backbone.schedule is not None:
            levels = backbone.schedule()(4)
            assert levels[0] == 1 and levels[-1] == 0 and levels == sorted(levels, reverse=True)
        assert set(backbone.text) <= {text.kind for text in TEXT_KINDS}
    assert "keyframes" in find_backbone(DEFAULT_KEYFRAME).tasks and "video" in find_backbone(DEFAULT_VIDEO).tasks
    with pytest.raises(InputError, match="kind: must be flux, wan, mochi or qwen_image"):
        find_backbone("haze")
    with pytest.raises(InputError, match="kind: must be flux_vae, wan_vae or mochi_vae"):
        load_vae("haze_vae", "nowhere")


class _HazeKeyframes:
    """What a backbone could offer to the keyframe nodes."""

    sample = staticmethod(lambda *args, **kwargs: [])
    caption_advice = staticmethod(lambda captions: None)


def test_nodes_find_what_samples_a_model_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    native = NativeModel("Haze", "read.in_features", keyframes=lambda: offered)
    offered = _HazeKeyframes()
    monkeypatch.setattr(native_models, "BACKBONES", (*BACKBONES, replace(HAZE, native_model=native)))
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=HazeVideo()))  # a subclass counts
    assert native_models.keyframes_on(model) is offered
    assert text_width(model) == 128
    with pytest.raises(InputError, match=r"model.*must be a Wan model.*SimpleNamespace \(HazeVideo\)"):
        native_models.video_on(model)
    other = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Identity()))
    with pytest.raises(InputError, match=r"model.*must be a Flux or Haze model.*Identity"):
        native_models.keyframes_on(other)
    assert text_width(other) is None

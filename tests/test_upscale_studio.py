"""The parts of a studio that upscale clips: what they may say, what serves for them, fingerprints, proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from anchorshot.core.errors import InputError
from anchorshot.models.layouts.upscale import UpscaleSettings
from anchorshot.models.studio import Studio, built_in, load_studio
from anchorshot.models.studio_config import StudioConfig, read_studio

MODEL = {"upscale": {"file": "video.safetensors", "scale": 2}}


def studio_with(tiny_studio: Path, name: str, **changes: Any) -> Studio:
    path = tiny_studio.parent / f"{name}.yaml"
    data = yaml.safe_load(tiny_studio.read_text())
    defaults = data.get("defaults", {}) | changes.pop("defaults", {})
    path.write_text(yaml.safe_dump(data | changes | {"defaults": defaults}))
    return load_studio(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upscale_text": {"kind": "t5", "file": "x"}}, "upscale_text: goes with upscale"),
        ({"upscale_vae": {"kind": "wan_vae", "file": "x"}}, "upscale_vae: goes with upscale"),
        ({"upscale": {"kind": "mochi", "file": "x"}}, "upscale.kind: must be one of wan"),
        (MODEL | {"upscale_vae": {"kind": "flux_vae", "file": "x"}}, "upscale_vae.kind: must be Wan's VAE"),
        ({"upscale": {"file": "x", "scale": 1}}, "upscale.scale"),
        ({"defaults": {"upscale": {"mode": "magic"}}}, "defaults.upscale.mode"),
        (
            {"defaults": {"upscale": {"window": 9, "overlap": 5}}},
            "overlap: must be at most a third of window",
        ),
        ({"defaults": {"upscale": {"tile": 64, "tile_overlap": 33}}}, "tile_overlap: must be at most half of tile"),
    ],
)
def test_faults(tiny_studio: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudioConfig.parse(yaml.safe_load(tiny_studio.read_text()) | changes)


def test_it_leaves_what_was_made_without_it_resumable(tiny_studio: Path) -> None:
    plain = load_studio(tiny_studio)
    more = studio_with(tiny_studio, "tiny_upscale", **MODEL, defaults={"upscale": {"steps": 3}})
    assert more.fingerprint() == plain.fingerprint() and more.fingerprint("video") == plain.fingerprint("video")
    assert more.upscale_parts == ("upscale", "video_text" if more.config.video_text else "keyframe_text", "video_vae")
    assert more.fingerprint(*more.upscale_parts) != more.fingerprint(*more.upscale_parts[1:])
    assert [more.fingerprint("upscale")] == [studio_with(tiny_studio, "tiny_upscale_2", **MODEL).fingerprint("upscale")]
    with pytest.raises(InputError, match="upscale: must be set to upscale with a model"):
        plain.check_task("upscale")
    more.check_task("upscale")


def test_the_video_s_vae_and_text_serve(tiny_studio: Path) -> None:
    studio = studio_with(tiny_studio, "tiny_upscale_3", **MODEL)
    studio.check(*studio.upscale_parts)
    assert studio.upscale_vae is studio.video_vae and studio.upscale_text is studio.video_text
    assert studio.upscale_model is studio.upscale and studio.upscale is not studio.video
    studio.release("upscale")
    assert "upscale" not in vars(studio)
    own = studio_with(
        tiny_studio, "tiny_upscale_4", **MODEL, upscale_vae={"kind": "wan_vae", "file": "vae.safetensors"}
    )
    assert own.upscale_parts[-1] == "upscale_vae" and own.upscale_vae is not own.video_vae


def test_a_model_that_its_vae_does_not_fit(tiny_studio: Path) -> None:
    wrong = studio_with(tiny_studio, "tiny_upscale_5", upscale={"file": "keyframe.safetensors"})
    with pytest.raises(InputError, match="upscale"):
        wrong.check(*wrong.upscale_parts)


def test_defaults_are_what_samplers_take(tiny_studio: Path) -> None:
    plain = studio_with(tiny_studio, "tiny_upscale_6", **MODEL).defaults.upscale
    assert plain.sampling == UpscaleSettings()
    for name in built_in():
        config, _ = read_studio(name)
        if config.upscale is not None and name != "pocket":
            assert config.defaults.upscale.mode == "training_free", name

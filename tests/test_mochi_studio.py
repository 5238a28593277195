"""Mochi as a studio's video model: what its file may say, stories told with it from real files, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import MochiTransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from anchorshot import evaluation
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.media.video import VideoReader
from anchorshot.models.backbones.mochi.vae import MochiVAE
from anchorshot.models.studio import Studio, load_studio
from anchorshot.models.studio_config import read_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.story_stage import story_model, story_pictures
from anchorshot.pipelines.text_film import make_text_film
from anchorshot.sampling.text2story.segments import StorySettings
from anchorshot.story.storyboard import Storyboard
from anchorshot.story.timeline import Time, snap_length

STORY: dict[str, Any] = {
    "title": "Tiny",
    "size": [64, 32],
    "characters": {"Mira": "a yellow square with a crown", "Pip": "a pink circle with a bow"},
    "places": {"dunes": "the desert"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> waves on the left.", "seconds": 0.75},
        {"id": "s02", "place": "dunes", "action": "<Pip> jumps on the right.", "frames": 13, "transition": "blend"},
        {"id": "s03", "place": "dunes", "scene": "<Pip> stands on the right.", "frames": 1},
    ],
}


@pytest.fixture
def studio(mochi_studio: Path) -> Studio:
    return load_studio(mochi_studio)


@pytest.fixture(scope="module")
def told(mochi_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mochi") / "told"
    make_text_film(Storyboard.parse(STORY), load_studio(mochi_studio), folder)
    return folder


def test_parts_and_defaults(studio: Studio) -> None:
    studio.check()
    assert isinstance(studio.video, MochiTransformer3DModel) and isinstance(studio.video_vae, MochiVAE)
    assert studio.image_vae is studio.video_vae and studio.video_text.max_length == 256
    defaults = studio.defaults.video
    assert (defaults.steps, defaults.guidance) == (3, 4.5)  # one is the file's, one Mochi's own
    model = story_model(studio, 13, (32, 64))
    assert (model.settings.steps, model.settings.guidance, model.temporal_stride) == (3, 4.5, 6)
    with pytest.raises(InputError, match=r"6n\+1"):
        story_model(studio, 9, (32, 64))
    for field in ("keyframe", "keyframe_text"):
        with pytest.raises(InputError, match=f"mochi.yaml, {field}: must be set for keyframes.*anchorshot tell"):
            getattr(studio, field)


def test_a_told_film(told: Path) -> None:
    """Lengths lie on Mochi's own grid, in the film, its clips and its summary; blends are joined by them."""
    summary = json.loads((told / "summary.json").read_text())
    assert [shot["frames"] for shot in summary["shots"]] == [7, 13, 1]
    film = VideoReader(told / "film.mp4")
    assert film.frames == summary["frames"] == 21 - (7 - summary["shots"][1]["start"] * 8)
    assert film.size == (32, 64)
    assert [load_file(told / "latents" / f"s0{i}_segment.safetensors")["latents"].shape[2] for i in (1, 2, 3)] == [
        2,
        3,
        1,
    ]
    assert all(len(shot["scene_weights"]) == 3 for shot in summary["shots"])
    assert summary["settings"]["video"] == {"steps": 3, "guidance": 4.5, "negative": ""}
    assert all(Image.open(told / name).size[0] > 300 for name in ("contact_sheet.png", "weights.png"))
    assert not list(told.rglob(".tmp-*"))


def test_a_broken_off_run_goes_on(told: Path, studio: Studio, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(told, tmp_path / "film"))
    (folder / "latents" / "s02_segment.safetensors").unlink()
    (folder / "clips" / "s03.mkv").unlink()
    made = make_text_film(Storyboard.parse(STORY), studio, folder, resume=True)["timings"]["made"]
    assert made == ["s02/segment", "s03/clip"]
    for name in ("film.mp4", "latents/s02_segment.safetensors"):
        assert (folder / name).read_bytes() == (told / name).read_bytes()


def test_what_mochi_was_made_for(mochi_studio: Path, tmp_path: Path) -> None:
    """Longer segments are refused before anything loads; another size or rate is told."""
    shot, own = STORY["shots"][0], {"size": [848, 480], "fps": 30}
    studio, lines = load_studio(mochi_studio), list[str]()
    long = Storyboard.parse(STORY | own | {"shots": [shot, shot | {"id": "s02", "seconds": 6}]})
    with pytest.raises(InputError, match=r"shots\[1\]: must have at most 163 frames.*got 181.*use at most 5.4 seconds"):
        make_text_film(long, studio, tmp_path / "film", say=lines.append)
    assert not {"video", "video_vae", "video_text", "clip"} & vars(studio).keys()
    (tmp_path / "file").touch()
    for board, said in ((own, False), ({"fps": 30}, True), (own | {"fps": 8}, True)):
        with pytest.raises(InputError, match="writable folder"):
            make_text_film(Storyboard.parse(STORY | board), studio, tmp_path / "file", say=lines.append)
        assert bool(lines) is said and all("848×480 at 30" in line for line in lines)
        lines.clear()


def test_the_command_with_every_preview(mochi_studio: Path, tmp_path: Path) -> None:
    file = tmp_path / "story.yaml"
    file.write_text(yaml.safe_dump(STORY | {"shots": STORY["shots"][:1]}))
    for preview in ("decoded_frame", "decoded_video"):
        arguments = ["tell", str(file), "--studio", str(mochi_studio), "--out", str(tmp_path / preview)]
        assert main([*arguments, "--device", "cpu", "--preview", preview, "--every", "1"]) == 0
        assert VideoReader(tmp_path / preview / "film.mp4").frames == 7


def test_an_all_in_one_checkpoint_and_a_decoder_alone(mochi_studio: Path, tmp_path: Path) -> None:
    """ComfyUI's one file with model, text encoder and VAE; genmo's decoder does where no picture is encoded."""
    folder = mochi_studio.parent
    parts = {
        "model.diffusion_model.": "diffusion_models/mochi",
        "vae.": "vae/mochi_vae",
        "text_encoders.t5xxl.transformer.": "t5",
    }
    loaded = {prefix: load_file(folder / f"{name}.safetensors") for prefix, name in parts.items()}
    together = {prefix + k: v for prefix, state in loaded.items() for k, v in state.items()}
    save_file(together, tmp_path / "all.safetensors")
    decoder = {k[8:]: v for k, v in loaded["vae."].items() if k.startswith("decoder.")}
    save_file(decoder, tmp_path / "decoder.safetensors")
    config = yaml.safe_load(mochi_studio.read_text()) | {"models_dir": str(folder)}
    whole = str(tmp_path / "all.safetensors")

    def studio(**changes: Any) -> Studio:
        (tmp_path / "studio.yaml").write_text(yaml.safe_dump(config | changes))
        return load_studio(tmp_path / "studio.yaml")

    one = studio(video={"kind": "mochi", "file": whole}, video_vae={"kind": "mochi_vae", "file": whole})
    split = load_studio(mochi_studio)
    for part in ("video", "video_vae"):
        first, second = (getattr(s, part) for s in (one, split))
        first, second = (getattr(m, "model", m).state_dict() for m in (first, second))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    alone = studio(video_vae={"kind": "mochi_vae", "file": str(tmp_path / "decoder.safetensors")})
    model = story_model(alone, 7, (32, 64))
    z = torch.randn(1, 12, 2, 4, 8)
    assert story_pictures(model, "decoded_frame")(z).shape == (1, 1, 3, 32, 64)
    with pytest.raises(InputError, match="preview: needs the VAE's encoder.*decoded_frame"):
        story_pictures(model)


def test_the_built_in_studio_in_comfyui_folders(
    mochi_studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published names, bf16, T5's tokenizer from ComfyUI's code; 64 steps are cut short."""
    from safetensors import safe_open

    monkeypatch.delenv("ANCHORSHOT_MODELS", raising=False)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    source, models = mochi_studio.parent, tmp_path / "models"
    names = {
        "diffusion_models/mochi": "diffusion_models/mochi_preview_bf16",
        "vae/mochi_vae": "vae/mochi_vae",
        "t5": "text_encoders/t5xxl_fp16",
    }
    for ours, published in names.items():
        (models / published).parent.mkdir(parents=True, exist_ok=True)
        state = {k: v.to(torch.bfloat16) for k, v in load_file(source / f"{ours}.safetensors").items()}
        save_file(state, models / f"{published}.safetensors")
    with safe_open(source / "t5.safetensors", "pt") as file:
        words = file.metadata()["tokenizer"]
    (tmp_path / "comfy" / "text_encoders" / "t5_tokenizer").mkdir(parents=True)
    (tmp_path / "comfy" / "text_encoders" / "t5_tokenizer" / "tokenizer.json").write_text(words)
    studio = load_studio("mochi")
    studio.check("video", "video_text", "video_vae")
    with pytest.raises(InputError, match="mochi.yaml, clip.file: file must exist"):
        studio.check()
    model = story_model(studio, 7, (32, 64))
    assert studio.video.dtype == torch.bfloat16 and studio.video_vae.dtype == torch.float32
    assert len(model.sigmas) == 65 and model.settings.guidance == 4.5
    text = model.encode(["<Mira> waves."])
    z = model.denoise(lambda t: text, 1, torch.Generator().manual_seed(0), sigmas=model.sigmas[[0, 40, 64]])
    assert z.shape == (1, 12, 2, 4, 8) and z.isfinite().all() and z.dtype == torch.float32


def test_what_needs_keyframes_is_refused_before_anything_loads(
    mochi_studio: Path, tiny_studio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(STORY))
    wan = yaml.safe_load(tiny_studio.read_text()) | {"models_dir": str(tiny_studio.parent)}
    text = wan.pop("keyframe_text")
    del wan["keyframe"]
    (tmp_path / "wan.yaml").write_text(yaml.safe_dump(wan | {"video_text": text}))
    text_alone = "video.kind: must be wan for film; mochi makes video from text alone.*`anchorshot tell` is for this"
    for file, film, refused in (
        (mochi_studio, text_alone, ("keyframes", "video")),
        (tmp_path / "wan.yaml", "keyframe: must be set for keyframes", ("keyframes",)),
    ):
        studio = load_studio(file)
        with pytest.raises(InputError, match=film):
            make_film(Storyboard.parse(STORY), studio, tmp_path / "film")
        for suite in refused:
            with pytest.raises(InputError, match="keyframe: must be set|video.kind: must be wan for"):
                evaluation.run(suite, studio)
        assert not {"video", "video_vae", "image_vae", "clip", "video_text"} & vars(studio).keys()
    assert not (tmp_path / "film").exists()
    for command in (["film", str(tmp_path / "story.yaml")], ["evaluate", "video"], ["bench", "video"]):
        assert main([*command, "--studio", str(mochi_studio), "--device", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "mochi.yaml" in line and "anchorshot tell" in line
    make_text_film(
        Storyboard.parse(STORY), load_studio(tmp_path / "wan.yaml"), tmp_path / "told", StorySettings(dipw=None)
    )
    assert VideoReader(tmp_path / "told" / "film.mp4").frames > 15


FAULTS = [
    ({"video": {"kind": "moch", "file": "a"}}, "video.kind: must be one of wan, mochi.*`mochi`"),
    ({"video": {"file": "a"}}, "video_vae.kind: the video VAE is Wan's"),
    ({"video_vae": {"kind": "wan_vae", "file": "a"}}, "video_vae.kind: the video VAE is Mochi's.*use mochi_vae"),
    ({"keyframe": {"file": "a"}}, "keyframe: Mochi makes video from text alone"),
    ({"keyframe_text": {"kind": "t5", "file": "a"}}, "keyframe_text: Mochi makes video from text alone"),
    ({"image_vae": {"kind": "flux_vae", "file": "a"}}, "image_vae: Mochi makes video from text alone"),
    ({"video_text": None}, "video_text: is required without keyframe_text"),
    ({"video_text": {"kind": "umt5", "file": "a"}}, "video_text.kind: Mochi reads T5"),
    ({"video_text": {"kind": "t5", "file": "a", "pad_to": 256}}, "pad_to: Mochi never reads padding.*got 256"),
    ({"video_text": {"kind": "t5", "file": "a", "clip_text": {"file": "b"}}}, "Mochi takes no pooled text"),
    ({"video": {"kind": "mochi", "file": "a", "low": {"file": "b"}}}, "video.low: Mochi is one model"),
    ({"defaults": {"video": {"shift": 5.0}}}, "defaults.video.shift: is for Wan.*got 5.0"),
    ({"defaults": {"video": {"text_length": 256}}}, "defaults.video.text_length: is for Wan"),
    ({"defaults": {"video": {"steps": 1}}}, "defaults.video.steps: must be at least 2 for Mochi"),
    ({"defaults": 3}, "defaults: must be a mapping"),
    ({"video": None}, "video: must be a mapping"),
]


@pytest.mark.parametrize("changes, message", FAULTS, ids=[m[:40] for _, m in FAULTS])
def test_faults_are_named(mochi_studio: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "studio.yaml").write_text(yaml.safe_dump(yaml.safe_load(mochi_studio.read_text()) | changes))
    with pytest.raises(InputError, match=message) as error:
        load_studio(tmp_path / "studio.yaml")
    assert "\n" not in str(error.value) and "studio.yaml" in str(error.value)


def test_text_encoder_and_keyframe_model_go_together(tiny_studio: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(tiny_studio.read_text())
    for gone, field in (("keyframe", "keyframe_text"), ("keyframe_text", "keyframe_text")):
        (tmp_path / "studio.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k != gone}))
        with pytest.raises(InputError, match=f"{field}: goes with keyframe"):
            load_studio(tmp_path / "studio.yaml")


def test_the_built_in_studio_is_mochi_s_own() -> None:
    config, _ = read_studio("mochi")
    assert config.video.kind == "mochi" and config.keyframe is None and config.dtype == "bfloat16"
    assert config.video_text is not None and (config.video_text.max_length, config.video_text.pad_to) == (256, None)
    assert (config.defaults.video.steps, config.defaults.video.guidance) == (64, 4.5)


def test_fingerprints_of_other_studios_did_not_change(tiny_studio: Path, mochi_studio: Path) -> None:
    """A film must not be made again because studio files learned a word that it does not use."""
    wan, mochi = load_studio(tiny_studio), load_studio(mochi_studio)
    assert list(json.loads(wan._settings())["video"]) == [
        "file", "config", "dtype", "fp8", "offload", "offload_folder", "loras", "compile", "low",
    ]  # fmt: skip
    assert json.loads(mochi._settings())["video"]["kind"] == "mochi"
    assert mochi.fingerprint() == load_studio(mochi_studio).fingerprint() != wan.fingerprint()


def test_lengths_snap_to_a_grid() -> None:
    asked = {0.1: 1, 3.9: 1, 4.0: 7, 7: 7, 9.9: 7, 10: 13, 160: 163}
    assert {frames: snap_length(Time.from_seconds(frames / 8, 8), 6) for frames in asked} == asked
    assert [snap_length(Time.from_frames(n, 8)) for n in (1, 2, 3, 5, 17)] == [1, 1, 5, 5, 17]

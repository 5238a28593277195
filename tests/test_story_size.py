"""Which set, size and length a studio tells: found out from its files' shapes, and refused before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

from anchorshot import benchmarks, evaluation
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.networks import MetricFiles
from anchorshot.evaluation.suites.text2story.prompt_set import plan_set, run_prompt_set
from anchorshot.evaluation.suites.text2story.story_size import choose_set, natural_length, size_multiple
from anchorshot.evaluation.suites.text2story.storytelling_set import StorytellingSet
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pocket.configs import VAE, VIDEO

MODELS = {"keyframe", "keyframe_text", "image_vae", "video", "video_low", "video_vae", "video_text", "clip"}
SMALL: dict[str, Any] = {"size": (64, 64), "frames": 7}


def loaded(studio: Studio) -> set[str]:
    return MODELS & vars(studio).keys()


@pytest.fixture(scope="module")
def wan22(tiny_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio like Wan 2.2 5B: 48 channels, 16 pixels a cell."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan22")
    vae = VAE | {
        "base_dim": 8,
        "decoder_base_dim": 8,
        "z_dim": 48,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    }
    vae |= {"dim_mult": [1, 1, 2, 2], "temperal_downsample": [False, True, True], "scale_factor_spatial": 16}
    video = VIDEO | {"num_layers": 1, "ffn_dim": 32, "in_channels": 48, "out_channels": 48}
    for name, kind, model in (
        ("vae", "wan_vae", AutoencoderKLWan(**vae)),
        ("video", "wan", WanTransformer3DModel(**video)),
    ):
        state = {key: value.contiguous() for key, value in to_public(kind, model.state_dict()).items()}
        config = json.dumps(vae if name == "vae" else video)
        save_file(state, folder / f"{name}.safetensors", metadata={"config": config})
    config = yaml.safe_load(tiny_studio.read_text()) | {"name": "tiny-5b", "models_dir": str(tiny_studio.parent)}
    config |= {"video": {"file": str(folder / "video.safetensors")}}
    config |= {"video_vae": {"kind": "wan_vae", "file": str(folder / "vae.safetensors")}}
    (folder / "wan22.yaml").write_text(yaml.safe_dump(config))
    return folder / "wan22.yaml"


def test_what_a_studio_can_make_is_read_from_its_vae_file(tiny_studio: Path, wan22: Path, mochi_studio: Path) -> None:
    expected = {
        "pocket": ("pocket", 16, ((80, 160), 17)),
        tiny_studio: ("pocket", 16, ((480, 832), 81)),
        wan22: ("benchmark", 32, ((704, 1280), 121)),
        mochi_studio: ("benchmark", 16, ((480, 848), 163)),
    }
    for file, facts in expected.items():
        studio = load_studio(file)
        assert (choose_set(studio), size_multiple(studio), natural_length(studio)) == facts
        assert not loaded(studio)
        studio.video_vae  # noqa: B018 the model itself says the same
        assert (choose_set(studio), size_multiple(studio), natural_length(studio)) == facts


def test_a_vae_that_only_the_loader_understands_is_loaded(tiny_studio: Path, tmp_path: Path) -> None:
    """A scaled fp8 file: names and shapes alone do not tell which tensors belong to the model."""
    from safetensors.torch import load_file

    folder = tiny_studio.parent
    state = load_file(folder / "vae.safetensors")
    state["conv2.weight_scale"], state["conv2.weight"] = torch.ones(1), state["conv2.weight"].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "vae.safetensors")
    config = yaml.safe_load(tiny_studio.read_text()) | {"models_dir": str(folder)}
    (tmp_path / "vae.json").write_text(json.dumps(VAE | {"base_dim": 8, "decoder_base_dim": 8}))
    config["video_vae"] |= {"file": str(tmp_path / "vae.safetensors"), "config": str(tmp_path / "vae.json")}
    (tmp_path / "studio.yaml").write_text(yaml.safe_dump(config))
    assert size_multiple(load_studio(tmp_path / "studio.yaml")) == 16


def test_the_benchmark_is_the_default_where_the_pocket_world_does_not_fit(
    wan22: Path, mochi_studio: Path, tmp_path: Path
) -> None:
    for file, size, frames in ((wan22, (64, 96), 5), (mochi_studio, (64, 64), 7)):
        result = evaluation.run(
            "storytelling", load_studio(file), 0, 1, 1, variants=["plain"], size=size, frames=frames
        )
        assert (result["set"], result["size"], result["frames"]) == ("benchmark", [size[1], size[0]], frames)
        assert -1 <= result["rows"][0]["clip_add"] <= 1


def test_the_bench_compares_every_preview_with_the_plain_model_in_one_run(wan22: Path, tmp_path: Path) -> None:
    arguments = ["bench", "storytelling", "--studio", str(wan22), "--size", "64x64", "--frames", "5", "--device", "cpu"]
    assert main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    what, previews = "a segment of 5 frames of 64x64", ("latent_rgb", "decoded_frame", "decoded_video")
    expected = [
        (f"seconds {what}, {name}; reference: plain model", f"peak memory of {what} in the plain model's, {name}")
        for name in previews
    ]
    assert [row["what"] for row in rows] == [row for pair in expected for row in pair]
    assert all(row["ours"] > 0 and row["reference"] > 0 for row in rows)
    # All frames decoded, one, none; one so small needs no more than what follows it.
    assert rows[5]["ours"] > rows[3]["ours"] >= rows[1]["ours"]


@pytest.mark.cuda
def test_on_a_gpu_one_call_tells_time_and_memory(mochi_studio: Path) -> None:
    rows = benchmarks.run("storytelling", load_studio(mochi_studio, device="cuda"), **SMALL)
    assert len(rows) == 6 and all(row["ours"] > 0 and row["reference"] > 0 for row in rows)


def test_without_a_size_the_studio_s_own_is_taken(mochi_studio: Path) -> None:
    studio = load_studio(mochi_studio)
    plan = plan_set(studio, StorytellingSet.read())
    assert (plan.size, plan.frames, len(plan.stories), plan.shots) == ((480, 848), 163, 16, 4) and not loaded(studio)


def test_what_does_not_fit_is_refused_before_anything_loads(
    tiny_studio: Path, wan22: Path, mochi_studio: Path, tmp_path: Path
) -> None:
    benchmark: dict[str, Any] = {"prompt_set": "benchmark"}
    judges = MetricFiles(dino=tmp_path / "gone")
    for file, arguments, words in (
        (wan22, {"prompt_set": "pocket"}, "^set: .*films of 160x80.*multiples of 32 .*got \"pocket\".*use benchmark"),
        (mochi_studio, {"prompt_set": "pocket"}, r"^set: .*17 frames.*6n\+1 .*got \"pocket\".*use benchmark"),
        (mochi_studio, {"frames": 17}, r"^frames: must be 6n\+1.*got 17.*use 13 or 19"),
        (tiny_studio, benchmark | {"frames": 8}, r"^frames: must be 4n\+1.*got 8.*use 5 or 9"),
        (tiny_studio, benchmark | {"frames": 0}, r"^frames: must be 4n\+1.*got 0.*use 1 or 5"),
        (wan22, {"size": (80, 160)}, "^size: must be multiples of 32.*got \"160x80\".*use 160x64"),
        (tiny_studio, {"size": (80, 160)}, "^size: is for a set"),
        (tiny_studio, benchmark | {"judges": judges}, "^dino: must be a folder"),
    ):  # fmt: skip
        studio = load_studio(file)
        with pytest.raises(InputError, match=words):
            evaluation.run("storytelling", studio, **arguments)
        if "judges" not in arguments:
            with pytest.raises(InputError, match=words):
                benchmarks.run("storytelling", studio, **arguments)
        assert not loaded(studio)
    for suite in ("keyframes", "video"):
        with pytest.raises(InputError, match="set: is for the suite storytelling"):
            benchmarks.run(suite, prompt_set="benchmark")


def test_missing_files_are_named_before_anything_loads(tiny_studio: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(tiny_studio.read_text()) | {"models_dir": str(tiny_studio.parent)}
    for part, prompt_set in (
        ("video", "benchmark"),
        ("keyframe_text", "pocket"),
        ("clip", "benchmark"),
        ("video", None),
    ):
        (tmp_path / "studio.yaml").write_text(
            yaml.safe_dump(config | {part: config[part] | {"file": "gone.safetensors"}})
        )
        studio = load_studio(tmp_path / "studio.yaml")
        for run in (evaluation.run, benchmarks.run):
            with pytest.raises(InputError, match=f"studio.yaml, {part}.file: file must exist.*gone"):
                run("storytelling", studio, prompt_set=prompt_set)
            assert not loaded(studio)


def test_a_studio_without_clip_tells_what_clip_does_not_steer(mochi_studio: Path, tmp_path: Path) -> None:
    """Another CLIP judges; the figures are those of the studio that has one."""
    prompts = StorytellingSet.read()
    config = yaml.safe_load(mochi_studio.read_text()) | {"models_dir": str(mochi_studio.parent)}
    (tmp_path / "studio.yaml").write_text(yaml.safe_dump(config | {"clip": {"file": "gone.safetensors"}}))
    judges, names = MetricFiles(clip=mochi_studio.parent / "clip.safetensors"), ["without_dipw"]
    run = {}
    for file in (tmp_path / "studio.yaml", mochi_studio):
        result, _ = run_prompt_set(load_studio(file), prompts, 0, 1, 1, names, networks=judges, **SMALL)
        run[file] = [[row[name] for name in ("clip_add", "clip_combined", "consistency")] for row in result["rows"]]
    assert run[mochi_studio] == run[tmp_path / "studio.yaml"]
    for given, variants in ((judges, ["full"]), (None, ["plain"]), (MetricFiles(dino=tmp_path), ["plain"])):
        with pytest.raises(InputError, match="clip.file: file must exist"):
            run_prompt_set(load_studio(tmp_path / "studio.yaml"), prompts, 0, 1, 2, variants, networks=given, **SMALL)

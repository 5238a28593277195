"""Suite upscale: what its figures measure, what is upscaled, and a run that goes on where it was interrupted."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from close import same_result
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from kornia.filters import gaussian_blur2d
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from anchorshot import evaluation
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.flicker import flicker_ratio, still_flicker, temporal_error
from anchorshot.evaluation.metrics.lpips import Lpips
from anchorshot.evaluation.metrics.pixels import colour_error, structural_similarity
from anchorshot.evaluation.stories import shipped_recogniser
from anchorshot.evaluation.suites.upscale.figures import ClipFigures, by_distance, pooled
from anchorshot.evaluation.suites.upscale.identity import LargeFrames, strangers
from anchorshot.evaluation.suites.upscale.own_clips import find_clips, own_source
from anchorshot.evaluation.suites.upscale.sources import SourceClip, held_out_source
from anchorshot.evaluation.suites.upscale.variants import Variant, chosen_variants, upscaler
from anchorshot.media.frames import PSNR_CAP, psnr
from anchorshot.media.image import write_image
from anchorshot.media.video import open_writer
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.upscale.upscalers import Interpolation
from anchorshot.pocket.bank import to_tensor
from anchorshot.pocket.configs import T5, VAE, VIDEO
from anchorshot.pocket.recogniser import Recogniser
from anchorshot.pocket.render import render
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.story.timeline import Timeline

WAN = VIDEO | {
    **{"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4},
    **{"text_dim": 32, "freq_dim": 16, "ffn_dim": 64, "num_layers": 1},
}
SMALL_VAE = VAE | {
    **{"base_dim": 4, "decoder_base_dim": 4, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [0.05] * 4}
}
SMALL_T5 = T5 | {"d_model": 32, "d_kv": 8, "num_layers": 1, "d_ff": 48}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A studio of the real classes with random weights, loaded from files; one step, so that tests are fast."""
    folder = tmp_path_factory.mktemp("studio")
    torch.manual_seed(0)

    def save(name: str, kind: str, model: torch.nn.Module, config: dict, **metadata: str) -> None:
        copies = {key: value.detach().clone() for key, value in to_public(kind, model.state_dict()).items()}
        save_file(copies, folder / f"{name}.safetensors", metadata={"config": json.dumps(config), **metadata})

    save("video", "wan", WanTransformer3DModel(**WAN), WAN)
    save("upscale", "wan", WanTransformer3DModel(**WAN), WAN)
    save("vae", "wan_vae", AutoencoderKLWan(**SMALL_VAE), SMALL_VAE)
    tokenizer = build_tokenizer()
    t5 = T5EncoderModel(T5Config(vocab_size=tokenizer.get_vocab_size(), **SMALL_T5))
    save("t5", "t5", t5, SMALL_T5, tokenizer=tokenizer.to_str())
    data = {"name": "tiny", "models_dir": ".", "video_text": {"kind": "t5", "file": "t5.safetensors"}}
    data |= {name: {"file": f"{name}.safetensors"} for name in ("video", "upscale")}
    data |= {"clip": {"file": "none.safetensors"}, "video_vae": {"kind": "wan_vae", "file": "vae.safetensors"}}
    data |= {"defaults": {"upscale": {"steps": 1, "window": 12, "overlap": 2}, "video": {"steps": 1, "shift": 3.0}}}
    (folder / "studio.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_studio(folder / "studio.yaml")


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return shipped_recogniser()


@pytest.fixture(scope="module")
def clip(studio: Studio) -> SourceClip:
    return held_out_source(studio, 3, 1, 2, "clean")


# --- metrics ----------------------------------------------------------------------------------------------------------


def moving_bar(still: float = 0.5) -> torch.Tensor:
    """Six frames in which a white bar moves on grey and the right half stands still."""
    clip = torch.full((6, 3, 24, 64), still)
    for t in range(6):
        clip[t, :, :, 2 * t : 2 * t + 4] = 1.0
    return clip


def test_flicker_is_change_that_truth_does_not_have() -> None:
    truth = moving_bar()
    noisy = truth + 0.02 * torch.tensor([1.0, -1.0] * 3)[:, None, None, None]
    assert flicker_ratio(truth, truth) == pytest.approx(1) and temporal_error(truth, truth) == 0
    assert still_flicker(truth, truth) == 0 and still_flicker(noisy, truth) == pytest.approx(0.04, rel=1e-4)
    # Where truth stands still, all change is flicker; where it moves, noise adds to it or takes from it.
    assert flicker_ratio(noisy, truth) > 1.5 and temporal_error(noisy, truth) == pytest.approx(0.04, rel=1e-4)
    frozen = truth[:1].expand_as(truth)
    assert flicker_ratio(frozen, truth) == 0 and temporal_error(frozen, truth) > 0.03
    assert flicker_ratio(noisy, frozen) is None
    assert still_flicker(truth, torch.rand(6, 3, 24, 64)) is None


def test_colour_error_is_a_shift_of_the_mean_and_ssim_has_the_papers_window() -> None:
    truth = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    shift = torch.tensor([3.0, -3.0, 0.0])[:, None, None] / 255  # channels do not make up for each other
    torch.testing.assert_close(colour_error(truth + shift, truth) * 255, torch.full((2,), 2.0))
    torch.testing.assert_close(colour_error(truth.flip(-1), truth), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(structural_similarity(truth, truth), torch.ones(2))
    # Of two constant pictures only the term of the means is left: (2ab + c) / (a² + b² + c), c = 0.01².
    one, other = torch.full((1, 3, 32, 32), 0.4), torch.full((1, 3, 32, 32), 0.6)
    expected = (2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4)
    torch.testing.assert_close(structural_similarity(one, other), torch.tensor([expected]), atol=1e-3, rtol=0)


# --- what is upscaled -------------------------------------------------------------------------------------------------


def test_sources_are_one_drawing_at_two_sizes(studio: Studio, clip: SourceClip) -> None:
    reduced = torch.nn.functional.avg_pool2d(clip.truth, 2)
    assert clip.truth.shape[-2:] == clip.size == (160, 320) and clip.frames.shape[-2:] == (80, 160)
    assert float((reduced - clip.frames).abs().max()) <= 2 / 255
    assert clip.keyframes[0] == 0 and len(clip.keyframes) > 1
    assert sorted([*clip.measured, *clip.keyframes]) == list(range(len(clip.truth)))
    assert clip.characters.any() and clip.seconds == len(clip.truth) / 8
    assert clip.sheet(clip.truth).shape == (2 * len(clip.shown), 3, 160, 320)
    film = held_out_source(studio, 3, 1, 2, "film")
    assert film.latents is not None and film.latents.shape[2] == clip.timeline.latents
    assert torch.equal(film.truth, clip.truth) and not torch.equal(film.frames, clip.frames)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_frames_that_a_variant_was_given_do_not_flatter_it(recogniser: Recogniser, clip: SourceClip) -> None:
    timeline = Timeline.plan(8, 0.75, (0.0, 0.6))
    pixels = {name: getattr(clip, name)[: timeline.frames] for name in ("truth", "characters", "frames")}
    clip, score = replace(clip, timeline=timeline, **pixels), ClipFigures(recogniser)
    bicubic = torch.cat([*Interpolation("bicubic")(clip.frames, {}, clip.size, lambda share: None)])
    given = bicubic.clone()
    given[clip.keyframes] = clip.truth[clip.keyframes]
    plain, flattered, perfect = score(clip, bicubic), score(clip, given), score(clip, clip.truth)
    for name in ("psnr", "ssim", "identity", "identity_loss", "identity_large", "likeness", "psnr_characters"):
        assert float(plain[name]) == float(flattered[name]), name
    assert float(flattered["psnr_keyframes"]) == PSNR_CAP > float(plain["psnr_keyframes"])
    assert float(flattered["psnr_all"]) > float(plain["psnr_all"])
    assert float(flattered["temporal_error"]) != float(plain["temporal_error"])
    assert float(perfect["psnr"]) == PSNR_CAP and float(perfect["ssim"]) == pytest.approx(1)
    assert float(perfect["identity"]) > 0.9 and float(perfect["colour_error"]) == 0
    assert float(perfect["likeness"]) == pytest.approx(1) and 0.5 < float(plain["likeness"]) < 0.999
    share, loss = score.identity(clip, torch.full_like(clip.truth[:2], 0.5))
    assert share is not None and share < 0.6 and loss is not None and loss > float(perfect["identity_loss"]) + 1
    assert "lpips" not in plain
    rows = pooled([perfect, plain], [clip.keyframes] * 2)
    assert pooled([perfect], [clip.keyframes])["flicker"] == pytest.approx(1) and rows["jump_truth"] is not None
    distances = by_distance([flattered], [clip.keyframes])
    assert distances[0] == pytest.approx(PSNR_CAP) and distances[1] is not None and distances[1] < 40


def test_identity_of_large_frames_tells_what_small_ones_do_not_show(recogniser: Recogniser, clip: SourceClip) -> None:
    short = replace(clip, truth=clip.truth[:3], characters=clip.characters[:3])
    truth, shot = short.truth[short.measured], short.shot
    large, small = LargeFrames(recogniser), ClipFigures(recogniser).identity

    def identity(made: torch.Tensor) -> float:
        return float(large(short, made)[1])

    assert identity(truth) == 1
    falling = [identity(gaussian_blur2d(truth, (25, 25), (sigma, sigma))) for sigma in (0.5, 0.7, 1, 1.5, 2.5)]
    assert all(a > b + 0.01 for a, b in itertools.pairwise([1, *falling])), falling
    # Somebody else is 0 in the mean, however near one of them comes.
    others = [identity(frames) for frames in strangers(shot, short.measured)]
    assert sum(others) / len(others) == pytest.approx(0, abs=1e-5) and max(others) < 0.3
    # Coarse pixels have the true small frame: the reading of it is the same, and the large frame is not.
    coarse = F.interpolate(F.avg_pool2d(truth, 2), scale_factor=2)
    assert small(short, coarse) == pytest.approx(small(short, truth)) and 0.8 < identity(coarse) < 0.97
    # It is no PSNR by another name: all of it a pixel to the side is nearer than a blur that has the pixels nearer. And
    # what is right of a character does not make up for another accessory.
    aside, blurred = truth.roll(1, -1), gaussian_blur2d(truth, (25, 25), (1.5, 1.5))
    assert float(psnr(aside, truth).mean()) < float(psnr(blurred, truth).mean()) and identity(aside) > identity(blurred)
    other = [replace(a, look=replace(a.look, accessory=(a.look.accessory + 1) % 4)) for a in shot.actors]
    dressed = replace(shot, actors=tuple(other))
    assert identity(torch.cat([to_tensor(render(dressed, t / 8, 2)[0][None]) for t in short.measured])) < falling[-2]
    nobody = replace(short, characters=torch.zeros_like(short.characters))
    assert large(nobody, truth) == large(replace(short, characters=None), truth) == (None, None)


# --- variants ---------------------------------------------------------------------------------------------------------


def test_variants_mean_what_their_names_say(studio: Studio) -> None:
    own = studio.defaults.upscale.sampling
    parsed = {name: Variant.parse(name) for name in ("no_keyframes", "one_keyframe", "all_keyframes", "near:2")}
    assert [variant.given for variant in parsed.values()] == [0, 1, None, None]
    assert parsed["all_keyframes"].settings(own) == own and own.steps == 1
    assert parsed["near:2"].settings(own).near == 2
    assert Variant.parse("steps:8").settings(own).steps == 8
    free = Variant.parse("training_free:0.25").settings(own)
    assert (free.mode, free.strength) == ("training_free", 0.25)
    for name in (
        "",
        "nearest",
        "near",
        "near:",
        "near:-1",
        "steps:0",
        "training_free:0",
        "training_free:nan",
        "bicubic:2",
    ):
        with pytest.raises(InputError, match="variants"):
            Variant.parse(name)
    assert [variant.name for variant in chosen_variants(studio, None)] == list(evaluation.suites.SUITES[-1].variants)


def test_a_studio_without_a_model_of_its_own_is_told_so(studio: Studio, tmp_path: Path) -> None:
    data = yaml.safe_load(studio.file.read_text())
    del data["upscale"], data["defaults"]["upscale"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(data | {"models_dir": str(studio.file.parent)}))
    bare = load_studio(tmp_path / "bare.yaml")
    names = [variant.name for variant in chosen_variants(bare, None)]
    assert names == ["ground_truth", "bicubic", "lanczos", "corrected_bicubic", "training_free"]
    with pytest.raises(InputError, match="all_keyframes needs a studio with a model for super-resolution"):
        chosen_variants(bare, ["all_keyframes"])


def test_keyframes_reach_the_model_and_come_back(studio: Studio, clip: SourceClip) -> None:
    short = SourceClip(0, clip.shot, clip.timeline, clip.truth, clip.characters, clip.frames)
    made = {name: upscaler(studio, Variant.parse(name), 0)(short) for name in ("no_keyframes", "own_colour")}
    vae = studio.upscale_vae
    shown = vae.decode_image(vae.encode_image(clip.truth[clip.keyframes])).cpu().clamp(0, 1)
    torch.testing.assert_close(made["own_colour"][clip.keyframes], shown, atol=1e-4, rtol=0)
    assert float((made["no_keyframes"][clip.keyframes] - shown).abs().max()) > 1e-2
    assert made["no_keyframes"].shape == clip.truth.shape
    # What comes out of the random network gets the colours of the source, as far as clipping lets it.
    kept, own = (float(colour_error(made[name], clip.truth).mean()) for name in made)
    assert kept < own / 3


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_reports_and_goes_on_where_it_was_interrupted(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    options = {"stories": 2, "shots": 2, "seed": 3, "source": "clean", "recogniser": Recogniser(width=4).eval()}
    names = ["bicubic", "lanczos"]
    whole = evaluation.run("upscale", studio, variants=names, **options)

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 stories are in .*add --resume"):
        evaluation.run("upscale", studio, variants=names, out=tmp_path / "cut", progress=stop, **options)
    partial = json.loads((tmp_path / "cut" / "upscale_partial.json").read_text())
    assert partial["complete"] is False and partial["stories"] == 1 and len(partial["clips"]) == 2
    parts = sorted((tmp_path / "cut" / "upscale_parts").iterdir())
    assert len(parts) == 3
    resumed = evaluation.run("upscale", studio, variants=names, out=tmp_path / "cut", resume=True, **options)
    for result in (whole, resumed):
        for row in result["rows"]:
            del row["seconds"], row["peak"]
    assert same_result(whole, resumed)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"upscale.json", "upscale.png", "upscale_frames.png"}
    with Image.open(tmp_path / "cut" / "upscale_frames.png") as sheet:
        sheet.load()
    paired = whole["paired"]["bicubic"]["lanczos"]["psnr"]
    rows = {row["variant"]: row for row in whole["rows"]}
    assert paired["difference"] == pytest.approx(rows["lanczos"]["psnr"] - rows["bicubic"]["psnr"], abs=1e-5)
    assert paired["se"] < rows["bicubic"]["psnr_se"] and paired["clips"] == 2
    for row in resumed["rows"]:
        row |= {"seconds": None, "peak": None}
    evaluation.print_table(resumed)
    out = capsys.readouterr().out
    assert "2 held-out clips, seed 3" in out and "lanczos" in out and "of clean frames" in out


# --- the user's own clips ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video and a folder of pictures, the video a little larger than whole tokens."""
    folder = tmp_path_factory.mktemp("own")
    ground = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6), (70, 66), mode="bilinear")[0]
    with open_writer(folder / "b.mkv", 12, lossless=True) as writer:
        for n in range(20):
            writer.write(ground.roll(n, -1))
    for n in range(20):
        write_image(folder / "a" / f"{n:03d}.png", ground[:, :64, :64].roll(n, -2))
    (folder / "notes.txt").write_text("no clip")
    return folder


def lpips_file(folder: Path) -> Path:
    """Random weights by the names and in the shapes of the lpips package's AlexNet."""
    with torch.device("meta"):
        shapes = Lpips("alex").state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(tensor.shape, generator=generator) / 20 for name, tensor in shapes.items()}
    save_file(state, folder / "lpips.safetensors")
    return folder / "lpips.safetensors"


def test_own_clips_are_measured_and_nobody_is_recognised(
    studio: Studio, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["bicubic", "one_keyframe"]
    options = {"clips": own, "stories": 1, "lpips": str(lpips_file(tmp_path)), "variants": names}
    result = evaluation.run("upscale", studio, **options)
    assert result["set"] == own.name and result["clips"][0]["name"] == "a" and result["judges"]["lpips"]
    for row in result["rows"]:
        assert row["psnr"] > 5 and 0 < row["lpips"] and row["seconds"] > 0 and row["peak"] > 0, row["variant"]
        assert row["identity"] is None and row["likeness"] is None and row["psnr_characters"] is None
    evaluation.print_table(result)
    out = capsys.readouterr().out
    assert f"1 clips of {own.name}" in out and "nobody knows who is in them" in out and "LPIPS" in out


@pytest.mark.parametrize("source", ["mild", "strong", "film"])
def test_own_clips_are_degraded_as_the_worlds(studio: Studio, own: Path, source: Any) -> None:
    clips = find_clips(own)
    assert [clip.name for clip in clips] == ["a", "b.mkv"]
    clean, clip = (own_source(studio, 0, 1, clips, name) for name in ("clean", source))
    assert clip.truth.shape == (19, 3, 64, 64) and clip.frames.shape == (19, 3, 32, 32) and clip.rate == 12
    assert torch.equal(clip.truth, clean.truth) and not torch.equal(clip.frames, clean.frames)
    assert (clip.latents is not None) == (source == "film")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clips": "nowhere"}, "clips: must be a folder of clips"),
        ({"clips": ""}, "clips: must be a folder of clips"),
        ({"clips": "empty"}, "clips: must hold clips"),
        ({"clips": "short"}, "clips: must have at least 18 frames each"),
        ({"clips": "small"}, "clips: must be at least 64×64 pixels"),
        ({"clips": "mixed"}, "clips: must have frames of one size"),
        ({"clips": "broken"}, "clips: must be a picture"),
        ({"clips": "short", "stories": 2}, "stories: must be at most 1, the clips in"),
        ({"clips": "short", "shots": 2}, "shots: is for the stories of the pocket world"),
        ({"clips": "short", "out": "short"}, "out: must not be the folder of the clips"),
    ],
)
def test_folders_that_hold_no_clips_are_refused(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    for name, count, size in (("short", 3, 64), ("small", 18, 32), ("mixed", 18, 64)):
        for n in range(count):
            write_image(tmp_path / name / f"{n:02d}.png", torch.zeros(3, size, size + 2 * (name == "mixed" and n == 9)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=said):
        evaluation.run("upscale", studio, variants=["bicubic"], **given)

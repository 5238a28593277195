"""Training of super-resolution: Eq. 5 as a step, a folder of videos, recipe files, the pocket recipe."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from anchorshot.core.errors import InputError
from anchorshot.media.video import open_writer
from anchorshot.models.layouts.upscale import UpscaleSettings, plan_upscale
from anchorshot.models.studio import load_studio
from anchorshot.pocket.configs import UPSCALE, VAE
from anchorshot.pocket.recipes import upscale as pocket
from anchorshot.pocket.recipes.upscale_pixels import DrawnFrames, PixelDraws, UpscalePixelsRecipe, UpscaleStudent
from anchorshot.pocket.recipes.upscale_vae import DetailReconstruction, widened
from anchorshot.pocket.render import render_clip
from anchorshot.pocket.world import make_story
from anchorshot.sampling.super_resolution import super_resolve
from anchorshot.training.objectives import FlowMatching
from anchorshot.training.upscale.bridge import KeyframeChances, bridge_inputs, draw_times, predict
from anchorshot.training.upscale.clips import ClipDraws, find_videos
from anchorshot.training.upscale.recipe_file import read_recipe
from anchorshot.training.upscale.run import run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tiny_studio, tmp_path_factory):
    """Two videos, one with a caption and one that is too short, and a studio that can upscale."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sr")
    (folder / "videos" / "more").mkdir(parents=True)
    for name, frames in (("a", 6), ("more/b", 4)):
        clip, _ = render_clip(make_story(len(name), 1).shots[0], frames)
        with open_writer(folder / "videos" / f"{name}.mp4", 8) as writer:
            for frame in clip:
                writer.write(torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 255)
    (folder / "videos" / "a.txt").write_text("a square in the desert")
    studio = yaml.safe_load(tiny_studio.read_text())
    studio |= {"models_dir": str(tiny_studio.parent), "upscale": {"file": "video.safetensors"}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(studio))
    return folder


def recipe_of(folder: Path, **changes) -> Path:
    """The shipped recipe at a size that a test can train."""
    recipe = yaml.safe_load((ROOT / "recipes" / "sr_full.yaml").read_text())
    recipe["studio"] = "tiny.yaml"
    recipe["data"] |= {"size": [64, 32], "frames": 5, "scales": [2.5], "hold_out": 0.0, "keyframes": 2}
    recipe["degradations"] |= {"orders": 1, "chance": 0.2}
    recipe["training"] |= {"steps": 1, "batch": 1, "lr": 0.01, "warmup": 0, "precision": "no", "save_every": 1,
                           "log_every": 1}  # fmt: skip
    for section, values in changes.items():
        recipe[section] = recipe[section] | values if isinstance(values, dict) else values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_eq_5_is_the_flow_between_both_resolutions():
    high, low = torch.randn(2, 2, 4, 3, 2, 2)
    t = torch.tensor([1.0, 0.25])
    inputs = bridge_inputs(high, low, torch.zeros(2, 1, 8), [2, 1], [2], t)

    class Oracle:
        def forward_chunks(self, z, timestep, text, rope_index):
            self.z, self.timestep = z, timestep
            return low - high

    oracle = Oracle()
    sums = FlowMatching(predict).sums(oracle, inputs)
    assert float(sums["flow"][0]) == 0
    assert torch.equal(oracle.z[0, :, :2], low[0, :, :2]) and torch.equal(oracle.z[:, :, 2], high[:, :, 2])
    assert torch.allclose(oracle.z[1, :, :2], (0.75 * high + 0.25 * low)[1, :, :2])
    assert oracle.timestep.tolist() == [[1, 1, 0], [0.25, 0.25, 0]]
    worse = FlowMatching(predict).sums(Worse(low - high), inputs)
    assert float(worse["flow"][0] / worse["flow"][1]) == pytest.approx(1), "a keyframe's error does not count"


class Worse:
    def __init__(self, v):
        self.v = v

    def forward_chunks(self, z, timestep, text, rope_index):
        v = self.v + 1
        v[:, :, 2] += 100
        return v


def test_keyframes_and_times_are_drawn_as_told():
    rng = random.Random(0)
    drawn = [KeyframeChances(0.5, 0.3).draw([0, 3, 5], rng) for _ in range(400)]
    assert 0.45 < np.mean([d == [0, 3, 5] for d in drawn]) < 0.65 and 0.25 < np.mean([not d for d in drawn]) < 0.4
    assert any(d == [0, 5] for d in drawn)
    times = draw_times(400, 0.5, rng)
    assert 0.4 < np.mean([t == 1 for t in times]) < 0.6 and min(times) > 0


def test_clips_of_a_folder(folder):
    videos = find_videos(folder / "videos", 5, index=folder / "index.json")
    assert [(v.path.name, v.frames, v.caption) for v in videos] == [("a.mp4", 6, "a square in the desert")]
    assert (
        find_videos(folder / "videos", 5, index=folder / "index.json") == videos
        and len(json.loads((folder / "index.json").read_text())) == 2
    )
    draws = ClipDraws(videos, (48, 64), 5, [2.0], 2, 0, compression=8)
    first, again, later = draws.draw(3), draws.draw(3), draws.draw(4)
    assert torch.equal(first.high, again.high) and torch.equal(first.low, again.low) and first.plan == again.plan
    assert first.high.shape == (2, len(first.plan.source), 3, 48, 64) and first.low.shape[-2:] == (24, 32)
    assert set(first.pinned) <= set(first.plan.video.pinned)
    assert not torch.equal(first.times, later.times) or first.plan != later.plan
    with pytest.raises(InputError, match=r"data.folder: must hold videos of 100 frames"):
        find_videos(folder / "videos", 100)
    with pytest.raises(InputError, match="data.folder: must be a folder"):
        find_videos(folder / "nothing", 1)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_recipe_file_trains_and_writes_weights(folder, tmp_path, rank):
    run(recipe_of(folder, lora={"rank": rank}), tmp_path, device="cpu")
    losses = [entry["loss"] for entry in json.loads((tmp_path / "sr_full.log.json").read_text())]
    assert len(losses) == 1 and math.isfinite(losses[0])
    written = tmp_path / "weights" / "sr_full.safetensors"
    studio = yaml.safe_load((folder / "tiny.yaml").read_text())
    if rank:
        assert all(key.startswith("diffusion_model.blocks.") for key in load_file(written))
        studio["upscale"]["loras"] = [{"file": str(written)}]
    else:
        studio["upscale"]["file"] = str(written)
    (folder / "trained.yaml").write_text(yaml.safe_dump(studio))
    before, after = (load_studio(folder / name).upscale for name in ("tiny.yaml", "trained.yaml"))
    z, t, text = torch.randn(1, 16, 2, 4, 4), torch.ones(1, 2), torch.zeros(1, 4, 128)
    with torch.no_grad():
        assert (before.forward_chunks(z, t, text) - after.forward_chunks(z, t, text)).abs().max() > 1e-5


def test_the_shipped_recipe_says_what_the_paper_says():
    recipe = read_recipe(ROOT / "recipes" / "sr_full.yaml")
    assert (recipe.training.steps, recipe.training.lr, recipe.lora.rank) == (2000, 2e-5, 0)
    assert load_studio(recipe.studio).config.upscale.kind == "wan"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"frames": 6}}, "data.frames: must be 4n"),
        ({"degradations": {"jpeg": [90, 20]}}, "degradations.jpeg: must be two numbers"),
        ({"data": {"size": [80, 48]}}, "data.size: must divide by 16x16|data.size"),
        ({"chances": {"all": 2}}, "chances.all"),
        ({"studio": "mochi"}, "studio: must have a model that upscales"),
    ],
)
def test_refusals(folder, tmp_path, changes, message):
    if changes.get("data", {}).get("size"):
        changes = {"data": {"size": [16, 24]} | {"size": [80, 24]}}  # not whole tokens of 16 pixels
    with pytest.raises(InputError, match=message):
        run(recipe_of(folder, **changes), tmp_path, device="cpu")


def test_pocket_pairs_lie_as_planned():
    plan = pocket.PLANS[3]
    high, low, text = pocket.draw_pair(plan, 4, "train")
    assert high.shape == (sum(plan.video.chunks), 160, 320, 3) and low.shape == (len(high), 80, 160, 3) and text
    assert all(plan.frames % 4 == 1 and set(plan.video.pinned) for plan in pocket.PLANS)
    again = pocket.draw_pair(plan, 4, "train")
    assert np.array_equal(high, again[0]) and np.array_equal(low, again[1])


def random_pairs(height: int = 8) -> pocket.UpscaleLatents:
    """Latents of two clips of every plan."""
    generator = torch.Generator().manual_seed(0)

    def random_latents(*size: int) -> list[torch.Tensor]:
        shape = [(2, UPSCALE["in_channels"], plan.video.latents, *size) for plan in pocket.PLANS]
        return [torch.randn(s, generator=generator).half() for s in shape]

    high, low = random_latents(height, height), random_latents(height // 2, height // 2)
    return pocket.UpscaleLatents(high, low, [["a", "b"]] * len(pocket.PLANS))


def test_the_pocket_recipe_has_a_loss_in_windows_and_as_a_whole():
    latents = random_pairs()
    states = torch.zeros(1, 8, UPSCALE["text_dim"])
    recipe = pocket.UpscaleRecipe(latents, lambda texts: (states.expand(len(texts), -1, -1), None), batch_size=1)
    batches = [recipe.data.draw(step) for step in range(12)]
    windowed = next(b for b in batches if b.window is not None and b.pinned)
    whole = next(b for b in batches if b.window is None)
    inputs = recipe.inputs(windowed, 0)
    assert inputs.clean.shape == (4, 48, inputs.clean.shape[2], 4, 4) and len(whole.clips) == 1
    assert (inputs.t[:, :, windowed.pinned] == 0).all()
    model = recipe.build()
    sums = recipe.objective.sums(model, inputs)
    assert math.isfinite(float(sums["flow"][0].detach()))


def test_a_veiled_clip_is_blurred_and_has_its_keyframes():
    data, clips = pocket.PairDraws(random_pairs(), 0, 2, whole=0.5, veiled=1.0), torch.tensor([0, 1])
    batch = data.draw(3)
    assert batch.veil in pocket.VEILS and batch.pinned == pocket.PLANS[batch.plan].video.pinned
    high, low = pocket.windows_of(data.pairs, 1, clips, None)
    same, blurred = pocket.windows_of(data.pairs, 1, clips, None, veil=2)
    assert torch.equal(high, same) and blurred.std() < 0.7 * low.std()
    assert blurred.mean().item() == pytest.approx(low.mean().item(), abs=0.02)
    (top, left, height, width) = window = (2, 0, 4, 4)
    part = pocket.windows_of(data.pairs, 1, clips, window)[1]
    assert torch.equal(part, low[..., top : top + height, left : left + width])


def test_frames_are_drawn_as_they_were_encoded():
    drawn = DrawnFrames(3, 2, "test", seed=5)([1], slice(2, 4))
    large, _, _ = pocket.draw_pair(pocket.PLANS[3], pocket.pair_seed(3, 1, 5), "test")
    assert np.array_equal(drawn, large[None, 2:4])


def test_learning_from_pixels_takes_the_steps_of_the_sampler():
    torch.manual_seed(0)
    start = UpscaleStudent().state_dict()
    rng = np.random.default_rng(0)
    large = [rng.integers(0, 255, (2, sum(p.video.chunks), 64, 64, 3), np.uint8) for p in pocket.PLANS]
    frames = [lambda clips, part, x=x: x[clips, part] for x in large]
    silence, settings = torch.randn(1, 8, UPSCALE["text_dim"]), UpscaleSettings(steps=3, shift=2.0)
    data = PixelDraws(random_pairs(), frames, whole=0.0, made=1.0)
    recipe = UpscalePixelsRecipe(
        data, [silence.expand(2, -1, -1)] * 5, silence, start, [0.1] * 48, [0.9] * 48, settings
    )
    batch = next(b for b in map(data.draw, range(99)) if b.plan == 1 and b.pinned and len(b.clips) == 2)
    inputs, model = recipe.inputs(batch, 0), recipe.build()
    sums = recipe.objective.sums(model, inputs)
    loss, _ = recipe.objective.loss({name: total / max(float(weight), 1e-9) for name, (total, weight) in sums.items()})
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert grads["transformer.blocks.0.attn1.to_q.weight"].any() and grads["vae.decoder.conv_in.weight"].any()
    assert grads["vae.encoder.conv_in.weight"] is None
    bridge = inputs.bridge
    plan = replace(pocket.PLANS[1].video, pinned=batch.pinned)
    z = super_resolve(model.transformer, silence, plan, bridge.noise, bridge.clean[:, :, batch.pinned], settings)
    made = recipe.objective.upscaled(model, bridge)
    assert torch.allclose(made, z, atol=1e-4) and torch.equal(
        made[:, :, batch.pinned], bridge.clean[:, :, batch.pinned]
    )


def test_it_starts_from_the_video_model_and_changes_nothing():
    video = load_studio("pocket").video.state_dict()
    start = pocket.from_video_model(video)
    assert torch.equal(start["blocks.0.attn1.to_q.weight"], video["blocks.0.attn1.to_q.weight"].float())
    assert not start["proj_out.weight"].any()


def test_a_widened_vae_is_the_narrow_one():
    torch.manual_seed(0)
    narrow = AutoencoderKLWan(**(VAE | {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4}))
    wide = AutoencoderKLWan(**(VAE | {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 6}))
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    x = torch.rand(1, 3, 1, 16, 16)
    with torch.no_grad():
        few, many = (m.encode(x).latent_dist.mode() for m in (narrow, wide))
        assert torch.allclose(few, many[:, :4], atol=1e-5) and many[:, 4:].std() > 0
        assert torch.allclose(narrow.decode(few).sample, wide.decode(many).sample, atol=1e-5)
    same = widened(wide.state_dict(), wide)
    assert all(torch.equal(same[key], value) for key, value in wide.state_dict().items())


def test_detail_is_what_a_small_picture_does_not_tell():
    objective = DetailReconstruction((1.0, 0.0, 0.0), 0.0)
    x = torch.zeros(1, 3, 1, 8, 8)
    even, fine = torch.full_like(x, 0.1), torch.zeros_like(x)
    fine[..., ::2], fine[..., 1::2] = 0.1, -0.1
    found = [objective._errors(y, x)["detail"] for y in (even, fine)]
    assert float(found[0][0]) == pytest.approx(0, abs=1e-9) and float(found[1][0] / found[1][1]) == pytest.approx(0.01)


def test_plans_hold_every_frame():
    for plan in pocket.PLANS:
        assert plan == plan_upscale(plan.frames, plan.keyframes, plan.before, plan.after)

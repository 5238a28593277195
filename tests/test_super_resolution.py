"""Super-resolution: the layout, the bridge, the geometry of latents, limited attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_video import CHANNELS, HEIGHT, TEXT, WIDTH, noise, pixels, transformer, video_vae
from torch import Tensor

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.layouts.neighbourhood import Neighbourhood, attend_near
from anchorshot.models.layouts.upscale import UpscalePlan, plan_canvas, plan_upscale, upscale_latents
from anchorshot.pipelines.upscale.windows import plan_windows
from anchorshot.sampling.flow import Step
from anchorshot.sampling.super_resolution import UpscaleSettings, super_resolve, upscale_clip, upscale_sigmas

SIZE = (2 * HEIGHT, 2 * WIDTH)


@pytest.fixture(scope="module")
def model() -> DirectorWan:
    return DirectorWan.adopt(transformer())


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return video_vae()


def large(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def run(model: DirectorWan, vae: VideoVAE, frames: Tensor, keyframes: dict[int, Tensor], **options: object) -> Tensor:
    chosen = UpscaleSettings(**{"steps": 2} | options.pop("settings", {}))  # type: ignore[operator]
    return torch.cat(list(upscale_clip(model, vae, TEXT, frames, keyframes, SIZE, chosen, **options)))  # type: ignore


# --- layout --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_frame_lies_in_one_chunk(data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 60))
    keys = sorted(data.draw(st.sets(st.integers(0, frames - 1), max_size=4)))
    before, after = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    plan = plan_upscale(frames, keys, before, after)
    held = plan.video.chunks
    assert all(n % 4 == 1 for n in held) and sum(held) == plan.video.frames == len(plan.source)
    assert len(plan.lengths) == len({0, *keys}) and plan.frames == frames
    assert all(0 <= n - length < 4 for n, length in zip(held[before:], plan.lengths, strict=False))
    assert [plan.source[i] for i in plan.kept] == list(range(frames))
    # Every keyframe opens a chunk, whose first latent is pinned; so are those from outside, and nothing else.
    starts = [sum(plan.video.latent_chunks[:i]) for i in range(len(held))]
    frame_starts = [sum(held[:i]) for i in range(len(held))]
    at = {plan.source[f]: z for f, z in zip(frame_starts, starts, strict=True) if before <= starts.index(z)}
    inner = plan.video.pinned[before : len(plan.video.pinned) - after]
    assert [plan.source[frame_starts[starts.index(z)]] for z in inner] == keys and at
    assert len(plan.video.pinned) == len(keys) + before + after


def test_chunks_of_a_clip() -> None:
    plan = plan_upscale(12, [5, 6])
    assert plan.lengths == [5, 1, 6] and plan.video.latent_chunks == [2, 1, 3]
    assert plan.video.pinned == [2, 3] and plan.source[6:] == [6, 7, 8, 9, 10, 11, 11, 11, 11]
    assert plan_upscale(5).video.pinned == [] and plan_upscale(5, [0]).video.pinned == [0]
    assert plan.video.rope_index.tolist() == [0, 1, 1.25, 1.5, 2.5, 3.5]


@pytest.mark.parametrize("keys", [[3, 3], [4, 2], [-1], [12]])
def test_keyframes_must_rise_within_the_clip(keys: list[int]) -> None:
    with pytest.raises(InputError, match=r"keyframes: must rise within 0…11"):
        plan_upscale(12, keys)


# --- geometry ------------------------------------------------------------------------------------------------------


def test_canvases() -> None:
    wan22 = {"compression": 16, "patch": (2, 2)}
    assert plan_canvas((540, 960), (1080, 1920), **wan22)[1:] == ((1088, 1920), (544, 960), (2.0, 2.0))  # type: ignore
    canvas = plan_canvas((480, 832), (1080, 1872), **wan22)  # type: ignore[arg-type]
    assert canvas.high == (1088, 1888) and canvas.low == (496, 848) and canvas.scale == (2.25, 2.25)
    assert plan_canvas((80, 160), (160, 320), 8, (2, 2)) == ((160, 320), (160, 320), (80, 160), (2.0, 2.0))
    with pytest.raises(InputError, match=r"size: must be at least the clip's 832x480 \(got .640x480.\)"):
        plan_canvas((480, 832), (480, 640), 16, (2, 2))


@pytest.mark.parametrize("size", [(10, 14), (9, 11), (5, 7)])
def test_latents_are_interpolated_frame_by_frame_as_torch_does(size: tuple[int, int]) -> None:
    z = noise(2, 3, 4, 5, 7)
    for mode, options in (("bilinear", {"align_corners": False}), ("nearest-exact", {})):
        want = torch.nn.functional.interpolate(z.transpose(1, 2).flatten(0, 1), size, mode=mode, **options)  # type: ignore
        got = upscale_latents(z, size, mode.removesuffix("-exact"))  # type: ignore[arg-type]
        assert torch.allclose(got, want.unflatten(0, (2, 4)).transpose(1, 2), atol=1e-5)


def test_a_latent_pixel_means_the_same_place_at_any_factor() -> None:
    """A ramp of one unit a pixel stays that ramp, however much of the canvas is picture."""
    canvas = plan_canvas((480, 832), (1080, 1872), 16, (2, 2))
    rows = (torch.arange(canvas.low[0] // 16) + 0.5) * 16
    z = rows[:, None].expand(-1, canvas.low[1] // 16)[None, None, None]
    got = upscale_latents(z, (68, 118), scale=canvas.scale)[0, 0, 0, :, 0]
    want = (torch.arange(68) + 0.5) * 16 / 2.25
    assert torch.allclose(got[1:-1], want[1:-1], atol=1e-3)


# --- the bridge ----------------------------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """Knows both ends: v = z_LR − z_HR at any t (Eq. 5)."""

    def __init__(self, z_lr: Tensor, z_hr: Tensor, from_state: bool) -> None:
        super().__init__()
        self.z_hr = torch.nn.Parameter(z_hr, requires_grad=False)
        self.v, self.from_state = z_lr - z_hr, from_state

    def forward_chunks(self, z: Tensor, t: Tensor, text: Tensor, rope_index: Tensor | None = None) -> Tensor:
        level = t.amax()  # of the latents that move
        return (z - self.z_hr) / level if self.from_state else self.v.clone()


@pytest.mark.parametrize("from_state", [False, True])
@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (4, 1.0), (4, 5.0), (7, 0.5)])
def test_the_true_velocity_recovers_the_clip(steps: int, shift: float, from_state: bool) -> None:
    plan = plan_upscale(9, [0, 5]).video
    z_hr, z_lr = noise(1, 4, plan.latents, 4, 6), noise(1, 4, plan.latents, 4, 6, seed=1)
    oracle = Oracle(z_lr, z_hr, from_state)
    got = super_resolve(oracle, TEXT, plan, z_lr, z_hr[:, :, plan.pinned], UpscaleSettings(steps, shift))  # type: ignore
    assert (got - z_hr).abs().max() <= 1e-6
    assert torch.equal(got[:, :, plan.pinned], z_hr[:, :, plan.pinned])


def test_it_starts_from_the_clip_itself_without_noise(model: DirectorWan) -> None:
    plan = plan_upscale(9, [5]).video
    z_lr, clean = noise(1, CHANNELS, plan.latents, 4, 8), noise(1, CHANNELS, 1, 4, 8, seed=2)
    seen: list[Step] = []
    out = super_resolve(model, TEXT, plan, z_lr, clean, UpscaleSettings(steps=2), callback=seen.append)
    first = z_lr.clone()
    first[:, :, plan.pinned] = clean
    timestep = torch.ones(1, plan.latents)
    timestep[:, plan.pinned] = 0
    v = model.forward_chunks(first, timestep, TEXT, plan.rope_index)
    v[:, :, plan.pinned] = 0
    assert [s.t for s in seen] == [1.0, 0.5] and torch.allclose(seen[0].x, first - 0.5 * v, atol=1e-6)
    assert torch.equal(out[:, :, plan.pinned], clean)


def test_levels_of_the_training_free_mode() -> None:
    levels = upscale_sigmas(UpscaleSettings(5, 3.0, "training_free", strength=0.4))
    assert levels[0] == pytest.approx(0.4) and levels[-1] == 0 and bool((levels.diff() < 0).all())
    full = upscale_sigmas(UpscaleSettings(5, 3.0))
    assert torch.equal(upscale_sigmas(UpscaleSettings(5, 3.0, "training_free", strength=1.0)), full)


def test_training_free_changes_less_at_less_strength(model: DirectorWan) -> None:
    plan = plan_upscale(5, [0]).video
    z_lr, clean = noise(1, CHANNELS, 2, 4, 8), noise(1, CHANNELS, 1, 4, 8, seed=2)
    far = []
    for strength in (0.05, 0.5):
        options = UpscaleSettings(2, 1.0, "training_free", strength=strength)
        out = super_resolve(model, TEXT, plan, z_lr, clean, options)
        assert torch.equal(out, super_resolve(model, TEXT, plan, z_lr, clean, options))
        assert torch.equal(out[:, :, plan.pinned], clean)
        far.append(float((out - z_lr)[:, :, 1].pow(2).mean()))
    assert far[0] < far[1] / 4


# --- clips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [[], [0], [3], [0, 7]])
def test_a_clip_comes_back_whole_with_its_keyframes(model: DirectorWan, vae: VideoVAE, keys: list[int]) -> None:
    pictures = large(len(keys))
    out = run(model, vae, pixels(8), dict(zip(keys, pictures, strict=True)))
    assert out.shape == (8, 3, *SIZE)
    for k, picture in zip(keys, pictures, strict=True):
        assert torch.allclose(out[k], vae.decode_image(vae.encode_image(picture[None]))[0], atol=1e-5)


def test_keyframes_within_and_outside_shape_the_clip(model: DirectorWan, vae: VideoVAE) -> None:
    frames, (a, b) = pixels(5), large(2)
    plain, within, outside = (
        run(model, vae, frames, {}),
        run(model, vae, frames, {0: a}),
        run(model, vae, frames, {}, before=[a], after=[b]),
    )
    assert len(outside) == 5
    assert all(float((x - plain).abs()[1:].max()) > 1e-4 for x in (within, outside))


def test_odd_sizes(model: DirectorWan, vae: VideoVAE) -> None:
    frames = torch.rand(3, 3, 17, 30, generator=torch.Generator().manual_seed(0))
    (part,) = upscale_clip(model, vae, TEXT, frames, {}, (35, 61), UpscaleSettings(steps=1))
    assert part.shape == (3, 3, 35, 61)


def test_own_latents_take_the_place_of_frames(model: DirectorWan, vae: VideoVAE) -> None:
    frames, key = pixels(9), {5: large(1)[0]}
    plan: UpscalePlan = plan_upscale(9, [5])
    z = vae.encode_chunks(frames[None, plan.source], plan.video.chunks)
    want = run(model, vae, frames, key)
    assert torch.equal(run(model, vae, torch.zeros_like(frames), key, latents=z), want)
    with pytest.raises(InputError, match="latents: must be the 4 latent frames of this layout"):
        run(model, vae, frames, key, latents=z[:, :, :2])


# --- windows -------------------------------------------------------------------------------------------------------


def apart_in_windows(
    model: DirectorWan, vae: VideoVAE, frames: Tensor, keys: dict[int, Tensor], window: int, overlap: int
) -> list[Tensor]:
    """How far each frame that a window alone shows is from that of the whole shot; a list for each window."""
    run_near = lambda part, given, **more: run(model, vae, part, given, settings={"near": 1, "steps": 1}, **more)  # noqa: E731
    whole, found = run_near(frames, keys), []
    for own in plan_windows(len(frames), [], sorted(keys), window, overlap):
        outside = {"before": own.before, "after": own.after}
        more = {side: [] if key is None else [keys[key]] for side, key in outside.items()}
        made = run_near(frames[own.start : own.stop], {k - own.start: keys[k] for k in own.keyframes}, **more)
        found.append((made - whole[own.start : own.stop]).abs().amax((1, 2, 3))[: own.frames - own.tail])
    return found


def test_windows_are_those_of_the_whole_shot_between_keyframes(model: DirectorWan, vae: VideoVAE) -> None:
    """Attention ends at keyframes, the VAE's past begins there: not a bit of the blend shows."""
    frames, keys = pixels(40), dict(zip((0, 9, 20, 31), large(4), strict=True))
    first, *others = apart_in_windows(model, vae, frames, keys, 36, 12)
    assert others and all(apart.max() < 1e-5 for apart in (first, *others))


def test_what_follows_a_window_does_not_reach_what_it_shows(model: DirectorWan, vae: VideoVAE) -> None:
    """What its network lacks at the end lies in its tail, which the next window shows."""
    first, _ = apart_in_windows(model, vae, pixels(57), {}, 45, 21)
    assert first.max() < 0.005


# --- limited attention ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_near_attention_is_masked_attention(data: st.DataObject) -> None:
    frames, tokens = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    keyframes = tuple(sorted(data.draw(st.sets(st.integers(0, frames - 1), max_size=3))))
    near = Neighbourhood(frames, data.draw(st.integers(0, 3)), keyframes)
    q, k, v = (noise(2, frames * tokens, 2, 4, seed=i) for i in range(3))

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    mask = torch.zeros(frames, frames, dtype=torch.bool)
    for i in range(frames):
        mask[i, near.visible(i)] = True
    assert near.pairs == int(mask.sum())
    mask = mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    assert torch.allclose(attend_near(attention, q, k, v, near), attention(q, k, v, mask), atol=1e-5)


def test_a_wide_neighbourhood_is_full_attention(model: DirectorWan) -> None:
    z, t, u = noise(1, CHANNELS, 4, 4, 8), torch.tensor([[0.0, 0.5, 0.5, 0.5]]), torch.arange(4.0)
    full = model.forward_chunks(z, t, TEXT, u)
    assert torch.allclose(model.forward_chunks(z, t, TEXT, u, Neighbourhood(4, 3)), full, atol=1e-5)
    limited = model.forward_chunks(z, t, TEXT, u, Neighbourhood(4, 1))
    assert (limited - full).abs().max() > 1e-4


def test_what_is_not_seen_changes_nothing(model: DirectorWan) -> None:
    """Nor does what lies behind a keyframe: two blocks reach two latents far, but not past it."""
    t, u, z = torch.full((1, 8), 0.5), torch.arange(8.0), noise(1, CHANNELS, 8, 4, 8)
    for keyframes, at, reached in (((), 7, [5, 6, 7]), ((4,), 7, [5, 6, 7]), ((6,), 7, [7]), ((4,), 4, range(8))):
        near, changed = Neighbourhood(8, 1, keyframes), z.clone()
        changed[:, :, at] += 1
        a, b = (model.forward_chunks(x, t, TEXT, u, near) for x in (z, changed))
        assert [i for i in range(8) if (a - b)[:, :, i].abs().max() > 1e-6] == list(reached), (keyframes, at)


def test_who_sees_whom() -> None:
    near = Neighbourhood(12, 1, (2, 9))
    assert [near.visible(i) for i in (0, 2, 5, 9, 11)] == [[0, 1, 2], [2], [2, 4, 5, 6, 9], [9], [9, 10, 11]]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "magic"}, "mode: must be bridge or training_free"),
        ({"strength": 0.0}, "strength: must lie above 0"),
        ({"start_noise": -1.0}, "start_noise: must be a number from 0 on"),
        ({"near": -1}, "near: must be a whole number from 0 on"),
    ],
)
def test_settings_out_of_range(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        UpscaleSettings(**options)  # type: ignore[arg-type]


def test_faulty_input(model: DirectorWan, vae: VideoVAE) -> None:
    frames = pixels(5)
    with pytest.raises(InputError, match=r"keyframes: must be \[3, 32, 64\]"):
        run(model, vae, frames, {0: pixels(1)[0]})
    with pytest.raises(InputError, match="frames: must have the shape"):
        run(model, vae, frames[0], {})
    with pytest.raises(InputError, match=r"z_lr: must have the shape \[B, C, 2, h, w\]"):
        super_resolve(model, TEXT, plan_upscale(5).video, noise(1, CHANNELS, 3, 4, 8), noise(1, CHANNELS, 0, 4, 8))

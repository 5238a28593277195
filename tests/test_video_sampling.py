"""Video sampling on tiny real networks with random weights: keyframes are kept, land where asked, shape the rest."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_video import CHANNELS, EMPTY, FPS, HEIGHT, TEXT, WIDTH, noise, pixels, plan, seed, transformer, video_vae

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.layouts.chunks import mc_index
from anchorshot.sampling.flow import Step
from anchorshot.sampling.video import (
    VideoSettings,
    decode_video,
    encode_keyframes,
    extend_video,
    plan_extension,
    plan_video,
    sample_video,
)
from anchorshot.story.stages import tile_captions
from anchorshot.story.timeline import Timeline

KINDS = {
    "none": [],
    "first": [0.0],
    "last": [2.0],
    "middle": [1.0],
    "first and last": [0.0, 2.0],
    "several": [0.0, 0.6, 1.3],
    "neighbours": [1.0, 1.125],
}


@pytest.fixture(scope="module")
def model() -> DirectorWan:
    return DirectorWan.adopt(transformer())


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return video_vae()


# --- keyframes at any times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", KINDS.values(), ids=KINDS.keys())
def test_keyframes_are_kept_and_land_on_their_frames(model: DirectorWan, vae: VideoVAE, times: list[float]) -> None:
    timeline, images = plan(times), pixels(len(times))
    layout = plan_video(timeline)
    z = sample_video(
        model, vae, TEXT, timeline, images, settings=VideoSettings(steps=3), generator=seed(), size=(HEIGHT, WIDTH)
    )
    assert z.shape == (1, CHANNELS, timeline.latents, 2, 4) and z.dtype == torch.float32
    frames = torch.cat(list(decode_video(vae, z, layout)), dim=1)
    assert frames.shape[1] == timeline.frames
    if times:
        given = encode_keyframes(vae, images[None], layout)
        assert torch.equal(z[:, :, timeline.keyframe_latents], given)
        assert torch.allclose(given[0].transpose(0, 1), vae.encode_image(images), atol=1e-5)
        rebuilt = vae.decode_image(vae.encode_image(images))
        assert torch.allclose(frames[0, timeline.keyframe_frames], rebuilt, atol=1e-4)


@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_timeline_keeps_its_keyframes(model: DirectorWan, vae: VideoVAE, data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 20))
    wishes = sorted(data.draw(st.sets(st.integers(0, frames - 1), min_size=1, max_size=3)))
    timeline = Timeline.plan(FPS, frames / FPS, [f / FPS for f in wishes])
    images, layout = pixels(len(wishes)), plan_video(timeline)
    z = sample_video(model, vae, TEXT, timeline, images, settings=VideoSettings(steps=1), generator=seed())
    out = torch.cat(list(decode_video(vae, z, layout)), dim=1)
    assert out.shape[1] == timeline.frames
    rebuilt = vae.decode_image(vae.encode_image(images))
    assert torch.allclose(out[0, timeline.keyframe_frames], rebuilt, atol=1e-4)


def test_one_keyframe_per_shot_with_a_tiled_caption(model: DirectorWan, vae: VideoVAE) -> None:
    caption = tile_captions(["wide shot, <Mira> waves", "close-up,\n <Pip> stands. "])
    assert caption == "wide shot, <Mira> waves. close-up, <Pip> stands."
    shots = [Timeline(FPS, [n]) for n in (9, 5, 13)]
    starts = [0, 9, 14]
    film = Timeline.plan(FPS, 27 / FPS, [s / FPS for s in starts])
    assert film.chunks == [s.frames for s in shots] and film.keyframe_frames == starts
    images = pixels(3)
    z = sample_video(model, vae, TEXT, film, images, settings=VideoSettings(steps=2), generator=seed())
    pieces = list(decode_video(vae, z, plan_video(film)))
    assert [p.shape[1] for p in pieces] == [9, 5, 13]
    rebuilt = vae.decode_image(vae.encode_image(images))
    for piece, image in zip(pieces, rebuilt, strict=True):
        assert torch.allclose(piece[0, 0], image, atol=1e-4)


def test_keyframes_shape_the_frames_between(model: DirectorWan, vae: VideoVAE) -> None:
    timeline = plan([0.0, 1.0])
    a, b = (
        sample_video(model, vae, TEXT, timeline, images, settings=VideoSettings(steps=2), generator=seed())
        for images in (pixels(2), torch.cat([pixels(1), pixels(1, seed=9)]))
    )
    between = [i for i in range(timeline.latents) if i not in timeline.keyframe_latents]
    assert torch.equal(a[:, :, 0], b[:, :, 0]) and (a - b)[:, :, between].abs().max() > 1e-3


def test_lists_and_batches_of_images(model: DirectorWan, vae: VideoVAE) -> None:
    timeline, images = plan([0.0, 1.0]), pixels(2)
    one = sample_video(model, vae, TEXT, timeline, images, settings=VideoSettings(steps=2), generator=seed())
    assert torch.equal(
        sample_video(model, vae, TEXT, timeline, list(images), settings=VideoSettings(steps=2), generator=seed()), one
    )
    other = pixels(2, seed=4)
    texts = torch.cat([TEXT, EMPTY])
    both = sample_video(
        model,
        vae,
        texts,
        timeline,
        torch.stack([images, other]),
        settings=VideoSettings(steps=2),
        generator=[seed(3), seed(8)],
    )
    second = sample_video(model, vae, EMPTY, timeline, other, settings=VideoSettings(steps=2), generator=seed(8))
    assert torch.allclose(both, torch.cat([one, second]), atol=1e-4)


# --- the ablation's variants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["latent_replacement", "replication"])
def test_variants_keep_their_latents_in_one_chunk(model: DirectorWan, vae: VideoVAE, method: str) -> None:
    timeline, images = plan([0.0, 1.0, 2.0]), pixels(3)
    assert timeline.keyframe_frames == [0, 9, 18] and timeline.frames == 19
    layout = plan_video(timeline, method)  # type: ignore[arg-type]
    assert layout.latent_chunks == [6] and layout.pinned == [0, 3, 5]
    assert layout.rope_index.equal(mc_index([6])) and layout.rope_index.tolist() == [0, 1, 2, 3, 4, 5]
    z = sample_video(
        model, vae, TEXT, timeline, images, settings=VideoSettings(method=method, steps=2), generator=seed()
    )  # type: ignore
    given = encode_keyframes(vae, images[None], layout)
    assert torch.equal(z[:, :, layout.pinned], given)
    alone = vae.encode_image(images)
    assert torch.allclose(given[0, :, 0], alone[0], atol=1e-5)
    if method == "latent_replacement":
        assert torch.allclose(given[0].transpose(0, 1), alone, atol=1e-5)
    else:
        for k in (1, 2):
            still = vae.encode_chunks(images[k].expand(1, 5, 3, HEIGHT, WIDTH), [5])
            assert torch.allclose(given[:, :, k], still[:, :, 1], atol=1e-5)
            assert not torch.allclose(given[0, :, k], alone[k], atol=1e-2)
    assert torch.cat(list(decode_video(vae, z, layout)), dim=1).shape[1] == 19


@given(frame=st.integers(0, 400))
def test_a_replaced_latent_holds_the_keyframe_s_frame(frame: int) -> None:
    # Chunks put keyframe 1 on a frame ≡ 1 (mod 4) and keyframe 0 on frame 0.
    timeline = Timeline.plan(FPS, (frame + 10) / FPS, [frame / FPS])
    (latent,), (landed,) = plan_video(timeline, "latent_replacement").pinned, timeline.keyframe_frames
    assert landed in (range(1) if latent == 0 else range(4 * latent - 3, 4 * latent + 1))


def test_keyframes_that_would_share_a_latent_are_refused() -> None:
    timeline = Timeline.plan(FPS, 2.0, [5 / FPS, 6 / FPS])
    assert plan_video(timeline).pinned == [2, 3]
    with pytest.raises(InputError, match=r"keyframes: must not share a latent with replication .*\[5, 6\]"):
        plan_video(timeline, "replication")


# --- extension -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[], [1.0], [0.0], [0.0, 1.0]])
def test_extension_keeps_the_whole_clip(model: DirectorWan, vae: VideoVAE, times: list[float]) -> None:
    clip, timeline, images = pixels(11), plan(times, 1.5), pixels(len(times), seed=2)
    layout = plan_extension(11, timeline)
    z = extend_video(model, vae, TEXT, clip, timeline, images, settings=VideoSettings(steps=2), generator=seed())
    context = vae.encode_chunks(clip[None, -9:], [9])
    assert torch.equal(z[:, :, :3], context) and z.shape[2] == layout.latents
    new = torch.cat(list(decode_video(vae, z, layout)), dim=1)
    new_shot = times[:1] == [0.0]
    assert new.shape[1] == layout.frames == timeline.frames - (not new_shot)
    rebuilt = vae.decode_image(vae.encode_image(images)) if times else []
    for frame, image in zip(timeline.keyframe_frames, rebuilt, strict=True):
        assert torch.allclose(new[0, frame if new_shot else frame - 1], image, atol=1e-4)
    if not times:  # the causal chunk simply goes on
        assert layout.latent_chunks == [3 + timeline.latents - 1]
        assert torch.allclose(new, next(vae.decode_chunks(z, layout.latent_chunks))[:, 9:], atol=1e-6)


@given(clip=st.integers(1, 60), context=st.none() | st.integers(1, 60), data=st.data())
def test_extension_on_any_grid(clip: int, context: int | None, data: st.DataObject) -> None:
    frames = data.draw(st.integers(4, 40))
    wishes = sorted(data.draw(st.sets(st.integers(0, frames - 1), max_size=3)))
    timeline = Timeline.plan(FPS, frames / FPS, [f / FPS for f in wishes])
    layout = plan_extension(clip, timeline, context)
    new_shot = timeline.keyframe_frames[:1] == [0]
    assert layout.first % 4 == 1 and layout.first <= min(clip, context or clip) < layout.first + 4
    assert sum(4 * (n - 1) + 1 for n in layout.latent_chunks) == layout.first + layout.frames
    assert layout.frames == timeline.frames - (not new_shot)
    context_latents = (layout.first - 1) // 4 + 1
    assert layout.pinned[:context_latents] == list(range(context_latents))
    starts = {sum(layout.latent_chunks[:k]) for k in range(len(layout.latent_chunks))}
    assert set(layout.pinned[context_latents:]) == starts - {0}  # every keyframe opens a chunk


def test_extension_looks_back_only_as_far_as_asked(model: DirectorWan, vae: VideoVAE) -> None:
    clip, timeline = pixels(13), plan([], 1.0)
    z = extend_video(
        model, vae, TEXT, clip, timeline, context_frames=6, settings=VideoSettings(steps=1), generator=seed()
    )
    assert torch.equal(z[:, :, :2], vae.encode_chunks(clip[None, -5:], [5]))
    changed = torch.cat([pixels(8, seed=9), clip[-5:]])
    again = extend_video(
        model, vae, TEXT, changed, timeline, context_frames=6, settings=VideoSettings(steps=1), generator=seed()
    )
    assert torch.equal(z, again)


def test_a_new_shot_does_not_decode_the_clip(
    model: DirectorWan, vae: VideoVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = plan([0.0], 1.0)
    z = extend_video(
        model, vae, TEXT, pixels(13), timeline, pixels(1), settings=VideoSettings(steps=1), generator=seed()
    )
    decoded: list[int] = []
    stock = vae.model.decoder.forward

    def counted(latents: torch.Tensor, *args: object, **options: object) -> object:
        decoded.append(latents.shape[2])
        return stock(latents, *args, **options)

    monkeypatch.setattr(vae.model.decoder, "forward", counted)
    assert sum(f.shape[1] for f in decode_video(vae, z, plan_extension(13, timeline))) == timeline.frames
    assert sum(decoded) == timeline.latents


# --- seeds, callbacks ----------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_video(model: DirectorWan, vae: VideoVAE) -> None:
    timeline, images = plan([0.0, 1.0]), pixels(2)
    a, b, c = (
        sample_video(model, vae, TEXT, timeline, images, settings=VideoSettings(steps=2), generator=seed(s))
        for s in (3, 3, 4)
    )
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=1e-2)


def test_interleaved_runs_do_not_mix(model: DirectorWan, vae: VideoVAE) -> None:
    """Everything a step needs comes with the call: another video sampled between two steps changes nothing."""
    long, short = plan([0.0, 1.0]), plan([0.5], 1.0)
    want = sample_video(model, vae, TEXT, long, pixels(2), settings=VideoSettings(steps=3), generator=seed())

    def meanwhile(step: Step) -> None:
        sample_video(model, vae, EMPTY, short, pixels(1, seed=7), settings=VideoSettings(steps=1), generator=seed(9))

    got = sample_video(
        model, vae, TEXT, long, pixels(2), settings=VideoSettings(steps=3), generator=seed(), callback=meanwhile
    )
    assert torch.equal(got, want)


def test_callback_previews_and_cancels(model: DirectorWan, vae: VideoVAE) -> None:
    timeline, images = plan([0.0, 1.0]), pixels(2)
    steps: list[Step] = []

    def watch(step: Step) -> None:
        given = encode_keyframes(vae, images[None], plan_video(timeline))
        for state in (step.x, step.x0):  # pinned after every step and in every preview
            assert torch.equal(state[:, :, timeline.keyframe_latents], given)
        steps.append(step)
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_video(
            model, vae, TEXT, timeline, images, settings=VideoSettings(steps=5), generator=seed(), callback=watch
        )
    assert [s.index for s in steps] == [0, 1] and steps[0].steps == 5
    sample_video(
        model, vae, TEXT, timeline, images, settings=VideoSettings(steps=1), generator=seed()
    )  # nothing was left half done


# --- errors --------------------------------------------------------------------------------------------------------


def test_faulty_input_names_field_rule_and_fix(model: DirectorWan, vae: VideoVAE) -> None:
    timeline = plan([0.0, 1.0])

    def refused(match: str, *args: object, **options: object) -> None:
        with pytest.raises(InputError, match=match):
            settings = VideoSettings(**{"steps": 1} | options.pop("settings", {}))  # type: ignore[operator]
            sample_video(model, vae, TEXT, *args, settings=settings, **options)  # type: ignore[arg-type]

    refused(r"keyframes: must be 2 images \(got 1\)", timeline, pixels(1))
    refused(r"keyframes: must be 2 images \(got 0\)", timeline)
    refused(r"keyframes: must all have one size", timeline, [pixels(1)[0], torch.zeros(3, 32, 32)])
    refused(r"keyframes: must be images", timeline, torch.zeros(3, 16, 32))
    refused(r"keyframes: must have the size 64x32 \(got .32x16.\)", timeline, pixels(2), size=(32, 64))
    refused(r"size: is needed for a video without keyframes", plan([]))
    refused(r"size.height: must divide by 16 \(got 24\)", plan([]), size=(24, 32))
    refused(r"size.width: must divide by 16 \(got 40\); use 32", plan([0.0]), torch.zeros(1, 3, 16, 40))
    refused(
        r"method: must be one of multi_chunk, latent_replacement, replication",
        timeline,
        pixels(2),
        settings={"method": "mix"},
    )
    refused(
        r"negative: must have 1 or 3 rows", timeline, pixels(3, 2), negative=noise(2, 7, 16), settings={"guidance": 2.0}
    )
    wide = DirectorWan(**{**dict(model.config), "in_channels": 36})
    with pytest.raises(InputError, match=r"model: must take and give the VAE's 6 channels .*36 in, 6 out"):
        sample_video(wide, vae, TEXT, timeline, pixels(2))
    with pytest.raises(InputError, match="clip: must have the shape"):
        extend_video(model, vae, TEXT, torch.zeros(3, 16, 32), timeline)
    with pytest.raises(InputError, match="clip: must have at least one frame"):
        extend_video(model, vae, TEXT, pixels(0), timeline)
    with pytest.raises(InputError, match="timeline: must add frames"):
        plan_extension(9, Timeline(FPS, [1]))
    with pytest.raises(InputError, match="captions: every shot needs a caption"):
        tile_captions(["a", "  "])


@pytest.mark.cuda
def test_cuda_bf16_agrees_with_cpu(vae: VideoVAE) -> None:
    timeline, images = plan([0.0, 1.0]), pixels(2)
    want = sample_video(
        DirectorWan.adopt(transformer()), vae, TEXT, timeline, images, settings=VideoSettings(steps=2), generator=seed()
    )
    gpu = DirectorWan.adopt(transformer()).to("cuda", torch.bfloat16)
    gpu.compile_repeated_blocks(fullgraph=True)
    got = sample_video(gpu, vae, TEXT, timeline, images, settings=VideoSettings(steps=2), generator=seed())
    assert got.device.type == "cuda" and got.dtype == torch.float32
    assert torch.equal(got[:, :, timeline.keyframe_latents].cpu(), want[:, :, timeline.keyframe_latents])
    assert torch.nn.functional.cosine_similarity(got.flatten().cpu(), want.flatten(), dim=0) > 0.99

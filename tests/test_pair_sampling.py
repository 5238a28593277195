"""STAGE's pair sampler: the published arithmetic, given frames, memory, guidance (random tiny weights)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor

from anchorshot.core.errors import InputError
from anchorshot.memory.memory_pack import MemoryPack
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.encoders.text_cond import TextCond
from anchorshot.models.layouts.start_end import Segment, pair_ids, patchify
from anchorshot.sampling.flow import euler, flow_sigmas
from anchorshot.sampling.noise import seeded
from anchorshot.sampling.pairs import PairSettings, memory_segments, pair_noise, pair_sigmas, rescaled, sample_pair
from tests.tiny_weights import gap, strong

CONFIG = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
SHAPE, GRID = (16, 8, 12), (4, 6)


@pytest.fixture(scope="module")
def stock() -> QwenImageTransformer2DModel:
    return strong(QwenImageTransformer2DModel(**CONFIG))


@pytest.fixture(scope="module")
def model() -> PairQwen:
    return PairQwen.adopt(strong(QwenImageTransformer2DModel(**CONFIG)))


def text(length: int = 7, seed: int = 1, rows: int = 1) -> TextCond:
    tokens = torch.randn(rows, length, 24, generator=seeded(seed))
    return TextCond(tokens, torch.ones(rows, length, dtype=torch.bool))


def frames(count: int, seed: int = 5) -> list[Tensor]:
    g = seeded(seed)
    return [torch.randn(1, *SHAPE, generator=g) for _ in range(count)]


def remembered(count: int):
    pack = MemoryPack(packing="references")
    return memory_segments(pack.pack(frames(count), GRID), pack, GRID)


def published(stock: QwenImageTransformer2DModel, references: list[Tensor], steps: int, guidance: float, seed: int):
    """The published inference on stock classes: one double-height image, references behind it, rescaled guidance."""
    generator = torch.Generator("cpu").manual_seed(seed)
    channels, height, width = SHAPE

    def packed(latent: Tensor) -> Tensor:
        return QwenImagePipeline._pack_latents(latent, 1, channels, height, width)

    first = packed(torch.randn(1, channels, 1, height, width, generator=generator))
    last = packed(torch.randn(1, channels, 1, height, width, generator=generator))
    x = torch.cat([first, last], 1)
    tokens = x.shape[1]
    shapes = [[(1, height, width // 2), *[(1, height // 2, width // 2)] * len(references)]]
    control = [packed(latent) for latent in references]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.2, shift_terminal=0.02)
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1.0 / steps, steps))
    for t in scheduler.timesteps:
        joined = torch.cat([x, *control], 1)

        def velocity(cond: TextCond, joined: Tensor = joined, t: Tensor = t) -> Tensor:
            out = stock(joined, cond.tokens, None, (t / 1000).expand(1), shapes, return_dict=False)[0]
            return out[:, :tokens]

        v = velocity(text())
        if guidance > 1:
            against = velocity(text(4, seed=2))
            combined = against + guidance * (v - against)
            v = combined * (torch.norm(v, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True))
        x = scheduler.step(v, t, x, return_dict=False)[0]
    half = x.shape[1] // 2
    return [
        QwenImagePipeline._unpack_latents(part, 8 * height, 8 * width, 8)[:, :, 0]
        for part in (x[:, :half], x[:, half:])
    ]


@pytest.mark.parametrize(("count", "guidance"), [(0, 1.0), (0, 4.0), (3, 4.0)])
@torch.no_grad()
def test_the_published_arithmetic_is_reproduced(stock, model, count: int, guidance: float) -> None:
    settings = PairSettings(steps=6, shift=2.2, last_level=0.02, guidance=guidance)
    ours = sample_pair(model, text(), SHAPE, remembered(count), settings, seeded(11), negative=text(4, seed=2))
    for mine, theirs in zip(ours, published(stock, frames(count), 6, guidance, 11), strict=True):
        assert gap(mine, theirs) < 1e-5


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_the_published_schedule(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.2, shift_terminal=0.02)
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1.0 / steps, steps))
    ours = pair_sigmas(steps, 2.2, 0.02)
    torch.testing.assert_close(ours, scheduler.sigmas, atol=1e-6, rtol=0)
    assert ours[-2].item() == pytest.approx(0.02)
    torch.testing.assert_close(pair_sigmas(steps, 2.2), flow_sigmas(steps, 2.2))
    assert pair_sigmas(1, 2.2, 0.02).tolist() == [1.0, 0.0]


def test_noise_of_the_start_frame_is_drawn_first() -> None:
    start, end = pair_noise(SHAPE, 1, seeded(3))
    g = seeded(3)
    for mine in (start, end):
        latent = torch.randn(1, *SHAPE, generator=g)
        torch.testing.assert_close(mine, QwenImagePipeline._pack_latents(latent[:, :, None], 1, *SHAPE))


@pytest.mark.parametrize("layout", ["stacked", "sequence"])
@pytest.mark.parametrize("which", ["start", "end"])
def test_a_given_frame_stays_to_the_last_bit_and_shapes_the_other(model, layout: str, which: str) -> None:
    settings = PairSettings(steps=3, guidance=3.0, layout=layout)
    own, other = (frames(1, seed)[0] for seed in (7, 8))

    def pair(given: Tensor) -> tuple[Tensor, Tensor]:
        kwargs = {which: given}
        return sample_pair(model, text(), SHAPE, remembered(2), settings, seeded(1), negative=text(4), **kwargs)

    kept, made = (0, 1) if which == "start" else (1, 0)
    first = pair(own)
    assert torch.equal(first[kept], own)
    assert gap(pair(other)[made], first[made]) > 1e-3, "the frame that is made does not look at the given one"


def test_both_given_ask_the_model_for_nothing() -> None:
    class Idle:
        device, dtype = torch.device("cpu"), torch.float32

    start, end = frames(2)
    made = sample_pair(Idle(), text(), SHAPE, start=start, end=end)
    assert torch.equal(made[0], start) and torch.equal(made[1], end)


def test_frames_made_apart_do_not_see_each_other(model) -> None:
    """Without dual encoding each frame is what it is when the other one's place is empty."""
    together = sample_pair(model, text(), SHAPE, settings=PairSettings(steps=3), generator=seeded(1))
    apart = sample_pair(model, text(), SHAPE, settings=PairSettings(steps=3, joint=False), generator=seeded(1))
    assert all(gap(a, b) > 1e-3 for a, b in zip(apart, together, strict=True))
    noise = pair_noise(SHAPE, 1, seeded(1))
    for k, ids in enumerate(pair_ids(GRID)):

        @torch.no_grad()
        def velocity(x: Tensor, t: float, ids: Tensor = ids) -> Tensor:
            return model.forward_segments([Segment(x, ids)], text().tokens, None, torch.tensor([t]))[0]

        torch.testing.assert_close(patchify(apart[k]), euler(velocity, noise[k], flow_sigmas(3)))


@pytest.mark.parametrize("pack", [MemoryPack(), MemoryPack(aspect="fit", area=0.5), MemoryPack("references", True)])
def test_every_remembered_frame_counts(model, pack: MemoryPack) -> None:
    settings = PairSettings(steps=2)
    count = len(pack.tiles(99, GRID))
    assert count >= 2

    def pair(latents: list[Tensor]) -> Tensor:
        memory = memory_segments(pack.pack(latents, GRID), pack, GRID)
        assert sum(segment.tokens.shape[1] for segment in memory) == pack.tokens(count, GRID)
        return torch.cat(sample_pair(model, text(), SHAPE, memory, settings, seeded(1)))

    whole = pair(frames(count))
    for k in range(count):
        other = frames(count)
        other[k] = frames(1, seed=99)[0]
        assert gap(pair(other), whole) > 1e-4, f"frame {k} has no effect"


@pytest.mark.parametrize("against", ["text", "memory", "both"])
def test_what_guidance_leads_away_from(model, against: str) -> None:
    """The branch lacks the text, the memory or both; a given frame is in it always."""
    settings = PairSettings(steps=2, guidance=2.0, rescale=False, guidance_against=against)
    memory, (given,), blank, (noise, _) = remembered(2), frames(1, 7), text(4, seed=2), pair_noise(SHAPE, 1, seeded(1))
    ids = pair_ids(GRID)
    other, recalled = {"text": (blank, memory), "memory": (text(), []), "both": (blank, [])}[against]

    @torch.no_grad()
    def velocity(x: Tensor, t: float) -> Tensor:
        pair = [Segment(x, ids[0]), Segment(patchify(given), ids[1], clean=True)]
        times = torch.tensor([t])
        v = model.forward_segments([*pair, *memory], text().tokens, None, times)[0]
        empty = model.forward_segments([*pair, *recalled], other.tokens, None, times)[0]
        return empty + 2 * (v - empty)

    made = sample_pair(
        model, text(), SHAPE, memory, settings, seeded(1), negative=None if against == "memory" else blank, end=given
    )
    torch.testing.assert_close(patchify(made[0]), euler(velocity, noise, settings.schedule), atol=1e-5, rtol=1e-5)


def test_without_memory_nothing_is_led_away_from() -> None:
    class Counted:
        device, dtype, calls = torch.device("cpu"), torch.float32, 0

        def forward_segments(self, segments, *_) -> list[Tensor]:
            self.calls += 1
            return [segment.tokens for segment in segments if not segment.clean]

    for memory, calls in (((), 3), (remembered(1), 6)):
        network = Counted()
        sample_pair(network, text(), SHAPE, memory, PairSettings(steps=3, guidance=2.0, guidance_against="memory"))
        assert network.calls == calls


def test_rows_do_not_depend_on_their_batch(model) -> None:
    settings = PairSettings(steps=2, guidance=2.0)
    both = text(rows=2, seed=4)
    together = sample_pair(
        model, both, SHAPE, settings=settings, generator=[seeded(1), seeded(2)], negative=text(4, seed=2)
    )
    for row in (0, 1):
        own = TextCond(both.tokens[row : row + 1], both.mask[row : row + 1])
        alone = sample_pair(model, own, SHAPE, settings=settings, generator=seeded(row + 1), negative=text(4, seed=2))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[row : row + 1], b, atol=1e-5, rtol=1e-5)


def test_rescaled_guidance_keeps_each_tokens_norm() -> None:
    positive, empty = torch.randn(1, 5, 64), torch.randn(1, 5, 64)
    guided = rescaled(lambda x, t: positive, lambda x, t: empty, 4.0)(positive, 1.0)
    torch.testing.assert_close(guided.norm(dim=-1), positive.norm(dim=-1))
    plain = rescaled(lambda x, t: positive, lambda x, t: empty, 4.0, rescale=False)(positive, 1.0)
    torch.testing.assert_close(plain, empty + 4 * (positive - empty))
    nothing = rescaled(lambda x, t: 0 * positive, lambda x, t: 0 * positive, 4.0)(positive, 1.0)
    assert torch.equal(nothing, torch.zeros_like(positive))


def test_bad_input_is_named(model) -> None:
    with pytest.raises(InputError, match="size"):
        sample_pair(model, text(), (16, 7, 12))
    with pytest.raises(InputError, match="negative"):
        sample_pair(model, text(), SHAPE, settings=PairSettings(guidance=2.0))
    with pytest.raises(InputError, match="start"):
        sample_pair(model, text(), SHAPE, start=torch.zeros(1, 16, 8, 8))
    with pytest.raises(InputError, match="last_level"):
        pair_sigmas(4, 1.0, 1.5)

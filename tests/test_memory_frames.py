"""The memory of earlier frames: order, sizes, latents; branches share what was computed, rows keep apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from anchorshot.core.errors import InputError
from anchorshot.memory.frame_memory import FrameMemory, MemoryFrame
from anchorshot.memory.golden_mem import GoldenMem, Slot, tier_size
from anchorshot.memory.memory_pack import MemoryPack

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


@dataclass
class ColourEncoders:
    """A host whose embeddings are mean colours and whose latents are means of 4×4 pixels; a token is 2×2 of these."""

    pixels_per_token: int = 8
    seen: list[tuple[str, object]] = field(default_factory=list)

    def embed_query(self, text: str, dim: int) -> Tensor:
        self.seen.append(("query", text))
        return torch.tensor([COLOURS[word] for word in text.split()]).reshape(-1, dim)

    def embed_caption(self, text: str) -> Tensor:
        self.seen.append(("caption", text))
        return torch.tensor([COLOURS[word] for word in text.split()]).mean(0)

    def embed_image(self, images: Tensor) -> Tensor:
        self.seen.append(("image", tuple(images.shape)))
        return images.mean((-2, -1))

    def encode(self, images: Tensor) -> Tensor:
        self.seen.append(("encode", tuple(images.shape)))
        return torch.nn.functional.avg_pool2d(images, 4)


def image(*colours: str, size: tuple[int, int] = (40, 80)) -> Tensor:
    """Plain images `[B, 3, H, W]`, one for each colour."""
    return torch.stack([torch.tensor(COLOURS[colour])[:, None, None].expand(3, *size) for colour in colours])


def memory_of(*colours: str, packing: GoldenMem = GoldenMem(3, 1), **fields) -> FrameMemory[ColourEncoders]:  # noqa: B008
    frames = tuple(MemoryFrame(image(colour), colour, label=f"{i}") for i, colour in enumerate(colours))
    return FrameMemory(ColourEncoders(), packing, **{"retrieval": "clip", "frames": frames} | fields)


@pytest.mark.parametrize("retrieval", ["clip", "text"])
def test_what_the_query_names_is_largest(retrieval: str) -> None:
    recalled = memory_of("red", "green", "blue", retrieval=retrieval).recall(["red"])
    assert [rank.indices for rank in recalled] == [(0,), (2,), (1,)]
    assert [rank.slot.size for rank in recalled] == [tier_size((5, 10), tier) for tier in (1, 2, 3)]
    assert [rank.frame.label for rank in recalled] == ["0", "2", "1"]


def test_recency_asks_no_model_and_one_frame_is_not_ranked() -> None:
    newest = memory_of("red", "green", retrieval="recency")
    assert [rank.indices[0] for rank in newest.recall()] == [1, 0] and not newest.encoders.seen
    single = memory_of("red")
    assert [rank.indices[0] for rank in single.recall(["blue"])] == [0] and not single.encoders.seen
    assert memory_of().recall(["red"]) == [] and memory_of().size_tokens == (0, 0)


def test_the_memorys_own_query_stands_in() -> None:
    memory = memory_of("red", "green", "blue", query="green")
    assert (
        [rank.indices[0] for rank in memory.recall()]
        == [1, 2, 0]
        == [rank.indices[0] for rank in memory.recall(["", " "])]
    )
    assert memory.recall(["red"])[0].indices == (0,)
    with pytest.raises(InputError, match="query: is needed to rank frames by clip"):
        memory_of("red", "green").recall(["  "])


def test_of_several_new_frames_each_gets_its_best_memory_first() -> None:
    memory = memory_of("red", "green", "blue", "blue")
    assert {rank.indices[0] for rank in memory.recall(["red", "green", "red"])[:2]} == {0, 1}
    assert memory.encoders.seen.count(("query", "red")) == 1


def test_a_branch_shares_what_was_computed_and_changes_nothing() -> None:
    memory = memory_of("red", "green")
    first = memory.context(memory.recall(["red"]), ["a", "b"])
    longer = memory.with_frames([MemoryFrame(image("blue"), "blue")])
    assert len(memory.frames) == 2 and len(longer.frames) == 3
    memory.encoders.seen.clear()
    again = longer.context(longer.recall(["red"])[:1], ["a"])
    assert again[0].latent is first[0].latent and again[0].text == "a"
    assert [kind for kind, _ in memory.encoders.seen] == ["image", "query"]  # only the new frame is embedded


def test_latents_are_shrunk_before_or_after_the_encoder() -> None:
    noise = torch.rand(1, 3, 40, 80, generator=torch.Generator().manual_seed(0))
    encoders, frame = ColourEncoders(), MemoryFrame(noise)
    pixel, latent = (frame.latent((3, 6), encoders, level) for level in ("pixel", "latent"))
    assert pixel.shape == latent.shape == (1, 3, 6, 12)
    assert [shape for _, shape in encoders.seen] == [(1, 3, 24, 48), (1, 3, 40, 80)]
    frame.latent((1, 2), encoders, "latent")
    assert len(encoders.seen) == 2  # one encoding serves all sizes
    assert_close(frame.latent((5, 10), encoders), encoders.encode(noise))


def test_frames_on_the_disk_keep_one_embedding_and_no_image() -> None:
    reads: list[int] = []

    def read() -> Tensor:
        reads.append(1)
        return image("red")

    encoders, frame = ColourEncoders(), MemoryFrame(read, size=(40, 80))
    assert frame.size == (40, 80) and not reads
    for _ in range(2):
        frame.embedding("clip", encoders)
    assert len(reads) == 1
    assert frame.latent((3, 6), encoders) is not frame.latent((3, 6), encoders) and len(reads) == 3


def test_rows_are_ranked_apart_and_packed_as_one_batch() -> None:
    shots = [("red", "blue"), ("green", "red"), ("blue", "green")]
    frames = tuple(MemoryFrame(image(*row), row) for row in shots)
    memory = FrameMemory(ColourEncoders(), GoldenMem(2, 1), frames=frames)
    recalled = memory.recall(["red"], ["red"])
    assert recalled[0].indices == (0, 1) and len(recalled) == 2
    (best, _) = memory.context(recalled, ["", ""])
    assert best.latent.shape == (2, 3, 6, 12)
    alone = [FrameMemory(ColourEncoders(), GoldenMem(2, 1), frames=(MemoryFrame(image("red")),)) for _ in shots[0]]
    for row, one in enumerate(alone):
        assert_close(best.latent[row : row + 1], one.context(one.recall(), [""])[0].latent)


def test_another_packing_needs_nothing_but_the_protocol() -> None:
    class Halves:
        """Every rank has half the side of the one before."""

        level = "pixel"
        latent_resize = "area"
        capacity = 2

        def plan(self, count: int, size_tokens: tuple[int, int]) -> list[Slot]:
            height, width = size_tokens
            return [Slot(rank, rank, (height >> rank, width >> rank)) for rank in range(min(count, self.capacity))]

        def assign(self, order, size_tokens: tuple[int, int]) -> list[tuple[int, Slot]]:
            return list(zip(order, self.plan(len(order), size_tokens), strict=False))

    memory = memory_of("red", "green", "blue", packing=Halves(), query="blue")
    context = memory.context(memory.recall(), ["", ""])
    assert [tuple(frame.latent.shape[-2:]) for frame in context] == [(10, 20), (4, 10)]


def test_frames_of_other_sizes_are_refused() -> None:
    memory = memory_of("red")
    with pytest.raises(InputError, match=r"frames: all frames of a memory must have one size \(got \"80x32, 80x40\"\)"):
        memory.with_frames([MemoryFrame(image("red", size=(32, 80)))])
    with pytest.raises(InputError, match="frames: width and height must divide by 8"):
        FrameMemory(ColourEncoders(), GoldenMem(), frames=(MemoryFrame(image("red", size=(36, 80))),))
    with pytest.raises(InputError, match="retrieval: must be clip, text, recency or image"):
        memory_of("red", retrieval="dice")
    with pytest.raises(InputError, match="captions: every context frame needs a caption"):
        FrameMemory(ColourEncoders(), GoldenMem(), "text", "red", (MemoryFrame(image("red")),) * 2).recall()


def test_likeness_to_the_newest_frame_ranks_without_a_query() -> None:
    memory = memory_of("red", "green", "red", retrieval="image")
    assert [rank.indices[0] for rank in memory.recall()] == [2, 0, 1]


@pytest.mark.parametrize("pack", [MemoryPack(), MemoryPack("references", True), MemoryPack(level="pixel")])
def test_a_memory_pack_tells_the_place_of_every_frame(pack: MemoryPack) -> None:
    memory = memory_of("red", "green", "blue", "green", packing=pack, query="red")
    recalled = memory.recall()
    context = memory.context(recalled, [None] * len(recalled))
    assert [frame.place for frame in context] == pack.tiles(4, (5, 10))
    assert [rank.frame.label for rank in recalled] == ["0", "3", "2", "1"]
    for frame in context:
        assert frame.place is not None
        assert frame.latent.shape == (1, 3, 2 * frame.place.size[0], 2 * frame.place.size[1])
    assert_close(context[0].latent[0, :, 0, 0], torch.tensor(COLOURS["red"]))


def test_latents_are_shrunk_as_the_packing_says() -> None:
    noise = torch.rand(1, 3, 40, 80, generator=torch.Generator().manual_seed(0))
    frame, encoders = MemoryFrame(noise), ColourEncoders()
    area, bilinear = (frame.latent((3, 6), encoders, "latent", mode) for mode in ("area", "bilinear"))
    assert_close(area, torch.nn.functional.interpolate(encoders.encode(noise), size=(6, 12), mode="area"))
    assert_close(bilinear, torch.nn.functional.interpolate(encoders.encode(noise), size=(6, 12), mode="bilinear"))

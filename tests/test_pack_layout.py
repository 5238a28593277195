"""The picture of a memory pack: areas are token counts, and the words say what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchorshot.core.errors import InputError
from anchorshot.media.pack_layout import draw_pack, pack_words
from anchorshot.memory.memory_pack import MemoryPack

GRID = (16, 32)
GREEN = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 32, 64)


def green(picture) -> int:
    pixels = np.asarray(picture).astype(int)
    return int(((pixels[..., 1] > 200) & (pixels[..., 0] < 60) & (pixels[..., 2] < 60)).sum())


@pytest.mark.parametrize("pack", [MemoryPack(), MemoryPack(aspect="fit"), MemoryPack("references", pyramid=True)])
def test_a_frames_area_is_its_share_of_the_tokens(pack: MemoryPack) -> None:
    tiles = pack.tiles(4, GRID)
    shown = [green(draw_pack(pack, 4, GRID, [GREEN if k == rank else None for k in range(4)])) for rank in (0, 3)]
    wanted = tiles[0].tokens / tiles[3].tokens
    assert shown[0] / shown[1] == pytest.approx(wanted, rel=0.25), "labels and frames take a little"


def test_words_tell_what_is_remembered_and_what_is_not() -> None:
    canvas = pack_words(MemoryPack(), 40, GRID)
    assert canvas[0] == "9 of 40 earlier frames as one canvas: 511 tokens"
    assert canvas[1] == "the pair itself has 1,024; memory adds 50%"
    assert canvas[2] == "at most 9 frames: the next would have less than one 2x2 patch"
    assert "grows with the film" in pack_words(MemoryPack("references"), 3, GRID)[2]
    assert pack_words(MemoryPack("references", limit=1), 3, GRID)[2] == "at most 1 frame: no frame may take more"


def test_nothing_to_remember_is_drawn_too() -> None:
    assert draw_pack(MemoryPack(), 0, GRID).size[0] == 1280
    assert draw_pack(MemoryPack("references"), 0, GRID, width=480).size[0] == 480


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="frames: must be 9"):
        draw_pack(MemoryPack(), 40, GRID, [None])
    with pytest.raises(InputError, match="width"):
        draw_pack(MemoryPack(), 4, GRID, width=100)

"""What comes into native sampling of a start-end pair: frames, memory, conditioning, checked and laid out.

Tensors and dictionaries only; ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....core.errors import InputError
from ....memory.memory_pack import PackTile
from ...layouts.pairs import PATCH, Size
from ...layouts.start_end import pair_ids, reference_ids, text_start
from ..native_adapter import Conditioning
from ..native_pairs import PAIR, PairFrame, PairModelSettings

__all__ = ["PairSequence", "check_conditioning", "check_options", "lay_out", "only_entry"]


@dataclass(frozen=True, eq=False)
class PairSequence:
    """The images of one shot in the order in which the network gets them: new frames, given ones, remembered ones.

    Attributes:
        grid: (rows, columns) of a frame's tokens.
        new: the frames that are sampled.
        given: the frames that are there, clean.
        tiles: places of the remembered frames.
        settings: the model's own.
    """

    grid: Size
    new: tuple[PairFrame, ...]
    given: tuple[PairFrame, ...]
    tiles: tuple[PackTile, ...]
    settings: PairModelSettings

    @property
    def tokens(self) -> list[int]:
        """Tokens of every image."""
        frames = [self.grid[0] * self.grid[1]] * (len(self.new) + len(self.given))
        return frames + [tile.rows * tile.cols for tile in self.tiles]

    def ids(self) -> list[Tensor]:
        """Position ids `[N, 3]` of every image."""
        settings = self.settings
        frames = dict(zip(PAIR, pair_ids(self.grid, settings.layout, centring=settings.centring), strict=True))
        remembered = reference_ids(
            self.tiles, settings.canvas or self.grid, settings.layout, settings.packing, centring=settings.centring
        )
        return [frames[name] for name in self.new + self.given] + remembered

    def text_start(self) -> int:
        """First position of the text."""
        return text_start(self.ids())


def lay_out(
    size: Size,
    memory: Sequence[tuple[PackTile, Tensor]],
    given: Mapping[PairFrame, Tensor],
    settings: PairModelSettings,
) -> tuple[PairSequence, list[Tensor]]:
    """Where everything stands, and the clean latents `[1, 16, 1, h, w]`: given frames, then remembered ones.

    Args:
        size: (height, width) of a frame's latent.
        memory: remembered frames at the size of their places, most relevant first.
        given: frames that are not sampled.
        settings: layout and positions.

    Raises:
        InputError: odd sizes, latents that do not fit their places, or nothing left to sample.
    """
    if size[0] % PATCH or size[1] % PATCH or min(size) < PATCH:
        fix = "use pictures whose sides are multiples of 16 pixels"
        raise InputError("latent", "height and width must be even", size, fix)
    new = tuple(name for name in PAIR if name not in given)
    if not new:
        raise InputError("given", "must leave a frame to sample", sorted(given), "give the start or the end, not both")
    kept = tuple(name for name in PAIR if name in given)
    clean = [_clean(f"{name} frame", given[name], size) for name in kept]
    for i, (tile, latent) in enumerate(memory):
        clean.append(_clean(f"memory[{i}]", latent, (PATCH * tile.rows, PATCH * tile.cols)))
    grid = size[0] // PATCH, size[1] // PATCH
    return PairSequence(grid, new, kept, tuple(tile for tile, _ in memory), settings), clean


def _clean(field: str, latent: Tensor, size: Size) -> Tensor:
    """A single image's latent of (height, width) as `[1, C, 1, h, w]`."""
    if latent.ndim == 5 and latent.shape[2] == 1:
        latent = latent[:, :, 0]
    latent = latent[None] if latent.ndim == 3 else latent
    if latent.ndim != 4 or len(latent) != 1 or tuple(latent.shape[-2:]) != size:
        rule = f"must be the latent of one picture, [1, C, {size[0]}, {size[1]}]"
        raise InputError(field, rule, tuple(latent.shape), "encode each picture for itself, at that size")
    return latent[:, :, None]


# key of a conditioning → (what it is, what to do about it)
_FOREIGN = {
    "area": ("areas of the picture", "remove Conditioning (Set Area)"),
    "mask": ("masks", "remove Conditioning (Set Mask)"),
    "control": ("a ControlNet", "remove Apply ControlNet"),
    "gligen": ("GLIGEN boxes", "remove GLIGEN"),
    "reference_latents": ("reference latents", "encode the text without a VAE: earlier frames come from the memory"),
}


def check_conditioning(field: str, entry: Mapping[str, Any]) -> None:
    """Refuse a conditioning that speaks of places in ONE picture, or brings references of its own.

    Raises:
        InputError: an area, a mask, a ControlNet or reference latents.
    """
    for key, (what, fix) in _FOREIGN.items():
        if entry.get(key) is not None:
            raise InputError(field, f"cannot carry {what} when a start and an end frame are sampled together", key, fix)


def only_entry(field: str, conditioning: Conditioning) -> tuple[Tensor, dict[str, Any]]:
    """Tokens and dictionary of a CONDITIONING that must hold one prompt and nothing foreign.

    Raises:
        InputError: no or several prompts, or what `check_conditioning` refuses.
    """
    if not isinstance(conditioning, (list, tuple)) or len(conditioning) != 1:
        seen = len(conditioning) if isinstance(conditioning, (list, tuple)) else type(conditioning).__name__
        fix = "give each shot one prompt (do not combine conditionings)"
        raise InputError(field, "must be a conditioning of exactly one prompt", seen, fix)
    tokens, entry = conditioning[0]
    check_conditioning(field, entry)
    return tokens, entry


def check_options(model_options: Mapping[str, Any]) -> None:
    """Refuse patches of the model that take its sequence for one picture.

    Raises:
        InputError: input patches (ControlNets of that kind), rope options, context windows.
    """
    options = model_options.get("transformer_options", {})
    if options.get("patches", {}).get("post_input"):
        fix = "take the node that changes the model's input off this model"
        raise InputError("model", "must carry no patch of its input made for one picture", "post_input", fix)
    if options.get("rope_options"):
        rule = "its position ids are set by the frames and cannot be scaled or shifted"
        raise InputError("model", rule, options["rope_options"], "take the RoPE node off this model")
    if model_options.get("context_handler") is not None:
        raise InputError("model", "cannot run in context windows", "context windows", "take that node off this model")

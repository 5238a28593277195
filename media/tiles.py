"""What the pictures of memories are drawn with: colours, framed pictures, lines of text that fit."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.errors import InputError

__all__ = [
    "BACK", "GOLD", "INK", "LINE", "PANEL", "SOFT", "TIERS", "Picture", "draw_tile", "fit_line", "font", "plural",
    "as_image", "tier_colour",
]  # fmt: skip

BACK, PANEL, LINE = "#15171c", "#1e2128", "#343944"
INK, SOFT, GOLD = "#f2f0ea", "#9aa0ab", "#e3b341"
TIERS = ("#e3b341", "#e08a3c", "#d1605e", "#a45fa8", "#6a75c9", "#4e9bb5")

Picture = Tensor | Image.Image | None
"""`[3, H, W]` in 0…1, or PIL; None is drawn as an empty tile."""


def draw_tile(picture: Image.Image, frame: Picture, at: tuple[int, int], size: tuple[int, int], colour: str) -> None:
    """Paste a picture at (x, y), scaled to (width, height), in a frame of `colour`."""
    x, y = at
    width, height = size
    draw = ImageDraw.Draw(picture)
    image = as_image(frame)
    if image is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=PANEL)
    else:
        picture.paste(image.resize(size, Image.Resampling.LANCZOS), at)
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=2 if min(size) >= 24 else 1)


def as_image(frame: Picture) -> Image.Image | None:
    """A picture as PIL has it. Raises InputError for tensors of another shape."""
    if frame is None:
        return None
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise InputError("frames", "must be [3, H, W] tensors or PIL images", tuple(frame.shape), "pass single frames")
    levels = (frame.detach().float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def fit_line(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: str, room: int) -> None:
    """Write one line, shortened with an ellipsis where it is wider than `room`."""
    chosen = font(size)
    line = " ".join(text.split())
    while len(line) > 1 and draw.textlength(line, font=chosen) > room:
        line = line[:-2].rstrip() + "…"
    draw.text(at, line, font=chosen, fill=fill)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's font at `size` pixels."""
    return ImageFont.load_default(size)  # the font Pillow carries, so the picture is the same on every machine


def tier_colour(tier: int) -> str:
    """The colour of a tier; full size, tier 0, is white."""
    return TIERS[(tier - 1) % len(TIERS)] if tier else INK


def plural(count: int) -> str:
    """The ending of a noun of which there are so many."""
    return "" if count == 1 else "s"

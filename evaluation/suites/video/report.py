"""How the suite `video` shows its figures: tables, plots and the sheet of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...plots import COLOURS, bars
from ...report import CLIPS_SHOWN, Strip, variant_label
from ...suite import Panel
from ...table import NAME, beside, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TABLES", "panels", "strips"]

Result = Mapping[str, Any]

TABLES = (
    NAME
    | {
        "keyframe / VAE, dB": beside("keyframe_psnr", "vae_psnr", 2),
        "exact": figure("keyframes_exact"),
        "jump / true": beside("boundary_jump", "boundary_jump_truth", 2),
        "PSNR, dB": figure("psnr", 2),
    },
    NAME
    | {
        "motion": figure("motion", 4),
        "over true": figure("motion_ratio", 2),
        "snap, frames": figure("snap_error", 2),
        "seconds": figure("seconds", 2),
    },
)


def panels(result: Result) -> list[Panel]:
    """Keyframes, jumps, PSNR, motion, and the change into every frame."""
    rows = result["rows"]
    panels: list[Panel] = [
        lambda axes: bars(axes, rows, "keyframe_psnr", "dB", "keyframes; dotted: the VAE's own", rows[0]["vae_psnr"]),
        lambda axes: bars(axes, rows, "boundary_jump", "ratio", "jump at chunk joints; dotted: none", 1.0),
        lambda axes: bars(axes, rows, "psnr", "dB", "PSNR to the true clip", None),
        lambda axes: bars(axes, rows, "motion_ratio", "ratio", "motion over true motion; dotted: equal", 1.0),
    ]
    layouts = dict.fromkeys(layout for found in result["change"].values() for layout in found)
    panels += [lambda axes, layout=layout: _change(axes, result["change"], layout) for layout in layouts]  # type: ignore[misc]
    return panels


def _change(axes: Axes, change: Mapping[str, Mapping[str, Sequence[float]]], layout: str) -> None:
    from matplotlib.ticker import MaxNLocator

    names = [name for name in change if name != "truth"]  # in the order of the rows, so that colours are the bars'
    for colour, name in zip((*COLOURS[: len(names)], "black"), (*names, "truth"), strict=False):
        if name == "ground_truth" or layout not in change[name]:
            continue
        label = "ground truth" if name == "truth" else name.replace("_", " ")
        style = "--" if name == "truth" else ".-"
        axes.plot(range(1, len(change[name][layout]) + 1), change[name][layout], style, color=colour, label=label)
    for frame in [int(text) for text in layout.split(",")][1:]:
        axes.axvline(frame, color="grey", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="frame", ylabel="change into the frame", title=f"keyframes at frames {layout.replace(',', ', ')}")
    axes.legend()


def strips(result: Mapping[str, Any], frames: Mapping[str, Sequence[Tensor]]) -> list[list[Strip]]:
    """A few clips: every second frame and all keyframes, which are marked."""
    groups: list[list[Strip]] = []
    keys = {row["clip"]: row["keyframe_frames"] for row in result["clips"]}
    for n in range(min(CLIPS_SHOWN, len(frames["truth"]))):
        shown = [t for t in range(len(frames["truth"][n])) if t % 2 == 0 or t in keys[n]]
        marked = [i for i, t in enumerate(shown) if t in keys[n]]
        groups.append([(variant_label(name), clips[n][shown], marked) for name, clips in frames.items()])
    return groups

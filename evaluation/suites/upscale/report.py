"""How the suite `upscale` shows its figures: tables, plots and the sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...plots import COLOURS, bars
from ...report import Strip, variant_label
from ...suite import Columns, Panel
from ...table import NAME, beside, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["note", "panels", "strips", "tables"]

Result = Mapping[str, Any]

_COMPARED = {
    "psnr": ("PSNR", 2, "dB"),
    "ssim": ("SSIM", 4, ""),
    "lpips": ("LPIPS", 4, ""),
    "identity": ("identity", 3, ""),
    "identity_large": ("identity of large frames", 4, ""),
    "likeness": ("likeness", 4, ""),
}
_MIB = 2**-20


def tables(result: Result) -> Sequence[Columns]:
    """Likeness to the truth, then what moves, colour and cost."""
    judged = {"LPIPS": figure("lpips", 4)} if _known(result, "lpips") else {}
    read = NAME | {
        "characters, dB": figure("psnr_characters", 2),
        "identity": figure("identity"),
        "loss": figure("identity_loss"),
        "identity, large": figure("identity_large", 4),
        "likeness": figure("likeness", 4),
    }
    return (
        NAME
        | {"PSNR, dB": figure("psnr", 2), "±": figure("psnr_se", 2), "SSIM": figure("ssim", 4)}
        | judged
        | {"keyframes": figure("psnr_keyframes", 2)},
        *([read] if "set" not in result else []),
        NAME
        | {
            "flicker": figure("flicker", 3),
            "still": figure("still_flicker", 2, 255),
            "change": figure("temporal_error", 2, 255),
            "jump / true": beside("jump", "jump_truth", 2),
            "colour": figure("colour_error", 2, 255),
        },
        NAME | {"seconds a second": figure("seconds", 2), "MiB a second": figure("peak", 0, _MIB)},
    )


def _known(result: Result, name: str) -> bool:
    """Whether any row has a figure."""
    return any(row[name] is not None for row in result["rows"])


def note(result: Result) -> str:
    """What is upscaled, and what the model's rows differ by from bicubic and from no keyframes."""
    source = {
        "clean": "clean frames",
        "mild": "mildly degraded frames",
        "strong": "strongly degraded frames",
        "film": "frames of a film, and their latents",
    }[result["source"]]
    lines = [f"of {source}; without the keyframes' own frames, but for keyframes, change, flicker and colour"]
    if "set" in result:
        lines.append("your own clips: nobody knows who is in them, so there is no identity or likeness of characters")
    for reference, found in result["paired"].items():
        for variant, own in found.items():
            if variant in ("ground_truth", "bicubic", "lanczos"):
                continue
            said = [
                f"{title} {own[name]['difference']:+.{digits}f} ± {own[name]['se']:.{digits}f} {unit}".rstrip()
                for name, (title, digits, unit) in _COMPARED.items()
                if name in own
            ]
            if said:
                lines.append(f"{variant} less {reference}: {', '.join(said)}")
    return "\n".join(lines)


def panels(result: Result) -> list[Panel]:
    """PSNR, SSIM, identity, flicker and colour, and PSNR by the distance from a keyframe."""
    rows = result["rows"]
    bicubic = next((row for row in rows if row["variant"] == "bicubic"), None)

    def line(name: str) -> float | None:
        return None if bicubic is None else bicubic[name]

    judged: list[Panel] = [
        lambda axes: _bars(
            axes, rows, "identity", "share", "looks read right; dotted: bicubic's", line("identity"), 0.05
        ),
        lambda axes: _bars(
            axes, rows, "identity_large", "1 − distance", "identity of large frames", line("identity_large"), 0.02
        ),
        lambda axes: _bars(axes, rows, "likeness", "cosine", "features of characters", line("likeness"), 0.01),
    ]
    return [
        lambda axes: _bars(axes, rows, "psnr", "dB", "PSNR to the truth; dotted: bicubic", line("psnr"), 0.5),
        lambda axes: _bars(axes, rows, "ssim", "SSIM", "SSIM to the truth; dotted: bicubic", line("ssim"), 0.02),
        *(judged if "set" not in result else []),
        lambda axes: bars(axes, rows, "seconds", "seconds", "time for a second of video", None),
        lambda axes: _distances(axes, result["by_distance"]),
        lambda axes: bars(axes, rows, "flicker", "ratio", "change over true change; dotted: equal", 1.0),
        lambda axes: bars(
            axes,
            [{**row, "colour_error": row["colour_error"] * 255} for row in rows],
            "colour_error",
            "of 255",
            "shift of the mean colour; dotted: 1 of 255",
            1.0,
        ),
    ]


def _bars(axes: Axes, rows: Sequence[Result], name: str, unit: str, title: str, line: float | None, air: float) -> None:
    """Bars with standard errors on an axis that begins below the least."""
    kept = [row for row in rows if row[name] is not None]
    for k, row in enumerate(kept):
        error = row[f"{name}_se"] or 0
        axes.bar(k, row[name], 0.6, yerr=error, color=COLOURS[k % len(COLOURS)], capsize=3)
    axes.set_xticks(range(len(kept)), [row["variant"].replace("_", " ") for row in kept], rotation=20, ha="right")
    if line is not None:
        axes.axhline(line, color="grey", linestyle=":", linewidth=1.2)
    if kept:
        axes.set_ylim(min(row[name] - (row[f"{name}_se"] or 0) for row in kept) - air, 1.0 if unit != "dB" else None)
    axes.set(ylabel=unit, title=title)


def _distances(axes: Axes, found: Mapping[str, Sequence[float | None]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for k, (variant, values) in enumerate(found.items()):
        points = [(d, value) for d, value in enumerate(values) if value is not None]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, ".-", color=COLOURS[k % len(COLOURS)], label=variant.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="frames from the nearest keyframe", ylabel="dB", title="PSNR by distance from a keyframe")
    axes.legend(fontsize=8)


def strips(result: Result, frames: Mapping[str, Sequence[Tensor]]) -> list[list[Strip]]:
    """A few clips: what is upscaled, the truth and every variant; keyframes, half-way frames and the last before a
    keyframe, keyframes marked."""
    groups: list[list[Strip]] = []
    facts = {row["clip"]: row for row in result["clips"]}
    for n in range(len(frames["truth"])):
        marked = [i for i, t in enumerate(facts[n]["shown"]) if t in facts[n]["keyframe_frames"]]
        order = ["input", *(name for name in frames if name not in ("input", "truth")), "truth"]
        groups.append([(variant_label(name), frames[name][n], marked) for name in order if len(frames[name]) > n])
    return groups

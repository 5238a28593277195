"""How the suite `storytelling` shows its figures: tables, plots and the sheet of films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...plots import COLOURS, bars, grouped_bars
from ...report import CLIPS_SHOWN, FRAMES_SHOWN, Strip, variant_label
from ...suite import Panel
from ...table import NAME, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TABLES", "metrics_note", "panels", "strips"]

Result = Mapping[str, Any]

_JUMP = {"ssim": "1 − SSIM", "lpips": "LPIPS"}

TABLES = (
    NAME
    | {
        "CLIP-add": figure("clip_add"),
        "CLIP-combined": figure("clip_combined"),
        "consistency": figure("consistency"),
        "jump": figure("jump"),
    },
    NAME
    | {
        "action": figure("action"),
        "place": figure("place"),
        "identity": figure("identity"),
        "time": figure("time_ratio", 2),
        "memory": figure("memory_ratio", 2),
    },
)


def metrics_note(result: Mapping[str, Any]) -> str:
    """Which networks the columns are measured with."""
    clip = {"studio": "the studio's"}.get(result["clip"], "from a file")
    features = {"recogniser": "the recogniser's features", "clip": "CLIP's image features", "dino": "DINO"}
    jump = _JUMP[result["jump_metric"]]
    return f"CLIP: {clip}; consistency: {features[result['features']]}; jump: {jump}"


def panels(result: Result) -> list[Panel]:
    """Classifier accuracy on the pocket world, alignment, jumps, and the weight of the scene by step."""
    rows = result["rows"]
    unit = _JUMP[result["jump_metric"]]
    panels: list[Panel] = [
        lambda axes: grouped_bars(
            axes, rows, ("clip_add", "clip_combined", "consistency"), "alignment and consistency", "cosine"
        ),
        lambda axes: bars(axes, rows, "jump", unit, "jump from segment to segment", None),
    ]
    if result["set"] == "pocket":
        panels.insert(0, lambda axes: grouped_bars(axes, rows, ("action", "place", "identity"), "read right", "share"))
    if result["weights"]:
        panels.append(lambda axes: _weights(axes, result["weights"]))
    return panels


def _weights(axes: Axes, weights: Mapping[str, Sequence[float]]) -> None:
    for colour, (name, values) in zip(COLOURS, weights.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, ".-", color=colour, label=name)
    axes.set(ylim=(0, 1), xlabel="step", ylabel="weight of the scene", title="DIPW; the action has the rest")
    axes.legend()


def strips(result: Mapping[str, Any], frames: Mapping[str, Sequence[Tensor]]) -> list[list[Strip]]:
    """A few stories: three frames of every segment; a segment's first is marked."""
    groups: list[list[Strip]] = []
    first = next(iter(frames.values()))
    for n in range(min(CLIPS_SHOWN, len(first))):
        length = len(first[n]) // result["shots"]
        starts = [length * i for i in range(min(result["shots"], FRAMES_SHOWN // 3))]
        shown = [t for start in starts for t in (start, start + length // 2, start + length - 1)]
        marked = range(0, len(shown), 3)
        groups.append([(variant_label(name), films[n][shown], marked) for name, films in frames.items()])
    return groups

"""How the suite `pairs` shows its figures: tables, plots and the sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...plots import COLOURS
from ...report import FRAMES_SHOWN, Strip, variant_label
from ...suite import Column, Columns, Panel
from ...table import NAME, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["note", "panels", "strips", "tables"]

Result = Mapping[str, Any]

_PAPER = ("SC", "BC", "SC_E", "BC_E", "TVS_gt", "TVS_text")
"""The paper's columns."""


def _titled(*names: str, digits: int = 3) -> dict[str, Column]:
    return {name.replace("_", " "): figure(name, digits) for name in names}


def tables(result: Result) -> Sequence[Columns]:
    """The paper's columns, readings of memory and of text, clips where they were made, and what a pair costs."""
    films = [NAME | _titled("SC_video", "BC_video", "SC_E_video", "BC_E_video")] if result["films"] else []
    return (
        NAME | _titled(*_PAPER),
        NAME | _titled("SC_E_tracked", "BC_E_tracked", "SC_E_mean", "BC_E_mean"),
        *films,
        NAME
        | {
            "identity": figure("identity"),
            "±": figure("identity_se"),
            "exact": figure("identity_exact"),
            "colour": figure("colour"),
            "layout": figure("layout"),
            "within": figure("kept_within"),
        },
        NAME | _titled("place", "side", "action", "scale", "movement", "length"),
        NAME
        | {
            "tokens": figure("tokens", 0),
            "of memory": figure("memory_tokens", 0),
            "seconds": figure("seconds", 2),
        },
    )


def note(result: Result) -> str:
    """Who judged, and what differs from `full` by more than two standard errors."""
    subject = {"recogniser": "the recogniser", "dino": f"DINO {result['judges'].get('dino', '')}".strip()}
    clip = "the studio's CLIP" if result["clip"] == "studio" else f"CLIP {result['judges'].get('clip', '')}".strip()
    lines = [f"features of {subject[result['features']]} and of {clip}"]
    for variant, found in result["paired"].items():
        if variant == "ground_truth":
            continue
        clear = [
            f"{name} {value['difference']:+.3f}"
            for name, value in found.items()
            if name in (*_PAPER, "identity", "layout") and abs(value["difference"]) > 2 * value["se"]
        ]
        lines.append(f"{variant} less full, beyond two standard errors: {', '.join(clear) or 'nothing'}")
    return "\n".join(lines)


def panels(result: Result) -> list[Panel]:
    """The paper's columns, differences to `full`, readings, and identity, tokens and time along the story."""
    rows = result["rows"]
    panels: list[Panel] = [
        lambda axes: _bars(axes, rows, ("SC", "BC"), "within a shot: start to end frame"),
        lambda axes: _bars(axes, rows, ("SC_E", "BC_E"), "across shots"),
        lambda axes: _bars(axes, rows, ("TVS_gt", "TVS_text"), "transition vectors"),
        lambda axes: _bars(axes, rows, ("identity", "layout", "kept_within"), "kept: characters, places, in a shot"),
        lambda axes: _bars(axes, rows, ("scale", "movement", "length"), "what the text asks for"),
    ]
    if any(variant != "ground_truth" for variant in result["paired"]):
        panels.append(lambda axes: _differences(axes, result["paired"]))
    if result["shots"] > 1:
        for name, unit in (("identity", "share"), ("tokens", "tokens of a step"), ("seconds", "seconds for a pair")):
            panels.append(lambda axes, name=name, unit=unit: _along(axes, result["by_shot"], name, unit))  # type: ignore[misc]
    return panels


def _bars(axes: Axes, rows: Sequence[Result], columns: Sequence[str], title: str) -> None:
    width = 0.8 / len(columns)
    low = 1.0
    for k, column in enumerate(columns):
        kept = [(i, row[column], row[f"{column}_se"] or 0) for i, row in enumerate(rows) if row[column] is not None]
        low = min([low, *(value - error for _, value, error in kept)])
        axes.bar(
            [i + width * k for i, _, _ in kept],
            [value for _, value, _ in kept],
            width * 0.92,
            yerr=[error for _, _, error in kept],
            color=COLOURS[k],
            label=column.replace("_", " "),
            capsize=2,
        )
    at = [i + width * (len(columns) - 1) / 2 for i in range(len(rows))]
    axes.set_xticks(at, [row["variant"].replace("_", " ") for row in rows], rotation=25, ha="right")
    axes.set(ylim=(min(0.0, low), 1.02) if low < 0.5 else (max(0.0, low - 0.1), 1.005), title=title)
    axes.legend()


def _differences(axes: Axes, paired: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    variants = [name for name in paired if name != "ground_truth"]
    for k, variant in enumerate(variants):
        points = [(i + 0.12 * k, paired[variant].get(name)) for i, name in enumerate(_PAPER)]
        shown = [(x, point["difference"], 2 * point["se"]) for x, point in points if point is not None]
        if shown:
            x, y, error = zip(*shown, strict=True)
            colour = COLOURS[k % len(COLOURS)]
            axes.errorbar(x, y, yerr=error, fmt="o", color=colour, label=variant.replace("_", " "), capsize=2)
    axes.axhline(0, color="grey", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(_PAPER)), [name.replace("_", " ") for name in _PAPER])
    axes.set(title="less full, on the same stories; two standard errors")
    axes.legend(fontsize=8)


def _along(axes: Axes, by_shot: Mapping[str, Mapping[str, Sequence[float | None]]], name: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for k, (variant, found) in enumerate(by_shot.items()):
        points = [(p + 1, value) for p, value in enumerate(found.get(name, ())) if value is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, ".-", color=COLOURS[k % len(COLOURS)], label=variant.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="shot", ylabel=unit, title=f"{name} along the story")
    axes.set_ylim(0, None if name != "identity" else 1.02)
    axes.legend(fontsize=8)


def strips(frames: Mapping[str, Tensor]) -> list[list[Strip]]:
    """A few stories, start and end frames side by side, the start frames marked: truth, then every variant."""
    names = [name for name in frames if name != "ground_truth"]
    count = len(frames["truth"])
    return [
        [(variant_label(name), frames[name][n][:FRAMES_SHOWN], range(0, FRAMES_SHOWN, 2)) for name in names]
        for n in range(count)
    ]

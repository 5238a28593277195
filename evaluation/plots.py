"""The plots of a suite. Panels without data are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHANCE", "draw_plots"]

CHANCE = {"identity": (1 / 8 + 1 / 4 + 1 / 4) / 3, "layout": (1 / 4 + 1 / 3 + 1 / 3) / 3}
"""Share of right (identity) or agreeing (layout) readings that guessing would have."""

# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")

_FEW = 5
"""Characters or places below which a share is chance."""

Result = Mapping[str, Any]
Panel = Callable[["Axes"], None]


def draw_plots(result: Result) -> Figure:
    """Draw the plots of a result of `run`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "install matplotlib, or run without an output folder"
        raise InputError("out", "plots need matplotlib", "not installed", fix) from error

    draw = {"keyframes": _keyframe_panels, "video": _video_panels, "storytelling": _storytelling_panels}
    panels = draw[result["suite"]](result)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.4 * rows), layout="constrained")
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        panel(axes)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _keyframe_panels(result: Result) -> list[Panel]:
    rows = result["rows"]
    counts = sorted({row["pairs"] for row in rows})
    panels: list[Panel] = [lambda axes: _scores(axes, [row for row in rows if row["pairs"] == counts[-1]])]
    if counts[-1] > 1:
        panels.append(lambda axes: _along(axes, result["by_shot"], counts[-1]))
    noise = [row for row in rows if row["variant"].startswith("noise:") and row["pairs"] == counts[-1]]
    if len(noise) > 1:
        panels.append(lambda axes: _noise(axes, noise))
    if len(counts) > 1:
        panels.append(lambda axes: _lengths(axes, rows, counts))
    tiers = [row for row in rows if row["pairs"] == counts[-1] and _seen(row)]
    if tiers:
        panels.append(lambda axes: _tiers(axes, tiers))
    made = [row for row in rows if row["tokens"] is not None and row["identity"] is not None]
    if made:
        shown = [row for row in made if row["pairs"] == counts[-1] and not row["variant"].startswith("noise:")]
        panels.append(lambda axes: _cost(axes, shown or made))
    return panels


def _scores(axes: Axes, rows: Sequence[Result]) -> None:
    names = [row["variant"] for row in rows]
    for k, score in enumerate(("identity", "layout")):
        at = [i + 0.4 * k for i in range(len(rows))]
        values = [row[score] or 0 for row in rows]
        errors = [row[f"{score}_se"] or 0 for row in rows]
        axes.bar(at, values, 0.38, yerr=errors, color=_COLOURS[k], label=score, capsize=2)
        axes.axhline(CHANCE[score], color=_COLOURS[k], linestyle=":", linewidth=1)
    axes.set_xticks([i + 0.2 for i in range(len(rows))], names, rotation=40, ha="right")
    axes.set(ylim=(0, 1.02), ylabel="share", title=f"{rows[0]['pairs']} shots; dotted: guessing")
    axes.legend()


def _along(axes: Axes, by_shot: Mapping[str, Sequence[float | None]], pairs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = [name for name in by_shot if name.endswith(f"@{pairs}") and _remembers(name)]
    for colour, name in zip(_COLOURS, shown or list(by_shot), strict=False):
        points = [(p + 1, value) for p, value in enumerate(by_shot[name]) if value is not None]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), ".-", color=colour, label=name.partition("@")[0])
    axes.axhline(CHANCE["identity"], color="grey", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylim=(0, 1.02), xlabel="shot", ylabel="identity", title="along the story")
    axes.legend()


def _noise(axes: Axes, rows: Sequence[Result]) -> None:
    """Levels that all frames share as points, ranges that each draws its own from as bars over the range."""
    spans = [[float(t) for t in row["variant"].partition(":")[2].split("-")] for row in rows]
    for colour, score in zip(_COLOURS, ("identity", "layout"), strict=False):
        found = sorted((span, row[score]) for span, row in zip(spans, rows, strict=True) if row[score] is not None)
        points = [(span[0], value) for span, value in found if len(span) == 1]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "o-", color=colour, label=score)
        for span, value in found:
            if len(span) == 2:
                axes.plot(span, (value, value), "|-", color=colour, linewidth=3, alpha=0.6)
    axes.set(ylim=(0, 1.02), xlabel="noise on the context, t", ylabel="share", title="context noise")
    axes.legend()


def _remembers(variant: str) -> bool:
    """Whether a row is about how much is remembered, not about ranking or noise."""
    return ":" not in variant or variant.startswith("goldenmem:")


def _seen(row: Result) -> list[str]:
    """The tiers in which enough was seen that came back."""
    layout, identity = row.get("layout_by_tier", {}), row.get("identity_by_tier", {})
    return [tier for tier, part in identity.items() if max(part["count"], layout[tier]["count"]) >= _FEW]


def _tiers(axes: Axes, rows: Sequence[Result]) -> None:
    names = sorted({tier for row in rows for tier in _seen(row)}, key=lambda tier: (not tier.isdigit(), tier))
    for colour, row in zip(_COLOURS, [row for row in rows if row["variant"].startswith("goldenmem")], strict=False):
        for score, style in (("identity", "o-"), ("layout", "s--")):
            parts = row[f"{score}_by_tier"]
            points = [(names.index(t), parts[t]["share"]) for t in names if t in parts and parts[t]["count"] >= _FEW]
            axes.plot(*zip(*points, strict=True) if points else ((), ()), style, color=colour,
                      label=f"{row['variant']}, {score}")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1.02), xlabel="tier of the sharpest frame that shows it", ylabel="share", title="by tier")
    if axes.lines:
        axes.legend(fontsize=8)


def _lengths(axes: Axes, rows: Sequence[Result], counts: Sequence[int]) -> None:
    names = dict.fromkeys(row["variant"] for row in rows if _remembers(row["variant"]))
    for colour, name in zip(_COLOURS, names, strict=False):
        points = [(r["pairs"], r["identity"]) for r in rows if r["variant"] == name and r["identity"] is not None]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "o-", color=colour, label=name)
    axes.set_xticks(counts)
    axes.set(ylim=(0, 1.02), xlabel="shots in the story", ylabel="identity", title="longer stories")
    axes.legend()


def _cost(axes: Axes, rows: Sequence[Result]) -> None:
    for row in rows:
        point = (row["flops"] / 1e9, row["identity"])
        axes.plot(*point, "o", color=_COLOURS[0])
        axes.annotate(row["variant"], point, textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set(ylim=(0, 1.02), xlabel="GFLOP for a step of a frame", ylabel="identity", title="what memory costs")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.15)


def _video_panels(result: Result) -> list[Panel]:
    rows = result["rows"]
    panels: list[Panel] = [
        lambda axes: _bars(axes, rows, "keyframe_psnr", "dB", "keyframes; dotted: the VAE's own", rows[0]["vae_psnr"]),
        lambda axes: _bars(axes, rows, "boundary_jump", "ratio", "jump at chunk joints; dotted: none", 1.0),
        lambda axes: _bars(axes, rows, "psnr", "dB", "PSNR to the true clip", None),
        lambda axes: _bars(axes, rows, "motion_ratio", "ratio", "motion over true motion; dotted: equal", 1.0),
    ]
    layouts = dict.fromkeys(layout for found in result["change"].values() for layout in found)
    panels += [lambda axes, layout=layout: _change(axes, result["change"], layout) for layout in layouts]  # type: ignore[misc]
    return panels


def _bars(axes: Axes, rows: Sequence[Result], column: str, unit: str, title: str, line: float | None) -> None:
    kept = [row for row in rows if row[column] is not None]
    for k, row in enumerate(kept):
        axes.bar(k, row[column], 0.6, color=_COLOURS[k % len(_COLOURS)])
        axes.annotate(f"{row[column]:.2f}", (k, row[column]), textcoords="offset points", xytext=(0, 3), ha="center")
    axes.set_xticks(range(len(kept)), [row["variant"].replace("_", " ") for row in kept])
    if line is not None:
        axes.axhline(line, color="grey", linestyle=":", linewidth=1.2)
    axes.set(ylabel=unit, title=title)
    axes.margins(y=0.15)


def _change(axes: Axes, change: Mapping[str, Mapping[str, Sequence[float]]], layout: str) -> None:
    from matplotlib.ticker import MaxNLocator

    names = [name for name in change if name != "truth"]  # in the order of the rows, so that colours are the bars'
    for colour, name in zip((*_COLOURS[: len(names)], "black"), (*names, "truth"), strict=False):
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


def _storytelling_panels(result: Result) -> list[Panel]:
    rows = result["rows"]
    unit = {"ssim": "1 − SSIM", "lpips": "LPIPS"}[result["jump_metric"]]
    panels: list[Panel] = [
        lambda axes: _grouped(
            axes, rows, ("clip_add", "clip_combined", "consistency"), "alignment and consistency", "cosine"
        ),
        lambda axes: _bars(axes, rows, "jump", unit, "jump from segment to segment", None),
    ]
    if result["set"] == "pocket":
        panels.insert(0, lambda axes: _grouped(axes, rows, ("action", "place", "identity"), "read right", "share"))
    if result["weights"]:
        panels.append(lambda axes: _weights(axes, result["weights"]))
    return panels


def _grouped(axes: Axes, rows: Sequence[Result], columns: Sequence[str], title: str, unit: str) -> None:
    for k, column in enumerate(columns):
        at = [i + 0.26 * k for i in range(len(rows))]
        axes.bar(at, [row[column] or 0 for row in rows], 0.24, color=_COLOURS[k], label=column)
    axes.set_xticks([i + 0.26 for i in range(len(rows))], [row["variant"] for row in rows], rotation=20, ha="right")
    axes.set(ylim=(0, 1.02), ylabel=unit, title=title)
    axes.legend()


def _weights(axes: Axes, weights: Mapping[str, Sequence[float]]) -> None:
    for colour, (name, values) in zip(_COLOURS, weights.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, ".-", color=colour, label=name)
    axes.set(ylim=(0, 1), xlabel="step", ylabel="weight of the scene", title="DIPW; the action has the rest")
    axes.legend()

"""How the suite `keyframes` shows its figures: tables, plots and the sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...plots import COLOURS
from ...report import FRAMES_SHOWN, Strip, variant_label
from ...suite import Panel
from ...table import NAME, beside, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CHANCE", "TABLES", "panels", "strips"]

Result = Mapping[str, Any]

CHANCE = {"identity": (1 / 8 + 1 / 4 + 1 / 4) / 3, "layout": (1 / 4 + 1 / 3 + 1 / 3) / 3}
"""Share of right (identity) or agreeing (layout) readings that guessing would have."""

_FEW = 5
"""Characters or places below which a share is chance."""

_ROWS = ("truth", "goldenmem", "full", "none")
"""Rows of the sheet, where they were run."""


def _identity(row: Result) -> str:
    if row["identity"] is None:
        return "–"
    error = row["identity_se"]
    return f"{row['identity']:.3f}" + ("" if error is None else f" ±{error:.2f}")


_PAIRS = NAME | {"pairs": figure("pairs", 0)}

TABLES = (
    _PAIRS
    | {
        "identity": _identity,
        "exact": figure("identity_exact"),
        "told": figure("introduced"),
        "kept": figure("consistency"),
        "place": figure("place"),
        "layout": figure("layout"),
    },
    _PAIRS
    | {
        "side": figure("side"),
        "action": figure("action"),
        "aligned": figure("alignment"),
        "recall": figure("recall"),
    },
    _PAIRS
    | {
        "diversity / true": beside("diversity", "diversity_truth", 3),
        "tokens": figure("tokens", 0),
        "GFLOP": figure("flops", 2, 1e-9),
        "seconds": figure("seconds", 2),
    },
)


def panels(result: Result) -> list[Panel]:
    """Scores by variant, along the story, by noise, by length and by tier, and what memory costs."""
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
        axes.bar(at, values, 0.38, yerr=errors, color=COLOURS[k], label=score, capsize=2)
        axes.axhline(CHANCE[score], color=COLOURS[k], linestyle=":", linewidth=1)
    axes.set_xticks([i + 0.2 for i in range(len(rows))], names, rotation=40, ha="right")
    axes.set(ylim=(0, 1.02), ylabel="share", title=f"{rows[0]['pairs']} shots; dotted: guessing")
    axes.legend()


def _along(axes: Axes, by_shot: Mapping[str, Sequence[float | None]], pairs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = [name for name in by_shot if name.endswith(f"@{pairs}") and _remembers(name)]
    for colour, name in zip(COLOURS, shown or list(by_shot), strict=False):
        points = [(p + 1, value) for p, value in enumerate(by_shot[name]) if value is not None]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), ".-", color=colour, label=name.partition("@")[0])
    axes.axhline(CHANCE["identity"], color="grey", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylim=(0, 1.02), xlabel="shot", ylabel="identity", title="along the story")
    axes.legend()


def _noise(axes: Axes, rows: Sequence[Result]) -> None:
    """Levels that all frames share as points, ranges that each draws its own from as bars over the range."""
    spans = [[float(t) for t in row["variant"].partition(":")[2].split("-")] for row in rows]
    for colour, score in zip(COLOURS, ("identity", "layout"), strict=False):
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
    for colour, row in zip(COLOURS, [row for row in rows if row["variant"].startswith("goldenmem")], strict=False):
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
    for colour, name in zip(COLOURS, names, strict=False):
        points = [(r["pairs"], r["identity"]) for r in rows if r["variant"] == name and r["identity"] is not None]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "o-", color=colour, label=name)
    axes.set_xticks(counts)
    axes.set(ylim=(0, 1.02), xlabel="shots in the story", ylabel="identity", title="longer stories")
    axes.legend()


def _cost(axes: Axes, rows: Sequence[Result]) -> None:
    for row in rows:
        point = (row["flops"] / 1e9, row["identity"])
        axes.plot(*point, "o", color=COLOURS[0])
        axes.annotate(row["variant"], point, textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set(ylim=(0, 1.02), xlabel="GFLOP for a step of a frame", ylabel="identity", title="what memory costs")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.15)


def strips(frames: Mapping[str, Tensor]) -> list[list[Strip]]:
    """A few stories: ground truth, then what the main variants made of them."""
    rows = [name for name in _ROWS if name in frames] or list(frames)
    if len(rows) == 1:  # none of the main variants was run
        rows = list(frames)
    stories = len(frames["truth"])
    return [[(variant_label(name), frames[name][n][:FRAMES_SHOWN], ()) for name in rows] for n in range(stories)]

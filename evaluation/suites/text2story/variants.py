"""Variants of Text2Story's ablation (§4.5, Table 1): the full method, a part left out or changed, the plain model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from ....core.errors import InputError
from ....sampling.text2story.action_similarity import SAR, Encoder, Pair
from ....sampling.text2story.segments import StorySettings
from .suite import Text2StorySuite

__all__ = ["SETTINGS", "VARIANTS", "settings_of"]

SETTINGS = StorySettings()
VARIANTS = Text2StorySuite.variants


def settings_of(variant: str, full: StorySettings = SETTINGS) -> StorySettings:
    """What a variant leaves out of `full`, or changes in it: `VARIANTS`, and those of `_changed`.

    Raises:
        InputError: no such variant.
    """
    parts: dict[str, dict[str, Any]] = {
        "full": {},
        "without_dipw": {"dipw": None},
        "without_twb": {"gamma": 0.0},
        "without_sar": {"semantic": False},
        "plain": {"dipw": None, "gamma": 0.0},
    }
    if variant in parts:
        return replace(full, **parts[variant])
    with suppress(ValueError, InputError):  # no number, no such choice, or out of range: no such variant
        if (found := _changed(variant, full)) is not None:
            return found
    fix = "choose some of them, or prior_shift:S, prior_clock:noise|steps, action_prompt:whole|alone, sar:READING"
    raise InputError("variants", f"must be among {', '.join(VARIANTS)}", variant, fix)


def _changed(variant: str, full: StorySettings) -> StorySettings | None:
    """`full` with one choice of another kind, None for none.

    `paper_prior` has the paper's clock and prompts, `prior_shift:S` and `prior_clock:C` change the prior alone,
    `action_prompt:A` the second prompt, `sar:READING` SAR: words of `action_similarity.SAR` joined by +, such as
    `sar:clip+within+centred`; what is not named is as by default.
    """
    head, _, value = variant.partition(":")
    if head == "sar":
        words = value.split("+")
        flags = {name: name in words for name in ("centred", "bounded")}
        for word in words:
            kind = next((n for n, k in (("encoder", Encoder), ("pair", Pair)) if word in get_args(k)), None)
            if kind is not None:
                flags[kind] = word  # type: ignore[assignment]
            elif word not in flags:
                return None
        return replace(full, sar=SAR(**flags))  # type: ignore[arg-type]
    if head == "action_prompt":
        return replace(full, action_prompt=value)  # type: ignore[arg-type]
    dipw = full.dipw
    if dipw is not None and head == "prior_shift":
        return replace(full, dipw=replace(dipw, prior_shift=float(value)))
    if dipw is not None and head == "prior_clock":
        return replace(full, dipw=replace(dipw, prior_clock=value))  # type: ignore[arg-type]
    if dipw is not None and variant == "paper_prior":
        return replace(full, dipw=replace(dipw, prior_clock="steps", prior_shift=1.0), action_prompt="alone")
    return None

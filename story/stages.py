"""What the stages of a film take from a storyboard, whichever host runs them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ..core.errors import InputError
from .names import find_names
from .shot import MAX_SEED, Shot

__all__ = [
    "FIRST_TAKE", "MAX_WINDOW", "alias_names", "attempt_seed", "stage_seed", "tile_captions", "window_seed", "windows",
]  # fmt: skip

T = TypeVar("T")

MAX_WINDOW = 32
"""Keyframes that are made together at most: as many as Captain Cinema shows (Appendix C)."""

FIRST_TAKE = 1
"""The take of a shot that has not been made again."""

_TAG = re.compile(r"<([^<>]*)>")


def stage_seed(shot: Shot, take: int, stage: str) -> int:
    """The seed of one stage of a shot: from the shot's own seed (or id), the take and the stage, and from nothing else.

    So it does not matter which shots are rendered, in what order, or how often a run was interrupted.
    """
    text = f"{shot.noise_seed()}:{take}:{stage}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & MAX_SEED


def windows(keyframes: Sequence[T], width: int, given: Callable[[T], bool]) -> Iterator[list[T]]:
    """Keyframes in runs of up to `width`, which are made together; one that is `given` already is a run for itself."""
    run: list[T] = []
    for keyframe in keyframes:
        if run and (given(keyframe) or given(run[0]) or len(run) == width):
            yield run
            run = []
        run.append(keyframe)
    if run:
        yield run


def window_seed(seeds: Sequence[int]) -> int:
    """The seed of keyframes that are made together, from the seeds of all: a new take of one is a new take of them."""
    if len(seeds) == 1:
        return seeds[0]
    text = ",".join(str(seed) for seed in seeds)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & MAX_SEED


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of the n-th attempt at the same keyframe, from 1: the first has the keyframe's own."""
    if attempt == 1:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:attempt {attempt}".encode()).digest()[:8], "big") & MAX_SEED


def tile_captions(captions: Sequence[str]) -> str:
    """The tiled caption c_tiled of a video of several shots: every shot's caption, in order (Captain Cinema §3.3).

    Raises:
        InputError: no captions, or an empty one.
    """
    stripped = [" ".join(c.split()) for c in captions]
    if not stripped or not all(stripped):
        raise InputError("captions", "every shot needs a caption", list(captions), "write one per shot")
    return " ".join(c if c[-1] in ".!?…" else f"{c}." for c in stripped)


def alias_names(prompts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Replace every `<Name>` that is not in `names` by one that is, the same one throughout.

    A small encoder reads only the names in its vocabulary. Names that it knows stay, in the vocabulary's letter case;
    the others get the first names that no prompt uses, in order of first mention. Give all captions of a film at once.

    Args:
        prompts: captions in film order.
        names: the names in the encoder's vocabulary, in order.

    Raises:
        InputError: more characters than names.
    """
    mentioned = list(dict.fromkeys(name for prompt in prompts for name in find_names(prompt)))
    cased: dict[str, str] = {}
    for name in names:
        cased.setdefault(name.casefold(), name)
    alias = {name: name for name in mentioned if name in names}
    for name in mentioned:
        own = cased.get(name.casefold())
        if name not in alias and own is not None and own not in alias.values():
            alias[name] = own
    free = (name for name in names if name not in set(alias.values()))
    for name in [name for name in mentioned if name not in alias]:
        substitute = next(free, None)
        if substitute is None:
            raise InputError(
                "characters",
                f"this text encoder can tell {len(names)} characters apart",
                len(mentioned),
                "use fewer characters, or a studio with a public text encoder",
            )
        alias[name] = substitute
    return [_TAG.sub(lambda m: f"<{alias.get(m[1].strip(), m[1].strip())}>", prompt) for prompt in prompts]

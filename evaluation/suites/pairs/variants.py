"""The rows of the suite: the whole method, and what is left of it without one of its parts (STAGE §5.4)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....core.errors import InputError
from ....memory.memory_pack import MemoryPack
from .rollout import PairPolicy
from .suite import EXTRA, PairsSuite

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ....models.studio_defaults import PairDefaults

__all__ = ["Variant", "chosen_variants", "without_dpo"]

NO_DPO = "no_dpo"


@dataclass(frozen=True)
class Variant:
    """One row's way of making pairs.

    Attributes:
        name: what the row is called.
        policy: how pairs are made; None: true frames after the VAE.
        preferred: with the studio's DPO LoRAs.
    """

    name: str
    policy: PairPolicy | None
    preferred: bool = True

    @classmethod
    def parse(cls, name: str, defaults: PairDefaults) -> Variant:
        """Read a variant's name; everything that it does not say is the studio's default.

        Raises:
            InputError: no such variant.
        """
        known = (*PairsSuite.variants, *EXTRA)
        if name not in known:
            raise InputError("variants", f"must be among {', '.join(known)}", name, "choose some of them")
        if name == "ground_truth":
            return cls(name, None)
        own = defaults.pack
        full = PairPolicy(own, defaults.rank_by)
        pack = {
            "canvas": replace(own, packing="canvas"),
            "fit": replace(own, packing="canvas", aspect="fit"),
            "pixel": replace(own, level="pixel"),
            "references": MemoryPack("references", pyramid=True, level=own.level),
            "full_references": MemoryPack("references", level=own.level, limit=own.limit),
        }
        policies = {
            "no_memory_pack": replace(full, pack=None),
            "no_history": replace(full, pack=None, previous=False),
            "no_dual_encoding": replace(full, joint=False),
            "previous_end": replace(full, rank_by="image"),
            "recency": replace(full, rank_by="recency"),
            "told": replace(full, looks="told"),
            **{key: replace(full, pack=value) for key, value in pack.items()},
        }
        return cls(name, policies.get(name, full), name != NO_DPO)


def chosen_variants(studio: Studio, names: tuple[str, ...] | None) -> list[Variant]:
    """The rows that are run; by default all that this studio can do.

    Raises:
        InputError: no such variant, or `no_dpo` of a studio without a DPO LoRA.
    """
    able = bool(_dpo_loras(studio))
    if names is None:
        names = tuple(name for name in PairsSuite.variants if able or name != NO_DPO)
    elif NO_DPO in names and not able:
        fix = "leave it out, or name the LoRA's file so that it says dpo"
        raise InputError("variants", "no_dpo needs a studio whose pair model has a DPO LoRA", NO_DPO, fix)
    return [Variant.parse(name, studio.defaults.pair) for name in dict.fromkeys(names)]


def without_dpo(studio: Studio) -> Studio:
    """The same studio without its DPO LoRAs: what supervised fine-tuning alone has learned."""
    config = studio.config
    parts = {
        name: part.model_copy(update={"loras": [lora for lora in part.loras if not _is_dpo(lora.file)]})
        for name in ("pair", "pair_text")
        if (part := getattr(config, name)) is not None
    }
    plain = copy.copy(studio)  # without the models that it has loaded
    plain.config = config.model_copy(update=parts)
    return plain


def _dpo_loras(studio: Studio) -> list[str]:
    parts = [part for part in (studio.config.pair, studio.config.pair_text) if part is not None]
    return [str(lora.file) for part in parts for lora in part.loras if _is_dpo(lora.file)]


def _is_dpo(files: list[str]) -> bool:
    """A LoRA of preference optimisation says so in its name."""
    return any("dpo" in Path(file).name.lower() for file in files)

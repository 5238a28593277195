"""Start-end pairs on a MODEL of ComfyUI's: the protocol that a backbone's adapter keeps to (STAGE §4.1).

ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from ...memory.memory_pack import PackTile
from ..layouts.pairs import Size
from ..layouts.start_end import Centring, GuidanceAgainst, Packing, PairLayoutName, ReferenceTimestep
from .native_adapter import Callback, Conditioning

__all__ = ["PAIR", "NativePairs", "PairFrame", "PairModelSettings"]

PairFrame = Literal["start", "end"]
"""One of a shot's two frames."""
PAIR: tuple[PairFrame, PairFrame] = ("start", "end")


@dataclass(frozen=True)
class PairModelSettings:
    """How a pair and its memory stand in the model's sequence, and how it is guided.

    Attributes:
        layout: ``stacked`` (published) or ``sequence``.
        packing: ``references`` or ``canvas``: how remembered frames' positions are counted.
        canvas: (rows, columns) of the canvas; None: a frame's.
        reference_timestep: t of clean frames, ``zero`` or ``shared``; None: as the model's file says.
        rescale: bring the guided velocity of every token to the length of the positive one's (published).
        guidance_against: what the negative branch lacks: ``text``, ``memory`` or ``both``, see `GuidanceAgainst`.
        centring: where a side with an odd number of tokens has its middle.
    """

    layout: PairLayoutName = "stacked"
    packing: Packing = "references"
    canvas: Size | None = None
    reference_timestep: ReferenceTimestep | None = None
    rescale: bool = True
    centring: Centring = "qwen"
    guidance_against: GuidanceAgainst = "text"


class NativePairs(Protocol):
    """Start and end frames on one class of MODEL."""

    def sample(
        self,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        size: Size,
        memory: Sequence[tuple[PackTile, Tensor]] = (),
        given: Mapping[PairFrame, Tensor] | None = None,
        settings: PairModelSettings | None = None,
        *,
        sigmas: Tensor,
        noise: Mapping[PairFrame, Tensor],
        cfg: float = 1.0,
        sampler: Any = None,
        seed: int = 0,
        callback: Callback | None = None,
        disable_pbar: bool = False,
    ) -> dict[PairFrame, Tensor]:
        """Sample a start and an end frame together, beside remembered frames.

        Args:
            model: the MODEL.
            positive, negative: one prompt each, without references; against ``memory`` the negative is not read.
            size: (height, width) of a frame's latent.
            memory: remembered frames, most relevant first: place in the pack, and latent `[C, 2·rows, 2·cols]` (or
                `[1, C, …]`) as the VAE gives it.
            given: latents `[1, C, h, w]` of a frame that is not sampled, as the VAE gives them.
            settings: layout and guidance.
            sigmas: noise levels 1 … 0, [steps + 1].
            noise: `[1, C, h, w]` of every new frame.
            cfg: classifier-free guidance; 1 runs the positive alone.
            sampler: a SAMPLER; None takes Euler.
            seed: for samplers that draw noise of their own.
            callback: called after every step with x0 and x `[1, C, F, h, w]` of the F new frames.
            disable_pbar: no progress bar in the console.

        Returns:
            Latents `[1, C, h, w]` of both frames as the VAE reads them; a given one is what was given.

        Raises:
            InputError: another kind of model, sizes that do not fit, or what cannot be sampled together.
        """
        ...

"""What a backbone does for the nodes on a MODEL of ComfyUI's: one protocol for each kind of sampling.

A backbone's `NativeModel` (`spec.py`) names the objects that keep to them; `native_models.py` finds them from a MODEL.
ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from ...memory.frame_memory import ContextFrame
from ..layouts.chunks import Experts, VideoPlan
from ..layouts.pairs import PairSettings
from ..layouts.video_latents import Latent, MultiChunkVideo

__all__ = ["Callback", "Conditioning", "NativeKeyframes", "NativeUpscale", "NativeVideo"]

Conditioning = list[Any]
"""ComfyUI's CONDITIONING: a list of [tokens [b, T, D], dict]."""

Callback = Callable[[int, Any, Any, int], None]
"""ComfyUI's sampler callback: (step, x0, x, steps)."""


class NativeKeyframes(Protocol):
    """Interleaved keyframes (Captain Cinema §3.2) on one class of MODEL."""

    def sample(
        self,
        model: Any,
        prompts: Sequence[Conditioning],
        latents: Sequence[Tensor],
        context: Sequence[ContextFrame[Conditioning]],
        negative: Sequence[Conditioning] | None,
        settings: PairSettings,
        *,
        sigmas: Tensor,
        seed: int,
        cfg: float,
        sampler: Any,
        callback: Callback | None,
        disable_pbar: bool,
    ) -> list[Tensor]:
        """Sample new frames beside a memory of earlier ones.

        Args:
            model: the MODEL.
            prompts: W captions, one per new frame.
            latents: W latents [B, C, h, w]; zeros to start from noise.
            context: earlier frames, the most relevant first.
            negative: one caption for all new frames, one for each, or None.
            settings: attention mode, noise of the context, cache.
            sigmas: noise levels 1 … 0, [steps + 1].
            seed: of the noise.
            cfg: classifier-free guidance; 1 runs the positive alone.
            sampler: a SAMPLER.
            callback: called after every step.
            disable_pbar: no progress bar in the console.

        Returns:
            W latents [B, C, h, w], ready for VAE Decode.

        Raises:
            InputError: what cannot be sampled together.
        """
        ...

    def caption_advice(self, captions: Sequence[Conditioning]) -> str | None:
        """What to say once about captions that work, but cost more than they must; None if there is nothing."""
        ...


class NativeVideo(Protocol):
    """Video through keyframes (SmartDirector §3.2) on one class of MODEL."""

    def patch(self, model: Any, video: MultiChunkVideo) -> Any:
        """A clone of the MODEL that samples this video's layout, with any sampler.

        Raises:
            InputError: a MODEL that cannot.
        """
        ...

    def sample(
        self,
        model: Any | Experts,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        sigmas: Tensor,
        *,
        cfg: float | tuple[float, float],
        sampler: Any,
        seed: int,
        callback: Callback | None,
    ) -> Latent:
        """Sample a multi-chunk latent through ComfyUI's own sampling; with two experts in one go.

        Args:
            model: the MODEL or two `Experts`, patched or not.
            positive, negative: CONDITIONING.
            latent: `MultiChunkVideo.latent`.
            sigmas: noise levels, falling.
            cfg: guidance, one or (high, low).
            sampler: a deterministic sampler's name, or a SAMPLER.
            seed: of the noise.
            callback: called after every step.

        Returns:
            LATENT with the same noise_mask and plan; given latents bit for bit.

        Raises:
            InputError: a sampler that adds noise, or a MODEL patched for another video.
        """
        ...


class NativeUpscale(Protocol):
    """Keyframe-conditioned super-resolution (SmartDirector §3.3) on one class of MODEL."""

    def sample(
        self,
        model: Any,
        positive: Conditioning,
        plan: VideoPlan,
        z_lr: Tensor,
        clean_latents: Tensor,
        sigmas: Tensor,
        *,
        start_noise: float,
        near: int | None = None,
        sampler: Any,
        seed: int,
        callback: Callback | None,
        disable_pbar: bool,
    ) -> Tensor:
        """Sample high-resolution latents from the upsampled latents of a small video.

        Args:
            model: the MODEL.
            positive: CONDITIONING; there is no guidance.
            plan: the layout in latent time.
            z_lr: [B, C, F, h, w], upsampled latents of the small video, as core's VAEs give them.
            clean_latents: [B, C, K, h, w], latents of the large keyframes at `plan.pinned`.
            sigmas: noise levels, falling to 0; from 1 the bridge of the paper, from below 1 without training for it.
            start_noise: standard deviation of noise added to z_LR where the bridge starts; 0 in the paper.
            near: latent frames that each attends to on both sides, besides all keyframes; None: all.
            sampler: a deterministic sampler's name, or a SAMPLER.
            seed: of the noise, where there is any.
            callback: called after every step.
            disable_pbar: no progress bar in the console.

        Returns:
            [B, C, F, h, w] fp32; keyframe latents bit for bit.

        Raises:
            InputError: what cannot be sampled together.
        """
        ...

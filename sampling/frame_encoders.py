"""The encoders of a headless frame memory: a studio's CLIP, text encoder and VAE (Captain Cinema §3.2).

Films and the evaluation both remember through them, so that what is measured is what films are made with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..memory.retrieval import mean_pool

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["StudioEncoders"]


class StudioEncoders:
    """`FrameEncoders` of a studio; a model is loaded when it is first needed."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of one token of the keyframe model."""
        return self._studio.image_vae.pixels_per_token

    def embed_query(self, text: str, dim: int) -> Tensor:
        """CLIP embeddings `[P, dim]` of the parts of a query, on the CPU."""
        return self._studio.clip.embed_query(text).cpu()

    def embed_caption(self, text: str) -> Tensor:
        """Mean `[D]` of the token states of a caption, on the CPU."""
        encoded = self._studio.keyframe_text.encode([text])
        return mean_pool(encoded.tokens, encoded.mask)[0].cpu()

    def embed_image(self, images: Tensor) -> Tensor:
        """CLIP embeddings `[B, D]`, on the CPU, of images `[B, 3, H, W]` in 0…1."""
        return self._studio.clip.embed_images(images).cpu()

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B, C, h, w]`, unit scale, of images `[B, 3, H, W]` in 0…1."""
        return self._studio.image_vae.encode_image(images)

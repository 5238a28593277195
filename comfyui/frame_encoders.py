"""The models behind a graph's memory of earlier frames: ComfyUI's VAE, CLIP and CLIP_VISION (Captain Cinema §3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import InputError
from ..memory.frame_memory import MemoryFrame
from ..memory.retrieval import Ranking
from .encode_text import embed_text, encode_caption
from .images import encode_frames
from .similarity import embed_images, embed_parts

__all__ = ["ComfyEncoders"]

Conditioning = list[Any]


@dataclass(frozen=True)
class ComfyEncoders:
    """`FrameEncoders` of a graph.

    Attributes:
        vae: encodes frames.
        clip: text encoder of the keyframe model, for captions and text-to-text retrieval.
        clip_vision, retrieval_clip: a CLIP pair, for text-to-image retrieval; without the latter `clip` serves.
    """

    vae: Any
    clip: Any = None
    clip_vision: Any = None
    retrieval_clip: Any = None

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of one token: 16 for all image models that nodes take today.

        VAEs that shrink 8 times leave a 2×2 patch to the transformer; those that shrink 16 times have folded it in.
        """
        return max(16, int(self.vae.spacial_compression_encode()))

    def check(self, retrieval: Ranking) -> None:
        """Raise InputError if frames cannot be ranked this way with the models that are connected."""
        seen = ("clip_vision", self.clip_vision)
        needed = {"clip": seen, "image": seen, "text": ("clip", self.clip)}
        name, model = needed.get(retrieval, ("", self))
        if model is None:
            fix = f"connect {name}, or choose another retrieval (recency needs nothing)"
            raise InputError(name, f"is needed to rank frames by {retrieval}", None, fix)

    def embed_query(self, text: str, dim: int) -> Tensor:
        """CLIP embeddings `[P, dim]` of a query's parts. Raises InputError without a CLIP that projects to `dim`."""
        clip = self.retrieval_clip if self.retrieval_clip is not None else self.clip
        if clip is None:
            fix = "connect the CLIP that belongs to the CLIP_VISION, or rank by recency"
            raise InputError("retrieval_clip", "is needed to rank frames by clip", None, fix)
        return embed_parts(clip, text, dim)

    def embed_caption(self, text: str) -> Tensor:
        """Mean `[D]` of the token states of a caption."""
        return embed_text(self.clip, text)

    def embed_image(self, images: Tensor) -> Tensor:
        """CLIP embeddings `[B, D]` of images `[B, 3, H, W]` in 0…1."""
        return embed_images(self.clip_vision, images)

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B, C, h, w]` of images `[B, 3, H, W]` in 0…1."""
        return encode_frames(self.vae, images)

    def caption(self, frame: MemoryFrame) -> Conditioning:
        """The caption of a frame as CONDITIONING, encoded when it is first needed.

        Raises:
            InputError: there is no caption, or no text encoder to read it.
        """
        if isinstance(frame.text, str):
            if not frame.text:
                fix = "write one caption per line, or connect the storyboard"
                raise InputError("context.captions", "every context frame needs a caption", frame.label or "none", fix)
            if self.clip is None:
                fix = "connect the CLIP of the keyframe model to GoldenMem Context"
                raise InputError("context.clip", "is needed to encode the captions of context frames", None, fix)
            frame.text = encode_caption(self.clip, frame.text)
        encoded: Conditioning = frame.text
        return encoded

"""How the keyframe nodes use a Flux MODEL (see `NativeKeyframes`)."""

from __future__ import annotations

from collections.abc import Sequence

from ..native_adapter import NativeKeyframes
from .native import sample_native
from .native_checks import PADDED, Conditioning, count_padded

__all__ = ["KEYFRAMES"]


class _Keyframes:
    sample = staticmethod(sample_native)

    @staticmethod
    def caption_advice(captions: Sequence[Conditioning]) -> str | None:
        """Padding costs memory and makes other pictures than the command line: say how to be rid of it."""
        padded = count_padded(captions)
        if padded < 2:
            return None
        return (
            f"{padded} of {len(captions)} captions have exactly {PADDED} tokens, which is how ComfyUI's FLUX text "
            "encoder pads short ones. Remembered padding takes memory and time: put T5 Tokenizer Options (min_padding "
            "0, min_length 0) between the CLIP loader and CLIP Text Encode."
        )


KEYFRAMES: NativeKeyframes = _Keyframes()

"""The suites, one folder each. A new one is such a folder and a line here."""

from __future__ import annotations

from typing import Any

from ..suite import Suite
from .keyframes.suite import KeyframesSuite
from .pairs.suite import PairsSuite
from .text2story.suite import Text2StorySuite
from .upscale.suite import UpscaleSuite
from .video.suite import VideoSuite

__all__ = ["SUITES"]

SUITES: tuple[Suite[Any], ...] = (
    KeyframesSuite(),
    VideoSuite(),
    Text2StorySuite(),
    PairsSuite(),
    UpscaleSuite(),
)

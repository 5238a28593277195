"""ComfyUI's side of Anchorshot: thin nodes over the same algorithms as the command line.

Importing this builds schemas only. What a node works with is imported when it first runs, so that the pack costs
nothing at ComfyUI's start.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..comfyui.story_route import add_route
from .agents import Director, ShotRefiner
from .extend import ExtendedVideo, ExtendVideo
from .film import ContactSheet, Film
from .keyframes import InterleavedKeyframeSampler
from .memory import GoldenMemContext, GoldenMemReferences
from .mixing import SAR, DIPWGuider, DIPWModelPatch, DIPWWeights, TWBBlend
from .pair_lora import PairLora
from .pairs import MemoryPackNode, PairsToTimeline, StartEndPairPredictor
from .pocket import PocketStudio
from .story import Shot, Storyboard
from .timeline import KeyframeTimeline
from .upscale import KeyframeSR
from .video import MultiChunkDecode, MultiChunkModel, MultiChunkVideoSampler, RepinKeyframes

__all__ = ["NODES", "AnchorshotExtension"]

NODES: list[type[io.ComfyNode]] = [
    Storyboard,
    Shot,
    GoldenMemContext,
    GoldenMemReferences,
    InterleavedKeyframeSampler,
    KeyframeTimeline,
    MultiChunkModel,
    MultiChunkVideoSampler,
    MultiChunkDecode,
    RepinKeyframes,
    ExtendVideo,
    ExtendedVideo,
    Film,
    ContactSheet,
    PocketStudio,
    DIPWGuider,
    DIPWModelPatch,
    TWBBlend,
    SAR,
    DIPWWeights,
    MemoryPackNode,
    StartEndPairPredictor,
    PairsToTimeline,
    PairLora,
    Director,
    ShotRefiner,
    KeyframeSR,
]


class AnchorshotExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)

"""The shipped workflows, described; `make workflows` has the real frontend draw them into workflows/."""

from __future__ import annotations

from collections.abc import Callable

from in_comfyui.shipped.blueprints import interleaved_keyframes, multi_chunk_video, story_segment
from in_comfyui.shipped.extending import extend_video
from in_comfyui.shipped.films import flux_wan_film, pocket_film
from in_comfyui.shipped.keyframes import pocket_timeline, wan22_5b_keyframes, wan22_14b_keyframes
from in_comfyui.shipped.pairs import pocket_pairs_film, qwen_edit_pairs_wan, start_end_pairs
from in_comfyui.shipped.references import flux2_references, qwen_image_edit_references
from in_comfyui.shipped.stories import mochi_story, pocket_story, wan22_5b_story
from in_comfyui.shipped.upscaling import pocket_film_sr, upscale_any_video, wan22_5b_keyframe_sr
from in_comfyui.sketch import Sketch

__all__ = ["BLUEPRINTS", "FILMED", "WORKFLOWS"]

WORKFLOWS: dict[str, Callable[[], Sketch]] = {
    "pocket_film": pocket_film,
    "pocket_timeline": pocket_timeline,
    "flux_wan_film": flux_wan_film,
    "qwen_image_edit_references": qwen_image_edit_references,
    "flux2_references": flux2_references,
    "wan22_5b_keyframes": wan22_5b_keyframes,
    "wan22_14b_keyframes": wan22_14b_keyframes,
    "pocket_story": pocket_story,
    "wan22_5b_story": wan22_5b_story,
    "mochi_story": mochi_story,
    "qwen_edit_pairs_wan": qwen_edit_pairs_wan,
    "pocket_pairs_film": pocket_pairs_film,
    "pocket_film_sr": pocket_film_sr,
    "wan22_5b_keyframe_sr": wan22_5b_keyframe_sr,
    "upscale_any_video": upscale_any_video,
    "extend_video": extend_video,
}
"""The shipped workflows by short name; titles.py has the names of their files."""

FILMED = ("pocket_film", "pocket_timeline", "pocket_story", "pocket_pairs_film", "pocket_film_sr", "extend_video")
"""Those whose models come along: they run anywhere, and their thumbnails show what they make."""

BLUEPRINTS: dict[str, Callable[[], Sketch]] = {
    "Interleaved Keyframes (GoldenMem)": interleaved_keyframes,
    "Multi-Chunk Video (Wan)": multi_chunk_video,
    "Story Segment (Text2Story)": story_segment,
    "Start-End Pairs (STAGE)": start_end_pairs,
}
"""The blueprints by file name, which is the name in the node library."""

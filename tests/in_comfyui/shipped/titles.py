"""File names of the shipped workflows: ComfyUI's page of templates shows them as titles, and knows no others."""

from __future__ import annotations

__all__ = ["TITLES"]

TITLES = {
    "pocket_film": "1 Pocket film (no download)",
    "pocket_timeline": "2 Pocket timeline (no download)",
    "pocket_story": "3 Pocket story (no download)",
    "flux_wan_film": "4 Film with FLUX.1 and Wan 2.2 5B",
    "qwen_image_edit_references": "5 Next shot with Qwen-Image-Edit",
    "flux2_references": "6 Next shot with FLUX.2",
    "wan22_5b_keyframes": "7 Keyframes with Wan 2.2 5B",
    "wan22_14b_keyframes": "8 Keyframes with Wan 2.2 14B",
    "wan22_5b_story": "9 Story with Wan 2.2 5B",
    "mochi_story": "10 Story with Mochi 1",
    "pocket_pairs_film": "12 Pocket start and end frames (no download)",
    "qwen_edit_pairs_wan": "11 Start and end frames with Qwen and Wan 2.2",
    "pocket_film_sr": "13 Pocket film, larger (no download)",
    "wan22_5b_keyframe_sr": "14 Keyframes to a large video with Wan 2.2 5B",
    "upscale_any_video": "15 Upscale any video",
    "extend_video": "16 Extend a video (no download)",
}
"""By the name that the builder has; those that need no download come first."""

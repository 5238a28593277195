"""A video that goes on, with the models that come along."""

from __future__ import annotations

from in_comfyui.shipped.parts import pocket_clips, pocket_keyframes
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Sketch

__all__ = ["extend_video"]

CLIP = """title: Mira in the snow
fps: 8
size: [160, 80]
characters:
  Mira: a green triangle with a hat
places:
  hill: the snow
shots:
  - id: s01
    place: hill
    action: <Mira> walks on the left.
    camera: {scale: wide shot, movement: static}
    seconds: 2.125
"""
NEXT = "wide shot, static, in the snow. <Mira>, a green triangle with a hat, walks on the left."


def extend_video() -> Sketch:
    """A clip, what follows it, and both as one video; the clip is made here, so that it runs anywhere."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A video that goes on\n\n"
            "Press **Run**. Everything comes along: no downloads, no GPU, a minute.\n\n"
            "1. **The clip** to go on from is made here. For a video of your own, delete this group and connect *Load "
            "Video* to `clip` of *Extend Video* and of *Extended Video*.\n"
            "2. **What follows**: a prompt, and a timeline whose clock starts at the clip's last frame. A keyframe on "
            "it is a picture that the video comes by; one at 0 starts a new shot.\n"
            "3. **Sampling**: the model looks back at the last 9 frames (`context_frames`), all of them clean. Any "
            "core sampler makes the rest.\n"
            "4. **Extended video**: the new frames come after the clip without a step in colour. The frames and the "
            "sound of a video file stay untouched.\n\n"
            "With Wan 2.1 or 2.2 it is the same graph with core's loaders: set `fps` of the timeline to the video's, "
            "and look back at 17 to 33 frames. The command line does the same for whole stories: `anchorshot extend`.",
            width=420,
        )
    with s.group("1 · The clip", GREEN):
        studio = s.add("AnchorshotPocketStudio", size=(420, 0))
        story = s.add("AnchorshotStoryboard", size=(420, 430), story=CLIP, clip=studio["clip"])
        s.column()
        text = s.add("CLIPTextEncode", "Prompts", size=(360, 0), text=story["prompts"], clip=studio["clip"])
        spoken = s.add("CLIPTextEncode", "Prompts for video", size=(360, 0), text=story["prompts"],
                       clip=studio["video_clip"])  # fmt: skip
        empty = s.add("EmptySD3LatentImage", "Size", size=(360, 0), width=story["width"], height=story["height"])
        s.column()
        keyframes = pocket_keyframes(s, studio, story, text, empty)
        s.column()
        clip = pocket_clips(s, studio, story, spoken, story["timelines"], keyframes["images"])
    with s.group("2 · What follows", BLUE, below=True):
        second = s.add("AnchorshotPocketStudio", "Pocket Studio: video", size=(400, 0))
        prompt = s.add("CLIPTextEncode", "Prompt", size=(400, 160), text=NEXT, clip=second["video_clip"])
        timeline = s.add(
            "AnchorshotKeyframeTimeline", size=(400, 0), fps=8.0, seconds=1.125, timeline='{"keyframes": []}'
        )
    with s.group("3 · Sampling with core's sampler", PURPLE):
        laid = s.add(
            "AnchorshotExtendVideo",
            size=(320, 0),
            model=second["video_model"],
            vae=second["video_vae"],
            clip=clip["images"],
            timeline=timeline["timeline"],
            context_frames=9,
        )
        s.column()
        sampled = s.add(
            "KSampler",
            size=(320, 500),
            model=laid["model"],
            positive=prompt[0],
            negative=prompt[0],
            latent_image=laid["latent"],
            seed=7,
            **{"control_after_generate": "fixed"},
            steps=20,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
        )
    with s.group("4 · Extended video", GREEN):
        both = s.add(
            "AnchorshotExtendedVideo", size=(320, 0), latent=sampled[0], vae=second["video_vae"], clip=clip["images"]
        )
        s.add("SaveVideo", size=(420, 400), video=both["video"], filename_prefix="video/extended")
    return s

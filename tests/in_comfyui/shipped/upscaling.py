"""Larger video: any, with Wan 2.2 5B; made from keyframes and upscaled with them; with the models that come along."""

from __future__ import annotations

from in_comfyui.shipped.parts import (
    ENDS_24,
    EXAMPLE,
    EXAMPLE_VIDEO,
    JUMPS,
    NEGATIVE,
    files,
    load_clip,
    load_unet,
    load_vae,
    pocket_clips,
    pocket_keyframes,
    pocket_memory,
)
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Sketch

__all__ = ["pocket_film_sr", "upscale_any_video", "wan22_5b_keyframe_sr"]

_UNET, _VAE = "wan2.2_ti2v_5B_fp16.safetensors", "wan2.2_vae.safetensors"
_UMT5 = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"


def upscale_any_video() -> Sketch:
    """A video from a file, made larger with Wan 2.2 5B as it was published."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# Any video, larger: Wan 2.2 5B\n\n" + files(_UNET, _VAE) + "\n\nAbout 11 GB of files.\n\n"
            "1. **Video**: choose yours. It is read, upscaled and written piece by piece, so a long one needs no more "
            "memory than a short one. Times, sound, rotation and colours stay.\n"
            "2. **Model**: Wan 2.2 5B was not trained for this. With `training_free`, noise is put on the upscaled "
            "latents and the model takes it away: a low `strength` sharpens, a high one invents.\n"
            "3. **Keyframe SR**: cuts are found, and no scene shows in the next. Out of memory: a shorter `window`, "
            "then a `tile` of 320.\n\n"
            "**Keyframes**: if you have large, sharp pictures of some frames (upscaled or painted by another model), "
            "enable *Load Image* (Ctrl+B), and write in `keyframe_times` when they come. Their detail is carried "
            "through the video.",
            width=520,
        )
    with s.group("1 · Your video", GREEN):
        video = s.add("LoadVideo", size=(320, 340), file=EXAMPLE_VIDEO)
        picture = s.add("LoadImage", "A large keyframe, if you have one", size=(320, 300), bypassed=True, image=EXAMPLE)
    with s.group("2 · Model", BLUE):
        model = load_unet(s, _UNET, "Wan 2.2 5B")
        vae = load_vae(s, _VAE, "Wan 2.2 VAE")
    with s.group("3 · Larger", PURPLE):
        large = s.add(
            "AnchorshotKeyframeSR",
            size=(400, 0),
            model=model[0],
            vae=vae[0],
            video=video[0],
            mode="training_free",
            steps=8,
            strength=0.35,
            keyframes=picture[0],
        )
    with s.group("4 · Saved", GREEN):
        s.add("SaveVideo", size=(440, 420), video=large["video"], filename_prefix="video/upscaled")
        s.add("PreviewAny", "What was done", size=(440, 160), source=large["report"])
    return s


def wan22_5b_keyframe_sr() -> Sketch:
    """Large pictures to a small video, and with the same pictures to a large one, with Wan 2.2 5B."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# From keyframes to a large video: Wan 2.2 5B\n\n"
            + files(_UNET, _UMT5, _VAE)
            + "\n\nAbout 18 GB of files.\n\n"
            "SmartDirector's two stages: a small video through your keyframes, which is quick to make and to choose "
            "from; then the large one, in which the same keyframes, at full size, give the detail.\n\n"
            "1. **Keyframes**: choose your own in the place of ComfyUI's example, in order of time, at least "
            "1280x704.\n"
            "2. **Timeline**: drag the keyframes to where they belong.\n"
            "3. **Small video**: 640x352. Another `seed` gives another take; go on when one is right.\n"
            "4. **Large video**: 1280x704, with the large keyframes pinned on their frames. Wan 2.2 5B has not been "
            "trained for it: `training_free` is ours, not the paper's. A model trained for it "
            "(`recipes/sr_full.yaml`) takes `bridge` and four steps.",
            width=540,
        )
    with s.group("1 · Keyframes", GREEN):
        loaded = []
        for title in ("Your first keyframe", "Your middle keyframe", "Your last keyframe"):
            loaded.append(s.add("LoadImage", title, size=(280, 300), image=EXAMPLE))
            s.column()
        batch = s.add("BatchImagesNode", size=(280, 0), **{f"images.image{i}": one[0] for i, one in enumerate(loaded)})
        large = s.add(
            "ImageScale",
            "Large",
            size=(280, 0),
            image=batch[0],
            upscale_method="lanczos",
            width=1280,
            height=704,
            crop="center",
        )
    with s.group("2 · Timeline", BLUE):
        timeline = s.add(
            "AnchorshotKeyframeTimeline", size=(620, 0), fps=24.0, seconds=4.959, timeline=ENDS_24, keyframes=large[0]
        )
    with s.group("3 · Small video", BLUE, below=True):
        model = load_unet(s, _UNET, "Wan 2.2 5B")
        shifted = s.add("ModelSamplingSD3", size=(320, 0), model=model[0], shift=8.0)
        clip = load_clip(s, _UMT5, "wan", "Wan text encoder")
        vae = load_vae(s, _VAE, "Wan 2.2 VAE")
        s.column()
        positive = s.add(
            "CLIPTextEncode",
            "Prompt of the whole video",
            size=(380, 140),
            clip=clip[0],
            text="A woman in a yellow coat walks along the shore to the lighthouse, wind in her hair, evening light, "
            "slow tracking shot.",
        )
        negative = s.add("CLIPTextEncode", "Negative prompt", size=(380, 160), clip=clip[0], text=NEGATIVE)
        s.column()
        small = s.add(
            "AnchorshotMultiChunkVideoSampler",
            size=(400, 0),
            model=shifted[0],
            vae=vae[0],
            timeline=timeline["timeline"],
            seed=7,
            steps=30,
            cfg=5.0,
            sampler_name="uni_pc",
            keyframes=timeline["keyframes"],
            positive=positive[0],
            negative=negative[0],
            width=640,
            height=352,
        )
    with s.group("4 · Large video", PURPLE):
        upscaled = s.add(
            "AnchorshotKeyframeSR",
            size=(400, 0),
            model=model[0],
            vae=vae[0],
            video=small["images"],
            mode="training_free",
            steps=8,
            positive=positive[0],
            keyframes=timeline["keyframes"],
            timeline=timeline["timeline"],
        )
    with s.group("5 · Film", GREEN):
        s.add("SaveVideo", size=(440, 420), video=upscaled["video"], filename_prefix="video/keyframe_sr")
    return s


def pocket_film_sr() -> Sketch:
    """A shot through its keyframes and twice as large, with the models that come along."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A larger video: pocket\n\n"
            "Press **Run**. No downloads and no GPU: the tiny models come along. A shot is made at 160x80 and upscaled "
            "to 320x160 (SmartDirector's two stages).\n\n"
            "1. **Story**: change it and run again, within the pocket world's words.\n"
            "2. **Keyframes and video**, as in *Pocket film*.\n"
            "3. **Keyframe SR**: goes from the small video's latents to the large one's, without noise, in a few "
            "steps. With lists it runs once for every shot.\n"
            "4. **Film**: *Small* and *Large*, to compare.\n\n"
            "The pocket keyframe model makes no larger pictures than 160x80. Pictures of 320x160 for `keyframes`, one "
            "for each keyframe of the timeline, would carry their detail through the shot.\n\n"
            "The command line does the same: `anchorshot film STORY --upscale 2`.",
            width=440,
        )
    with s.group("1 · Story", GREEN):
        studio = s.add("AnchorshotPocketStudio", size=(420, 0))
        story = s.add("AnchorshotStoryboard", size=(420, 430), story=JUMPS, clip=studio["clip"])
    with s.group("2 · Keyframes", BLUE):
        text = s.add("CLIPTextEncode", "Prompts", size=(360, 0), text=story["prompts"], clip=studio["clip"])
        empty = s.add("EmptySD3LatentImage", "Size", size=(360, 0), width=story["width"], height=story["height"])
        context = pocket_memory(s, studio)
        s.column()
        keyframes = pocket_keyframes(s, studio, story, text, empty, context)
    with s.group("3 · Small video, large video", PURPLE, below=True):
        second = s.add("AnchorshotPocketStudio", "Pocket Studio: video", size=(280, 0))
        spoken = s.add("CLIPTextEncode", "Prompts", size=(280, 0), text=story["prompts"], clip=second["video_clip"])
        s.column()
        small = pocket_clips(s, second, story, spoken, story["timelines"], keyframes["images"])
        s.column()
        large = s.add(
            "AnchorshotKeyframeSR",
            size=(400, 0),
            model=second["upscale_model"],
            vae=second["upscale_vae"],
            video=small["images"],
            steps=2,
            window=125,
            overlap=41,
            cuts="none",
            positive=spoken[0],
            timeline=story["timelines"],
        )
    with s.group("4 · Film", GREEN):
        film = s.add(
            "AnchorshotFilm",
            size=(320, 0),
            fps=8.0,
            storyboard=story["storyboard"],
            **{"clips.clip_0": large["images"]},
        )
        s.add("SaveVideo", "Large", size=(420, 420), video=film["video"], filename_prefix="video/pocket_sr")
        s.column()
        s.add("PreviewImage", "Small", size=(420, 420), images=small["images"])
    return s

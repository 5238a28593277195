"""Keyframes on a timeline: with the models that come along, and with Wan 2.2 14B and 5B."""

from __future__ import annotations

from in_comfyui.shipped.parts import (
    ENDS,
    ENDS_24,
    EXAMPLE,
    JUMPS,
    NEGATIVE,
    TIMES,
    files,
    load_clip,
    load_unet,
    load_vae,
    models,
    pocket_keyframes,
    pocket_memory,
)
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Output, Placed, Sketch

__all__ = ["pocket_timeline", "wan22_14b_keyframes", "wan22_5b_keyframes"]


def pocket_timeline() -> Sketch:
    """Keyframes on a timeline, sampled by core's KSampler, with the models that come along."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# Keyframes on a timeline\n\n"
            "Press **Run**. Everything comes along: no downloads, no GPU, half a minute.\n\n"
            "1. **Keyframes**: three moments of one shot. Put *Load Image* in their place to use your own.\n"
            "2. **Timeline**: run once and the pictures stand on the time axis. Drag one to change the pacing, drag a "
            "border to make a shot longer; *Ripple* moves what follows. The snapped frame of each keyframe is shown. "
            "All of it works with the keyboard, too.\n"
            "3. **Video**: *Multi-Chunk Model* prepares the model and a latent in which the keyframes are pinned; any "
            "core sampler then makes the video, and *Multi-Chunk Decode* draws it.\n\n"
            "With Wan 2.1 or 2.2 it is the same graph with core's loaders.",
            width=420,
        )
    with s.group("1 · Keyframes", GREEN):
        studio = s.add("AnchorshotPocketStudio", size=(420, 0))
        story = s.add("AnchorshotStoryboard", size=(420, 430), story=JUMPS, clip=studio["clip"])
        s.column()
        text = s.add("CLIPTextEncode", "Prompts", size=(360, 0), text=story["prompts"], clip=studio["clip"])
        empty = s.add("EmptySD3LatentImage", "Size", size=(360, 0), width=story["width"], height=story["height"])
        context = pocket_memory(s, studio)
        s.column()
        keyframes = pocket_keyframes(s, studio, story, text, empty, context)
    with s.group("2 · Timeline", BLUE, below=True):
        timeline = s.add(
            "AnchorshotKeyframeTimeline",
            size=(620, 0),
            fps=8.0,
            seconds=2.375,
            timeline=TIMES,
            keyframes=keyframes["images"],
        )
    with s.group("3 · Video with core's sampler", PURPLE):
        second = s.add("AnchorshotPocketStudio", "Pocket Studio: video", size=(300, 0))
        prompt = s.add("CLIPTextEncode", "Prompt", size=(300, 0), text=story["tiled_prompt"], clip=second["video_clip"])
        chunks = s.add(
            "AnchorshotMultiChunkModel",
            size=(300, 0),
            model=second["video_model"],
            vae=second["video_vae"],
            timeline=timeline["timeline"],
            keyframes=timeline["keyframes"],
        )
        s.column()
        sampled = s.add(
            "KSampler",
            size=(300, 500),
            model=chunks["model"],
            positive=prompt[0],
            negative=prompt[0],
            latent_image=chunks["latent"],
            seed=7,
            **{"control_after_generate": "fixed"},
            steps=20,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
        )
        frames = s.add("AnchorshotMultiChunkDecode", size=(300, 0), latent=sampled[0], vae=second["video_vae"])
    with s.group("4 · Film", GREEN):
        video = s.add("CreateVideo", size=(420, 0), images=frames["images"], fps=timeline["fps"])
        s.add("SaveVideo", size=(420, 400), video=video[0], filename_prefix="video/pocket_timeline")
    return s


def _timeline(s: Sketch, width: int, height: int, fps: float, seconds: float, times: str) -> Placed:
    """Three pictures of one size, in order of time, and their timeline."""
    with s.group("1 · Keyframes", GREEN):
        loaded = []
        for title in ("Your first keyframe", "Your middle keyframe", "Your last keyframe"):
            loaded.append(s.add("LoadImage", title, size=(280, 300), image=EXAMPLE))
            s.column()
        batch = s.add("BatchImagesNode", size=(280, 0), **{f"images.image{i}": one[0] for i, one in enumerate(loaded)})
        pictures = s.add(
            "ImageScale",
            "Scale to the video's size",
            size=(280, 0),
            image=batch[0],
            upscale_method="lanczos",
            width=width,
            height=height,
            crop="center",
        )
    with s.group("2 · Timeline", BLUE):
        return s.add(
            "AnchorshotKeyframeTimeline",
            size=(620, 0),
            fps=fps,
            seconds=seconds,
            timeline=times,
            keyframes=pictures[0],
        )


def _prompts(s: Sketch, clip: Placed) -> dict[str, Output]:
    """What a sampler is given to follow and to avoid."""
    positive = s.add(
        "CLIPTextEncode",
        "Prompt of the whole video",
        size=(380, 140),
        clip=clip[0],
        text="A woman in a yellow coat walks along the shore to the lighthouse, wind in her hair, evening light, "
        "slow tracking shot.",
    )
    negative = s.add("CLIPTextEncode", "Negative prompt", size=(380, 160), clip=clip[0], text=NEGATIVE)
    return {"positive": positive[0], "negative": negative[0]}


def _film(s: Sketch, frames: Placed, timeline: Placed) -> None:
    with s.group("5 · Film", GREEN):
        video = s.add("CreateVideo", size=(440, 0), images=frames["images"], fps=timeline["fps"])
        s.add("SaveVideo", size=(440, 420), video=video[0], filename_prefix="video/keyframes")


def wan22_14b_keyframes() -> Sketch:
    """Keyframes at any times with Wan 2.2 14B: two experts, core samplers, keyframes pinned again in between."""
    high, low = "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors"
    umt5, vae_file = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
    loras = [f"wan2.2_i2v_lightx2v_4steps_lora_v1_{name}_noise.safetensors" for name in ("high", "low")]
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# Keyframes at any times: Wan 2.2 14B\n\n"
            + files(high, low, umt5, vae_file)
            + "\n\nAbout 36 GB of files.\n\n"
            "1. **Keyframes**: choose your own in the place of ComfyUI's example, one each, in order of "
            "time. *Batch Images* grows for more.\n"
            "2. **Timeline**: drag the keyframes to where they belong. Each lands on the frame that is shown, at most "
            "two frames from where you put it.\n"
            "3. **Models**: both experts. LoRAs go into the bypassed loaders (Ctrl+B enables them), one for each "
            "expert. The two that are named speed up: with them set `steps` 4 and `cfg` 1 in both samplers, and change "
            "over at step 2.\n"
            "4. **Two samplers**: the high-noise expert makes steps 0 to 10, the low-noise expert the rest. Both need "
            "a model that *Multi-Chunk Model* prepared for the same timeline; it keeps the keyframes clean. *Re-pin "
            "Keyframes* puts them back in between, should a stage run without that patch, where they drift.\n\n"
            "*Multi-Chunk Video Sampler* does all of this in one node (`model_low`, `boundary` 0.9).\n\n"
            "The speed-up LoRAs, if you want them:\n\n" + files(*loras),
            width=560,
        )
    timeline = _timeline(s, 832, 480, 16.0, 5.188, ENDS)
    with s.group("3 · Models and prompt", BLUE, below=True):
        loaded = [load_unet(s, high, "High-noise expert"), load_unet(s, low, "Low-noise expert")]
        clip = load_clip(s, umt5, "wan", "Wan text encoder")
        vae = load_vae(s, vae_file, "Wan 2.1 VAE")
        s.column()
        experts = []
        for model, lora, name in zip(loaded, loras, ("high", "low"), strict=True):
            tuned = s.add(
                "LoraLoaderModelOnly",
                f"LoRA, {name} noise",
                size=(320, 0),
                models=models(lora),
                bypassed=True,
                model=model[0],
                lora_name=lora,
            )
            experts.append(s.add("ModelSamplingSD3", f"Shift, {name} noise", model=tuned[0], shift=8.0, size=(320, 0)))
        s.column()
        prompts = _prompts(s, clip)
    with s.group("4 · Two experts, keyframes pinned in both", PURPLE):
        first, second = (
            s.add(
                "AnchorshotMultiChunkModel",
                f"Multi-Chunk Model, {name} noise",
                size=(320, 0),
                model=expert[0],
                vae=vae[0],
                timeline=timeline["timeline"],
                keyframes=timeline["keyframes"],
            )
            for expert, name in zip(experts, ("high", "low"), strict=True)
        )
        common = {**prompts, "steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
        s.column()
        early = s.add(
            "KSamplerAdvanced",
            "Steps 0 to 10, high noise",
            size=(320, 0),
            model=first["model"],
            latent_image=first["latent"],
            add_noise="enable",
            noise_seed=7,
            control_after_generate="fixed",
            start_at_step=0,
            end_at_step=10,
            return_with_leftover_noise="enable",
            **common,
        )
        pinned = s.add("AnchorshotRepinKeyframes", size=(320, 0), latent=early[0], clean=first["latent"])
        s.column()
        late = s.add(
            "KSamplerAdvanced",
            "Steps 10 to 20, low noise",
            size=(320, 0),
            model=second["model"],
            latent_image=pinned["latent"],
            add_noise="disable",
            noise_seed=0,
            control_after_generate="fixed",
            start_at_step=10,
            end_at_step=10000,
            return_with_leftover_noise="disable",
            **common,
        )
        frames = s.add("AnchorshotMultiChunkDecode", size=(320, 0), latent=late[0], vae=vae[0])
    _film(s, frames, timeline)
    return s


def wan22_5b_keyframes() -> Sketch:
    """Keyframes at any times with Wan 2.2 5B, in one sampler node."""
    unet, umt5 = "wan2.2_ti2v_5B_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    vae_file = "wan2.2_vae.safetensors"
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# Keyframes at any times: Wan 2.2 5B\n\n" + files(unet, umt5, vae_file) + "\n\nAbout 18 GB of files.\n\n"
            "1. **Keyframes**: choose your own in the place of ComfyUI's example, one each, in order of "
            "time. One alone is image-to-video, two are first and last frame; *Batch Images* grows for more.\n"
            "2. **Timeline**: drag the keyframes to where they belong. Each lands on the frame that is shown, at most "
            "two frames from where you put it.\n"
            "3. **Model**: one for all noise levels; 24 frames a second, sizes in multiples of 32.\n"
            "4. **Video**: *Multi-Chunk Video Sampler* pins the keyframes, samples and decodes.\n\n"
            "To go on from a clip, give it to *Extend Video* and sample what that gives with KSampler.",
            width=520,
        )
    timeline = _timeline(s, 1280, 704, 24.0, 4.959, ENDS_24)
    with s.group("3 · Model and prompt", BLUE, below=True):
        model = load_unet(s, unet, "Wan 2.2 5B")
        shifted = s.add("ModelSamplingSD3", size=(320, 0), model=model[0], shift=8.0)
        clip = load_clip(s, umt5, "wan", "Wan text encoder")
        vae = load_vae(s, vae_file, "Wan 2.2 VAE")
        s.column()
        prompts = _prompts(s, clip)
    with s.group("4 · Video through the keyframes", PURPLE):
        frames = s.add(
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
            **prompts,
        )
    _film(s, frames, timeline)
    return s

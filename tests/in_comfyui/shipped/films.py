"""From a storyboard to a film: with the models that come along, and with FLUX.1-dev and Wan 2.2 5B."""

from __future__ import annotations

from in_comfyui.shipped.parts import (
    FILM,
    NEGATIVE,
    STORY,
    files,
    load_clip,
    load_unet,
    load_vae,
    models,
    pocket_clips,
    pocket_keyframes,
)
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Sketch

__all__ = ["flux_wan_film", "pocket_film"]


def pocket_film() -> Sketch:
    """A storyboard to a film, with the models that come along."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A film from a storyboard\n\n"
            "Press **Run**. No downloads and no GPU: the *Pocket Studio* brings its own tiny models, and the film of "
            "six shots is there in a few minutes, in one on a quick computer.\n\n"
            "1. **Story**: who plays, where, and what happens in each shot. Change it and run again. The pocket "
            "models know squares, circles, triangles and stars in red, orange, yellow, green, cyan, blue, purple and "
            "pink, with a crown, a hat, a scarf or a bow. They stand, wave, jump, walk and dance in the desert, the "
            "town, the forest, on the beach, in the snow and on the moon.\n"
            "2. **Keyframes**: each is made with the earlier ones in view (GoldenMem), so a character stays itself.\n"
            "3. **Video**: every shot is filmed through its keyframes; each lands on the frame that the storyboard "
            "asks for, to within two frames.\n"
            "4. **Film**: the shots are joined. The contact sheet shows what was asked for and what was made.\n\n"
            "Another `seed` in the keyframe sampler gives another take. The command line makes the same film: "
            "`anchorshot film stories/two_friends.yaml`.",
            width=440,
        )
    with s.group("1 · Story", GREEN):
        studio = s.add("AnchorshotPocketStudio", "Pocket Studio: keyframes", size=(460, 0))
        story = s.add("AnchorshotStoryboard", size=(460, 760), story=STORY, clip=studio["clip"])
    with s.group("2 · Keyframes that remember", BLUE):
        text = s.add("CLIPTextEncode", "Prompts", size=(400, 0), text=story["prompts"], clip=studio["clip"])
        context = s.add(
            "AnchorshotGoldenMemContext",
            size=(400, 640),
            vae=studio["vae"],
            groups=3,
            images=3,
            first_tier=0,
            clip=studio["clip"],
            clip_vision=studio["clip_vision"],
            retrieval_clip=studio["retrieval_clip"],
        )
        empty = s.add("EmptySD3LatentImage", "Size", size=(400, 0), width=story["width"], height=story["height"])
        s.column()
        keyframes = pocket_keyframes(s, studio, story, text, empty, context, size=(400, 760))
    with s.group("3 · Video through the keyframes", PURPLE, below=True):
        second = s.add("AnchorshotPocketStudio", "Pocket Studio: video", size=(280, 0))
        spoken = s.add("CLIPTextEncode", "Prompts", size=(280, 0), text=story["prompts"], clip=second["video_clip"])
        s.column()
        clips = pocket_clips(s, second, story, spoken, story["timelines"], keyframes["images"])
    with s.group("4 · Film", GREEN):
        film = s.add(
            "AnchorshotFilm",
            size=(320, 0),
            storyboard=story["storyboard"],
            fps=8.0,
            **{"clips.clip_0": clips["images"]},
        )
        s.add("SaveVideo", size=(420, 420), video=film["video"], filename_prefix="video/film")
        s.column()
        s.add(
            "AnchorshotContactSheet",
            size=(520, 560),
            storyboard=story["storyboard"],
            **{"keyframes.shot_0": keyframes["images"]},
        )
        s.add(
            "SaveImage", "Save keyframes", size=(520, 300), images=keyframes["images"], filename_prefix="keyframes/film"
        )
    return s


def flux_wan_film() -> Sketch:
    """The same film with FLUX.1-dev and Wan 2.2 5B."""
    s = Sketch()
    flux, wan = "flux1-dev.safetensors", "wan2.2_ti2v_5B_fp16.safetensors"
    texts = ("clip_l.safetensors", "t5xxl_fp16.safetensors")
    umt5 = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    with s.group("Start here", GREY):
        s.note(
            "# A film with FLUX.1-dev and Wan 2.2 5B\n\n"
            "The graph of *Pocket film*, with public models: about 52 GB of files.\n\n"
            + files(flux, *texts, "ae.safetensors", wan, umt5, "wan2.2_vae.safetensors")
            + "\n\n**Memory**: keyframes come first, then the video, so each model has the GPU for itself. If it is "
            "short, load both in fp8 (`weight_dtype`) and remember fewer frames (`images`).\n\n"
            "**Identity**: FLUX.1-dev has not been trained to look at earlier frames in its own sequence. Put a LoRA "
            "that was (on interleaved pairs, or an in-context film LoRA) behind *FLUX.1-dev*.\n\n"
            "**Ranking**: earlier frames are ranked by their captions, which needs no further file. For ranking by "
            "what they show, connect a CLIP vision model and its own text encoder to *GoldenMem Context* and set "
            "`retrieval` to `clip`.\n\n"
            "**Captions** reach FLUX.1 at their own length (*T5 Tokenizer Options*): ComfyUI would fill each up to 256 "
            "tokens, and a long memory would be mostly padding. **Shift** follows the size, as in the command.\n\n"
            "**Size**: 1280x704 in multiples of 32 for Wan 2.2 5B, 24 frames a second; both are in the story.",
            width=520,
        )
    with s.group("1 · Story", GREEN):
        story = s.add("AnchorshotStoryboard", size=(500, 760), story=FILM)
    with s.group("2 · Keyframes that remember: FLUX.1-dev", BLUE):
        model = load_unet(s, flux, "FLUX.1-dev")
        shifted = s.add(
            "ModelSamplingFlux",
            "Shift for this size",
            size=(320, 0),
            model=model[0],
            max_shift=1.15,
            base_shift=0.5,
            width=story["width"],
            height=story["height"],
        )
        clip = s.add(
            "DualCLIPLoader",
            models=models(*texts),
            clip_name1=texts[0],
            clip_name2=texts[1],
            type="flux",
            size=(320, 0),
        )
        words = s.add(
            "T5TokenizerOptions", "Captions unpadded", size=(320, 0), clip=clip[0], min_padding=0, min_length=0
        )
        vae = load_vae(s, "ae.safetensors", "FLUX VAE")
        empty = s.add("EmptySD3LatentImage", "Size", size=(320, 0), width=story["width"], height=story["height"])
        s.column()
        text = s.add("CLIPTextEncode", "Prompts", size=(380, 0), text=story["prompts"], clip=words[0])
        guided = s.add("FluxGuidance", size=(380, 0), conditioning=text[0], guidance=3.5)
        context = s.add(
            "AnchorshotGoldenMemContext",
            size=(380, 640),
            vae=vae[0],
            retrieval="text",
            groups=3,
            images=4,
            first_tier=1,
            clip=words[0],
        )
        s.column()
        keyframes = s.add(
            "AnchorshotInterleavedKeyframeSampler",
            size=(400, 800),
            model=shifted[0],
            positive=guided[0],
            latent=empty[0],
            vae=vae[0],
            steps=28,
            context=context["context"],
            storyboard=story["storyboard"],
        )
    with s.group("3 · Video through the keyframes: Wan 2.2 5B", PURPLE, below=True):
        video = load_unet(s, wan, "Wan 2.2 5B")
        shifted = s.add("ModelSamplingSD3", size=(320, 0), model=video[0], shift=8.0)
        reader = load_clip(s, umt5, "wan", "Wan text encoder")
        video_vae = load_vae(s, "wan2.2_vae.safetensors", "Wan 2.2 VAE")
        spoken = s.add("CLIPTextEncode", "Prompts", size=(320, 0), text=story["prompts"], clip=reader[0])
        against = s.add("CLIPTextEncode", "Negative prompt", size=(320, 160), text=NEGATIVE, clip=reader[0])
        s.column()
        clips = s.add(
            "AnchorshotMultiChunkVideoSampler",
            size=(400, 0),
            model=shifted[0],
            positive=spoken[0],
            vae=video_vae[0],
            timeline=story["timelines"],
            seed=story["seeds"],
            steps=30,
            cfg=5.0,
            sampler_name="uni_pc",
            keyframes=keyframes["images"],
            negative=against[0],
        )
    with s.group("4 · Film", GREEN):
        film = s.add(
            "AnchorshotFilm",
            size=(320, 0),
            fps=24.0,
            storyboard=story["storyboard"],
            **{"clips.clip_0": clips["images"]},
        )
        s.add("SaveVideo", size=(420, 420), video=film["video"], filename_prefix="video/film")
        s.column()
        s.add(
            "AnchorshotContactSheet",
            size=(520, 620),
            storyboard=story["storyboard"],
            **{"keyframes.shot_0": keyframes["images"]},
        )
        s.add(
            "SaveImage", "Save keyframes", size=(520, 300), images=keyframes["images"], filename_prefix="keyframes/film"
        )
    return s

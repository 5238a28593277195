"""Stories told from their texts alone (Text2Story): with the models that come along, Mochi, and Wan 2.2 5B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from in_comfyui.shipped.blueprints import story_segment
from in_comfyui.shipped.parts import NEGATIVE, files, load_clip, load_unet, load_vae, models
from in_comfyui.sketch import BLUE, GREEN, GREY, Placed, Sketch

__all__ = ["mochi_story", "pocket_story", "wan22_5b_story"]

CLIP = "clip-vit-large-patch14.safetensors"

SEGMENT = "Story Segment"

PARTS = (
    "Every segment has two prompts: the **scene** (where, and who is there) and the **action** (who does what, and "
    "where again). Both tell looks, not names: each is read alone, and CLIP knows no names. Inside a *Story Segment* "
    "(double-click it)\n\n"
    "* *DIPW Guider* weighs both prompts anew at every step, by what the picture already shows; below each "
    "segment stands how.\n"
    "* *TWB Blend* starts the segment where the one before it ended, with strength `gamma`; *SAR* blends less where "
    "both actions are alike.\n\n"
    "**Another segment**: copy the last one with its links (Ctrl+C, Ctrl+Shift+V), connect `latent` and `action` of "
    "the one before it, and its `images` to *Film*. Only what you change is sampled again, with what follows it."
)


class Segment(NamedTuple):
    """Prompts of one segment, and its seed."""

    scene: str
    action: str
    seed: int


def _segments(s: Sketch, told: Sequence[Segment], **shared: Any) -> list[Placed]:
    """One node for each segment, and its weights; `shared` are inputs that all have in common.

    A node stands for its first output.
    """
    shared = {name: value[0] if isinstance(value, Placed) else value for name, value in shared.items()}
    s.subgraphs[SEGMENT] = story_segment()
    made: list[Placed] = []
    with s.group("Segments, each out of the one before", BLUE):
        for number, segment in enumerate(told, 1):
            before = {"previous": made[-1]["latent"], "previous_action": made[-1]["action"]} if made else {}
            made.append(s.add(SEGMENT, f"Segment {number}", size=(420, 640), **shared, **before, **segment._asdict()))
            s.add("PreviewImage", "Weights", size=(420, 260), images=made[-1]["weights"])
            s.column()
    return made


def _film(s: Sketch, segments: Sequence[Placed], fps: float, prefix: str) -> None:
    with s.group("Film", GREEN):
        clips = {f"clips.clip_{i}": segment["images"] for i, segment in enumerate(segments)}
        film = s.add("AnchorshotFilm", size=(480, 0), fps=fps, **clips)
        s.add("SaveVideo", size=(480, 420), video=film["video"], filename_prefix=f"video/{prefix}")


def pocket_story() -> Sketch:
    """Three segments, with the models that come along."""
    who = "a yellow star with a crown"
    told = [
        Segment(
            f"wide shot, static, in the snow. {who} on the left.",
            f"wide shot, static, in the snow. {who} walks on the left.",
            7,
        ),
        Segment(
            f"wide shot, static, in the snow. {who} on the left.",
            f"wide shot, static, in the snow. {who} jumps on the left.",
            8,
        ),
        Segment(
            f"wide shot, static, on the beach. {who} on the left.",
            f"wide shot, static, on the beach. {who} dances on the left.",
            9,
        ),
    ]
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A story from its texts alone\n\n"
            "Press **Run**. No downloads and no GPU: the *Pocket Studio* brings its own tiny models, and three "
            "segments are there in half a minute. No keyframes: what stays the same is what both "
            "prompts tell, and what a segment takes over from the one before it.\n\n"
            + PARTS
            + "\n\nThe pocket models know squares, circles, triangles and stars in red, orange, yellow, green, cyan, "
            "blue, purple and pink, with a crown, a hat, a scarf or a bow, that stand, wave, jump, walk and dance in "
            "the desert, the town, the forest, on the beach, in the snow and on the moon. `anchorshot tell` tells a "
            "whole storyboard like this.",
            width=560,
        )
    with s.group("Models and sampling", GREEN):
        studio = s.add("AnchorshotPocketStudio", size=(300, 0))
        s.column()
        negative = s.add("CLIPTextEncode", "Negative prompt (unused at cfg 1)", size=(320, 120), text="",
                         clip=studio["video_clip"])  # fmt: skip
        latent = s.add("EmptyHunyuanLatentVideo", "Size and length", size=(320, 0), width=160, height=80, length=17)
        s.column()
        sampler = s.add("KSamplerSelect", size=(320, 0), sampler_name="euler")
        sigmas = s.add("BasicScheduler", size=(320, 0), model=studio["video_model"], scheduler="simple", steps=20)
    segments = _segments(
        s,
        told,
        model=studio["video_model"],
        clip=studio["video_clip"],
        vae=studio["video_vae"],
        clip_text=studio["retrieval_clip"],
        clip_vision=studio["clip_vision"],
        negative=negative,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent,
        cfg=1.0,
    )
    _film(s, segments, 8.0, "pocket_story")
    return s


def _clip_pair(s: Sketch) -> dict[str, Placed]:
    """Both halves of CLIP ViT-L/14, from one file."""
    words = s.add(
        "CLIPLoader",
        "CLIP: text half",
        size=(320, 0),
        models=models(CLIP, folder="text_encoders"),
        clip_name=CLIP,
        type="stable_diffusion",
    )
    sight = s.add("CLIPVisionLoader", "CLIP: picture half", size=(320, 0), models=models(CLIP), clip_name=CLIP)
    return {"clip_text": words, "clip_vision": sight}


CLIP_NOTE = (
    f"`{CLIP}` is OpenAI's `model.safetensors` by another name; it holds both halves and goes into both folders (or is "
    "linked). Without it, take CLIP off the segments: prompts are then weighted by the clock and the step before."
)


def mochi_story() -> Sketch:
    """Three segments with Mochi 1, at the settings of the paper."""
    unet, t5, vae_file = "mochi_preview_bf16.safetensors", "t5xxl_fp16.safetensors", "mochi_vae.safetensors"
    cat = "a grey cat with a blue collar"
    harbour = "A small fishing harbour at dawn, wooden boats tied to a stone pier, thin mist over calm water."
    told = [
        Segment(f"{harbour} On the pier sits {cat}.", f"{harbour} {cat} stretches and walks along the stone pier.", 7),
        Segment(
            f"{harbour} Beside a red wooden boat stands {cat}.",
            f"{harbour} {cat} jumps off the pier into the red boat.",
            8,
        ),
        Segment(
            f"A red wooden boat on open water, the stone pier far behind in the mist. At its bow sits {cat}.",
            f"A red wooden boat on open water. {cat} at the bow turns its head and looks ahead as the boat glides on.",
            9,
        ),
    ]
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A story from its texts alone: Mochi 1\n\n"
            "Text2Story was published with this model and these settings: 848x480, 64 steps, guidance 4.5. Mochi makes "
            "30 frames a second, 6n+1 of them; 163 are 5.4 seconds.\n\n"
            + files(unet, t5, vae_file, CLIP)
            + f"\n\n{CLIP_NOTE}\n\n"
            + PARTS
            + "\n\n**Time**: the paper decodes the whole video at every step to ask CLIP, which takes 7 times as long "
            "as plain Mochi. `preview` *latent_rgb* asks every four steps and shows CLIP the latent's colours: next "
            "to no time. For the paper's way choose *decoded_video* and `score_every` 1.\n\n"
            "**Memory**: choose an fp8 `weight_dtype`, or fewer frames. *VAE Decode (Tiled)* in the place of *VAE "
            "Decode* helps at the end.",
            width=620,
        )
    with s.group("Models and sampling", GREEN):
        model = load_unet(s, unet, "Mochi 1")
        clip = load_clip(s, t5, "mochi", "T5")
        vae = load_vae(s, vae_file, "Mochi VAE")
        s.column()
        pair = _clip_pair(s)
        negative = s.add("CLIPTextEncode", "Negative prompt", size=(320, 120), text="", clip=clip[0])
        s.column()
        latent = s.add("EmptyMochiLatentVideo", "Size and length", size=(320, 0), width=848, height=480, length=163)
        sampler = s.add("KSamplerSelect", size=(320, 0), sampler_name="euler")
        sigmas = s.add("BasicScheduler", size=(320, 0), model=model[0], scheduler="linear_quadratic", steps=64)
    shared = {"model": model, "clip": clip, "vae": vae, "negative": negative, "latent_image": latent}
    segments = _segments(s, told, cfg=4.5, sampler=sampler, sigmas=sigmas, **shared, **pair)
    _film(s, segments, 30.0, "mochi_story")
    return s


def wan22_5b_story() -> Sketch:
    """Three segments with Wan 2.2 5B."""
    unet, umt5 = "wan2.2_ti2v_5B_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    vae_file = "wan2.2_vae.safetensors"
    who = "a woman of thirty with short red hair and a long yellow raincoat"
    path = "A narrow path up a cliff at dusk, a white lighthouse above."
    shore = "A rocky shore at dusk, a white lighthouse on a cliff."
    told = [
        Segment(
            f"{shore} On the rocks stands {who}.", f"{shore} {who} turns from the sea and walks towards the cliff.", 7
        ),
        Segment(
            f"{path} On the path is {who}.",
            f"{path} {who} climbs the path in the wind and holds on to her hood.",
            8,
        ),
        Segment(
            f"The open door of a white lighthouse at dusk, warm light inside. At the door stands {who}.",
            f"The open door of a white lighthouse at dusk. {who} takes the hood off, smiles and steps inside.",
            9,
        ),
    ]
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A story from its texts alone: Wan 2.2 5B\n\n"
            + files(unet, umt5, vae_file, CLIP)
            + f"\n\n{CLIP_NOTE}\n\n"
            + PARTS
            + "\n\n**Size and length**: 1280x704 in multiples of 32, 24 frames a second, 4n+1 of them; 81 are 3.4 "
            "seconds. `preview` *latent_rgb* shows CLIP the latent's colours, which takes next to no time; "
            "*decoded_frame* is sharper.\n\n"
            "Wan 2.1 and 2.2 14B take the same graph; with two experts use *DIPW Model Patch* on each, and a sampler "
            "with start and end steps.",
            width=620,
        )
    with s.group("Models and sampling", GREEN):
        model = load_unet(s, unet, "Wan 2.2 5B")
        shifted = s.add("ModelSamplingSD3", size=(320, 0), model=model[0], shift=8.0)
        clip = load_clip(s, umt5, "wan", "Wan text encoder")
        vae = load_vae(s, vae_file, "Wan 2.2 VAE")
        s.column()
        pair = _clip_pair(s)
        negative = s.add("CLIPTextEncode", "Negative prompt", size=(320, 200), text=NEGATIVE, clip=clip[0])
        s.column()
        latent = s.add("Wan22ImageToVideoLatent", "Size and length", size=(320, 0), vae=vae[0], width=1280, height=704,
                       length=81)  # fmt: skip
        sampler = s.add("KSamplerSelect", size=(320, 0), sampler_name="uni_pc")
        sigmas = s.add("BasicScheduler", size=(320, 0), model=shifted[0], scheduler="simple", steps=30)
    shared = {"model": shifted, "clip": clip, "vae": vae, "negative": negative, "latent_image": latent}
    segments = _segments(s, told, cfg=5.0, sampler=sampler, sigmas=sigmas, **shared, **pair)
    _film(s, segments, 24.0, "wan_story")
    return s

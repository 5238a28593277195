"""Films of start and end frames: with Qwen-Image-Edit and Wan 2.2 14B, whose first-last-frame nodes are core's."""

from __future__ import annotations

from in_comfyui.shipped.parts import NEGATIVE, files, load_clip, load_unet, load_vae, pocket_clips
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Sketch

__all__ = ["pocket_pairs_film", "qwen_edit_pairs_wan", "start_end_pairs"]

POCKET = """title: A walk to the beach
fps: 8
size: [160, 80]
mode: pairs
characters:
  Mira: a red square with a bow
  Pip: a green circle with a hat
places:
  desert: the desert
  beach: the beach
shots:
  - id: s01
    place: desert
    action: <Mira> walks on the left.
    camera: {scale: wide shot, movement: static}
    seconds: 2.125

  - id: s02
    place: desert
    scene: <Mira> stands on the left.
    action: <Pip> jumps on the right.
    camera: {scale: medium shot, movement: static}
    seconds: 2.125

  - id: s03
    place: beach
    scene: <Mira> waves on the left.
    action: <Pip> walks on the right.
    camera: {scale: wide shot, movement: pan left}
    seconds: 2.125

  - id: s04
    place: beach
    action: <Mira> dances on the left.
    camera: {scale: close-up, movement: static}
    seconds: 2.125

  - id: s05
    place: desert
    scene: <Pip> stands on the right.
    action: <Mira> waves on the left.
    camera: {scale: wide shot, movement: static}
    seconds: 2.125
"""

PAIRS = """title: The lighthouse
fps: 16
size: [1280, 736]
mode: pairs
characters:
  Ada: a woman of thirty with short red hair and a long yellow raincoat
  Tom: an old fisherman with a white beard and a blue knitted sweater
places:
  shore: a rocky shore at dusk, a white lighthouse on a cliff
  kitchen: a small warm kitchen in the lighthouse, an oil lamp on the table
shots:
  - id: s01
    place: shore
    scene: <Ada> stands on the rocks and looks at the sea.
    action: <Ada> turns and walks towards the lighthouse.
    camera: {scale: wide shot, movement: static}
    seconds: 4

  - id: s02
    place: kitchen
    scene: <Tom> sits at the table beside the lamp.
    action: <Tom> looks up and smiles.
    camera: {scale: medium shot, movement: static}
    seconds: 3

  - id: s03
    place: kitchen
    scene: <Tom> sits at the table, the door opens.
    action: <Ada> comes in out of the wind and sits down.
    camera: {scale: medium shot, movement: pan right}
    seconds: 4
    transition: match

  - id: s04
    place: shore
    scene: <Ada> and <Tom> stand under the lighthouse.
    action: <Tom> points at the sea.
    camera: {scale: wide shot, movement: static}
    seconds: 4
"""


def pocket_pairs_film() -> Sketch:
    """A storyboard to pairs and a film, with the models that come along."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A film from start and end frames: pocket\n\n"
            "Press **Run**. No downloads and no GPU: the tiny models come along, and the film of five shots is there "
            "in a few minutes. The first and the last picture of a shot are the two anchors of a cut (STAGE).\n\n"
            "1. **Pocket story**: who plays, where, and what happens. Change it and run again, within the pocket "
            "world's words; `transition: match` lets a shot begin with the picture that the one before it ends with.\n"
            "2. **Pairs**: both pictures of a shot are made together, beside a memory of all earlier shots in the "
            "space of one picture. `pack` shows what the last shot remembered.\n"
            "3. **Between them**: every shot is filmed from its start to its end.\n"
            "4. **Joined**: one shot after the other.\n\n"
            "The command line makes the same pictures: `anchorshot film STORY --pairs`.",
            width=440,
        )
    with s.group("1 · Story", GREEN):
        studio = s.add("AnchorshotPocketStudio", "Pocket Studio: pairs", size=(460, 0))
        story = s.add("AnchorshotStoryboard", size=(460, 820), story=POCKET, clip=studio["pair_clip"])
    with s.group("2 · Start and end frames that remember", BLUE):
        pack = s.add(
            "AnchorshotMemoryPack",
            size=(400, 620),
            vae=studio["vae"],
            clip_vision=studio["clip_vision"],
            retrieval_clip=studio["retrieval_clip"],
        )
        s.column()
        pairs = s.add(
            "AnchorshotStartEndPairPredictor",
            size=(420, 900),
            model=studio["pair_model"],
            clip=studio["pair_clip"],
            vae=studio["vae"],
            steps=20,
            cfg=2.0,
            rescale=False,
            guidance_against="memory",
            storyboard=story["storyboard"],
            context=pack["context"],
        )
    with s.group("3 · Video from start to end", PURPLE, below=True):
        second = s.add("AnchorshotPocketStudio", "Pocket Studio: video", size=(280, 0))
        spoken = s.add("CLIPTextEncode", "Prompts", size=(280, 0), text=story["prompts"], clip=second["video_clip"])
        timed = s.add(
            "AnchorshotPairsToTimeline",
            size=(280, 0),
            start=pairs["starts"],
            end=pairs["ends"],
            timeline=story["timelines"],
        )
        s.column()
        clips = pocket_clips(s, second, story, spoken, timed["timeline"], timed["keyframes"])
    with s.group("4 · Film", GREEN):
        film = s.add(
            "AnchorshotFilm",
            size=(320, 0),
            fps=8.0,
            storyboard=story["storyboard"],
            **{"clips.clip_0": clips["images"]},
        )
        s.add("SaveVideo", size=(420, 420), video=film["video"], filename_prefix="video/pairs")
        s.column()
        s.add("PreviewImage", "Memory of the last shot", size=(520, 420), images=pairs["pack"])
        s.add("SaveImage", "Save end frames", size=(520, 300), images=pairs["ends"], filename_prefix="pairs/end")
    return s


def qwen_edit_pairs_wan() -> Sketch:
    """A storyboard to pairs with Qwen-Image-Edit 2511, and these to a film with Wan 2.2 14B."""
    unet, text = "qwen_image_edit_2511_fp8mixed.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors"
    vae_file = "qwen_image_vae.safetensors"
    high, low = "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors"
    umt5, wan_vae = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            "# A film from start and end frames\n\n"
            "The first and the last picture of a shot are the two anchors of a cut (STAGE). *Qwen-Image-Edit 2511* "
            "makes both together, with all earlier shots in view; *Wan 2.2 14B* films from one to the other.\n\n"
            + files(unet, text, vae_file, high, low, umt5, wan_vae)
            + "\n\nAbout 70 GB of files.\n\n"
            "1. **Shots**: who plays, where, and what happens. `transition: match` lets a shot begin with "
            "the very picture that the one before it ends with. Your own pictures stand at a shot's first or last "
            "moment.\n"
            "2. **Start and end frames**: the memory pack hands on three earlier pictures, as the edit model knows "
            "them (`references`); a model trained for it takes all of them in the space of one (`canvas`). `recency` "
            "puts the newest first, `clip` ranks by what they show and needs a CLIP vision model. The text encoder "
            "sees the picture before, too.\n"
            "3. **Video**: core's *Wan First Last Frame to Video*, shot by shot, with both experts.\n"
            "4. **Film**: one shot after the other, a shared picture once.\n\n"
            "**STAGE's own weights** are a LoRA: put *Pair LoRA* on model and CLIP, set 20 steps, `cfg` 4, shift 2.2, "
            "`packing` references, `drop_tokens` 64, and the authors' `system_prompt`. Without them, the edit model "
            "makes two pictures that know each other, but has not learned what a start and an end are.",
            width=560,
        )
    with s.group("1 · Story", GREEN):
        story = s.add("AnchorshotStoryboard", size=(500, 860), story=PAIRS)
    with s.group("2 · Start and end frames: Qwen-Image-Edit 2511", BLUE):
        model = load_unet(s, unet, "Qwen-Image-Edit 2511")
        shifted = s.add("ModelSamplingAuraFlow", size=(320, 0), model=model[0], shift=3.1)
        clip = load_clip(s, text, "qwen_image", "Qwen2.5-VL")
        vae = load_vae(s, vae_file, "Qwen-Image VAE")
        s.column()
        pack = s.add(
            "AnchorshotMemoryPack", size=(400, 620), vae=vae[0], rank_by="recency", packing="references", limit=3
        )
        s.column()
        pairs = s.add(
            "AnchorshotStartEndPairPredictor",
            size=(440, 900),
            model=shifted[0],
            clip=clip[0],
            vae=vae[0],
            steps=40,
            cfg=4.0,
            storyboard=story["storyboard"],
            context=pack["context"],
        )
    with s.group("3 · Video from start to end: Wan 2.2 14B", PURPLE, below=True):
        experts = []
        for file, name in ((high, "High-noise expert"), (low, "Low-noise expert")):
            loaded = load_unet(s, file, name)
            experts.append(
                s.add("ModelSamplingSD3", f"Shift, {name.lower()}", model=loaded[0], shift=8.0, size=(320, 0))
            )
        reader = load_clip(s, umt5, "wan", "Wan text encoder")
        wan = load_vae(s, wan_vae, "Wan 2.1 VAE")
        s.column()
        spoken = s.add("CLIPTextEncode", "Prompts", size=(340, 0), text=story["prompts"], clip=reader[0])
        against = s.add("CLIPTextEncode", "Negative prompt", size=(340, 160), text=NEGATIVE, clip=reader[0])
        timed = s.add(
            "AnchorshotPairsToTimeline",
            size=(340, 0),
            start=pairs["starts"],
            end=pairs["ends"],
            timeline=story["timelines"],
        )
        ends = s.add(
            "WanFirstLastFrameToVideo",
            size=(340, 0),
            positive=spoken[0],
            negative=against[0],
            vae=wan[0],
            width=832,
            height=480,
            length=timed["frames"],
            start_image=timed["start"],
            end_image=timed["end"],
        )
        s.column()
        common = {"positive": ends[0], "negative": ends[1], "steps": 20, "cfg": 3.5, "sampler_name": "euler",
                  "scheduler": "simple"}  # fmt: skip
        early = s.add(
            "KSamplerAdvanced",
            "Steps 0 to 10, high noise",
            size=(320, 0),
            model=experts[0][0],
            latent_image=ends[2],
            add_noise="enable",
            noise_seed=7,
            control_after_generate="fixed",
            start_at_step=0,
            end_at_step=10,
            return_with_leftover_noise="enable",
            **common,
        )
        s.column()
        late = s.add(
            "KSamplerAdvanced",
            "Steps 10 to 20, low noise",
            size=(320, 0),
            model=experts[1][0],
            latent_image=early[0],
            add_noise="disable",
            noise_seed=0,
            control_after_generate="fixed",
            start_at_step=10,
            end_at_step=10000,
            return_with_leftover_noise="disable",
            **common,
        )
        frames = s.add("VAEDecode", size=(320, 0), samples=late[0], vae=wan[0])
    with s.group("4 · Film", GREEN):
        film = s.add(
            "AnchorshotFilm", size=(320, 0), fps=16.0, storyboard=story["storyboard"], **{"clips.clip_0": frames[0]}
        )
        s.add("SaveVideo", size=(420, 420), video=film["video"], filename_prefix="video/pairs")
        s.add("SaveImage", "Save start frames", size=(420, 300), images=pairs["starts"], filename_prefix="pairs/start")
        s.column()
        s.add("SaveImage", "Save end frames", size=(420, 300), images=pairs["ends"], filename_prefix="pairs/end")
    return s


def start_end_pairs() -> Sketch:
    """A storyboard in, start and end frames with their timelines out."""
    s = Sketch(
        description="Start and end frames of a whole story (STAGE): each pair is made together, with all earlier shots "
        "in view. Connect a Storyboard's storyboard and timelines; the keyframes go to a multi-chunk video sampler."
    )
    with s.group("Anchorshot/pairs"):
        pack = s.add("AnchorshotMemoryPack", size=(360, 0), rank_by="recency")
        s.column()
        pairs = s.add("AnchorshotStartEndPairPredictor", size=(400, 0), context=pack["context"])
        s.column()
        timed = s.add("AnchorshotPairsToTimeline", size=(300, 0), start=pairs["starts"], end=pairs["ends"])
    s.takes("model", (pairs, "model"))
    s.takes("clip", (pairs, "clip"))
    s.takes("vae", (pairs, "vae"), (pack, "vae"))
    s.takes("storyboard", (pairs, "storyboard"))
    s.takes("timelines", (timed, "timeline"))
    s.takes("clip_vision", (pack, "clip_vision"))
    s.takes("retrieval_clip", (pack, "retrieval_clip"))
    for name in ("rank_by", "packing", "pyramid"):
        s.takes(name, (pack, name))
    for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "match_cut"):
        s.takes(name, (pairs, name))
    s.gives("starts", pairs["starts"])
    s.gives("ends", pairs["ends"])
    s.gives("timelines", timed["timeline"])
    s.gives("keyframes", timed["keyframes"])
    s.gives("context", pairs["context"])
    return s

"""The two samplers with what they usually stand with, each as one node of ComfyUI's node library."""

from __future__ import annotations

from comfyui.sketch import Sketch

__all__ = ["interleaved_keyframes", "multi_chunk_video"]

_SAMPLING = ("seed", "steps", "cfg", "sampler_name", "scheduler")


def interleaved_keyframes() -> Sketch:
    """Prompts of a story in, keyframes that remember out."""
    s = Sketch(
        description="Keyframes of a whole story: each is made with the earlier ones in view, ranked and shrunk by "
        "GoldenMem. Connect a Storyboard's storyboard, prompts, width and height."
    )
    with s.group("Anchorshot/keyframes"):
        text = s.add("CLIPTextEncode", "Prompts", size=(340, 0))
        context = s.add("AnchorshotGoldenMemContext", size=(340, 0), retrieval="text")
        empty = s.add("EmptySD3LatentImage", "Size", size=(340, 0))
        s.column()
        sampler = s.add(
            "AnchorshotInterleavedKeyframeSampler",
            size=(380, 0),
            positive=text[0],
            latent=empty[0],
            context=context["context"],
        )
    s.takes("model", (sampler, "model"))
    s.takes("clip", (text, "clip"), (context, "clip"))
    s.takes("vae", (sampler, "vae"), (context, "vae"))
    s.takes("storyboard", (sampler, "storyboard"))
    s.takes("clip_vision", (context, "clip_vision"))
    s.takes("retrieval_clip", (context, "retrieval_clip"))
    s.takes("prompts", (text, "text"))
    s.takes("width", (empty, "width"))
    s.takes("height", (empty, "height"))
    for name in ("retrieval", "groups", "images", "first_tier"):
        s.takes(name, (context, name))
    for name in (*_SAMPLING, "context_noise"):
        s.takes(name, (sampler, name))
    s.gives("images", sampler["images"])
    s.gives("latents", sampler["latents"])
    s.gives("context", sampler["context"])
    return s


def multi_chunk_video() -> Sketch:
    """Keyframes, their times and a prompt in, frames out."""
    s = Sketch(
        description="Video through keyframes at any times with a Wan model; each keyframe lands on its snapped frame. "
        "Connect a timeline from Keyframe Timeline, Storyboard or Shot."
    )
    with s.group("Anchorshot/video"):
        prompt = s.add("CLIPTextEncode", "Prompt", size=(340, 160))
        against = s.add("CLIPTextEncode", "Negative prompt", size=(340, 160))
        s.column()
        sampler = s.add("AnchorshotMultiChunkVideoSampler", size=(380, 0), positive=prompt[0], negative=against[0])
    s.takes("model", (sampler, "model"))
    s.takes("clip", (prompt, "clip"), (against, "clip"))
    s.takes("vae", (sampler, "vae"))
    s.takes("timeline", (sampler, "timeline"))
    s.takes("keyframes", (sampler, "keyframes"))
    s.takes("model_low", (sampler, "model_low"))
    s.takes("prompt", (prompt, "text"))
    s.takes("negative_prompt", (against, "text"))
    for name in (*_SAMPLING, "boundary"):
        s.takes(name, (sampler, name))
    s.gives("images", sampler["images"])
    s.gives("latent", sampler["latent"])
    return s

"""Samplers with what they usually stand with, each as one node of ComfyUI's node library."""

from __future__ import annotations

from in_comfyui.sketch import Sketch

__all__ = ["interleaved_keyframes", "multi_chunk_video", "story_segment"]

_SAMPLING = ("seed", "steps", "cfg", "sampler_name", "scheduler")


def interleaved_keyframes() -> Sketch:
    """Prompts of a story in, keyframes that remember out."""
    s = Sketch(
        description="Keyframes of a whole story: each is made with the earlier ones in view, ranked and shrunk by "
        "GoldenMem. Connect a Storyboard's storyboard, prompts, width and height."
    )
    with s.group("Anchorshot/keyframes"):
        words = s.add("T5TokenizerOptions", "Captions unpadded", size=(340, 0), min_padding=0, min_length=0)
        text = s.add("CLIPTextEncode", "Prompts", size=(340, 0), clip=words[0])
        context = s.add("AnchorshotGoldenMemContext", size=(340, 0), retrieval="text", clip=words[0])
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
    s.takes("clip", (words, "clip"))
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


def story_segment() -> Sketch:
    """Two prompts and the segment before in, the next segment out."""
    s = Sketch(
        description="One segment of a story from two prompts (Text2Story): DIPW weighs scene and action at every step, "
        "TWB starts where the segment before ended, SAR blends less where both actions are alike. Connect the "
        "latent and the action of one segment to the next."
    )
    with s.group("Anchorshot/video"):
        scene = s.add("PrimitiveStringMultiline", "Scene", size=(340, 130))
        action = s.add("PrimitiveStringMultiline", "Action", size=(340, 130))
        s.column()
        words = [
            s.add("CLIPTextEncode", f"{part} prompt", size=(300, 0), text=text[0])
            for part, text in (("Scene", scene), ("Action", action))
        ]
        sar = s.add("AnchorshotSAR", size=(340, 0), action=action[0])
        s.column()
        blend = s.add("AnchorshotTWBBlend", size=(300, 0), gamma=sar["gamma"])
        noise = s.add("RandomNoise", size=(300, 0))
        s.column()
        guider = s.add(
            "AnchorshotDIPWGuider",
            size=(340, 0),
            model=blend["model"],
            scene=words[0][0],
            action=words[1][0],
            scene_text=scene[0],
            action_text=action[0],
        )
        s.column()
        sampled = s.add("SamplerCustomAdvanced", size=(340, 0), noise=noise[0], guider=guider["guider"])
        frames = s.add("VAEDecode", size=(340, 0), samples=sampled["output"])
        curve = s.add("AnchorshotDIPWWeights", size=(340, 0), mixed=guider["guider"], latent=sampled["output"])
    s.takes("model", (blend, "model"))
    s.takes("clip", (words[0], "clip"), (words[1], "clip"), (sar, "clip"))
    s.takes("vae", (frames, "vae"), (guider, "vae"))
    s.takes("negative", (guider, "negative"))
    s.takes("sampler", (sampled, "sampler"))
    s.takes("sigmas", (sampled, "sigmas"))
    s.takes("latent_image", (sampled, "latent_image"))
    s.takes("clip_text", (guider, "clip"))
    s.takes("clip_vision", (guider, "clip_vision"))
    s.takes("previous", (blend, "previous"))
    s.takes("previous_action", (sar, "previous_action"))
    s.takes("scene", (scene, "value"))
    s.takes("action", (action, "value"))
    s.takes("seed", (noise, "noise_seed"))
    s.takes("cfg", (guider, "cfg"))
    s.takes("gamma", (sar, "gamma"))
    s.takes("preview", (guider, "preview"))
    s.takes("score_every", (guider, "score_every"))
    s.takes("progress_shift", (guider, "progress_shift"))
    s.takes("progress_clock", (guider, "progress_clock"))
    s.gives("images", frames[0])
    s.gives("latent", sampled["output"])
    s.gives("action", action[0])
    s.gives("weights", curve["curve"])
    return s

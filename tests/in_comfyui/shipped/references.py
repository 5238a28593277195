"""The next shot with an edit model, and GoldenMem's earlier frames as its references."""

from __future__ import annotations

from in_comfyui.shipped.parts import EXAMPLE, files, load_clip, load_unet, load_vae
from in_comfyui.sketch import BLUE, GREEN, GREY, PURPLE, Output, Placed, Sketch

__all__ = ["flux2_references", "qwen_image_edit_references"]


def _references(title: str, needed: tuple[str, ...], hint: str) -> Sketch:
    """The part that both edit models share: what it is, and the earlier frames."""
    s = Sketch()
    with s.group("Start here", GREY):
        s.note(
            f"# The next shot, with {title}\n\n"
            "Edit models take reference pictures: no LoRA and no finetuning needed. *GoldenMem* gives them the "
            "earlier frames of the film, the most relevant at full size, the next ones smaller by the golden ratio, so "
            "that a long memory costs little more than a short one.\n\n"
            + files(*needed)
            + "\n\n1. **Models**: the edit model, its text encoder and VAE.\n"
            "2. **Earlier frames**: choose your own in the place of ComfyUI's example, oldest first; *Batch Images* "
            "grows for more. All get the film's size. *GoldenMem Context* says how many are remembered, how large, and "
            "in which order: its picture shows it to scale, `tokens` what it costs. `recency` puts the newest first; "
            "`clip` ranks by what the frames show and needs a CLIP vision model.\n"
            f"3. **Next shot**: write what happens. {hint}\n\n"
            "Feed the result back as the newest frame to go on with the film, and film the keyframes with "
            "*Keyframes with Wan 2.2 5B* or *14B*.",
            width=500,
        )
    return s


def _earlier(s: Sketch, vae: Placed) -> tuple[dict[str, Output], Placed]:
    """Earlier frames, as a text encoder that sees them wants them, and the memory of them."""
    with s.group("2 · Earlier frames, and the memory of them", GREEN):
        one = s.add("LoadImage", "Your older frame", size=(300, 330), image=EXAMPLE)
        two = s.add("LoadImage", "Your newest frame (picture 1)", size=(300, 330), image=EXAMPLE)
        s.column()
        batch = s.add("BatchImagesNode", size=(300, 0), **{"images.image0": one[0], "images.image1": two[0]})
        scaled = s.add(
            "ImageScale",
            "Scale to the film's size",
            size=(300, 0),
            image=batch[0],
            upscale_method="lanczos",
            width=1280,
            height=720,
            crop="center",
        )
        s.column()
        context = s.add(
            "AnchorshotGoldenMemContext",
            size=(400, 640),
            vae=vae[0],
            retrieval="recency",
            groups=3,
            images=4,
            first_tier=0,
            **{"frames.frame_0": scaled[0]},
        )
    return {"image1": two[0], "image2": one[0]}, context  # in the memory's order


def qwen_image_edit_references() -> Sketch:
    """GoldenMem references on Qwen-Image-Edit 2511."""
    unet, text = "qwen_image_edit_2511_fp8mixed.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors"
    vae_file = "qwen_image_vae.safetensors"
    s = _references(
        "Qwen-Image-Edit 2511",
        (unet, text, vae_file),
        "The text encoder sees the frames, too, in the memory's order, newest first: *picture 1* in a prompt is the "
        "newest frame, *picture 2* the one before it.",
    )
    with s.group("1 · Qwen-Image-Edit 2511", BLUE):
        model = load_unet(s, unet, "Qwen-Image-Edit 2511")
        shifted = s.add("ModelSamplingAuraFlow", size=(320, 0), model=model[0], shift=3.1)
        normed = s.add("CFGNorm", size=(320, 0), model=shifted[0], strength=1.0)
        clip = load_clip(s, text, "qwen_image", "Qwen2.5-VL")
        vae = load_vae(s, vae_file, "Qwen-Image VAE")
    frames, context = _earlier(s, vae)
    with s.group("3 · Next shot", PURPLE, below=True):
        prompt = s.add(
            "TextEncodeQwenImageEditPlus",
            "Prompt of the next shot",
            size=(400, 220),
            clip=clip[0],
            prompt="Next scene: the same woman from picture 1, in the same coat, opens the door of the lighthouse, "
            "seen from inside, warm lamp light.",
            **frames,
        )
        against = s.add(
            "TextEncodeQwenImageEditPlus", "Negative prompt", size=(400, 160), clip=clip[0], prompt="", **frames
        )
        s.column()
        wanted = s.add(
            "AnchorshotGoldenMemReferences", size=(340, 0), conditioning=prompt[0], context=context["context"]
        )
        unwanted = s.add(
            "AnchorshotGoldenMemReferences",
            "GoldenMem References (negative)",
            size=(340, 0),
            conditioning=against[0],
            context=context["context"],
        )
        empty = s.add("EmptySD3LatentImage", "Size", size=(340, 0), width=1280, height=720)
        s.column()
        sampled = s.add(
            "KSampler",
            size=(320, 0),
            model=normed[0],
            positive=wanted["conditioning"],
            negative=unwanted["conditioning"],
            latent_image=empty[0],
            seed=7,
            control_after_generate="fixed",
            steps=40,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
        )
        image = s.add("VAEDecode", size=(320, 0), samples=sampled[0], vae=vae[0])
        s.column()
        s.add("SaveImage", size=(460, 420), images=image[0], filename_prefix="next_shot")
    return s


def flux2_references() -> Sketch:
    """GoldenMem references on FLUX.2-dev."""
    unet, text = "flux2_dev_fp8mixed.safetensors", "mistral_3_small_flux2_bf16.safetensors"
    s = _references("FLUX.2-dev", (unet, text, "flux2-vae.safetensors"), "Say who of the earlier frames is meant.")
    with s.group("1 · FLUX.2-dev", BLUE):
        model = load_unet(s, unet, "FLUX.2-dev")
        clip = load_clip(s, text, "flux2", "Mistral 3 Small")
        vae = load_vae(s, "flux2-vae.safetensors", "FLUX.2 VAE")
    _, context = _earlier(s, vae)
    with s.group("3 · Next shot", PURPLE, below=True):
        prompt = s.add(
            "CLIPTextEncode",
            "Prompt of the next shot",
            size=(400, 200),
            clip=clip[0],
            text="The same woman, in the same coat, opens the door of the lighthouse, seen from inside, warm lamp "
            "light, film still, 35 mm.",
        )
        guided = s.add("FluxGuidance", size=(400, 0), conditioning=prompt[0], guidance=4.0)
        wanted = s.add(
            "AnchorshotGoldenMemReferences", size=(400, 0), conditioning=guided[0], context=context["context"]
        )
        s.column()
        noise = s.add("RandomNoise", size=(300, 0), noise_seed=7, control_after_generate="fixed")
        guider = s.add("BasicGuider", size=(300, 0), model=model[0], conditioning=wanted["conditioning"])
        sampler = s.add("KSamplerSelect", size=(300, 0), sampler_name="euler")
        sigmas = s.add("Flux2Scheduler", size=(300, 0), steps=20, width=1280, height=720)
        empty = s.add("EmptyFlux2LatentImage", "Size", size=(300, 0), width=1280, height=720)
        s.column()
        sampled = s.add(
            "SamplerCustomAdvanced",
            size=(300, 0),
            noise=noise[0],
            guider=guider[0],
            sampler=sampler[0],
            sigmas=sigmas[0],
            latent_image=empty[0],
        )
        image = s.add("VAEDecode", size=(300, 0), samples=sampled[0], vae=vae[0])
        s.column()
        s.add("SaveImage", size=(460, 420), images=image[0], filename_prefix="next_shot")
    return s

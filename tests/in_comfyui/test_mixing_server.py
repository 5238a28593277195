"""Stories of two segments on a real server: guiders and patches of one graph."""

from __future__ import annotations

from typing import Any

import torch
from in_comfyui.prompts import node
from in_comfyui.server import ComfyServer
from safetensors.torch import load_file
from torch import Tensor

STORY = [("wide shot, static, in the desert.", "a red triangle with a hat jumps."),
         ("wide shot, static, on the moon.", "a red triangle with a hat waves.")]  # fmt: skip


def story(segments: list[tuple[str, str]], patch: bool = False, again: int = 0) -> dict[str, Any]:
    """Segments one after the other: DIPW, TWB on the one before with SAR's γ, the weights as pictures, latents saved.

    Args:
        patch: DIPW Model Patch with KSampler in place of DIPW Guider.
        again: another number makes the samplers run again, for the same result: at cfg 1 the negative does nothing.
    """
    look = {"clip": ["studio", 7], "clip_vision": ["studio", 6], "lambda_picture": 1.0, "lambda_previous": 1.0,
            "lambda_progress": 1.0, "temperature": 0.5, "score_every": 1, "start_percent": 0.0, "end_percent": 1.0,
            "preview": "latent_rgb"}  # fmt: skip
    prompt = {
        "studio": node("AnchorshotPocketStudio"),
        "against": node("CLIPTextEncode", text=f"a star {again}", clip=["studio", 3]),
        "empty": node("EmptyHunyuanLatentVideo", width=160, height=80, length=9, batch_size=1),
        "sampler": node("KSamplerSelect", sampler_name="heun"),
        "levels": node("BasicScheduler", model=["studio", 1], scheduler="simple", steps=3, denoise=1.0),
        "noise": node("RandomNoise", noise_seed=5),
    }
    for i, (scene, action) in enumerate(segments):
        before = {"previous": [f"sample{i - 1}", 0]} if i else {}
        words = {"scene_text": scene, "action_text": action}
        prompt |= {
            f"scene{i}": node("CLIPTextEncode", text=scene, clip=["studio", 3]),
            f"action{i}": node("CLIPTextEncode", text=action, clip=["studio", 3]),
            f"sar{i}": node("AnchorshotSAR", clip=["studio", 3], previous_action=segments[i - 1][1] if i else "",
                            action=action, gamma=0.3, encoding="tokens"),
            f"blend{i}": node("AnchorshotTWBBlend", model=["studio", 1], gamma=[f"sar{i}", 0], when="every_step",
                              end_percent=1.0, end="first", decay=0.9, **before),
            f"save{i}": node("SaveLatent", samples=[f"sample{i}", 0], filename_prefix=f"mixing{again}"),
            f"weights{i}": node("AnchorshotDIPWWeights", mixed=[f"dipw{i}", 0], latent=[f"sample{i}", 0]),
        }  # fmt: skip
        given = {"model": [f"blend{i}", 0], "action": [f"action{i}", 0], **look, **words}
        if patch:
            prompt[f"dipw{i}"] = node("AnchorshotDIPWModelPatch", **given)
            prompt[f"sample{i}"] = node(
                "KSampler", model=[f"dipw{i}", 0], positive=[f"scene{i}", 0], negative=["against", 0], seed=5, steps=3,
                cfg=1.0, sampler_name="heun", scheduler="simple", latent_image=["empty", 0], denoise=1.0,
            )  # fmt: skip
        else:
            more = {"scene": [f"scene{i}", 0], "negative": ["against", 0], "cfg": 1.0}
            prompt[f"dipw{i}"] = node("AnchorshotDIPWGuider", **given, **more)
            prompt[f"sample{i}"] = node(
                "SamplerCustomAdvanced", noise=["noise", 0], guider=[f"dipw{i}", 0], sampler=["sampler", 0],
                sigmas=["levels", 0], latent_image=["empty", 0],
            )  # fmt: skip
    return prompt


def test_two_segments_on_a_server(server: ComfyServer) -> None:
    """Guiders and patches make the same story, and two guiders in one graph what each makes in a graph of its own."""

    def latents(prompt: dict[str, Any]) -> list[Tensor]:
        history = server.run(prompt, timeout=300)
        assert history["status"]["status_str"] == "success", history["status"]
        outputs = history["outputs"]
        assert all(outputs[name]["images"] for name in outputs if name.startswith("weights"))
        saved = [outputs[name]["latents"][0] for name in sorted(outputs) if name.startswith("save")]
        folder = server.base / "output"
        return [load_file(folder / s["subfolder"] / s["filename"])["latent_tensor"] for s in saved]

    guided = latents(story(STORY, again=1))
    assert guided[0].shape == (1, 16, 3, 10, 20) and not torch.equal(*guided)
    for same in (latents(story(STORY, patch=True, again=2)), latents(story(STORY, again=3))):
        assert all(map(torch.equal, guided, same))
    (alone,) = latents(story(STORY[:1], again=4))
    assert torch.equal(alone, guided[0])

"""LoRA files of a Qwen-Image-class MODEL and its text encoder, as STAGE's is published."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..comfyui.checks import checked

__all__ = ["PairLora"]


class PairLora(io.ComfyNode):
    """A LoRA of a Qwen-Image-class model and its text encoder in one file, in the names of any tool."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotPairLora",
            display_name="Pair LoRA",
            category="Anchorshot/pairs",
            description="Loads a LoRA of a Qwen-Image-Edit class model and of its Qwen2.5-VL text encoder from one "
            "file, with numbered branches, too, as STAGE's is published. Core's Load LoRA leaves such files out. Says "
            "which layers were used.",
            search_aliases=["stage", "lora", "qwen lora", "load lora", "text encoder lora"],
            inputs=[
                io.Model.Input("model", tooltip="Qwen-Image-Edit class model; other LoRAs stay. No default."),
                io.Clip.Input("clip", tooltip="Its Qwen2.5-VL text encoder. No default."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="File in ComfyUI's loras folder. No default.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength on the model; default 1, what it was trained at.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength on the text encoder; default 1.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output("clip_out", display_name="clip", tooltip="The text encoder with the LoRA."),
                io.String.Output("used", tooltip="What of the file was used, in words."),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float
    ) -> io.NodeOutput:
        from ..comfyui.pair_lora import load_pair_lora

        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        tuned, reader, lines = load_pair_lora(model, clip, path, strength_model, strength_clip)
        said = "\n".join(lines)
        return io.NodeOutput(tuned, reader, said, ui=ui.PreviewText(said))

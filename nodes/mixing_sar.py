"""SAR as a node: how much a segment blends with the one before it, from their texts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..comfyui.checks import checked

__all__ = ["SAR"]


def _reading() -> list[io.Input]:
    """Which reading of the paper is taken; saved workflows lack these inputs."""
    text = {"default": "", "multiline": True, "dynamic_prompts": False, "optional": True, "advanced": True}
    return [
        io.Combo.Input(
            "pair",
            optional=True,
            advanced=True,
            options=["actions", "within", "adjacent"],
            default="actions",
            tooltip="Which texts are compared. actions (default): of this segment and of the one before. within: scene "
            "and action of this segment. adjacent: all that both segments tell, scene and action in one.",
        ),
        io.String.Input("scene", **text, tooltip="Scene of this segment, for within and adjacent. Default: empty."),
        io.String.Input(
            "previous_scene", **text, tooltip="Scene of the previous segment, for adjacent. Default: empty."
        ),
        io.String.Input(
            "story",
            **text,
            tooltip="All texts of the story that are compared, one a line, at least three: what they share is taken "
            "off first, as most texts are alike to an encoder. Default: empty, and nothing is.",
        ),
        io.Boolean.Input(
            "bounded",
            optional=True,
            advanced=True,
            default=False,
            tooltip="Hold S in 0…1, so that γ' is never above γ; default off, as in the paper.",
        ),
    ]


class SAR(io.ComfyNode):
    """γ' for TWB Blend from the texts of two segments."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotSAR",
            display_name="SAR",
            category="Anchorshot/prompt mixing",
            description="Lowers the strength of TWB Blend where consecutive actions are alike: γ' = γ·(1 − S), with S "
            "the similarity of both texts (Text2Story's semantic action representation). γ' is at most 0.5.",
            search_aliases=["text2story", "action similarity", "gamma", "text similarity", "blend strength"],
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder that compares the texts. No default."),
                io.String.Input(
                    "previous_action",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Action of the previous segment. Default: empty, for the first segment; γ' is then γ.",
                ),
                io.String.Input(
                    "action",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Action of this segment. Default: empty, and γ' is then γ.",
                ),
                io.Float.Input(
                    "gamma",
                    default=0.25,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Strength γ for actions that have nothing in common, 0…0.5; default 0.25.",
                ),
                io.Combo.Input(
                    "encoding",
                    options=["tokens", "pooled", "projected"],
                    default="tokens",
                    tooltip="What is compared. tokens (default): the mean of the token states (T5, UMT5). pooled: "
                    "CLIP's one vector, for encoders that have it. projected: that in the space of pictures.",
                ),
                *_reading(),
            ],
            outputs=[
                io.Float.Output("gamma_out", display_name="gamma", tooltip="γ', for TWB Blend."),
                io.Float.Output("similarity", tooltip="S, the cosine of both texts."),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls, clip: Any, previous_action: str, action: str, gamma: float, encoding: str = "tokens", **reading: Any
    ) -> io.NodeOutput:
        from ..comfyui.mixing_similarity import action_gamma

        return io.NodeOutput(*action_gamma(clip, previous_action, action, gamma, encoding, **reading))

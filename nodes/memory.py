"""Memory stage: GoldenMem (Captain Cinema §3.2), for our sampler and for the edit models of today."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from .sockets import Context, StoryboardSocket

__all__ = ["GoldenMemContext", "GoldenMemReferences"]


class GoldenMemContext(io.ComfyNode):
    """Earlier frames as context: ranked by relevance, shrunk by the golden ratio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotGoldenMemContext",
            display_name="GoldenMem Context",
            category="Anchorshot/keyframes",
            description="Remembers earlier frames at sizes that shrink by the golden ratio, the most relevant "
            "largest, so a long memory costs little more than one frame. Draws the memory and counts its tokens.",
            search_aliases=[
                "memory",
                "consistency",
                "character reference",
                "context frames",
                "golden ratio",
                "identity",
            ],
            is_input_list=True,
            has_intermediate_output=True,
            inputs=[
                io.Vae.Input("vae", tooltip="VAE of the model that will look at the frames. No default."),
                io.Autogrow.Input(
                    "frames",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input(
                            "frame",
                            tooltip="Earlier frames, oldest first: one picture, a batch or a list, all of one size "
                            "in multiples of 16 pixels.",
                        ),
                        prefix="frame_",
                        min=0,
                        max=48,
                    ),
                    tooltip="Earlier frames, oldest first. Default: none; a sampler then fills the memory as it goes.",
                ),
                io.Combo.Input(
                    "retrieval",
                    options=["clip", "text", "recency"],
                    default="clip",
                    tooltip="How frames are ranked. clip (default): query to pictures, needs clip_vision; best in "
                    "the paper. text: query to captions, needs clip. recency: the newest first.",
                ),
                io.Int.Input(
                    "groups",
                    default=3,
                    min=1,
                    max=8,
                    tooltip="Number of sizes (tiers); default 3. Each is 1/1.618 of the one before. More remember "
                    "more frames.",
                ),
                io.Int.Input(
                    "images",
                    default=4,
                    min=1,
                    max=32,
                    tooltip="Frames of each size; default 4. groups × images frames are remembered, the rest is "
                    "dropped.",
                ),
                io.Int.Input(
                    "first_tier",
                    default=1,
                    min=0,
                    max=8,
                    tooltip="Size of the most relevant frames; default 1, one step below full size as in the paper. "
                    "0 keeps them at full size: more detail, more tokens.",
                ),
                io.String.Input(
                    "query",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What the new frame shows, with looks in the place of names. Default: empty, which takes "
                    "the storyboard's next shot, or what the sampler is given.",
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Caption of every frame, one per line, oldest first. Default: empty, which takes the "
                    "storyboard's prompts. The Interleaved Keyframe Sampler needs them.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Text encoder of the keyframe model, for captions. Default: none."
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="Sees the frames, for clip retrieval. Default: none."
                ),
                io.Clip.Input(
                    "retrieval_clip",
                    optional=True,
                    tooltip="The text half of clip_vision's CLIP, with its projection (e.g. clip_g with "
                    "CLIP-ViT-bigG). Default: clip serves.",
                ),
                StoryboardSocket.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Gives captions and query: the frames are then the film's first keyframes. Default: none.",
                ),
                io.Combo.Input(
                    "level",
                    options=["pixel", "latent"],
                    default="pixel",
                    optional=True,
                    tooltip="Where frames are shrunk. pixel (default, the paper's): before the VAE encodes them. "
                    "latent: after it, softer, one encoding for all sizes.",
                ),
            ],
            outputs=[
                Context.Output("context", tooltip="The memory, for a sampler or for GoldenMem References."),
                io.Image.Output("layout", tooltip="Picture of the memory, drawn to scale."),
                io.Int.Output("tokens", tooltip="Image tokens that the remembered frames take."),
            ],
        )

    @classmethod
    @checked("captions")
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.memory import layout_of, memory_of, token_count

        memory = memory_of(**inputs)
        picture = layout_of(memory)
        return io.NodeOutput(memory, picture, token_count(memory), ui=ui.PreviewImage(picture, cls=cls))


class GoldenMemReferences(io.ComfyNode):
    """The same memory for edit models that take reference latents: no finetuning needed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotGoldenMemReferences",
            display_name="GoldenMem References",
            category="Anchorshot/keyframes",
            description="Gives the frames of a GoldenMem Context to an edit model (FLUX Kontext, FLUX.2, "
            "Qwen-Image-Edit) as reference latents, each at its compressed size, the most relevant first.",
            search_aliases=["kontext", "qwen edit", "flux 2", "reference latent", "multi reference", "character sheet"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Prompt that gets the references. No default."),
                Context.Input("context", tooltip="Earlier frames, encoded with the edit model's VAE. No default."),
                io.String.Input(
                    "query",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What the new frame shows, for the ranking. Default: empty, the context's own query.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning_out", display_name="conditioning", tooltip="With the references."),
                io.Int.Output("references", tooltip="Number of references added."),
                io.Int.Output("tokens", tooltip="Image tokens that they take."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, conditioning: Any, context: Any, query: str = "") -> io.NodeOutput:
        from ..comfyui.memory import token_count, with_references

        conditioning, count = with_references(conditioning, context, query)
        return io.NodeOutput(conditioning, count, token_count(context))

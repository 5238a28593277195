"""The pair model and its text encoder as ComfyUI's own objects: MODEL of the Qwen-Image class, CLIP of Qwen2.5-VL's.

Core's CLIP for Qwen-Image is 7B wide and has the public vocabulary built in. Here the same classes are built from the
configuration and the tokenizer that the file carries, of any width; core nodes take them as they take the public ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.llama
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ..models.backbones.qwen_image.keymap import marked
from ..models.encoders.prompt_text import literal
from ..models.encoders.qwen_tokenizer import QwenTokenizer, load_qwen_tokenizer
from ..models.encoders.qwen_vl_prompt import QwenPrompting
from ..models.encoders.tokenizer import listed_names
from ..models.io.lora_comfyui import for_comfyui
from ..models.io.lora_file import read_lora
from ..story.vocabulary import Vocabulary
from .native import _clip, _fill, _Latents, _model
from .native_files import Config, File, Words, open_model

__all__ = ["PairTokenizer", "build_pair_clip", "load_pair_clip", "load_pair_model", "qwen_unet", "with_loras"]

NAME = "qwen25_7b"
"""What core calls the text model of a Qwen-Image CLIP, whatever its size."""
START = "<|im_start|>"
NO_PAD = -1
"""No token is padding: a conversation is as long as it is, and a vocabulary of its own may have no such token."""


class Marks(NamedTuple):
    """Ids that core looks for: an image's place, the start of a turn, and what follows it in the user's."""

    image: int
    start: int
    role: list[int]

    @classmethod
    def of(cls, words: QwenTokenizer) -> Marks:
        """Those of a vocabulary."""
        return cls(words.id_of("<|image_pad|>"), words.id_of(START), words.ids([f"{START}user\n"])[0][1:])


class _Llama(comfy.text_encoders.llama.Qwen25_7BVLI):
    """Core's class at the size that a configuration says."""

    def __init__(self, config: Config, dtype: Any, device: Any, operations: Any) -> None:
        nn.Module.__init__(self)  # core's own would build 7B
        text, vision = config["text_config"], config["vision_config"]
        own = comfy.text_encoders.llama.Qwen25_7BVLI_Config(
            **{field: text[field] for field in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "rms_norm_eps",
            )}
        )  # fmt: skip
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        own.rope_theta = rope.get("rope_theta", text.get("rope_theta", own.rope_theta))
        own.head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        own.rope_dims = list(rope["mrope_section"])
        self.num_layers = own.num_hidden_layers
        self.model = comfy.text_encoders.llama.Llama2_(own, device=device, dtype=dtype, ops=operations)
        self.visual = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer(
            hidden_size=vision["hidden_size"],
            output_hidden_size=vision["out_hidden_size"],
            intermediate_size=vision["intermediate_size"],
            num_heads=vision["num_heads"],
            num_layers=vision["depth"],
            patch_size=vision.get("patch_size", 14),
            window_size=vision.get("window_size", 112),
            device=device,
            dtype=dtype,
            ops=operations,
        )
        self.visual.fullatt_block_indexes = list(vision["fullatt_block_indexes"])
        self.dtype = dtype


def _encoder(config: Config, **kwargs: Any) -> comfy.sd1_clip.SDClipModel:
    return comfy.sd1_clip.SDClipModel(
        layer="last",
        textmodel_json_config=config,
        special_tokens={"pad": NO_PAD},
        layer_norm_hidden_state=False,
        model_class=_Llama,
        enable_attention_masks=True,
        return_attention_masks=True,
        **kwargs,
    )


class _PairText(comfy.text_encoders.qwen_image.QwenImageTEModel):
    """Core's, with the ids of another vocabulary for what it looks for."""

    def __init__(self, config: Config, marks: Marks, **kwargs: Any) -> None:
        encoder = partial(_encoder, config)
        comfy.sd1_clip.SD1ClipModel.__init__(self, name=NAME, clip_model=encoder, **kwargs)
        self.marks = marks

    def encode_token_weights(self, token_weight_pairs: Any, template_end: int = -1) -> Any:
        """States behind the system prompt; `template_end` states are dropped, by default up to the user's text."""
        if template_end == -1:
            ids = [item[0] for item in token_weight_pairs[NAME][0]]
            template_end = _user_text(ids, self.marks)
        return super().encode_token_weights(token_weight_pairs, template_end)


def _user_text(ids: list[Any], marks: Marks) -> int:
    """Where the user's text begins: behind the second start mark, the role and the line break."""
    starts = [i for i, token in enumerate(ids) if isinstance(token, int) and token == marks.start][:2]
    if not starts:
        return 0
    role = marks.role
    return starts[-1] + 1 + len(role) if ids[starts[-1] + 1 :][: len(role)] == role else starts[-1]


class _ChatWords(comfy.sd1_clip.SDTokenizer):
    """The tokenizer that a file carries. Parentheses are text, not weights, as they are headless."""

    def __init__(self, words: QwenTokenizer, **kwargs: Any) -> None:
        super().__init__(
            words,
            tokenizer_class=Words,
            has_start_token=False,
            has_end_token=False,
            pad_with_end=False,
            pad_to_max_length=False,
            pad_token=NO_PAD,
            max_length=99999999,
            min_length=1,
            embedding_key=NAME,
            disable_weights=True,
            **kwargs,
        )


class PairTokenizer(comfy.text_encoders.qwen_image.QwenImageTokenizer):
    """Core's over another vocabulary, with the conversation that the file's model was trained on.

    Attributes:
        prompting: that conversation.
        names: character names that are known.
        template: how a storyboard's prompts are put, see `PairDefaults.prompt`.
        words: the vocabulary of its captions.
    """

    def __init__(
        self, words: QwenTokenizer, marks: Marks, prompting: QwenPrompting, tokenizer_data: Any = None, **kwargs: Any
    ) -> None:
        own = {f"{NAME}_tokenizer_class": partial(_ChatWords, words)}
        super().__init__(tokenizer_data={**(tokenizer_data or {}), **own}, **kwargs)
        self.marks, self.prompting = marks, prompting
        self.names: list[str] = []
        self.template = ""

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        llama_template: str | None = None,
        images: Sequence[Tensor] = (),
        **kwargs: Any,
    ) -> Any:
        """Tokens of a conversation; a `text` that starts with its first mark is all of it. Each image pad becomes the
        next of `images`.
        """
        if not text.startswith(START):
            whole = self.prompting.text(text, len(images))
            text = whole if llama_template is None else llama_template.format(literal(text))
        tokens = comfy.sd1_clip.SD1Tokenizer.tokenize_with_weights(self, text, return_word_ids, **kwargs)
        shown = iter(images)
        for row in tokens[NAME]:
            for i, (token, *rest) in enumerate(row):
                if token == self.marks.image and (picture := next(shown, None)) is not None:
                    row[i] = ({"type": "image", "data": picture, "original_type": "image"}, *rest)
        return tokens


def build_pair_clip(config: Config, words: QwenTokenizer, prompting: QwenPrompting) -> comfy.sd.CLIP:
    """A CLIP without weights yet.

    Args:
        config: Qwen2_5_VLConfig's `text_config` and `vision_config`.
        words: its tokenizer.
        prompting: the conversation that it was trained on.
    """
    marks = Marks.of(words)
    target = ClipTarget(partial(PairTokenizer, words, marks, prompting), partial(_PairText, config, marks))
    return _clip(target)


def load_pair_clip(path: File) -> comfy.sd.CLIP:
    """CLIP for a Qwen-Image-class model from a Qwen2.5-VL file, which carries its tokenizer.

    Raises:
        InputError: another kind of file, no tokenizer in it, or broken weights.
    """
    checkpoint, state, config = open_model("qwen_vl", path)
    words = load_qwen_tokenizer(None, checkpoint.metadata, checkpoint.name)
    made = build_pair_clip(config, words, QwenPrompting.read(checkpoint.metadata))
    _fill(getattr(made.cond_stage_model, NAME).transformer, state, checkpoint)
    made.tokenizer.names = listed_names(checkpoint.metadata)
    made.tokenizer.words = Vocabulary.read(checkpoint.metadata)
    return made


def load_pair_model(path: File, shift: float = 1.0, previews: tuple[Tensor, Tensor] | None = None) -> ModelPatcher:
    """A Qwen-Image-class file in the public names as MODEL. Arguments and errors as `load_keyframe_model`."""
    checkpoint, state, config = open_model("qwen_image", path)
    model_config = comfy.supported_models.QwenImage(qwen_unet(config))
    model_config.sampling_settings["shift"] = math.log(shift)  # core's schedule takes the logarithm
    channels = config["in_channels"] // config["patch_size"] ** 2
    return _model(model_config, _Latents(channels, 3, previews), checkpoint, marked(state, config))


def with_loras(host: Any, loras: Sequence[tuple[File, float]], half: str) -> Any:
    """A MODEL or a CLIP with one half of LoRA files for both.

    Args:
        host: the MODEL or the CLIP.
        loras: files and strengths.
        half: how the names of its layers begin there: ``diffusion_model.`` or ``text_encoders.``.

    Raises:
        InputError: a file that holds no LoRA of these models.
    """
    for path, strength in loras:
        tensors, _ = for_comfyui(read_lora(path), "qwen_image", "qwen_vl")
        own = {key: value for key, value in tensors.items() if key.startswith(half)}
        text = half.startswith("text")
        model, clip = (None, host) if text else (host, None)
        host = comfy.sd.load_lora_for_models(model, clip, own, strength, strength)[text]
    return host


def qwen_unet(config: Config) -> Config:
    """QwenImageTransformer2DModel's configuration → the arguments of ComfyUI's class."""
    names = ("patch_size", "in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads")
    method = {"default_ref_method": "index_timestep_zero"} if config.get("zero_cond_t") else {}
    return {
        "image_model": "qwen_image",
        **{name: config[name] for name in (*names, "joint_attention_dim")},
        "axes_dims_rope": tuple(config["axes_dims_rope"]),
        **method,
    }

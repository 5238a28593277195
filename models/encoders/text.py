"""Prompts to conditioning: T5 and UMT5 token states, CLIP's pooled state; captions at their real lengths.

Captain Cinema's context grows with every pair, so captions enter at their real length with a mask (§3.2): padded to
512, their text would cost more than the compressed images. The published pipelines pad, each in its own way; `pad_to`
does as they do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedModel,
)

from ...core.errors import InputError
from ...story.stages import alias_names
from ...story.vocabulary import Vocabulary
from ..io import keymaps
from ..io.arguments import check_arguments, check_types, no_weights
from ..io.checkpoint import (
    FP8,
    Checkpoint,
    PathLike,
    check_values,
    compare,
    dequantise,
    load_weights,
    read_checkpoint,
    read_config,
)
from ..io.loading import Offload, check_kind, own_part
from ..io.shapes import count_blocks, need
from .kinds import find_text
from .prompt_text import literal
from .text_cond import TextCond
from .tokenizer import ClipTokenizer, TextTokenizer, listed_names, load_tokenizer

__all__ = ["ClipTextPooler", "Pooler", "TextCond", "TextEncoder", "load_text", "prove_text"]

logger = logging.getLogger(__name__)

Pooler = Callable[[Sequence[str]], Tensor]
"""Texts → [B, P]: `ClipScorer.pooled` or a `ClipTextPooler`."""

# T5 turns its input to the type of `wo` before calling it, which would round activations to fp8.
_KEEP = ("norm", "shared", "embed_tokens", "relative_attention_bias", r"\.wo$")


class TextEncoder:
    """A T5 or UMT5 encoder with its tokenizer, and a pooling CLIP text model where the backbone takes pooled text.

    Args:
        model: a real T5EncoderModel or UMT5EncoderModel.
        tokenizer: its tokenizer.
        pooler: texts → [B, P]; None where the backbone takes no pooled text.
        max_length: longer texts are cut, with a warning in the log (512 in the published pipelines).
        pad_to: None keeps real lengths; a number pads to it as the published pipeline of the class does (see `encode`).
        names: character names in its vocabulary; a public encoder reads any name and has none.
        words: those it was taught; a public encoder reads any word and lists none.
        device: where results lie; None takes the model's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        pooler: Pooler | None = None,
        *,
        max_length: int = 512,
        pad_to: int | None = None,
        names: Sequence[str] | None = None,
        words: Vocabulary | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pooler = pooler
        self.max_length = max_length
        self.pad_to = pad_to
        self.names = list(tokenizer.names if names is None else names)
        self.words = Vocabulary() if words is None else words
        self.device = torch.device(device) if device is not None else model.device

    @property
    def dim(self) -> int:
        """Width D of the token states."""
        return int(self.model.config.d_model)

    def alias(self, prompts: Sequence[str]) -> list[str]:
        """`alias_names` with this encoder's names; a public encoder, which reads any name, leaves prompts as they are.

        Give all captions of a film at once, so that a name is the same throughout.
        """
        return alias_names(prompts, self.names) if self.names else list(prompts)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], pad_to: int | None = None, batch: int = 16) -> TextCond:
        """Encode texts, every character as itself (`prompt_text.literal`).

        Args:
            texts: B prompts.
            pad_to: overrides the encoder's own. With padding, T5 is run on the padded ids without a mask and all
                positions are seen (FluxPipeline); UMT5 is masked and its padding is zeros that are seen (WanPipeline).
            batch: texts that go through the model at once.

        Returns:
            TextCond with T the longest text's length, or `pad_to`.

        Raises:
            InputError: no text, or something that is not a list of strings.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError("texts", "must be a list of at least one string", texts, "give prompts in a list")
        pad_to = self.pad_to if pad_to is None else pad_to
        limit = min(self.max_length, pad_to or self.max_length)
        token_ids = self.tokenizer.ids([literal(text) for text in texts])
        ids = [self._cut(row, limit, text) for row, text in zip(token_ids, texts, strict=True)]
        length = pad_to or max(map(len, ids))
        seen_padding = pad_to is not None and not find_text(self.model.config.model_type).padding_is_zero
        tokens = torch.zeros(len(ids), length, self.dim, device=self.device)
        mask = torch.zeros(len(ids), length, dtype=torch.bool, device=self.device)
        # Texts of like length together: the attention inside is padded to the longest of a batch.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            width = length if seen_padding else max(len(ids[i]) for i in group)
            padded = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in group], device=self.device)
            real = torch.tensor([[j < len(ids[i]) for j in range(width)] for i in group], device=self.device)
            attention = None if seen_padding else real.long()
            states = self.model(input_ids=padded, attention_mask=attention).last_hidden_state.to(self.device).float()
            tokens[group, :width] = states if seen_padding else states * real[..., None]
            mask[group, :width] = real
        if pad_to is not None:
            mask[:] = True
        pooled = None if self.pooler is None else self.pooler(texts).to(self.device).float()
        return TextCond(tokens, mask, pooled)

    def _cut(self, ids: list[int], limit: int, text: str) -> list[int]:
        if len(ids) <= limit:
            return ids
        logger.warning("prompt cut to %d of its %d tokens: %.60s…", limit, len(ids), text)
        return [*ids[: limit - 1], ids[-1]]


class ClipTextPooler:
    """A transformers CLIPTextModel (ComfyUI's clip_l.safetensors) with CLIP's own tokenizer: texts → [B, P] fp32."""

    def __init__(self, model: CLIPTextModel) -> None:
        self.model = model.eval()
        self.tokenizer = ClipTokenizer(model.config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Pooled state of the end token, [B, P]; text past 77 tokens is cut, as CLIP does."""
        ids = self.tokenizer(list(texts)).to(self.model.device)
        return self.model(input_ids=ids).pooler_output.float()

    @classmethod
    def load(
        cls,
        path: PathLike,
        config: Mapping[str, Any] | PathLike | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ClipTextPooler:
        """Load a CLIP text model in transformers names, with or without a prefix or a projection.

        Raises:
            InputError: another kind of file, or broken weights.
        """
        model, state, source = _clip_text(path, config, dtype)
        return cls(load_weights(model, state, source=source, dtype=dtype, device=device))

    @staticmethod
    def prove(
        path: PathLike, config: Mapping[str, Any] | PathLike | None = None, dtype: torch.dtype = torch.float32
    ) -> CLIPTextModel:
        """The model of a file without its weights, once it is known that they would load; large files stay unread.

        Args and errors as `load`.
        """
        model, state, source = _clip_text(path, config, dtype, values=False)
        compare(model, state, source)
        check_values(state, dtype, source)
        return model


def _clip_text(
    path: PathLike, config: Mapping[str, Any] | PathLike | None, dtype: torch.dtype, values: bool = True
) -> tuple[CLIPTextModel, dict[str, Tensor], str]:
    """An empty CLIP text model, its tensors, and the file's name."""
    whole = read_checkpoint(path, "clip")
    prefixes = {found[0] for key in whole.state if (found := re.match(r".*?text_model\.", key))}
    # All-in-one files may hold several; what pools is CLIP-L.
    best = sorted(prefix for prefix in prefixes if "clip_l" in prefix) or sorted(prefixes)
    checkpoint = whole.part(best[0]) if best else whole
    tensors = dequantise(checkpoint if values else checkpoint.without_large_values(), dtype)
    state = {
        k: v
        for k, v in tensors.items()
        if k.startswith(("embeddings.", "encoder.", "final_layer_norm.")) and not k.endswith("position_ids")
    }
    if "embeddings.token_embedding.weight" not in state:
        seen = next(iter(whole.state), "nothing")
        raise InputError(
            checkpoint.name,
            "file must hold a CLIP text model in transformers names",
            seen,
            "give clip_l.safetensors",
        )
    with keymaps.shapes_of("CLIP text"):
        inferred = _clip_config(state)
    arguments = read_config(config) or checkpoint.config or inferred
    if arguments.get("num_hidden_layers", inferred["num_hidden_layers"]) != inferred["num_hidden_layers"]:
        rule, fix = "the config must describe the file's own depth", "give the config that belongs to the file"
        raise InputError("config.num_hidden_layers", rule, arguments["num_hidden_layers"], fix)
    model = _build(
        CLIPTextConfig, CLIPTextModel, {"num_hidden_layers": inferred["num_hidden_layers"], **arguments}, state
    )
    return model, state, checkpoint.name


def _clip_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    vocabulary, width = need(state, "embeddings.token_embedding.weight").shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": need(state, "encoder.layers.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": count_blocks(state, "encoder.layers."),
        "num_attention_heads": max(1, width // 64),  # every published CLIP text model has heads of 64
        "max_position_embeddings": need(state, "embeddings.position_embedding.weight").shape[0],
        "hidden_act": "quick_gelu" if width == 768 else "gelu",  # OpenAI's ViT-L
        "eos_token_id": vocabulary - 1,
    }


def load_text(
    kind: str,
    path: PathLike,
    tokenizer: PathLike | None = None,
    config: Mapping[str, Any] | PathLike | None = None,
    pooler: Pooler | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    fp8: bool = False,
    offload: Offload | None = None,
    max_length: int = 512,
    pad_to: int | None = None,
) -> TextEncoder:
    """Load a text encoder from a ComfyUI-format file or a transformers folder.

    Args:
        kind: `t5` or `umt5`.
        path: the weights.
        tokenizer: tokenizer.json, spiece.model or their folder; None takes what the weight file carries, or lies
            beside a folder's weights.
        config: the model's arguments; None takes the folder's, the file metadata's, or reads them from shapes.
        pooler: pools prompts, see `TextEncoder`.
        dtype: what the model computes in; T5's sensitive layers stay fp32 under fp16.
        device: where the model computes.
        fp8: keep linear weights in fp8 and cast each layer when it is used.
        offload: move single layers to `device` only while they are used.
        max_length, pad_to: see `TextEncoder`.

    Raises:
        InputError: a file of another kind, broken weights, or no tokenizer.
    """
    model, state, text_tokenizer, checkpoint = _plan(kind, path, tokenizer, config, dtype)
    kept: set[str] = set()
    if fp8 and any(t.dtype == torch.float8_e4m3fn for t in state.values()):
        skeleton = _build(*find_text(kind).classes(), model.config.to_dict(), state).to(dtype)
        _cast_fp8(skeleton, dtype)
        kept = {name for name, parameter in skeleton.named_parameters() if parameter.dtype in FP8}
    offload_device = torch.device("cpu") if offload else torch.device(device)
    load_weights(
        model,
        state,
        source=checkpoint.name,
        dtype=dtype,
        device=offload_device,
        keep_fp8=kept,
        fp32=("wo",) if dtype == torch.float16 else (),
    )
    if fp8:
        _cast_fp8(model, dtype)
    if offload:
        apply_group_offloading(
            model, torch.device(device), offload_type="leaf_level", use_stream=torch.device(device).type == "cuda"
        )
    known: dict[str, Any] = {"names": listed_names(checkpoint.metadata, text_tokenizer)}
    known["words"] = Vocabulary.read(checkpoint.metadata)
    return TextEncoder(model, text_tokenizer, pooler, max_length=max_length, pad_to=pad_to, device=device, **known)


def prove_text(
    kind: str,
    path: PathLike,
    tokenizer: PathLike | None = None,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The encoder of a file without its weights, once it is known that they would load, with a tokenizer that fits.

    Large files stay unread. Args and errors as `load_text`.
    """
    model, state, _, checkpoint = _plan(kind, path, tokenizer, config, dtype, values=False)
    compare(model, state, checkpoint.name)
    check_values(state, dtype, checkpoint.name)
    Vocabulary.read(checkpoint.metadata)
    return model


def _plan(
    kind: str,
    path: PathLike,
    tokenizer: PathLike | None,
    config: Mapping[str, Any] | PathLike | None,
    dtype: torch.dtype,
    values: bool = True,
) -> tuple[PreTrainedModel, dict[str, Tensor], TextTokenizer, Checkpoint]:
    """An empty encoder, its tensors, its tokenizer, and what is left of the file."""
    classes = find_text(kind, sees=False).classes()
    whole = read_checkpoint(path)
    checkpoint = own_part(kind, whole)
    if tokenizer is None and checkpoint.config is not None:
        tokenizer = path
    text_tokenizer = load_tokenizer(tokenizer, whole.state, checkpoint.metadata, checkpoint.name)
    check_kind(kind, checkpoint)
    own = dequantise(checkpoint if values else checkpoint.without_large_values(), dtype)
    arguments = read_config(config) or checkpoint.config or keymaps.infer_config(kind, own, checkpoint.metadata)
    with keymaps.shapes_of(kind):
        vocabulary = need(own, "shared.weight", "encoder.embed_tokens.weight").shape[0]
    arguments = {"vocab_size": vocabulary, **arguments}
    state = keymaps.from_public(kind, own, arguments)
    model = _build(*classes, arguments, state)
    return model, state, text_tokenizer, replace(checkpoint, state={})


_TEXT = (
    "vocab_size d_model d_kv d_ff num_layers num_heads relative_attention_num_buckets relative_attention_max_distance "
    "dropout_rate layer_norm_epsilon feed_forward_proj pad_token_id eos_token_id"
)
_CLIP = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings hidden_act "
    "layer_norm_eps attention_dropout pad_token_id bos_token_id eos_token_id"
)
_ARGUMENTS: dict[Any, str] = {CLIPTextConfig: _CLIP}
"""What of a config is used. The rest may be anything: transformers would fetch kernels that a config names."""


def _build(config_class: Any, model_class: Any, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """A transformers model without weights."""
    known = _ARGUMENTS.get(config_class, _TEXT).split()
    own = check_arguments({name: arguments[name] for name in known if arguments.get(name) is not None}, state)
    check_types(own, config_class)
    try:
        with no_weights():
            return model_class(config_class(**own))
    except Exception as error:  # transformers checks configs with errors of many classes
        raise InputError(
            "config", f"must describe a {model_class.__name__}", str(error), "give the config that belongs to the file"
        ) from error


def _cast_fp8(model: nn.Module, dtype: torch.dtype) -> None:
    apply_layerwise_casting(model, torch.float8_e4m3fn, dtype, skip_modules_pattern=_KEEP)

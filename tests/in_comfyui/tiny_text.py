"""Tiny text encoders with the same random weights on both sides, and the real tokenizers: FLUX.1's, Mochi's, Wan's."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.text_encoders.flux
import comfy.text_encoders.genmo
import comfy.text_encoders.wan
import sentencepiece
import torch
from comfy.supported_models_base import ClipTarget
from in_comfyui import tiny
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from anchorshot.models.encoders.text import ClipTextPooler, TextEncoder
from anchorshot.models.encoders.tokenizer import JsonTokenizer, SentencePieceTokenizer, TextTokenizer

__all__ = ["SPIECE_TEXT", "headless", "native", "t5_words", "umt5_words"]

SIZES: dict[str, Any] = {"d_model": tiny.FLUX["context_in_dim"], "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 64}
POOLED = tiny.FLUX["vec_in_dim"]
SPIECE_TEXT = [
    "wide shot, static, in the desert. <Mira>, a yellow square with a crown, waves on the left (smiling).",
    "<Émile> walks; “No,” she said. {a} ~ ^ ` 李雷 走 smile 😀 &amp; </s> embedding:x (red:1.4) \\(",
]


@cache
def t5_words() -> TextTokenizer:
    """T5's tokenizer, from the file that ComfyUI brings along."""
    path = Path(comfy.text_encoders.flux.__file__).parent / "t5_tokenizer" / "tokenizer.json"
    return JsonTokenizer(path.read_text("utf-8"))


@cache
def spiece() -> bytes:
    """A SentencePiece model with UMT5's control tokens, trained on two captions."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SPIECE_TEXT * 4), model_writer=buffer, vocab_size=200, model_type="unigram", pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", hard_vocab_limit=False, character_coverage=1.0,
        minloglevel=2,
    )  # fmt: skip
    return buffer.getvalue()


def umt5_words() -> TextTokenizer:
    """The same vocabulary headless."""
    return SentencePieceTokenizer(spiece())


def native(kind: str) -> Any:
    """CLIP of that class with strong random weights: `flux`, `mochi` or `wan`."""
    if kind == "flux":
        return tiny.flux_clip(layers=SIZES["num_layers"])
    data, options = {}, {"dtype": torch.float32}
    if kind == "mochi":
        tokenizer = comfy.text_encoders.genmo.MochiT5Tokenizer
        model: Any = comfy.text_encoders.genmo.mochi_te(torch.float32)
        options["t5xxl_model_config"] = SIZES
    else:
        tokenizer, model = comfy.text_encoders.wan.WanT5Tokenizer, comfy.text_encoders.wan.te(torch.float32)
        data = {"spiece_model": torch.frombuffer(bytearray(spiece()), dtype=torch.uint8)}
        options["umt5xxl_model_config"] = SIZES | {"vocab_size": 400}
    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), tokenizer_data=data, model_options=options)
    tiny.strong_(clip.cond_stage_model)
    return clip


def headless(kind: str, clip: Any) -> TextEncoder:
    """The command line's encoder with the weights of a `native` one."""
    wan = kind == "wan"
    inner = clip.cond_stage_model.umt5xxl if wan else clip.cond_stage_model.t5xxl
    own = SIZES | {"feed_forward_proj": "gated-gelu", "vocab_size": 400 if wan else 32128}
    made = (UMT5EncoderModel(UMT5Config(**own)) if wan else T5EncoderModel(T5Config(**own))).eval()
    state = {key: value for key, value in inner.transformer.state_dict().items() if key in made.state_dict()}
    made.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]})
    return TextEncoder(made, umt5_words() if wan else t5_words(), _pooler(clip) if kind == "flux" else None)


def _pooler(clip: Any) -> ClipTextPooler:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=POOLED, projection_dim=POOLED, intermediate_size=48, num_attention_heads=2,
        num_hidden_layers=2, hidden_act="quick_gelu", eos_token_id=49407,
    )  # fmt: skip
    made = CLIPTextModel(config).eval()
    state = clip.cond_stage_model.clip_l.transformer.state_dict()
    known = made.state_dict()
    prefix = "" if next(iter(known)).startswith("text_model.") else "text_model."
    made.load_state_dict({key: state[prefix + key] for key in known})
    return ClipTextPooler(made)

"""A tiny Qwen2.5-VL with a word tokenizer that has the real control tokens."""

from __future__ import annotations

import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from anchorshot.models.encoders.qwen_tokenizer import CONTROL, QwenTokenizer
from tests.tiny_weights import strong

WORDS = "system user assistant Picture 1 2 3 : . , \n a the red blue square circle with crown waves on left Mira".split(
    " "
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
}
EYES = {
    "depth": 2,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
SECTIONS = [2, 3, 3]


def tokenizer_json() -> str:
    """A tokenizer.json: words, the template's punctuation, and <unk> for the rest."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pieces = pre_tokenizers.Split(Regex(r"\n|[:.,]|[^\s:.,]+"), "isolated")
    spaces = pre_tokenizers.Split(Regex(" +"), "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, pieces])
    tokenizer.add_special_tokens(list(CONTROL))
    return tokenizer.to_str()


def tiny_tokenizer() -> QwenTokenizer:
    return QwenTokenizer(tokenizer_json())


def config_arguments() -> dict:
    """Arguments as a file's metadata has them."""
    vocabulary = tiny_tokenizer().largest_id + 1
    return {
        "text_config": {**TEXT, "vocab_size": vocabulary, "rope_theta": 1e4, "mrope_section": SECTIONS},
        "vision_config": dict(EYES),
    }


def tiny_vl(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The stock class with random weights."""
    tokenizer, arguments = tiny_tokenizer(), config_arguments()
    text = {**TEXT, "vocab_size": arguments["text_config"]["vocab_size"]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": SECTIONS}
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope, "bos_token_id": None, "eos_token_id": None},
        vision_config=EYES,
        image_token_id=tokenizer.id_of("<|image_pad|>"),
        vision_start_token_id=tokenizer.id_of("<|vision_start|>"),
        vision_end_token_id=tokenizer.id_of("<|vision_end|>"),
    )
    return strong(Qwen2_5_VLForConditionalGeneration(config), seed)


def public_state(model: Qwen2_5_VLForConditionalGeneration) -> dict:
    """The names of published folders and of ComfyUI's files."""
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    swap = lambda k: k.replace("model.language_model.", "model.").replace("model.visual.", "visual.")  # noqa: E731
    return {swap(k): v for k, v in state.items()}


def metadata() -> dict[str, str]:
    return {"tokenizer": tokenizer_json(), "config": json.dumps(config_arguments())}

"""The pocket text encoder's tokenizer: a Unigram vocabulary (the T5 kind) over the caption grammar,
letters for the rest.
"""

from __future__ import annotations

import json
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from .lexicon import PLAIN, words_of
from .world import ACCESSORIES, MOVEMENTS, NAMES, PLACES, SCALES, SIDES

SPACE = "▁"
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


def _words() -> list[str]:
    words = {*PLAIN, *words_of()}
    # closing punctuation rides on its word, which keeps context captions short; names keep theirs apart, so that a
    # name is the same token wherever it stands
    words.update(f"{p.split()[-1]}," for p in (*SCALES, *MOVEMENTS))
    words.update(f"{w}." for w in (*PLACES, *SIDES))
    words.update(f"{w}," for w in ACCESSORIES)
    return sorted(words)


def build_tokenizer() -> Tokenizer:
    """The tokenizer as a `tokenizers` object; `save()` gives a standard tokenizer.json.

    Ids: 0 pad, 1 end, 2 unknown, as in T5. Case makes no difference. Character names are single pieces ``▁<mira>``.
    """
    pieces: list[tuple[str, float]] = [(PAD, 0.0), (EOS, 0.0), (UNK, -20.0)]
    pieces += [(f"{SPACE}<{name.lower()}>", -2.0) for name in NAMES]
    pieces += [(SPACE + word, -2.0) for word in _words()]
    pieces += [(c, -8.0) for c in (SPACE, *string.ascii_lowercase, *string.digits, *string.punctuation)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    return tokenizer


CHAT = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
"""Marks of a conversation, as the Qwen models have them."""

_ROLES = ("system", "user", "assistant", "frames", *(str(n) for n in range(5, 34)))


def build_chat_tokenizer() -> Tokenizer:
    """The same vocabulary with what a Qwen conversation needs: its marks, the roles' names, line breaks, shot lengths.

    Ids of common pieces are those of `build_tokenizer`; nothing is added to a text, which the chat template closes.
    """
    base = json.loads(build_tokenizer().to_str())
    pieces = [(piece, score) for piece, score in base["model"]["vocab"]]
    pieces += [("\n", -2.0), (SPACE + "\n", -2.0), *((SPACE + word, -2.0) for word in _ROLES)]
    pieces += [("frames", -2.0), *((str(n), -2.0) for n in range(10, 34))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    # A word that opens a line is the word that follows a blank: the caption of a shot without a picture is one.
    opening = normalizers.Replace(Regex(r"\n(?=[^\s\d])"), "\n ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), opening])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens([PAD, EOS, UNK, *CHAT])
    return tokenizer


def listed_names(tokenizer_json: str) -> list[str]:
    """Names that are single pieces of a tokenizer.json, in vocabulary order."""
    vocab = json.loads(tokenizer_json)["model"]["vocab"]
    return [p[len(SPACE) + 1 : -1] for p, _ in vocab if p.startswith(f"{SPACE}<") and p.endswith(">")]

"""The pocket text encoder's tokenizer: a Unigram vocabulary (the T5 kind) over the caption grammar,
letters for the rest.
"""

from __future__ import annotations

import json
import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from .world import ACCESSORIES, ACTIONS, COLOURS, MOVEMENTS, NAMES, PLACES, SCALES, SHAPES, SIDES

SPACE = "▁"
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


def _words() -> list[str]:
    plain = ["a", "an", "and", "in", "on", "the", "with", "of", "at", "is", "to", "by"]
    words = {*plain, *COLOURS, *SHAPES, *ACCESSORIES, *ACTIONS, *SIDES}
    for phrase in (*SCALES, *MOVEMENTS):
        words.update(phrase.split())
    # closing punctuation rides on its word, which keeps context captions short; names keep theirs apart, so that a
    # name is the same token wherever it stands
    words.update(f"{p.split()[-1]}," for p in (*SCALES, *MOVEMENTS))
    words.update(f"{w}." for w in (*PLACES, *SIDES))
    words.update(f"{w}," for w in ACCESSORIES)
    words.update(PLACES)
    return sorted(words)


def build_tokenizer() -> Tokenizer:
    """The tokenizer as a `tokenizers` object; `save()` gives a standard tokenizer.json.

    Ids: 0 pad, 1 end, 2 unknown, as in T5. Character names are single pieces ``▁<Mira>``.
    """
    pieces: list[tuple[str, float]] = [(PAD, 0.0), (EOS, 0.0), (UNK, -20.0)]
    pieces += [(f"{SPACE}<{name}>", -2.0) for name in NAMES]
    pieces += [(SPACE + word, -2.0) for word in _words()]
    pieces += [(c, -8.0) for c in (SPACE, *string.ascii_letters, *string.digits, *string.punctuation)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    return tokenizer


def listed_names(tokenizer_json: str) -> list[str]:
    """Names that are single pieces of a tokenizer.json, in vocabulary order."""
    vocab = json.loads(tokenizer_json)["model"]["vocab"]
    return [p[len(SPACE) + 1 : -1] for p, _ in vocab if p.startswith(f"{SPACE}<") and p.endswith(">")]

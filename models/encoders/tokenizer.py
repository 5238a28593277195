"""Tokenizers of T5-kind text encoders, from files on this machine only, and CLIP's own.

Read are: tokenizer.json (in a folder, as a file, or in a weight file's metadata under `tokenizer`), SentencePiece's
spiece.model, and the `spiece_model` tensor that ComfyUI embeds in its text encoder files. All give the ids that
ComfyUI's and diffusers' tokenizers give; texts go through `prompt_text.literal` before.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer

from ...core.errors import InputError
from ..io.checkpoint import PathLike
from .prompt_text import literal

__all__ = [
    "ClipTokenizer",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "TextTokenizer",
    "listed_names",
    "load_tokenizer",
]

logger = logging.getLogger(__name__)

# Names are whole pieces, as a user-defined token or with SentencePiece's word mark, in any script and case; what
# vocabularies hold for their own use is none.
_NAME = re.compile(
    r"▁?<(?!(?:s|pad|unk|eos|bos|cls|sep|mask|(?:extra_id_|unused|sentinel_?)\d+|0x[0-9A-F]{2})>)([^\W\d_][^<>]*)>"
)
_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")


class TextTokenizer(Protocol):
    """Texts to token ids, the end token included."""

    names: list[str]
    """Character names that are single pieces, in vocabulary order; empty for public tokenizers."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, its end token last, nothing padded or cut."""
        ...


class JsonTokenizer:
    """A Hugging Face tokenizer.json."""

    def __init__(self, text: str, source: str = "tokenizer.json") -> None:
        try:
            self._tokenizer = Tokenizer.from_str(text)
            vocabulary = self._tokenizer.get_vocab()
        except Exception as error:  # the library raises bare Exception
            raise InputError(source, "must be a tokenizer.json", str(error), "copy the tokenizer again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        end = self._tokenizer.token_to_id("</s>")
        if end is None:
            raise InputError(
                source,
                "a T5 tokenizer must have the end token </s>",
                f"{len(vocabulary)} pieces",
                "give the tokenizer that belongs to the text encoder",
            )
        self._end: int = end
        self.names = _names(sorted(vocabulary, key=lambda piece: vocabulary[piece]))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextTokenizer.ids`."""
        return [_ended(e.ids, self._end) for e in self._tokenizer.encode_batch(list(texts))]


class SentencePieceTokenizer:
    """SentencePiece's own model file, by its own library."""

    def __init__(self, data: bytes, source: str = "spiece.model") -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise InputError(
                source,
                "needs the package sentencepiece",
                "not installed",
                "pip install sentencepiece, or give a tokenizer.json",
            ) from error
        try:
            self._processor: Any = SentencePieceProcessor(model_proto=data)
            pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise InputError(
                source,
                "must be a SentencePiece model",
                str(error).strip() or f"{len(data)} bytes",
                "copy the tokenizer again",
            ) from error
        self._end: int = self._processor.eos_id()
        self.names = _names(pieces)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextTokenizer.ids`."""
        return [_ended(self._processor.encode(text), self._end) for text in texts]


def load_tokenizer(
    path: PathLike | None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    source: str = "text encoder",
) -> TextTokenizer:
    """The tokenizer at `path`, or else the one that the weight file itself carries.

    Args:
        path: tokenizer.json, spiece.model, or a folder with one of them.
        tensors: the weight file's tensors (ComfyUI's `spiece_model`).
        metadata: the weight file's metadata (`tokenizer`: a tokenizer.json).
        source: the weight file, for messages.

    Raises:
        InputError: none found, missing, or unreadable.
    """
    if path is not None:
        return _from_path(Path(path))
    if metadata and "tokenizer" in metadata:
        return JsonTokenizer(metadata["tokenizer"], f"{source} metadata.tokenizer")
    for key, tensor in (tensors or {}).items():
        if key.rpartition(".")[2] == "spiece_model":
            return SentencePieceTokenizer(bytes(tensor.to(torch.uint8).tolist()), f"{source} {key}")
    raise InputError(
        "tokenizer",
        "a text encoder needs its tokenizer",
        f"{source} carries none",
        "give tokenizer: the tokenizer.json or spiece.model of this encoder",
    )


def _from_path(path: Path) -> TextTokenizer:
    if path.is_dir():
        found = next((path / name for name in _FILES if (path / name).is_file()), None)
        if found is None:
            rule = f"folder must hold {' or '.join(_FILES)}"
            raise InputError("tokenizer", rule, str(path), "copy the tokenizer there")
        path = found
    if not path.is_file():
        raise InputError("tokenizer", "file must exist", str(path), "check the path")
    data = path.read_bytes()
    if path.suffix.lower() != ".json":
        return SentencePieceTokenizer(data, path.name)
    try:
        return JsonTokenizer(data.decode("utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise InputError("tokenizer", "tokenizer.json must be UTF-8", path.name, "copy the tokenizer again") from error


def _names(pieces: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(match[1] for piece in pieces if (match := _NAME.fullmatch(piece))))


def _ended(ids: Sequence[int], end: int) -> list[int]:
    return list(ids) if ids and ids[-1] == end else [*ids, end]


def listed_names(metadata: Mapping[str, str], tokenizer: TextTokenizer | None = None) -> list[str]:
    """The names a text encoder knows: its metadata's `names` (a JSON list), else the tokenizer's name pieces."""
    if "names" not in metadata:
        return [] if tokenizer is None else tokenizer.names
    try:
        names = json.loads(metadata["names"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("metadata.names", "must be a JSON list of names", metadata["names"], "export the file again")
    return names


class ClipTokenizer:
    """CLIP's own tokenizer as transformers, diffusers and ComfyUI have it: nothing in a text is repaired.

    The original, which open_clip keeps, mends encodings, HTML entities and curly quotes first, and so gives other ids.

    Args:
        context_length: ids of a row; 77 in every published CLIP.
    """

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        self._warned = False

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, start and end token not counted."""
        return [len(ids) - 2 for ids in _clip_ids(texts)]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Ids [B, context_length], int64, filled up with 0; longer texts are cut before their end token, with a warning
        in the log the first time."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, ids, text in zip(rows, _clip_ids(texts), texts, strict=True):
            if len(ids) > self.context_length:
                if not self._warned:
                    logger.warning("CLIP reads %d of %d tokens: %.60s…", self.context_length, len(ids), text)
                self._warned = True
                ids = [*ids[: self.context_length - 1], ids[-1]]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def _clip_ids(texts: Sequence[str]) -> list[list[int]]:
    """Start token, words and end token of each text."""
    found: list[list[int]] = _clip_words()([literal(text) for text in texts])["input_ids"] if texts else []
    return found


@cache
def _clip_words() -> Any:
    """transformers' CLIPTokenizer on the vocabulary that open_clip brings along."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    original = SimpleTokenizer()
    start, end = original.sot_token_id, original.eot_token_id
    vocabulary = original.encoder | {"<|startoftext|>": start, "<|endoftext|>": end}
    for name in ("<start_of_text>", "<end_of_text>"):
        del vocabulary[name]
    merges = sorted(original.bpe_ranks, key=original.bpe_ranks.__getitem__)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=1 << 30)

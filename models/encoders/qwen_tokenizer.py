"""Qwen's tokenizer, from files on this machine only: tokenizer.json, or vocab.json and merges.txt in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ...core.errors import InputError
from ..io.checkpoint import PathLike

__all__ = ["QwenTokenizer", "load_qwen_tokenizer"]

CONTROL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
"""Tokens that the prompt template is made of."""

_FIX = "give the tokenizer that belongs to this Qwen2.5-VL"


class QwenTokenizer:
    """Texts to ids, nothing added, padded or cut.

    Args:
        text: a tokenizer.json.
        source: the file, for messages.

    Raises:
        InputError: no tokenizer.json, or one without the control tokens of a chat with pictures.
    """

    def __init__(self, text: str, source: str = "tokenizer.json") -> None:
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise InputError(source, "must be a tokenizer.json", str(error), "copy the tokenizer again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        for token in CONTROL:
            if self._tokenizer.token_to_id(token) is None:
                raise InputError(source, "must have the tokens of a chat with pictures", f"no {token}", _FIX)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def id_of(self, token: str) -> int:
        """The id of one of the control tokens."""
        return int(self._tokenizer.token_to_id(token))  # type: ignore[arg-type]  # looked for above

    @property
    def largest_id(self) -> int:
        """The largest id that a text can have."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())


def load_qwen_tokenizer(
    path: PathLike | None, metadata: Mapping[str, str] | None = None, source: str = "text encoder"
) -> QwenTokenizer:
    """The tokenizer at `path` (tokenizer.json, or a folder), else the one in the weight file's metadata (`tokenizer`).

    Raises:
        InputError: none found, or unreadable.
    """
    if path is None:
        if metadata and "tokenizer" in metadata:
            return QwenTokenizer(metadata["tokenizer"], f"{source} metadata.tokenizer")
        rule, seen = "a text encoder needs its tokenizer", f"{source} carries none"
        raise InputError("tokenizer", rule, seen, "give tokenizer: tokenizer.json, or a folder with it")
    path = Path(path)
    if path.is_dir():
        for folder in (path, path / "tokenizer", path / "processor"):
            if (folder / "tokenizer.json").is_file():
                return load_qwen_tokenizer(folder / "tokenizer.json")
        if all((path / name).is_file() for name in ("vocab.json", "merges.txt")):
            return QwenTokenizer(_built(path), path.name)
        rule = "folder must hold tokenizer.json, or vocab.json and merges.txt"
        raise InputError("tokenizer", rule, str(path), "copy the tokenizer there")
    if not path.is_file():
        raise InputError("tokenizer", "file must exist", str(path), "check the path")
    try:
        return QwenTokenizer(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise InputError("tokenizer", "tokenizer.json must be UTF-8", path.name, "copy the tokenizer again") from error


def _built(folder: Path) -> str:
    """A tokenizer.json from the older files, as transformers makes it."""
    from transformers import Qwen2Tokenizer

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
        text: str = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # of many classes
        rule = "vocab.json and merges.txt must make a tokenizer"
        raise InputError("tokenizer", rule, f"{folder.name}: {error}", "copy the tokenizer again") from error
    return text

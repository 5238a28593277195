"""Story text as tokenizers get it: every character a character, in both hosts.

Some texts mean something else to a tokenizer. Its control tokens, such as ``</s>``, end a prompt; ComfyUI reads
brackets as weights, ``(red:1.4)``, and ``embedding:name`` as a file. People write all of them and mean the characters.
"""

from __future__ import annotations

import re

__all__ = ["from_prompt", "literal", "to_prompt"]

# T5's and CLIP's control tokens, and the kind that chat models have. Where a text is read masked,
# all that follows an end token would be hidden.
_CONTROL = re.compile(r"<(?=(?:/s|pad|unk|extra_id_\d+|\|\w+\|)>)")
_EMBEDDING = re.compile(r"(?<!\S)embedding:")
# NUL is ComfyUI's own mark for an escaped bracket; half a surrogate pair (JSON can hold one) is no character; and on
# whether U+0085 is white space tokenizers disagree.
_SIGNS = {0: None, 0x85: " "} | dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


def literal(text: str) -> str:
    """The text with a space in what a tokenizer would take for a command: ``</s>`` becomes ``< /s>``.

    Both hosts encode this. ``embedding:`` is one in ComfyUI alone, but texts must be the same.
    """
    return _EMBEDDING.sub("embedding :", _CONTROL.sub("< ", text.translate(_SIGNS)))


def to_prompt(text: str) -> str:
    """Story text as a prompt for ComfyUI's CLIP nodes, whose tokens are those of the text itself: ``\\(smiling\\)``."""
    return re.sub(r"([()])", r"\\\1", literal(text))


def from_prompt(prompt: str) -> str:
    """The text of a prompt in ComfyUI's spelling, the inverse of `to_prompt`; weights stay as they are written."""
    return re.sub(r"\\([()])", r"\1", prompt)

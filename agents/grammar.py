"""Constrained decoding: a language model that can write nothing but JSON by a schema.

llguidance is the one library that refuses what it cannot enforce instead of leaving it out. What is written is checked
again all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError

__all__ = ["Grammar", "has_grammars"]

EXTRA = "pip install llguidance"


def has_grammars() -> bool:
    """Whether the library is there."""
    from importlib.util import find_spec

    return find_spec("llguidance") is not None


class Grammar:
    """A JSON schema for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        schema: the JSON schema.
        vocabulary: width of the model's logits, at least the tokenizer's.
        stop: ids of the tokens that end an answer.

    Raises:
        InputError: the library is missing, the tokenizer is no fast one, or the schema asks for what cannot be
            enforced.
    """

    def __init__(self, tokenizer: Any, schema: Mapping[str, Any], vocabulary: int, stop: list[int]) -> None:
        try:
            import llguidance
        except ImportError:
            rule = "needs the library llguidance"
            raise InputError("constrained decoding", rule, "not installed", EXTRA) from None
        try:
            words = _words(tokenizer, vocabulary, tuple(stop))
        except ValueError as error:
            raise InputError(
                "tokenizer", "must be a fast one", str(error), "use a folder with tokenizer.json"
            ) from None
        overrides = {"whitespace_flexible": False}  # else a model may write blanks for ever
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides)
        if refusal := llguidance.LLMatcher.validate_grammar(grammar, words):
            raise InputError("schema", "must be enforceable", refusal, "use plain keywords")
        self._matcher = llguidance.LLMatcher(words, grammar, log_level=0)

    def mask(self, logits: Tensor) -> Tensor:
        """Logits [1, V] or [V] with -inf where a token would leave the schema."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        width = logits.shape[-1]
        if allowed.numel() < width:
            allowed = torch.nn.functional.pad(allowed, (0, width - allowed.numel()))
        return logits.masked_fill(~allowed[:width].to(logits.device), float("-inf"))

    def take(self, token: int) -> None:
        """Go on from a token that was chosen. Raises InputError where the schema does not allow it."""
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            fix = "take another model"
            raise InputError("constrained decoding", "must stay within the schema", self._matcher.get_error(), fix)

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())


@lru_cache(maxsize=2)
def _words(tokenizer: Any, vocabulary: int, stop: tuple[int, ...]) -> Any:
    """The library's own form of a tokenizer, which takes a second to make."""
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stop))

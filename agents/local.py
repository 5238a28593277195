"""A language model of transformers in a folder on this machine: Qwen2.5-VL, Qwen3-VL and others of their kind.

Text is written under a grammar, so that every answer is JSON by the schema. Nothing is fetched, and no code of the
folder is run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from .cache import AnswerCache
from .client import DEFAULT_TIMEOUT, AnswerSchema, Completion, Message, TextClient
from .deadline import Deadline
from .grammar import Grammar
from .pictures import Picture

__all__ = ["TransformersClient"]


class TransformersClient(TextClient):
    """Writes with a model in a folder: weights as safetensors, its tokenizer, its chat template.

    Args:
        folder: as `save_pretrained` writes it.
        device: where it runs.
        seed: of the sampling; None takes the most likely token each time.
        temperature: of the sampling.
        max_new_tokens: longest answer.
        timeout, cache: see `TextClient`. The time for loading is not counted.

    Raises:
        InputError: no such folder.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        device: str = "cpu",
        seed: int | None = None,
        temperature: float = 0.7,
        max_new_tokens: int = 6000,
        timeout: float = DEFAULT_TIMEOUT,
        cache: AnswerCache | None = None,
    ) -> None:
        super().__init__(timeout=timeout, cache=cache)
        self._folder = Path(folder)
        if not (self._folder / "config.json").is_file():
            fix = "give the folder that holds config.json, the weights and the tokenizer"
            raise InputError("model", "must be a folder of transformers", str(folder), fix)
        self._device, self._seed, self._temperature = device, seed, temperature
        self._most = max_new_tokens
        self._loaded: tuple[Any, Any] | None = None

    @property
    def who(self) -> str:
        return f"transformers ({self._folder.name})"

    def identity(self) -> dict[str, Any]:
        weights = sorted((file.name, file.stat().st_size) for file in self._folder.glob("*.safetensors"))
        settings = {"seed": self._seed, "temperature": self._temperature, "most": self._most}
        return {"kind": "transformers", "folder": str(self._folder.resolve()), "weights": weights, **settings}

    def complete(
        self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture], deadline: Deadline
    ) -> Completion:
        """See `TextClient.complete`."""
        began = time.monotonic()
        model, processor = self._load()
        deadline.extend(time.monotonic() - began)
        tokenizer = getattr(processor, "tokenizer", processor)
        if images and tokenizer is processor:
            fix = "take a model that sees, such as Qwen2.5-VL or Qwen3-VL"
            raise InputError(self.who, "must take pictures", "a model of text", fix)
        inputs = self._inputs(processor, messages, images).to(model.device)
        length = inputs["input_ids"].shape[1]
        stop = _stop_ids(model, tokenizer)
        width = int(model.get_output_embeddings().weight.shape[0])
        constraint = _Constraint(Grammar(tokenizer, schema.json, width, stop), length)
        sampling: dict[str, Any] = {"do_sample": False}
        if self._seed is not None:
            torch.manual_seed(self._seed)
            sampling = {"do_sample": True, "temperature": self._temperature, "top_p": 1.0, "top_k": 0}
        self.cost.requests += 1
        with torch.inference_mode():
            made = model.generate(
                **inputs, max_new_tokens=self._most, max_time=max(deadline.left, 0.01), eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0],
                logits_processor=[constraint], renormalize_logits=True, repetition_penalty=1.0, **sampling,
            )[0, length:]  # fmt: skip
        deadline.check()
        self.cost.prompt_tokens += length
        self.cost.completion_tokens += made.numel()
        cut = made.numel() >= self._most and int(made[-1]) not in stop
        return Completion(tokenizer.decode(made, skip_special_tokens=True), cut)

    def _inputs(self, processor: Any, messages: Sequence[Message], images: Sequence[Picture]) -> Any:
        """Token ids and pictures, by the model's own chat template."""
        talk: list[dict[str, Any]] = [{"role": m.role, "content": m.text} for m in messages]
        tokenizer_only = not hasattr(processor, "tokenizer")
        if not tokenizer_only:  # one that sees takes parts
            asked = next(turn for turn in talk if turn["role"] == "user")
            for turn in talk:
                shown = [{"type": "image"} for _ in images] if turn is asked else []
                turn["content"] = [*shown, {"type": "text", "text": turn["content"]}]
        named: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
        if tokenizer_only:
            named["enable_thinking"] = False  # Qwen3's templates know it, others read past it
        try:
            text = processor.apply_chat_template(talk, **named)
        except (ValueError, AttributeError) as error:
            fix = "use an instruct or chat model"
            raise InputError("model", "must bring a chat template along", str(error), fix) from None
        if images:  # 8-bit: the processor divides by 255 itself
            return processor(text=[text], images=list(images), return_tensors="pt", padding=True)
        return processor(text=[text], return_tensors="pt", padding=True)

    def _load(self) -> tuple[Any, Any]:
        """The model and what prepares its inputs; loaded once."""
        if self._loaded is None:
            from transformers import (
                AutoConfig,
                AutoModelForCausalLM,
                AutoModelForImageTextToText,
                AutoProcessor,
                AutoTokenizer,
            )
            from transformers.utils import logging

            logging.disable_progress_bar()  # stderr belongs to one line of the command's own
            own = {"local_files_only": True, "trust_remote_code": False}
            try:
                config = AutoConfig.from_pretrained(self._folder, **own)
                sees = getattr(config, "vision_config", None) is not None
                kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
                # What generates reads a batch from its end: padding belongs to the left.
                processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(
                    self._folder, padding_side="left", **own
                )
                model = kind.from_pretrained(self._folder, dtype="auto", use_safetensors=True, **own)
            except (OSError, ValueError, KeyError) as error:
                fix = "give a whole folder, with weights as safetensors"
                raise InputError("model", "must be a language model of transformers", str(error), fix) from None
            self._loaded = model.to(self._device).eval(), processor
        return self._loaded


class _Constraint:
    """Keeps one answer within a grammar, as transformers calls it before every token."""

    def __init__(self, grammar: Grammar, length: int) -> None:
        self._grammar, self._seen = grammar, length

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        for token in ids[0, self._seen :].tolist():
            self._grammar.take(token)
        self._seen = ids.shape[1]
        return self._grammar.mask(scores)


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that end an answer, by the model and by the tokenizer."""
    found: list[int] = []
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found += ids if isinstance(ids, list) else [ids] if ids is not None else []
    if not found:
        raise InputError("model", "must know a token that ends an answer", None, "use an instruct or chat model")
    return list(dict.fromkeys(int(each) for each in found))

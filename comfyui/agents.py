"""Director and Shot Refiner in ComfyUI: on a CLIP that can generate text, at an endpoint, or by rules.

A workflow comes from anywhere, so it never decides where a key goes: the address that gets the key stands in the
environment of whoever started ComfyUI.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import comfy.model_management
import torch
from torch import Tensor

from ..agents.client import AnswerSchema, Client, Completion, Message, TextClient
from ..agents.deadline import Deadline
from ..agents.endpoint import EndpointClient
from ..agents.grammar import Grammar, has_grammars
from ..agents.http import check_url, is_local
from ..agents.pictures import Picture
from ..agents.refiner import refine, shot_brief
from ..agents.rules import RulesClient
from ..core.errors import InputError
from ..models.encoders.prompt_text import literal, to_prompt
from ..story.storyboard import Storyboard
from .images import frames_of
from .story import shot_at

__all__ = ["URL_VARIABLE", "ClipClient", "client_for", "refine_shots"]

URL_VARIABLE = "ANCHORSHOT_API_URL"
"""The environment variable with the endpoint's address; the key goes there and nowhere else."""
_TOGETHER = "The two pictures are shown as one: the start frame above, the end frame below."


def refine_shots(
    storyboard: Storyboard,
    start: Any,
    end: Any,
    shot: str | int,
    seed: int,
    clip: Any = None,
    url: str = "",
    model: str = "",
    max_length: int = 1024,
    timeout: float = 600,
) -> tuple[list[str], str]:
    """Prompts for ComfyUI's CLIP nodes, one for each pair of frames, and a line about their cost.

    Args:
        storyboard: the film.
        start, end: IMAGEs or lists of them, one frame for each shot.
        shot: number or id of the shot that the first pair shows.
        seed, clip, url, model, max_length, timeout: see `client_for`.

    Raises:
        InputError: other numbers of starts and ends, more of them than shots, or no usable answer.
    """
    position = shot_at(storyboard, shot)
    starts, ends = frames_of(start, "start"), frames_of(end, "end")
    if len(starts) != len(ends):
        raise InputError("end", f"must hold as many frames as start, {len(starts)}", len(ends), "connect both lists")
    left = len(storyboard.shots) - position
    if len(starts) > left:
        fix = "connect the frames of the storyboard's own shots, or set shot to the first of them"
        raise InputError("start", f"must hold at most {left} frames, one for each shot from there on", len(starts), fix)
    client = client_for(clip, url, model, seed, max_length, timeout)
    briefs = [shot_brief(storyboard, position + k) for k in range(len(starts))]
    prompts = [to_prompt(refine(client, *each)) for each in zip(briefs, starts, ends, strict=True)]
    return prompts, client.cost.line(client.who)


def client_for(clip: Any, url: str, model: str, seed: int, max_length: int, timeout: float) -> Client:
    """Who answers: the CLIP where there is one, else the endpoint where one is named, else rules.

    Raises:
        InputError: a CLIP that cannot generate, or an address that the node may not ask.
    """
    if clip is not None:
        return ClipClient(clip, seed=seed, max_length=max_length, timeout=timeout)
    if not url.strip() and not model.strip():
        return RulesClient(seed)
    return _endpoint(url.strip(), model.strip(), seed, timeout)


def _endpoint(url: str, model: str, seed: int, timeout: float) -> EndpointClient:
    """The endpoint at `url`, or at that of the environment: only this one gets the key."""
    own = os.environ.get(URL_VARIABLE, "").strip()
    address = url or own
    if not address:
        fix = f"start ComfyUI with {URL_VARIABLE}=https://…, or write a local address such as http://127.0.0.1:8080/v1"
        raise InputError("url", "must be the endpoint's address", None, fix)
    parts = check_url(address, "url")
    trusted = bool(own) and _origin(address) == _origin(own)
    if not trusted and not is_local(parts.hostname or ""):
        rule = f"must lie on this machine, or be the address in the environment variable {URL_VARIABLE}"
        fix = f"start ComfyUI with {URL_VARIABLE}={parts.scheme}://{parts.netloc}{parts.path} if you trust it"
        raise InputError("url", rule, f"{parts.scheme}://{parts.netloc}", fix)
    tick = comfy.model_management.throw_exception_if_processing_interrupted
    return EndpointClient(address, model, seed=seed, timeout=timeout, tick=tick, send_key=trusted)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


class ClipClient(TextClient):
    """Writes with a CLIP, by the code of core's Generate Text.

    Args:
        clip: of a kind that generates: Qwen3-VL, Qwen3.5, Gemma.
        seed: of the sampling.
        max_length: longest answer in tokens.
        timeout: seconds for one question.

    Raises:
        InputError: the CLIP only reads, or is a Qwen2.5-VL, with which core cannot generate.
    """

    def __init__(self, clip: Any, *, seed: int, max_length: int, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self._clip, self._seed, self._most = clip, seed, max_length
        self._writer = _writer(clip)

    @property
    def who(self) -> str:
        return "CLIP"

    def identity(self) -> dict[str, Any]:
        return {"kind": "clip", "seed": self._seed}

    def complete(
        self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture], deadline: Deadline
    ) -> Completion:
        """See `TextClient.complete`. Under a grammar where llguidance is installed and the CLIP's tokenizer is a fast
        one; else what is written is repaired.
        """
        text = "\n\n".join(literal(message.text) for message in messages)
        picture = _batch(images, self._clip.tokenizer)
        if picture is not None and len(picture) < len(images):
            text = f"{text}\n\n{_TOGETHER}"
        tokens = self._clip.tokenize(
            text, image=picture, skip_template=False, min_length=1, thinking=False, video=None, audio=None
        )
        if images and not _has_picture(tokens):
            fix = "connect a CLIP with eyes: Qwen3-VL, Qwen3.5 or Gemma"
            raise InputError("clip", "must see pictures", "a text encoder that reads only text", fix)
        grammar = self._grammar(schema)
        self.cost.requests += 1
        with _held(self._writer, grammar, deadline):
            made = self._clip.generate(
                tokens, do_sample=True, max_length=self._most, temperature=0.7, top_k=64, top_p=0.95, min_p=0.05,
                repetition_penalty=1.0, presence_penalty=0.0, seed=self._seed,
            )  # fmt: skip
        self.cost.completion_tokens += len(made)
        cut = len(made) >= self._most and int(made[-1]) not in _stop_tokens(self._writer)
        return Completion(self._clip.decode(made), cut)

    def _grammar(self, schema: AnswerSchema[Any]) -> Grammar | None:
        tokenizer = _words(self._clip.tokenizer)
        if not has_grammars() or tokenizer is None:
            return None
        return Grammar(tokenizer, schema.json, int(self._writer.model.config.vocab_size), _stop_tokens(self._writer))


def _writer(clip: Any) -> Any:
    """The network of a CLIP that writes. Raises InputError where there is none."""
    model = clip.cond_stage_model
    parts = [model, *model.children()]
    networks = [part.transformer for part in parts if hasattr(part, "transformer")]
    for network in networks:
        if hasattr(network, "generate") and hasattr(network, "sample_token"):
            if _stop_tokens(network):
                return network
            fix = "load Qwen3-VL, Qwen3.5 or Gemma with Load CLIP, or use an endpoint"
            rule = "must be able to write; with Qwen2.5-VL ComfyUI cannot (no output head, no end of text)"
            raise InputError("clip", rule, type(network).__name__, fix)
    names = ", ".join(type(network).__name__ for network in networks[:3]) or type(model).__name__
    fix = "load Qwen3-VL, Qwen3.5 or Gemma with Load CLIP, use an endpoint, or leave it out for the pocket studio"
    raise InputError("clip", "must be able to write, this one only reads", names, fix)


def _stop_tokens(network: Any) -> list[int]:
    config = getattr(getattr(network, "model", None), "config", None)
    return [int(token) for token in getattr(config, "stop_tokens", None) or ()]


def _words(tokenizer: Any) -> Any:
    """The fast tokenizer of transformers within a CLIP's, None where it has another kind."""
    from transformers import PreTrainedTokenizerFast

    inner = getattr(tokenizer, str(getattr(tokenizer, "clip", "")), None)
    words = getattr(inner, "tokenizer", None)
    return words if isinstance(words, PreTrainedTokenizerFast) else None


def _batch(images: Sequence[Picture], tokenizer: Any) -> Tensor | None:
    """IMAGE [B, H, W, 3] in 0…1: one picture each for Qwen's templates, else all in one, from top to bottom."""
    if not images:
        return None
    pictures = [torch.from_numpy(image.copy()).float() / 255 for image in images]
    if any(picture.shape != pictures[0].shape for picture in pictures):
        raise InputError("end", "must have the size of the start frame", list(pictures[-1].shape[:2]), "use one size")
    several = "<|image_pad|>" in str(getattr(tokenizer, "llama_template_images", ""))
    return torch.stack(pictures) if several else torch.cat(pictures)[None]


def _has_picture(tokens: Any) -> bool:
    if isinstance(tokens, dict):
        return any(map(_has_picture, tokens.values())) if "type" not in tokens else tokens["type"] == "image"
    return isinstance(tokens, list | tuple) and any(map(_has_picture, tokens))


@contextlib.contextmanager
def _held(network: Any, grammar: Grammar | None, deadline: Deadline) -> Iterator[None]:
    """While the block runs, the network's tokens stay within the grammar and the time, and people can stop it."""
    sample = network.sample_token

    def sample_token(logits: Tensor, *args: Any, **named: Any) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        deadline.check()
        if grammar is None:
            return sample(logits, *args, **named)
        chosen = sample(grammar.mask(logits), *args, **named)
        grammar.take(int(chosen[0]))
        return chosen

    network.sample_token = sample_token
    try:
        yield
    finally:
        del network.sample_token

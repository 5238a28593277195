"""Qwen2.5-VL as the prompt encoder of Qwen-Image's editing models: text and pictures to states (STAGE's E_mu, §4.1).

The model is told which tokens are pictures. Without that (as diffusers' editing pipelines call it) transformers numbers
a picture's tokens like words, and the states are far from those that the model was trained to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ...story.stages import alias_names
from ...story.vocabulary import Vocabulary
from ..io.checkpoint import PathLike
from .qwen_tokenizer import QwenTokenizer
from .qwen_vl_files import VLPlan, load_vl, plan_vl, prove_vl
from .qwen_vl_prompt import QwenPrompting, picture_patches, picture_pixels

__all__ = ["QwenVLEncoder", "QwenVLInputs", "Pictures", "load_qwen_vl", "prove_qwen_vl"]

Pictures = Sequence[Tensor | Sequence[Tensor] | None]
"""For every prompt no picture, one `[3, H, W]` in 0…1, or several."""


@dataclass(frozen=True)
class QwenVLInputs:
    """What the model is called with, for B prompts.

    Attributes:
        ids: int64 `[B, L]`, filled up on the right.
        mask: bool `[B, L]`, True for tokens that are there.
        is_picture: int64 `[B, L]`, 1 for tokens that stand for a picture.
        patches: `[N, D]` of all pictures one after the other, or None.
        grids: int64 `[pictures, 3]`: 1, rows and columns of patches; or None.
        drop: how many of the first states are dropped.
    """

    ids: Tensor
    mask: Tensor
    is_picture: Tensor
    patches: Tensor | None
    grids: Tensor | None
    drop: int

    def __len__(self) -> int:
        return len(self.ids)


class QwenVLEncoder:
    """A Qwen2.5-VL with its tokenizer.

    Args:
        model: transformers' Qwen2_5_VLModel: no word head is needed.
        tokenizer: its tokenizer.
        prompting: how prompts are put; single calls may say otherwise.
        names: character names that it was taught; a public encoder reads any name and has none.
        words: those it was taught; a public encoder reads any word and lists none.
        device: where results lie; None takes the model's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: QwenTokenizer,
        prompting: QwenPrompting = QwenPrompting(),  # noqa: B008
        *,
        names: Sequence[str] = (),
        words: Vocabulary | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompting = prompting
        self.names = list(names)
        self.words = Vocabulary() if words is None else words
        self.device = torch.device(device) if device is not None else model.device
        eyes = model.config.vision_config
        self._patch, self._merge, self._frames = eyes.patch_size, eyes.spatial_merge_size, eyes.temporal_patch_size

    @property
    def dim(self) -> int:
        """Width D of the states."""
        return int(self.model.config.text_config.hidden_size)

    def alias(self, prompts: Sequence[str]) -> list[str]:
        """`alias_names` with this encoder's names; a public encoder, which reads any name, leaves prompts alone."""
        return alias_names(prompts, self.names) if self.names else list(prompts)

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        images: Pictures | None = None,
        *,
        system_prompt: str | None = None,
        drop_tokens: int | None = None,
        batch: int = 16,
    ) -> tuple[Tensor, Tensor]:
        """States of prompts and the pictures shown with them.

        Args:
            prompts: B texts; every character stands for itself.
            images: for every prompt no picture, one `[3, H, W]` in 0…1, or several; None: no pictures at all.
            system_prompt, drop_tokens: in the place of the encoder's own (see `QwenPrompting`).
            batch: prompts that go through the model at once.

        Returns:
            fp32 `[B, T, D]`, zeros past a prompt's end, and bool `[B, T]`, True for states that are there.

        Raises:
            InputError: no prompts, pictures of another number or shape, or a prompt that is dropped whole.
        """
        inputs = self.inputs(prompts, images, system_prompt=system_prompt, drop_tokens=drop_tokens, batch=batch)
        parts = [self.states(part) for part in inputs]
        longest = max(states.shape[1] for states, _ in parts)
        states = torch.cat([torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1])) for x, _ in parts])
        return states.float(), torch.cat([torch.nn.functional.pad(m, (0, longest - m.shape[1])) for _, m in parts])

    def inputs(
        self,
        prompts: Sequence[str],
        images: Pictures | None = None,
        *,
        system_prompt: str | None = None,
        drop_tokens: int | None = None,
        batch: int = 16,
    ) -> list[QwenVLInputs]:
        """What `states` takes, in batches; arguments and errors as `encode`."""
        if isinstance(prompts, str) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise InputError("prompts", "must be a list of at least one string", prompts, "give prompts in a list")
        shown = [_pictures(entry) for entry in (images if images is not None else [None] * len(prompts))]
        if len(shown) != len(prompts):
            rule = f"must be one entry for each of the {len(prompts)} prompts"
            raise InputError("images", rule, len(shown), "give None where a prompt has no picture")
        prompting = self.prompting
        if system_prompt is not None:
            prompting = replace(prompting, system_prompt=system_prompt)
        if drop_tokens is not None:
            prompting = replace(prompting, drop_tokens=drop_tokens)
        rows = self.tokenizer.ids([prompting.text(text, len(row)) for text, row in zip(prompts, shown, strict=True)])
        drop = prompting.drop_tokens
        if drop is None:
            drop = len(self.tokenizer.ids([prompting.head])[0])
        return [
            self._inputs(rows[start : start + batch], shown[start : start + batch], prompting, drop)
            for start in range(0, len(rows), batch)
        ]

    def states(self, inputs: QwenVLInputs) -> tuple[Tensor, Tensor]:
        """States `[B, T, D]` in the model's type and their mask, as `encode`; gradients flow where they are on."""
        out = self.model(
            input_ids=inputs.ids,
            attention_mask=inputs.mask.long(),
            mm_token_type_ids=inputs.is_picture,
            pixel_values=inputs.patches,
            image_grid_thw=inputs.grids,
            use_cache=False,
        )
        mask = inputs.mask[:, inputs.drop :].to(self.device)
        return out.last_hidden_state[:, inputs.drop :].to(self.device) * mask[..., None], mask

    def _inputs(
        self, rows: list[list[int]], shown: list[list[Tensor]], prompting: QwenPrompting, drop: int
    ) -> QwenVLInputs:
        token = self.tokenizer.id_of("<|image_pad|>")
        patches, grids, expanded = [], [], []
        for row, pictures in zip(rows, shown, strict=True):
            counts = []
            for picture in pictures:
                pixels = picture_pixels(picture, prompting.picture_area, self._patch * self._merge)
                found, (height, width) = picture_patches(pixels, self._patch, self._merge, self._frames)
                patches.append(found)
                grids.append([1, height, width])
                counts.append(height * width // self._merge**2)
            expanded.append(_expanded(row, token, counts))
            if len(expanded[-1]) <= drop:
                rule = f"must be less than the {len(expanded[-1])} tokens of the whole prompt"
                raise InputError("drop_tokens", rule, drop, "drop fewer")
        length = max(map(len, expanded))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in expanded], device=self.device)
        mask = torch.tensor([[i < len(row) for i in range(length)] for row in expanded], device=self.device)
        return QwenVLInputs(
            ids,
            mask,
            ((ids == token) & mask).long(),
            torch.cat(patches).to(self.device, self.model.dtype) if patches else None,
            torch.tensor(grids, device=self.device) if grids else None,
            drop,
        )


def _pictures(entry: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    if entry is None:
        return []
    return [entry] if isinstance(entry, Tensor) and entry.ndim == 3 else list(entry)


def _expanded(ids: list[int], token: int, counts: list[int]) -> list[int]:
    """The ids with a picture's token repeated as often as the model sees patches of it."""
    left, out = iter(counts), list[int]()
    for value in ids:
        out += [token] * next(left) if value == token else [value]
    return out


def load_qwen_vl(
    path: PathLike,
    tokenizer: PathLike | None = None,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **options: Any,
) -> QwenVLEncoder:
    """Load a Qwen2.5-VL from a ComfyUI-format file or a transformers folder.

    Args:
        path: the weights: `qwen_2.5_vl_7b.safetensors`, a folder, or a pipeline's folder with a `text_encoder`.
        tokenizer: tokenizer.json or a folder; None takes what the weight file carries, or lies beside a folder's
            weights.
        config: the model's arguments; None takes the folder's, the file metadata's, or reads them from shapes.
        dtype: what the model computes in.
        device: where the model computes.
        options: `fp8`, `offload` and `loras`, see `qwen_vl_files.load_vl`.

    Raises:
        InputError: a file of another kind, broken weights, no tokenizer, or a LoRA that does not fit.
    """
    plan = plan_vl(path, tokenizer, config, dtype)
    model = load_vl(plan, dtype, torch.device(device), **options)
    return QwenVLEncoder(
        model,
        plan.tokenizer,
        QwenPrompting.read(plan.metadata),
        names=plan.names,
        words=Vocabulary.read(plan.metadata),
        device=device,
    )


def prove_qwen_vl(
    path: PathLike,
    tokenizer: PathLike | None = None,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> VLPlan:
    """The model of a file without its weights (`skeleton`), once it is known that they would load, with a tokenizer.

    Large files stay unread. Args and errors as `load_qwen_vl`.
    """
    plan = plan_vl(path, tokenizer, config, dtype, values=False)
    prove_vl(plan, dtype)
    QwenPrompting.read(plan.metadata)
    Vocabulary.read(plan.metadata)
    return plan

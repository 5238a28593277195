"""The keyframe model as it learns: with its text encoder, and with words that must know what characters look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.backbones.flux.headless import CaptainFlux, KVCache, Pairs
from ...models.layouts.pairs import Size, pack_latent, token_size
from ...sampling.noise import noise_like
from ...training.objectives import Ratio, flow_error, interpolate, mean_of, velocity
from ...training.processes import Rows
from ..configs import KEYFRAME
from .captions import FACTS, IGNORE
from .story_frames import LOOK_FACTS, Frames
from .text import build_t5

#: the single-stream block before which the words about a character should know its looks
IDENTITY_BEFORE = 3
LOOKS = tuple(FACTS[fact] for fact in LOOK_FACTS)


class KeyframeStudent(nn.Module):
    """The keyframe model and its text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.flux = CaptainFlux(**KEYFRAME)
        self.t5 = build_t5()
        self.looks = nn.Linear(self.flux.inner_dim, sum(LOOKS))  # training only, see `KeyframeFlow._identity_loss`
        # adaLN-zero: every block starts as the identity and the output at zero (DiT)
        flux = self.flux
        start_at_zero = [flux.proj_out, flux.norm_out.linear, *(b.norm.linear for b in flux.single_transformer_blocks)]
        for block in flux.transformer_blocks:
            start_at_zero += [block.norm1.linear, block.norm1_context.linear]
        for layer in start_at_zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] to states [N, T, D] (zero at padding, as the text encoder gives them) and mask [N, T]."""
        mask = ids != 0
        states = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        return states * mask[..., None], mask


class ContextFrames(NamedTuple):
    """A context frame of every row, its small noise (t ≤ 0.25, paper Fig. 10) and that noise's t [N]."""

    frames: Frames
    noise: Tensor
    t: Tensor

    @classmethod
    def draw(cls, frames: Frames, g: torch.Generator) -> ContextFrames:
        t = 0.25 * torch.rand(len(frames.latent), generator=g, device=g.device)
        return cls(frames, noise_like(frames.latent.shape, g), t)

    def noisy(self) -> Tensor:
        return interpolate(self.frames.latent, self.noise, self.t[:, None, None, None])

    def rows(self, rows: Rows) -> ContextFrames:
        """Those of a part of the stories."""
        return ContextFrames(self.frames.rows(rows), rows.of(self.noise), rows.of(self.t))


class KeyframeInputs(NamedTuple):
    """Gathered frames, times and noise: `t` is [N, targets] in joint mode, else [N · targets, 1]."""

    joint: bool
    targets: int
    new: Frames
    t: Tensor
    noise: Tensor
    context: list[ContextFrames]


class KeyframeFlow:
    """Flow matching of the new frames, and the looks that the words about a character should know (`_identity_loss`).

    Args:
        character_weight: how much more a cell that a character fills weighs.
        identity_weight: weight of the looks' cross-entropy.
    """

    def __init__(self, character_weight: float, identity_weight: float) -> None:
        self.character_weight, self.identity_weight = character_weight, identity_weight

    def sums(self, model: KeyframeStudent, inputs: KeyframeInputs) -> dict[str, Ratio]:
        """``flow``, ``plain``, and cross-entropies of looks in ``new`` and ``context`` frames."""
        new, noise, t, k = inputs.new, inputs.noise, inputs.t, inputs.targets
        shown = [new, *(each.frames for each in inputs.context)]
        texts, masks = (list(x) for x in zip(*(model.encode_text(frame.ids) for frame in shown), strict=True))
        size = token_size(new.latent)
        noisy = pack_latent(interpolate(new.latent, noise, t.flatten()[:, None, None, None]))
        sums: dict[str, Ratio] = {}
        if inputs.joint:
            latents, words, real, looks = (
                list(x.unflatten(0, (-1, k)).unbind(1)) for x in (noisy, texts[0], masks[0], new.looks)
            )
            pooled = new.pooled.unflatten(0, (-1, k))
            pairs = Pairs(latents, [size] * k, words, pooled, t, masks=list(real), reference=size)
            with self._identity_loss(model, pairs, looks, "new", sums):
                out = torch.stack(model.flux.forward_pairs(pairs, "full"), 1).flatten(0, 1)
        else:
            past = self._encode_context(model, inputs.context, texts[1:], masks[1:], size, sums)
            pairs = Pairs([noisy], [size], texts[:1], new.pooled[:, None], t, masks=list(masks[:1]), reference=size)
            with self._identity_loss(model, pairs, [new.looks], "new", sums):
                out = model.flux.forward_pairs(pairs, "causal", None if past is None else past.repeat(k))[0]
        weight = pack_latent(1 + self.character_weight * new.weight[:, None].expand_as(new.latent))
        error, weighted = flow_error(out, pack_latent(velocity(new.latent, noise)), weight)
        return sums | {"flow": weighted, "plain": mean_of(error.detach())}

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching, and looks in new and context frames by halves."""
        # a context frame shows what its words have to tell; a new one has to remember it, and counts as all of them
        parts = [
            torch.stack([means[f"{where}_{fact}"] for fact in LOOK_FACTS]).mean()
            for where in ("new", "context")
            if f"{where}_{LOOK_FACTS[0]}" in means
        ]
        identity = torch.stack(parts) if parts else means["flow"].new_zeros(1)
        loss = means["flow"] + self.identity_weight * identity.mean()
        return loss, {"plain": means["plain"], "recall": identity[0]}

    @contextmanager
    def _identity_loss(
        self, model: KeyframeStudent, pairs: Pairs, looks: list[Tensor], where: str, sums: dict[str, Ratio]
    ) -> Iterator[None]:
        """Inside, a forward also learns to tell from the words about a character, halfway through the network, how it
        looks: in a context frame from the frame itself, in a new one from memory, as its caption says the name only.

        Plain training finds out which memory a name means from a few blocks' worth of noise above t = 0.85; words are
        never noisy, so here every step teaches it. The layer that tells is not part of the model that is shipped.
        """

        def tell(_module: nn.Module, inputs: tuple) -> None:
            lengths = [t.shape[1] + x.shape[1] for t, x in zip(pairs.texts, pairs.latents, strict=True)]
            parts = zip(inputs[0].split(lengths, 1), pairs.texts, strict=True)
            words = torch.cat([part[:, : text.shape[1]].flatten(0, 1) for part, text in parts])
            labels = torch.cat([each.flatten(0, 1) for each in looks])
            logits = model.looks(words).float().split(LOOKS, -1)
            for fact, each, label in zip(LOOK_FACTS, logits, labels.unbind(-1), strict=True):
                wrong = F.cross_entropy(each, label, ignore_index=IGNORE, reduction="sum")
                sums[f"{where}_{fact}"] = Ratio(wrong, (label != IGNORE).sum())

        handle = model.flux.single_transformer_blocks[IDENTITY_BEFORE].register_forward_pre_hook(tell)
        try:
            yield
        finally:
            handle.remove()

    def _encode_context(
        self,
        model: KeyframeStudent,
        context: list[ContextFrames],
        texts: list[Tensor],
        masks: list[Tensor],
        reference: Size,
        sums: dict[str, Ratio],
    ) -> KVCache | None:
        """Encode the context once for all targets."""
        if not context:
            return None
        order = list(reversed(range(len(context))))  # least relevant first
        ordered = [context[i] for i in order]
        pairs = Pairs(
            [pack_latent(each.noisy()) for each in ordered],
            [token_size(each.noise) for each in ordered],
            [texts[i] for i in order],
            torch.stack([each.frames.pooled for each in ordered], 1),
            torch.stack([each.t for each in ordered], 1),
            masks=[masks[i] for i in order],
            frames=list(range(-len(context), 0)),
            reference=reference,
        )
        with self._identity_loss(model, pairs, [each.frames.looks for each in ordered], "context", sums):
            return model.flux.encode_context(pairs)


__all__ = ["ContextFrames", "KeyframeFlow", "KeyframeInputs", "KeyframeStudent"]

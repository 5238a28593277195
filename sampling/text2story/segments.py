"""Text2Story's story (§3): prompt pairs in, segments out, each sampled with DIPW and drawn towards the one before.

One loop for any text-to-video model; `TextToVideoModel` says how a backbone takes prompts and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ...core.errors import InputError
from ..flow import Callback, X0Transform
from ..noise import Generators, copy_generators
from .action_similarity import SAR, semantic_gamma, similarity
from .blending import Blend, blend_noise
from .preview import Pictures, picture_scorer
from .prompt_mixing import DIPW, MixStep, PromptMixer, Scorer

if TYPE_CHECKING:
    from ...models.encoders.text_cond import TextCond

__all__ = ["Made", "PromptPair", "StorySampler", "StorySettings", "TextToVideo"]

At = Literal["steps", "start"]
ActionPrompt = Literal["alone", "whole"]


@dataclass(frozen=True)
class PromptPair:
    """A segment of B stories: scene and action prompts as the model reads them, and as CLIP does.

    Names mean nothing to CLIP: `scene_query`, `action_query` and `whole_query` say the looks in their place; None takes
    the prompts. `whole` is both in one prompt, for a model without prompt mixing; None joins them.
    """

    scene: Sequence[str]
    action: Sequence[str]
    scene_query: Sequence[str] | None = None
    action_query: Sequence[str] | None = None
    whole: Sequence[str] | None = None
    whole_query: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.scene or len(self.scene) != len(self.action):
            seen = (len(self.scene), len(self.action))
            raise InputError("prompts", "must be as many scenes as actions, at least one", seen, "give them in pairs")

    @property
    def plain(self) -> list[str]:
        """Both in one prompt: what a model without prompt mixing is given."""
        return list(self.whole) if self.whole is not None else _joined(self.scene, self.action)

    def query(self, part: Literal["scene", "action", "whole"]) -> list[str]:
        """A prompt, or both in one, with the looks in the place of names."""
        scene = self.scene if self.scene_query is None else self.scene_query
        action = self.action if self.action_query is None else self.action_query
        if part != "whole":
            return list(scene if part == "scene" else action)
        return list(self.whole_query) if self.whole_query is not None else _joined(scene, action)


@dataclass(frozen=True)
class StorySettings:
    """What of Text2Story is used.

    Attributes:
        dipw: how prompts are weighted; None gives the model both in one prompt.
        action_prompt: what stands beside the scene: the action ``alone``, or the ``whole`` of both, so that the place
            is not lost where the action takes over.
        gamma: γ of TWB, 0…0.5; 0 leaves it out. (The paper does not name its value.)
        at: blend at every step, at the matching noise level, or in the noise that sampling starts from.
        until: with ``steps``: blend only while the noise level is at least this.
        semantic: whether γ' = γ·(1 − S) takes γ's place (SAR).
        sar: how S is read, see `action_similarity.SAR`.
        backward: γ of the backward pass (not in the paper): every segment is sampled again from noise level
            `backward_from`, its last frame drawn towards the next segment's first; 0 leaves it out.
        backward_from: between 0 and 1; the higher, the more is generated again.

    Raises:
        InputError: a value out of its range.
    """

    dipw: DIPW | None = DIPW()
    action_prompt: ActionPrompt = "whole"
    gamma: float = 0.25
    at: At = "steps"
    until: float = 0.0
    semantic: bool = True
    sar: SAR = SAR()
    backward: float = 0.0
    backward_from: float = 0.6

    def __post_init__(self) -> None:
        # Compared so that NaN, which is in no range, is refused.
        for name in ("gamma", "backward"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise InputError(name, "must lie in 0…0.5", getattr(self, name), "0.25 is a start; 0 leaves it out")
        if self.action_prompt not in get_args(ActionPrompt):
            rule = f"must be one of {', '.join(get_args(ActionPrompt))}"
            raise InputError("action_prompt", rule, self.action_prompt, "whole keeps the place")
        if self.at not in get_args(At):
            raise InputError("at", f"must be one of {', '.join(get_args(At))}", self.at, "steps is the usual one")
        if not 0 <= self.until <= 1:
            raise InputError("until", "must be a noise level, 0…1", self.until, "0 blends at every step")
        if not 0 < self.backward_from < 1:
            rule = "must be a noise level between 0 and 1"
            raise InputError("backward_from", rule, self.backward_from, "0.6 keeps what is there")


class TextToVideo(Protocol):
    """A text-to-video model as a story uses it."""

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of a run, 1 … 0."""

    def encode(self, prompts: Sequence[str]) -> TextCond:
        """Conditioning of the prompts, one row each."""

    def denoise(
        self,
        text: Callable[[float], TextCond],
        batch: int,
        generator: Generators,
        *,
        sigmas: Tensor | None = None,
        clean_latents: Tensor | None = None,
        start: Callable[[Tensor], Tensor] | None = None,
        x0_transform: X0Transform | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Latents [B, C, F, h, w]; `clean_latents` [B, C, K, h, w] are the first K, where a model takes such."""

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames [B, t, 3, H, W] in 0…1, part by part."""


@dataclass
class Made:
    """A finished segment: its latents, γ' of each row, and the weights of every step (empty without DIPW)."""

    latents: Tensor
    gamma: Tensor
    record: list[MixStep]


class StorySampler:
    """Samples the segments of a story one after the other.

    Args:
        model: the text-to-video model.
        settings: what of Text2Story is used.
        embed_texts: CLIP's text encoder, texts → unit vectors [N, D]; needed by DIPW's similarity and by SAR.
        embed_images: CLIP's image encoder, [N, 3, H, W] → unit vectors [N, D].
        pictures: how latents are shown to CLIP, see `preview`. Without it or without CLIP, λ1's term is left out.
        embed_actions: the text encoder of SAR, texts → unit vectors [N, D]; None takes CLIP's. Whoever makes the
            sampler gives the one that `settings.sar` names.
    """

    def __init__(
        self,
        model: TextToVideo,
        settings: StorySettings = StorySettings(),
        embed_texts: Callable[[Sequence[str]], Tensor] | None = None,
        embed_images: Callable[[Tensor], Tensor] | None = None,
        pictures: Pictures | None = None,
        embed_actions: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        self.embed_actions = embed_texts if embed_actions is None else embed_actions
        if settings.semantic and settings.gamma and self.embed_actions is None:
            raise InputError("semantic", "needs a text encoder", None, "give one, or switch it off")
        self.model, self.settings = model, settings
        self.embed_texts, self.embed_images, self.pictures = embed_texts, embed_images, pictures

    def segment(
        self,
        pair: PromptPair,
        before: tuple[PromptPair, Tensor] | None = None,
        generator: Generators = None,
        clean_latents: Tensor | None = None,
        callback: Callback | None = None,
        centre: Tensor | None = None,
    ) -> Made:
        """Sample one segment.

        Args:
            pair: its prompts.
            before: prompts and latents of the segment before it; None for the first.
            generator: on the CPU, one, or one per row.
            clean_latents: its first latent frames, where they are known (a keyframe, encoded).
            callback: sees every step.
            centre: the story's, where SAR asks for it, see `centre`.
        """
        settings, batch = self.settings, len(pair.scene)
        gamma = torch.zeros(batch)
        x0_transform: X0Transform | None = None
        start: Callable[[Tensor], Tensor] | None = None
        if before is not None and settings.gamma:
            gamma = self.gamma(before[0], pair, centre)
            blend = Blend(before[1], gamma, until=settings.until)
            if settings.at == "steps":
                x0_transform = blend
            else:
                start = lambda noise: blend_noise(noise, blend)  # noqa: E731
        latents, record = self._sample(
            pair, generator, clean_latents=clean_latents, start=start, x0_transform=x0_transform, callback=callback
        )
        return Made(latents, gamma, record)

    def backward(
        self,
        pair: PromptPair,
        latents: Tensor,
        after: Tensor,
        generator: Generators = None,
        clean_latents: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Sample a finished segment again from `backward_from` on, its last frame drawn towards the next segment.

        Args:
            pair: its prompts.
            latents: what it is, [B, C, F, h, w].
            after: latents of the segment after it.
            generator: on the CPU, one, or one per row; as the segment's was before it was sampled.
            clean_latents: its first latent frames, where they are known.
            callback: sees every step.
        """
        settings = self.settings
        t = settings.backward_from
        levels = self.model.sigmas
        sigmas = torch.cat([levels.new_tensor([t]), levels[levels < t]])

        def start(noise: Tensor) -> Tensor:
            return (1 - t) * latents.to(noise) + t * noise

        x0_transform = Blend(after, settings.backward, "last", settings.until)
        more: dict[str, Any] = {
            "clean_latents": clean_latents,
            "start": start,
            "x0_transform": x0_transform,
            "callback": callback,
        }
        return self._sample(pair, generator, sigmas=sigmas, **more)[0]

    def story(
        self,
        pairs: Sequence[PromptPair],
        generators: Sequence[Generators],
        clean_latents: Tensor | None = None,
        on_segment: Callable[[int, Made], None] | None = None,
    ) -> list[Made]:
        """All segments of a story, and the backward pass over them where it is on; `clean_latents` start the first.

        A segment's backward pass draws the noise that the segment itself was made of.
        """
        centre = self.centre(pairs)
        made: list[Made] = []
        fresh: list[Generators] = []
        for i, (pair, generator) in enumerate(zip(pairs, generators, strict=True)):
            fresh.append(copy_generators(generator))  # before sampling moves it on
            before = (pairs[i - 1], made[-1].latents) if made else None
            made.append(self.segment(pair, before, generator, clean_latents if i == 0 else None, centre=centre))
            if on_segment is not None:
                on_segment(i, made[-1])
        if self.settings.backward:
            for i in range(len(made) - 2, -1, -1):
                first = clean_latents if i == 0 else None
                again = self.backward(pairs[i], made[i].latents, made[i + 1].latents, fresh[i], first)
                made[i] = replace(made[i], latents=again)
        return made

    def _sample(
        self,
        pair: PromptPair,
        generator: Generators,
        *,
        sigmas: Tensor | None = None,
        clean_latents: Tensor | None = None,
        start: Callable[[Tensor], Tensor] | None = None,
        x0_transform: X0Transform | None = None,
        callback: Callback | None = None,
    ) -> tuple[Tensor, list[MixStep]]:
        """Latents of one run, and its weights."""
        model, batch = self.model, len(pair.scene)
        more: dict[str, Any] = {"sigmas": sigmas, "clean_latents": clean_latents, "start": start, "callback": callback}
        if self.settings.dipw is None:
            text = model.encode(pair.plain)
            return model.denoise(lambda t: text, batch, generator, x0_transform=x0_transform, **more), []
        # All levels, also where a run begins later: its clock stands where its first noise level does.
        levels = model.sigmas
        alone = self.settings.action_prompt == "alone"
        scene, action = model.encode(pair.scene), model.encode(pair.action if alone else pair.plain)
        mixer = PromptMixer(scene, action, levels.tolist(), self._scorer(pair), self.settings.dipw)

        def watched(x0: Tensor, t: float) -> Tensor:
            wanted = x0 if x0_transform is None else x0_transform(x0, t)
            mixer.observe(wanted)
            return wanted

        return model.denoise(mixer.text, batch, generator, x0_transform=watched, **more), mixer.record

    def _scorer(self, pair: PromptPair) -> Scorer | None:
        if self.pictures is None or self.embed_texts is None or self.embed_images is None:
            return None
        action = pair.query("action" if self.settings.action_prompt == "alone" else "whole")
        prompts = self.embed_texts([*pair.query("scene"), *action]).unflatten(0, (2, -1))
        return picture_scorer(self.pictures, self.embed_images, prompts.movedim(0, 1))

    def centre(self, pairs: Sequence[PromptPair]) -> Tensor | None:
        """Mean [B, D] of all that SAR compares in a story; None where its reading does without."""
        settings = self.settings
        if not (settings.semantic and settings.gamma and settings.sar.centred):
            return None
        return self._embedded([query for pair in pairs for query in settings.sar.texts(pair)]).mean(0)

    def gamma(self, before: PromptPair, pair: PromptPair, centre: Tensor | None = None) -> Tensor:
        """γ' of each row, [B]: the more alike what SAR compares, the less is blended.

        Raises:
            InputError: SAR is centred, and there is no centre.
        """
        settings = self.settings
        gamma = torch.full((len(pair.scene),), settings.gamma)
        if not settings.semantic:
            return gamma
        if settings.sar.centred and centre is None:
            raise InputError("centre", "must be the story's where SAR is centred", None, "take StorySampler.centre's")
        a, b = self._embedded(settings.sar.compared(before, pair))
        alike = similarity(a, b, centre)
        return torch.as_tensor(semantic_gamma(gamma, alike, settings.sar.bounded))

    def _embedded(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """[n, B, D] of n lists of B texts; in one call, so that a name is the same in all."""
        assert self.embed_actions is not None, "asked for when the sampler was made"
        return self.embed_actions([text for row in texts for text in row]).float().cpu().unflatten(0, (len(texts), -1))


def _joined(scene: Sequence[str], action: Sequence[str]) -> list[str]:
    return [" ".join(dict.fromkeys((a.strip(), b.strip()))) for a, b in zip(scene, action, strict=True)]

"""Text2Story's Dynamics-Informed Prompt Weighting (§3.1): a scene and an action prompt, weighted anew at every step.

At step i of T, for k = scene, action:

    s_k = λ1·sim_k + λ2·prev_sim_k + λ3·prior_k        α = softmax(s / τ)        E_i = Σ α_k·E_k

sim is CLIP's similarity between the predicted image and the prompt, prev_sim the cosine between the prompt's embedding
and the embedding used before, prior falls from 1 to 0 for the scene and rises for the action (by i/T or by the noise
that is gone, `prior_clock`, and sooner or later than that, `prior_shift`). The attention mask is that of the dominant
prompt; a model that reads zeros in the place of a mask is given zeros there.

The paper scores a fully decoded video at every step, which takes seven times as long as the plain model. Here the
picture comes from a cheap preview (`preview`), and only every few steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError

if TYPE_CHECKING:
    from ...models.encoders.text_cond import TextCond

__all__ = ["DIPW", "Clock", "MixStep", "PromptMixer", "Scorer", "align", "mix", "zero_padded"]

Clock = Literal["steps", "noise"]
Scorer = Callable[[Tensor], Tensor]
"""Foreseen latents x0 [B, C, F, h, w] → similarity to scene and action [B, 2]."""


@dataclass(frozen=True)
class DIPW:
    """How the weights are computed (paper: §3.1, values of §4.1).

    Attributes:
        lambdas: λ1 (what the picture shows), λ2 (what was used before), λ3 (the prior of progress).
        tau: temperature τ; lower decides more sharply.
        every: the picture is scored every so many steps (the paper: 1).
        start, end: noise levels, high and low, between which it is scored; outside the last score stays.
        prior_shift: s of the prior's schedule p' = s·p / (1 − p + s·p): 1 leaves p, above it the action takes over
            sooner, below it later.
        prior_clock: what p is: ``steps``, i/T (the paper's), or ``noise``, 1 − noise level at the end of the step: the
            same moment of a picture in every schedule. Half of the prior is the action's at p = 1 / (1 + s).
    """

    lambdas: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tau: float = 0.5
    every: int = 4
    start: float = math.inf
    end: float = 0.0
    prior_shift: float = 300.0
    prior_clock: Clock = "noise"

    def __post_init__(self) -> None:
        if len(self.lambdas) != 3 or not all(math.isfinite(value) for value in self.lambdas):
            raise InputError("lambdas", "must be three numbers", self.lambdas, "1, 1, 1 are the paper's")
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise InputError("tau", "must be a positive number", self.tau, "0.5 is the paper's")
        if not (math.isfinite(self.prior_shift) and self.prior_shift > 0):
            fix = "1 is the paper's; above it the action takes over sooner"
            raise InputError("prior_shift", "must be a positive number", self.prior_shift, fix)
        if self.prior_clock not in get_args(Clock):
            fix = "steps is the paper's"
            raise InputError("prior_clock", f"must be one of {', '.join(get_args(Clock))}", self.prior_clock, fix)
        if self.every < 1:
            raise InputError("every", "must be at least 1", self.every, "score every 4 steps")

    def prior(self, progress: float) -> tuple[float, float]:
        """Prior of scene and action at a progress p, 0…1."""
        shifted = self.prior_shift * progress
        action = shifted / (1 - progress + shifted)
        return 1 - action, action


@dataclass(frozen=True)
class MixStep:
    """What was decided at one step; each tensor [B, 2], scene then action, on the CPU."""

    step: int
    t: float
    similarity: Tensor
    previous: Tensor
    prior: tuple[float, float]
    weights: Tensor
    scored: bool


@dataclass
class PromptMixer:
    """The weighting of one run: ask `text(t)` before every call of the model, show it the result with `observe`.

    A step is found by its noise level, not by counting calls: samplers that call the model several times in a step
    (Heun, multi-step), or look ahead and come back (heunpp2), see the same text at the same level. The state is this
    run's alone; make a mixer for each run.

    Args:
        scene, action: conditioning of B prompts each.
        sigmas: noise levels of the whole schedule, falling, T + 1 of them (the last is where the run ends); a run may
            begin later in it.
        scorer: similarity of the predicted x0 to both prompts; None leaves λ1's term out.
        settings: λ, τ and how often to score.
        span: progress at the first and at the last of `sigmas`, where they are a part of a schedule: that of one of two
            samplers that share it, or of a run that begins at a lower level. Only the clock ``steps`` asks for it.
        noise: share of noise, 0…1, at a level of `sigmas`, for the clock ``noise``; None takes the level itself, which
            is right for flow models.
    """

    scene: TextCond
    action: TextCond
    sigmas: Sequence[float]
    scorer: Scorer | None = None
    settings: DIPW = DIPW()
    span: tuple[float, float] = (0.0, 1.0)
    noise: Callable[[float], float] | None = None
    record: list[MixStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scene, self.action = align(self.scene, self.action)
        self._rising = [-float(level) for level in self.sigmas]
        if len(self._rising) < 2 or any(a > b for a, b in zip(self._rising, self._rising[1:], strict=False)):
            raise InputError("sigmas", "must fall", list(self.sigmas)[:4], "give the sampler's own schedule")
        self._step, self._scored = 0, 0
        self._x0: Tensor | None = None
        self._similarity = self.scene.tokens.new_zeros(len(self.scene.tokens), 2, dtype=torch.float32)
        self._text: TextCond | None = None

    @property
    def steps(self) -> int:
        """T."""
        return len(self._rising) - 1

    def step_at(self, t: float) -> int:
        """The step i = 1 … T to which a noise level belongs."""
        return max(1, min(self.steps, bisect_right(self._rising, -t + 1e-6)))

    def progress(self, step: int) -> float:
        """p of a step i = 1 … T by the chosen clock, 0…1; 1 at the last step of a whole run."""
        if self.settings.prior_clock == "steps":
            begin, end = self.span
            return begin + (end - begin) * (step / self.steps)
        level = -self._rising[step]
        return min(1.0, max(0.0, 1 - (level if self.noise is None else self.noise(level))))

    def text(self, t: float) -> TextCond:
        """The mixed conditioning for a call at noise level t."""
        step = self.step_at(t)
        if self._text is None or step > self._step:
            self._text = self._advance(step, t)
        if step == self._step:
            return self._text
        known = [entry for entry in self.record if entry.step <= step] or self.record[:1]
        return mix(self.scene, self.action, known[-1].weights.to(self._similarity.device))

    def observe(self, x0: Tensor) -> None:
        """Show the latents that the model predicts now, [B, C, F, h, w]; kept only if the next step scores them."""
        if self.scorer is not None and self._stale(self._step + 1):
            self._x0 = x0.detach()

    def _advance(self, step: int, t: float) -> TextCond:
        settings = self.settings
        scored = self._due(step, t)
        if scored and self.scorer is not None and self._x0 is not None:
            self._similarity, self._scored = self.scorer(self._x0).to(self._similarity), step
            self._x0 = None
        previous = torch.zeros_like(self._similarity)
        if self._text is not None:
            used = self._text.tokens
            previous = torch.stack([_cosine(text.tokens, used) for text in (self.scene, self.action)], 1)
        prior = settings.prior(self.progress(step))
        l1, l2, l3 = settings.lambdas
        scores = l1 * self._similarity + l2 * previous + l3 * previous.new_tensor(prior)
        weights = torch.softmax(scores / settings.tau, 1)
        self._step = step
        self.record.append(MixStep(step, t, self._similarity.cpu(), previous.cpu(), prior, weights.cpu(), scored))
        return mix(self.scene, self.action, weights)

    def _due(self, step: int, t: float) -> bool:
        """Whether the picture is scored now: there is one, and the last score is old enough or missing."""
        if self._x0 is None or not self.settings.end <= t <= self.settings.start:
            return False
        return self._stale(step)

    def _stale(self, step: int) -> bool:
        return not self._scored or step - self._scored >= self.settings.every


def mix(scene: TextCond, action: TextCond, weights: Tensor) -> TextCond:
    """Σ α_k·E_k and the dominant prompt's mask; `weights` [B, 2] in 0…1, together 1. Equal prompts stay bit-equal."""
    alpha = weights[:, 0].to(action.tokens)
    tokens = action.tokens + alpha[:, None, None] * (scene.tokens - action.tokens)
    mask = torch.where((weights[:, 0] >= weights[:, 1]).to(scene.mask.device)[:, None], scene.mask, action.mask)
    pooled = action.pooled
    if scene.pooled is not None and action.pooled is not None:
        pooled = action.pooled + alpha[:, None] * (scene.pooled - action.pooled)
    return replace(action, tokens=tokens, mask=mask, pooled=pooled)


def zero_padded(text: TextCond) -> Tensor:
    """Tokens for a model that takes no mask and reads zeros where a text has ended: a mixed text ends where the
    dominant prompt does."""
    return text.tokens * text.mask.to(text.tokens)[..., None]


def align(scene: TextCond, action: TextCond) -> tuple[TextCond, TextCond]:
    """Both filled up with zeros to the longer one's tokens; their masks say where each ends."""
    if scene.tokens.shape[::2] != action.tokens.shape[::2]:
        seen = (tuple(scene.tokens.shape), tuple(action.tokens.shape))
        raise InputError("prompts", "must have the same number of rows and width", seen, "encode both alike")
    length = max(scene.tokens.shape[1], action.tokens.shape[1])

    def fill(text: TextCond) -> TextCond:
        missing = length - text.tokens.shape[1]
        if not missing:
            return text
        tokens = F.pad(text.tokens, (0, 0, 0, missing))
        return replace(text, tokens=tokens, mask=F.pad(text.mask, (0, missing)))

    return fill(scene), fill(action)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of whole embeddings, [B]."""
    return F.cosine_similarity(a.flatten(1).float(), b.flatten(1).float(), dim=1)

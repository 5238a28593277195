"""Random weights under which every part of a network shows in its output, and how far outputs lie apart."""

import math

import torch


def strong(model, seed=0):
    """Random weights whose every part shows in the output: zero-mean of unit gain, norm gains near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        gain = p.ndim == 1 and "norm" in name and "linear" not in name and name.endswith("weight")
        value = torch.randn(p.shape, generator=generator)
        p.data = (1 + 0.2 * value if gain else value * (0.2 if p.ndim == 1 else max(p[0].numel(), 1) ** -0.5)).to(p)
    return model.eval().requires_grad_(False)


def seeded(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights that keep a signal, under which attention, text, time and every gate count."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "gamma" in name or (p.ndim == 1 and "norm" in name and name.endswith("weight")):
                p.copy_(1.2 + 0.2 * noise)
            elif p.ndim > 1 and "scale_shift_table" not in name:
                p.copy_(noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(0.2 * noise)
    return model.eval().requires_grad_(False)


def gap(a, b):
    return (a - b).abs().max().item() / b.abs().max().item()

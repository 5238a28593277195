"""Operators of the samplers as Triton kernels, each beside its PyTorch reference. Nothing heavy is imported here."""

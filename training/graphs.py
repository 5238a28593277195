"""Training steps as CUDA graphs: a tiny model's step is thousands of kernels that take longer to launch than to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

logger = logging.getLogger(__name__)

Step = Callable[[Any], dict[str, Tensor]]


class GraphedSteps:
    """Runs a forward and backward pass as a replayed graph; one graph for each kind of inputs, captured at first sight.

    Two inputs are of one kind when their plain values are equal and their tensors agree in shape and type. Gradients
    lie where `parameters` keep them and are zeroed by each step itself, so never set them to None. If something cannot
    be captured, a warning says so and steps run as they are.

    Args:
        step: forward and backward pass: inputs → scalar tensors.
        parameters: what it computes gradients of.
    """

    def __init__(self, step: Step, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._step = step
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]] = {}
        self._pool: Any = None
        self._works = True
        self._gradients = [torch.zeros_like(p) for p in parameters]
        for p, gradient in zip(parameters, self._gradients, strict=True):
            p.grad = gradient

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        """Gradients of these inputs, and the step's numbers (valid until the next call)."""
        leaves, tree = tree_flatten(inputs)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        kind = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves), str(tree)
        if self._works and kind not in self._graphs:
            try:
                self._graphs[kind] = self._capture(leaves, tree, tensors)
            except RuntimeError as error:
                logger.warning("training runs without CUDA graphs: %s", error)
                self._works = False
        if not self._works:
            return self._eager(inputs)
        graph, static, numbers = self._graphs[kind]
        for own, given in zip(static, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return numbers

    def _eager(self, inputs: Any) -> dict[str, Tensor]:
        torch._foreach_zero_(self._gradients)
        return self._step(inputs)

    def _capture(
        self, leaves: list[Any], tree: Any, tensors: list[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]:
        static = [x.clone() for x in tensors]
        rest = iter(static)
        inputs = tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], tree)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside of the graph
            for _ in range(2):
                self._eager(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            numbers = self._eager(inputs)
        self._pool = graph.pool()
        return graph, static, numbers


def map_tensors(change: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Apply `change` to every tensor in nested dicts, lists and tuples."""
    return tree_map(lambda x: change(x) if isinstance(x, Tensor) else x, nested)


__all__ = ["GraphedSteps", "map_tensors"]

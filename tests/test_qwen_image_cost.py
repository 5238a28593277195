"""Closed-form FLOPs of Qwen-Image equal what is counted on the class itself."""

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from anchorshot.core.errors import InputError
from anchorshot.models.backbones import find_backbone
from anchorshot.models.backbones.qwen_image.cost import QWEN_IMAGE_EDIT, count_qwen, qwen_cost
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.cost import cost_of, count_flops

SMALL = {
    **QWEN_IMAGE_EDIT,
    **{"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3, "in_channels": 12, "out_channels": 5},
    **{"joint_attention_dim": 20, "axes_dims_rope": (4, 6, 6)},
}


def on_meta(config, cls=PairQwen):
    with torch.device("meta"):
        return cls(**config)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("memory", [[], [(3, 4), (2, 1)]])
def test_equals_the_count(zero, memory) -> None:
    config = {**SMALL, "zero_cond_t": zero}
    frames = [(3, 4), (3, 4)]
    assert qwen_cost(config, frames, memory, text=7).flops == count_qwen(on_meta(config), frames, memory, text=7)


def test_one_frame_equals_the_stock_model_at_full_size() -> None:
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(1, 64 * 64, 64),
            "encoder_hidden_states": torch.empty(1, 300, 3584),
            "timestep": torch.empty(1),
            "img_shapes": [[(1, 64, 64)]],
        }
    # A plan of positions lives on the CPU in the stock class; what is counted are the products.
    model = on_meta({**QWEN_IMAGE_EDIT, "num_layers": 2, "zero_cond_t": False}, QwenImageTransformer2DModel)
    stock = count_flops(lambda: model(**inputs))
    config = {**QWEN_IMAGE_EDIT, "num_layers": 2, "zero_cond_t": False}
    assert qwen_cost(config, [(64, 64)], text=300).flops == stock


def test_batch_and_parts() -> None:
    cost, two = (qwen_cost(QWEN_IMAGE_EDIT, [(54, 96)] * 2, text=400, batch=b) for b in (1, 2))
    assert two.flops == 2 * cost.flops and cost.tokens == 2 * 54 * 96 + 400
    assert cost_of(find_backbone("qwen_image")) is qwen_cost and 0 < cost.attention < cost.flops


@pytest.mark.parametrize("call", [([],), ([(0, 2)],), ([(1, 1)], [(2, 0)])])
def test_what_cannot_be_counted(call) -> None:
    with pytest.raises(InputError, match="frames"):
        qwen_cost(SMALL, *call)
    with pytest.raises(InputError, match="text"):
        qwen_cost(SMALL, [(1, 1)], text=-1)

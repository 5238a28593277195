"""A small data set of shots on the disk, and a tiny pair model with its text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import save_file

from anchorshot.media.image import write_image
from anchorshot.models.backbones.qwen_image.keymap import marked
from tests.test_qwen_image import CONFIG
from tests.tiny_qwen import metadata, public_state, tiny_vl
from tests.tiny_weights import strong

SIZE = (64, 32)
"""Width and height of the pictures."""
INNER = 4
PAIR = {**CONFIG, "in_channels": 64, "out_channels": 16, "joint_attention_dim": 32, "num_layers": 2}


def picture(seed: int, size=SIZE) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 8, generator=g)
    return torch.nn.functional.interpolate(coarse, size[::-1], mode="bilinear")[0]


def write_shots(folder: Path, movies=("a", "b"), shots=4, still: frozenset | set = frozenset()) -> Path:
    """A JSONL data set; the `still` shots (movie, number) show one picture all the time."""
    lines = []
    for m, movie in enumerate(movies):
        for shot in range(shots):
            names = ["start", "end", *(f"inner{i}" for i in range(INNER))]
            for k, name in enumerate(names):
                seed = 100 * m + 10 * shot + (0 if (movie, shot) in still else k)
                write_image(folder / movie / f"{shot}_{name}.png", picture(seed))
            path = lambda name, movie=movie, shot=shot: f"{movie}/{shot}_{name}.png"  # noqa: E731
            lines.append(
                {
                    "movie": movie,
                    "shot": shot,
                    "text": f"the red square waves on the left {shot}",
                    "attributes": {"scale": "close-up"},
                    "seconds": 2.75,
                    "frames": 66,
                    "start": path("start"),
                    "end": path("end"),
                    "inner": [path(name) for name in names[2:]],
                }
            )
    file = folder / "shots.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return file


def write_models(folder: Path) -> tuple[Path, Path]:
    """Files of a tiny transformer and its text encoder, random, in the public format."""
    model = strong(QwenImageTransformer2DModel(**PAIR, zero_cond_t=True))
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(marked(state, model.config), folder / "pair.safetensors", {"config": json.dumps(config)})
    prompting = json.dumps({"picture_area": 3136})
    save_file(public_state(tiny_vl()), folder / "qwen_vl.safetensors", {**metadata(), "prompting": prompting})
    return folder / "pair.safetensors", folder / "qwen_vl.safetensors"

"""Prints the versions that matter, one a line: what a report of a fault should quote."""

import platform
from importlib import metadata

NAMES = (
    "anchorshot", "torch", "torchvision", "torchaudio", "diffusers", "transformers", "tokenizers", "peft", "accelerate",
    "safetensors", "numpy", "pillow", "av", "pydantic", "kornia", "open_clip_torch", "comfyui-frontend-package",
    "comfyui-workflow-templates", "playwright",
)  # fmt: skip

print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
for name in NAMES:
    try:
        print(f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        continue

"""A tiny CLIP of open_clip with random weights, registered under a name of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from open_clip import factory
from safetensors.torch import save_file

ARCHITECTURE = "tiny-of-the-tests"
VALUES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@contextmanager
def registered(folder: Path) -> Iterator[None]:
    """Makes the architecture known to open_clip, and unknown again."""
    paths, known = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(VALUES))
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        factory._MODEL_CONFIG_PATHS[:] = paths
        factory._MODEL_CONFIGS.clear()
        factory._MODEL_CONFIGS.update(known)


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    """Writes random weights, large enough that two texts or two pictures differ."""
    torch.manual_seed(seed)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None, load_weights=False)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, path)
    return path

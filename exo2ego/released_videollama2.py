"""A released VideoLLaMA2 for answering: an Exo2Ego model of one tower, without a mapper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.building import build_model, build_tokenizer
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ModelOptions
from exo2ego.model.parts import ModelParts
from exo2ego.storage import read_json
from exo2ego.train.assembly import build_processor

INDEX_FILE = "model.safetensors.index.json"
CONNECTORS = {"stc_connector": "stc", "stc_connector_v35": "stc_v35", "stp_connector": "stp"}
"""Our name of a release's `mm_projector_type`."""
_BLOCK = re.compile(r"model\.mm_projector\.s1\.b(\d+)\.")


def load_released_videollama2(
    folder: Path, *, num_frames: int | None = None
) -> tuple[Exo2EgoForConditionalGeneration, Exo2EgoProcessor]:
    """Loads connector, vision tower and language model of a full release, on the GPU where there is one.

    Frames are cut to their central square, as the release's own inference does (VideoLLaMA2 `model_init`);
    `num_frames` None is the release's number. Raises `CheckpointError` for an incomplete or damaged folder.
    """
    options = ModelOptions.model_validate(release_options(folder, num_frames))
    tokenizer = build_tokenizer(options)
    model = build_model(options, ModelParts(), tokenizer, seed=0)
    processor = build_processor(model, tokenizer, options.aspect)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device=torch.device(device), dtype=model.lm_head.weight.dtype).eval(), processor


def release_options(folder: Path, num_frames: int | None) -> dict[str, Any]:
    """Returns the `model` section of a configuration that takes everything from a release."""
    try:
        config = read_json(folder / "config.json", "configuration of a VideoLLaMA2 release")
        names = read_json(folder / INDEX_FILE, "index of a VideoLLaMA2 release")["weight_map"]
        kind = config["mm_projector_type"]
        feature_layer, frames = int(config["mm_vision_select_layer"]), num_frames or int(config["num_frames"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: expected a full VideoLLaMA2 release (config.json, {INDEX_FILE} and its shards), for example "
            f"VideoLLaMA2-7B-16F; {type(error).__name__}: {error}"
        ) from error
    if kind not in CONNECTORS:
        raise CheckpointError(f"{folder}: mm_projector_type `{kind}` is none of {', '.join(CONNECTORS)}")
    part = {"videollama2": str(folder)}
    depth = max((int(found[1]) for name in names if (found := _BLOCK.match(name))), default=1)
    return {
        "vision_tower": part,
        "language_model": part,
        "videollama2": str(folder),
        "connector": {"kind": CONNECTORS[kind], "depth": depth},
        "mapper": {"kind": "none"},
        "vision_feature_layer": feature_layer,
        "num_frames": frames,
        "aspect": "crop",
    }

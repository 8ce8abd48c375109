"""An image CLIP of open_clip as a dual encoder: a clip is the mean of its frames' embeddings."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eval.retrieval.encoders import Embeddings
from exo2ego.console import console
from exo2ego.errors import CheckpointError, DataError, EvaluationError
from exo2ego.model.identity import module_identity
from exo2ego.model.weights import load_exactly, read_tensors
from exo2ego.storage import hash_text, read_json

DEFAULT_NUM_FRAMES = 4
"""As EgoHOD shows a clip for retrieval (EgoVideo's T = 4); a CLIP of pictures has no number of its own."""
TEXTS_PER_BATCH = 256
OWN_CONFIG = "open_clip_config.json"
"""What a release says of itself, beside its weights."""
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


class OpenClipEncoder:
    """A `DualEncoder` over a model of open_clip."""

    def __init__(self, model: nn.Module, tokenizer: Any, preprocessing: Mapping[str, Any], num_frames: int) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.num_frames = num_frames
        self.preprocessing = dict(preprocessing)
        self._transform: Any = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        self._device = next(model.parameters()).device

    @classmethod
    def load(cls, source: str, num_frames: int | None) -> OpenClipEncoder:
        """Loads `ARCH@CHECKPOINT_FILE`, on the GPU where there is one; nothing is fetched, no code of a file is run.

        Raises `EvaluationError` for an unknown architecture or none of its weights, `CheckpointError` for a file that
        does not fill it exactly.
        """
        architecture, separator, checkpoint = source.partition("@")
        if not separator or not checkpoint:
            raise EvaluationError(
                f"open_clip:{source}: expected open_clip:ARCH@CHECKPOINT_FILE; without weights it would be random"
            )
        values = _architecture(architecture)
        path = Path(checkpoint)
        released = _released_values(path)
        _require_same_model(architecture, values, released.get("model_cfg", {}), path)
        settings = _preprocessing(architecture, values, released, path)
        model, tokenizer = _empty_model(architecture)
        load_exactly(model, _read_checkpoint(path), where=str(path))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        preprocessing = {"size": model.visual.image_size, **settings}
        return cls(model.to(device), tokenizer, preprocessing, num_frames or DEFAULT_NUM_FRAMES)

    @property
    def identity(self) -> str:
        """Returns a hash of all weights (`exo2ego/model/identity.py`) and of what is done to pictures and texts."""
        tokens = self.tokenizer(["C opens the box."]).tolist()
        return hash_text(json.dumps([self.preprocessing, tokens, module_identity(self.model)], default=str))

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Returns the embeddings [N, D] of texts; what is longer than the text tower takes is cut off (as in CLIP)."""
        batches = [texts[start : start + TEXTS_PER_BATCH] for start in range(0, len(texts), TEXTS_PER_BATCH)]
        rows = [self.model.encode_text(self.tokenizer(list(batch)).to(self._device)) for batch in batches]
        return _unit(torch.cat(rows).float())

    @torch.inference_mode()
    def encode_video(self, frames: NDArray[numpy.uint8]) -> Embeddings:
        """Returns the embedding [D]: the mean of the frames' unit embeddings, at length 1."""
        pictures = torch.stack([self._transform(Image.fromarray(frame)) for frame in frames]).to(self._device)
        rows = nn.functional.normalize(self.model.encode_image(pictures).float(), dim=1)
        return _unit(rows.mean(0))


def _unit(rows: Tensor) -> Embeddings:
    unit: Embeddings = nn.functional.normalize(rows, dim=-1).cpu().numpy()
    return unit


def _architecture(name: str) -> dict[str, Any]:
    try:
        import open_clip
    except ImportError as error:
        raise EvaluationError(f"open_clip:{name} needs open_clip: pip install 'exo2ego[openclip]'") from error
    values = open_clip.get_model_config(name) if ":" not in name else None
    if values is None:
        known = ", ".join(other for other in open_clip.list_models() if other.startswith(name[:5])) or "none like it"
        raise EvaluationError(f"open_clip:{name}: open_clip has no such model; it has {known}")
    return dict(values)


def _empty_model(name: str) -> tuple[Any, Any]:
    """Returns a model with random weights and its tokenizer; neither of the towers is fetched."""
    import open_clip

    former = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of random weights, which are replaced next
    try:
        tokenizer = open_clip.get_tokenizer(name)
        model = open_clip.create_model(
            name, pretrained=None, load_weights=False, pretrained_image=False, pretrained_text=False
        )
    except (OSError, RuntimeError, ImportError) as error:
        raise EvaluationError(f"open_clip:{name}: model or tokenizer cannot be built here: {error}") from error
    finally:
        logging.disable(former)
    return model, tokenizer


def _released_values(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint.with_name(OWN_CONFIG)
    try:
        return dict(read_json(path, "open_clip configuration")) if path.is_file() else {}
    except (DataError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _require_same_model(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], checkpoint: Path) -> None:
    """Raises `EvaluationError` where the release says of itself that it is another model."""
    if not theirs:
        return
    pairs = [(bool(ours.get("quick_gelu")), bool(theirs.get("quick_gelu")), "quick_gelu")]
    for part in ("vision_cfg", "text_cfg"):
        own, other = ours.get(part, {}), theirs.get(part, {})
        pairs += [(own[key], other[key], f"{part}.{key}") for key in sorted(own.keys() & other.keys())]
    different = [f"{key}: {other!r} there, {own!r} for {name}" for own, other, key in pairs if own != other]
    if different:
        raise EvaluationError(
            f"{checkpoint.with_name(OWN_CONFIG)} describes another model than {name}: {'; '.join(different)}; "
            "name the model that the checkpoint is of"
        )


def _preprocessing(
    name: str, values: Mapping[str, Any], released: Mapping[str, Any], checkpoint: Path
) -> dict[str, Any]:
    """Returns what is done to a picture: as the release says, or as all releases of the architecture have it.

    Raises `EvaluationError` where they differ, or were trained with another activation than the name says: no tensor
    tells it.
    """
    import open_clip

    if released.get("preprocess_cfg"):
        return {key: value for key, value in released["preprocess_cfg"].items() if key in PREPROCESSING}
    rows = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    alike = {tag: row for tag, row in rows.items() if bool(row.get("quick_gelu")) == bool(values.get("quick_gelu"))}
    others = ", ".join(tag for tag in rows if tag not in alike)
    if rows and not alike:
        raise EvaluationError(f"open_clip:{name}: its releases ({others}) have QuickGELU: name {name}-quickgelu")
    if others:
        console.print(f"{name} is taken with GELU; the releases {others} need {name}-quickgelu", style="yellow")
    found = {json.dumps({key: row.get(key) for key in PREPROCESSING}, sort_keys=True) for row in alike.values()}
    if len(found) > 1:
        raise EvaluationError(
            f"open_clip:{name}: its releases prepare pictures differently; put the {OWN_CONFIG} of this release "
            f"beside {checkpoint}"
        )
    settings = json.loads(found.pop()) if found else {}
    return {key: value for key, value in settings.items() if value is not None}


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads safetensors, or a `.pt` or `.bin` file of tensors and plain values; code in it is never run."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        values = values.get("state_dict", values)  # a checkpoint of open_clip's own training
        tensors = {name.removeprefix("module."): value for name, value in values.items() if isinstance(value, Tensor)}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: weight file is missing") from error
    except (AttributeError, EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read as tensors; code in a file is never run: {error}") from error
    return tensors

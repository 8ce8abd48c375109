"""Loading a trained model for answering, and exporting it without what only training needs."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from exo2ego.adapter import FOLDER, detach_adapters, load_adapter, merge_adapters, write_adapter
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ModelOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.weights import load_pretrained
from exo2ego.model_card import model_card
from exo2ego.provenance import FILE_NAME, provenance
from exo2ego.storage import atomic_path, read_json, write_json
from exo2ego.train.assembly import assemble, build_processor
from exo2ego.train.checkpoint import Checkpoint, find_checkpoint

AutoConfig.register(Exo2EgoConfig.model_type, Exo2EgoConfig, exist_ok=True)
AutoModelForImageTextToText.register(Exo2EgoConfig, Exo2EgoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(Exo2EgoConfig, Exo2EgoProcessor, exist_ok=True)


def load(path: Path | str) -> tuple[Exo2EgoForConditionalGeneration, Exo2EgoProcessor]:
    """Loads a run folder, a checkpoint or an export (with its adapter) in eval mode, on the GPU where there is one.

    Raises `CheckpointError` when there is none, or it is incomplete or damaged.
    """
    path = Path(path)
    model, processor = _load_exported(path) if is_exported(path) else load_checkpoint(find_checkpoint(path))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), processor


def is_exported(path: Path) -> bool:
    """Says whether a folder holds an exported model."""
    config = path / "config.json"
    return config.is_file() and read_json(config, "model configuration").get("model_type") == Exo2EgoConfig.model_type


def _load_exported(path: Path) -> tuple[Exo2EgoForConditionalGeneration, Exo2EgoProcessor]:
    model = load_pretrained(AutoModelForImageTextToText, str(path), part="model")
    assert isinstance(model, Exo2EgoForConditionalGeneration)
    if (path / FOLDER).is_dir():
        load_adapter(model, path / FOLDER)
    return model, AutoProcessor.from_pretrained(str(path))


def load_checkpoint(checkpoint: Checkpoint) -> tuple[Exo2EgoForConditionalGeneration, Exo2EgoProcessor]:
    """Builds the model of a checkpoint from base weights and its chain of parents, with torch's own attention kernel.

    Raises `CheckpointError` where the base weights are no longer in the folders that the run recorded.
    """
    record = checkpoint.record
    options = ModelOptions.model_validate(record["model"])
    # the training machine's kernel may not run here, and flash-attention takes no float32 towers
    options = options.model_copy(update={"attention": None})
    parts = ModelParts.model_validate(record["parts"])
    try:
        model, tokenizer = assemble(options, parts, checkpoint, record["provenance"]["seed"])
    except ConfigError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the base weights under it cannot be loaded: {error}\n  this source stands in the "
            "checkpoint's record and no option here changes it: put the folder, or a symbolic link to it, back in its "
            "place (the same weights from anywhere will do); a stage or a resumed run takes its own `model` section"
        ) from error
    return model, build_processor(model, tokenizer, options.aspect)


def export_for_inference(run: Path | str, output_dir: Path | str, *, keep_adapter: bool = False) -> Path:
    """Writes a run's model without teacher and G as one folder for the Auto classes, with a model card; returns it.

    LoRA is merged, or with `keep_adapter` left apart in `adapter/`, which peft reads. Raises `CheckpointError` for a
    stage 1 run, whose trained part is the teacher, and for `keep_adapter` without an adapter.
    """
    checkpoint = find_checkpoint(Path(run))
    model, processor = load_checkpoint(checkpoint)
    if model.config.has_teacher and not model.config.has_mapper:
        raise CheckpointError(
            f"{run}: {checkpoint.stage} trains the teacher, which an export leaves out; export a run of stage 2 or 3"
        )
    lora = ModelParts.model_validate(checkpoint.record["parts"]).lora
    if keep_adapter and lora is None:
        raise CheckpointError(f"{run}: {checkpoint.stage} trained no adapter; export it without --adapter")
    adapter = detach_adapters(model) if keep_adapter else {}
    merge_adapters(model)
    model.model.drop_training_parts()
    model.to(dtype=model.lm_head.weight.dtype)
    processor.drop_exo_view()
    trained = checkpoint.record["provenance"]
    card = model_card(checkpoint, has_adapter=keep_adapter, dtype=str(model.dtype).removeprefix("torch."))
    target = Path(output_dir)
    with atomic_path(target) as folder:
        model.save_pretrained(str(folder))
        processor.save_pretrained(str(folder))
        if keep_adapter and lora is not None:
            write_adapter(folder / FOLDER, lora, adapter, model)
        (folder / "README.md").write_text(card, "utf-8")
        write_json(
            folder / FILE_NAME, provenance(trained["config"], trained["seed"], {"checkpoint": checkpoint.identity})
        )
    return target

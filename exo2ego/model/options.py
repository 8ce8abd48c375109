"""The model section of a configuration: which towers, connector, mappers, fusion and language model (torch-free)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from exo2ego.config import Config
from exo2ego.model.registry import CONNECTORS, MAPPERS, check_name

View = Literal["ego", "ego_only", "exo"]
"""What the language model sees: `ego` = x and F(x); `ego_only` = x; `exo` = y from the teacher tower."""

JOINED_BEFORE_CONNECTOR = ("time_concat", "channel_concat")
"""Fusions that pass x and F(x) through the connector together."""


class PartOptions(Config):
    """Where a tower or language model comes from: published weights, or an architecture with random weights."""

    from_pretrained: str | None = None
    """Folder or hub name to load weights from, for example openai/clip-vit-large-patch14-336."""
    videollama2: str | None = None
    """Folder of a full VideoLLaMA2 release (VideoLLaMA2-7B-16F) to take its tuned language model or tower from (A1)."""
    open_clip: str | None = None
    """Name of an open_clip model whose tower to convert, for example ViT-L-14-336-quickgelu; needs `checkpoint`."""
    checkpoint: str | None = None
    """Weight file of `open_clip`: safetensors, or .pt or .bin with nothing but tensors and plain values."""
    architecture: dict[str, Any] | None = None
    """transformers configuration of a model with random weights: `model_type` and its sizes."""
    image_size: int | None = Field(default=None, ge=1)
    """Side of the square pictures of a tower that takes any size (Qwen2-VL's), pixels; null = the tower's own."""

    @model_validator(mode="after")
    def _has_one_source(self) -> PartOptions:
        sources = (self.from_pretrained, self.videollama2, self.open_clip, self.architecture)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give one of from_pretrained, videollama2, open_clip and architecture")
        if (self.open_clip is None) != (self.checkpoint is None):
            raise ValueError("open_clip needs checkpoint, the file of its weights, and checkpoint needs open_clip")
        return self


class ConnectorOptions(Config):
    """What turns feature maps into language model tokens (VideoLLaMA2 STC)."""

    kind: str = "stc"
    """stc: 1521 tokens for 16 frames of 24x24; stc_v35 (no padding), stp (average pooling): 1152; mlp, linear: 576."""
    depth: int = Field(default=4, ge=1)
    """RegStage blocks before and after the sampler (VideoLLaMA2: 4)."""
    sharing: Literal["shared", "per_branch"] = "shared"
    """One connector for both views, or one each (not stated in the paper: A8; towers of two widths need one each)."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        return check_name(CONNECTORS, kind)


class MapperOptions(Config):
    """The mapping functions F (ego to exo) and G (exo to ego): nine ResNet blocks (Exo2Ego §5.1), as in CycleGAN."""

    kind: str = "resnet"
    """resnet: CycleGAN generator; fc: two linear layers (Exo2Ego Table 7, row 5); transformer: attention; none."""
    position: Literal["encoder", "connector"] = "encoder"
    """On tower features or on connector tokens (not stated in the paper: A3)."""
    width: int = Field(default=64, ge=1)
    """Channels after the stem (CycleGAN's ngf; not stated in the paper: A6), or of a transformer."""
    num_blocks: int = Field(default=9, ge=0)
    """ResNet blocks at the bottleneck (Exo2Ego §5.1), or attention blocks."""
    norm: Literal["instance", "layer", "group", "none"] = "instance"
    """instance is CycleGAN's; it makes F blind to a frame's per-channel mean and scale (A6)."""
    residual: bool = False
    """Learn F(x) - x, last layer zero at first: F starts as the identity (A6), between widths as a projection."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        return check_name(MAPPERS, kind, "none")


class ModelOptions(Config):
    """Architecture of an Exo2Ego model; every stage of one run chain has the same."""

    vision_tower: PartOptions
    """CLIP-Large-336 in the paper (Exo2Ego §5.1)."""
    teacher_tower: PartOptions | None = None
    """The exocentric tower when it differs from vision_tower (Qwen2-VL: Exo2Ego Supp. E); null = the same."""
    teacher_init: Literal["base", "ego"] = "base"
    """Start of the teacher in stage 1: base = vision_tower's source; ego = a copy of the trained ego tower (A20)."""
    language_model: PartOptions
    """Mistral-7B-Instruct-v0.2 in the paper (Exo2Ego §5.1)."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; null = that of language_model."""
    videollama2: str | None = None
    """VideoLLaMA2 folder whose connector starts ours, for example VideoLLaMA2-7B-16F-Base (A1); null = none.

    A teacher's own connector for a tower of another width starts from random weights.
    """
    connector: ConnectorOptions = ConnectorOptions()
    """Feature maps to tokens."""
    mapper: MapperOptions = MapperOptions()
    """F and G."""
    fusion: Literal["token_concat", "time_concat", "channel_concat", "channel_concat_tokens", "sum"] = "token_concat"
    """How x and F(x) enter the language model (A5)."""
    fusion_order: Literal["ego_first", "exo_first"] = "ego_first"
    """Order of the two branches in a sequence (Exo2Ego §4.4 text order: x, F(x); A7); channels and sums have none."""
    view_embedding: bool = False
    """Add a learned, zero-initialised vector per branch to its tokens (A7)."""
    vision_feature_layer: int = -2
    """Hidden layer of the tower whose output is used; later layers are not built (VideoLLaMA2: -2)."""
    teacher_feature_layer: int | None = None
    """The same for the exocentric tower; null = vision_feature_layer."""
    num_frames: int = Field(default=16, ge=1)
    """Frames per clip (Exo2Ego §5.1)."""
    aspect: Literal["pad", "crop", "squash"] = "pad"
    """How a frame becomes square; pad keeps everything and masks the grey patches in KL and cycle loss (A17)."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] | None = None
    """Attention kernel of towers and language model; null = flash_attention_2 where it can run, else sdpa."""

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelOptions:
        joined_before = self.fusion in JOINED_BEFORE_CONNECTOR
        at_connector = self.mapper.position == "connector"
        faults = {
            f"fusion {self.fusion} joins features before the connector: set mapper.position=encoder": (
                joined_before and at_connector
            ),
            f"fusion {self.fusion} passes both branches through one connector: set connector.sharing=shared": (
                joined_before and self.connector.sharing == "per_branch"
            ),
            f"fusion {self.fusion} leaves no tokens of a single branch: set view_embedding=false": (
                joined_before and self.view_embedding
            ),
            f"connector kind {self.connector.kind} averages over time: set mapper.position=encoder": (
                self.connector.kind in ("mlp", "linear") and at_connector
            ),
            "language_model.open_clip: open_clip has vision towers only: give from_pretrained or videollama2": (
                self.language_model.open_clip is not None
            ),
            "teacher_init=ego copies the ego tower, but teacher_tower is another one: set teacher_init=base": (
                self.teacher_init == "ego" and self.teacher_tower not in (None, self.vision_tower)
            ),
        }
        found = [message for message, applies in faults.items() if applies]
        if found:
            raise ValueError("; ".join(found))
        return self


class SmallLanguageOptions(Config):
    """Sizes of the stand-in for Mistral."""

    vocabulary_size: int = 1024
    """Largest number of tokens."""
    hidden_size: int = 128
    """Width."""
    num_layers: int = 3
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads (all with their own keys and values)."""

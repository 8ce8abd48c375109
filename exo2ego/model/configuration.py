"""The transformers configuration of an Exo2Ego model; everything a checkpoint needs to rebuild itself."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from exo2ego.model.options import ConnectorOptions, MapperOptions, View


class Exo2EgoConfig(PretrainedConfig):
    """Sizes of towers, connector, mappers, fusion and language model, and which training-only parts exist."""

    model_type = "exo2ego"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig, "teacher_config": AutoConfig}

    def __init__(
        self,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        teacher_config: dict[str, Any] | PretrainedConfig | None = None,
        connector: dict[str, Any] | None = None,
        mapper: dict[str, Any] | None = None,
        fusion: str = "token_concat",
        fusion_order: str = "ego_first",
        view_embedding: bool = False,
        vision_feature_layer: int = -2,
        teacher_feature_layer: int | None = None,
        num_frames: int = 16,
        video_token_id: int = 32000,
        has_teacher: bool = False,
        has_mapper: bool = True,
        has_inverse: bool = False,
        base_weights: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _sub_config(vision_config, "clip_vision_model")
        self.text_config = _sub_config(text_config, "mistral")
        self.teacher_config = None if teacher_config is None else _sub_config(teacher_config, "clip_vision_model")
        self.connector = ConnectorOptions.model_validate(connector or {}).model_dump()
        self.mapper = MapperOptions.model_validate(mapper or {}).model_dump()
        self.fusion = fusion
        self.fusion_order = fusion_order
        self.view_embedding = view_embedding
        self.vision_feature_layer = vision_feature_layer
        self.teacher_feature_layer = vision_feature_layer if teacher_feature_layer is None else teacher_feature_layer
        self.num_frames = num_frames
        self.video_token_id = video_token_id
        self.has_teacher = has_teacher
        self.has_mapper = has_mapper and self.mapper["kind"] != "none"
        self.has_inverse = has_inverse and self.has_mapper
        self.base_weights = base_weights or {}
        super().__init__(**kwargs)

    @property
    def default_view(self) -> View:
        """Returns what the language model sees at inference: x and F(x), or x alone where there is no mapper."""
        return "ego" if self.has_mapper else "ego_only"


def _sub_config(value: dict[str, Any] | PretrainedConfig | None, default_type: str) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    values = dict(value or {})
    return AutoConfig.for_model(values.pop("model_type", default_type), **values)

"""The Exo2Ego model: two vision towers, a connector, the mappers F and G, and a language model (Exo2Ego Figure 4).

Letters in shapes: B clips, K exo views per clip, T frames, L patches per frame (H*W), C tower width, N visual tokens,
D language model width, S sequence length, M label positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from exo2ego.errors import ConfigError
from exo2ego.model.compilation import compile_blocks
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.connector import build_connector
from exo2ego.model.fusion import Fusion
from exo2ego.model.geometry import Grid, resampled
from exo2ego.model.mapper import build_mapper
from exo2ego.model.options import MapperOptions, View
from exo2ego.model.recomputation import recompute_activations
from exo2ego.model.tokens import IGNORED
from exo2ego.model.vision_tower import build_tower, tower_geometry

Cycle = Literal["both", "forward", "off"]
"""Which cycles are closed: G(F(x)) and F(G(y)), the first alone, or none (Exo2Ego §4.3)."""


@dataclass
class Exo2EgoOutput(ModelOutput):
    """What one pass gives; the feature fields are filled in stage 2 only, `target_*` when labels are given."""

    loss: Tensor | None = None
    """Mean next-token cross-entropy over the label positions, float32 scalar."""
    logits: Tensor | None = None
    """[B, S, V], or fewer positions with `logits_to_keep`; None when labels are given."""
    past_key_values: Cache | None = None
    target_logits: Tensor | None = None
    """[M, V]: logits at the positions that predict a label, in batch order."""
    target_ids: Tensor | None = None
    """[M]"""
    ego_features: Tensor | None = None
    """x [B, T, L, C]"""
    mapped_features: Tensor | None = None
    """F(x), of y's shape: where the teacher is another tower, T, L and C of y are other than those of x"""
    exo_features: Tensor | None = None
    """y [B, K, T, L, C] of the teacher tower"""
    ego_cycle: Tensor | None = None
    """G(F(x)) [B, T, L, C]"""
    exo_cycle: Tensor | None = None
    """F(G(y)) [B, K, T, L, C]"""


@dataclass
class PretrainedParts:
    """Parts that already carry weights; what is None is built from the configuration with random weights."""

    vision_tower: PreTrainedModel | None = None
    teacher_tower: PreTrainedModel | None = None
    language_model: PreTrainedModel | None = None
    lm_head: nn.Linear | None = None


class Exo2EgoModel(nn.Module):
    """Towers, connector, mappers, fusion and language model body; turns pixels and token ids into hidden states."""

    def __init__(self, config: Exo2EgoConfig, parts: PretrainedParts | None = None) -> None:
        super().__init__()
        self.config = config
        parts = parts or PretrainedParts()
        self.vision_tower = build_tower(config.vision_config, config.vision_feature_layer, parts.vision_tower)
        teacher_config, teacher_layer = config.teacher_config or config.vision_config, config.teacher_feature_layer
        teacher = build_tower(teacher_config, teacher_layer, parts.teacher_tower) if config.has_teacher else None
        self.teacher_tower = teacher
        self.ego_geometry, self.exo_geometry = self.vision_tower.geometry, tower_geometry(teacher_config)
        self.language_model = parts.language_model or AutoModel.from_config(config.text_config)
        ego_dim, exo_dim = self.ego_geometry.width, self.exo_geometry.width
        token_dim = config.text_config.get_text_config().hidden_size
        kind, depth = config.connector["kind"], config.connector["depth"]
        self.connector = build_connector(kind, ego_dim, token_dim, depth)
        per_branch = config.connector["sharing"] == "per_branch" and (config.has_teacher or config.has_mapper)
        self.connector_exo = build_connector(kind, exo_dim, token_dim, depth) if per_branch else None
        mapper = MapperOptions.model_validate(config.mapper)
        if mapper.position == "connector":
            ego_dim = exo_dim = token_dim
        self.mapper_f = build_mapper(ego_dim, exo_dim, mapper) if config.has_mapper else None
        self.mapper_g = build_mapper(exo_dim, ego_dim, mapper) if config.has_inverse else None
        self.fusion = Fusion(config, self.ego_geometry.width, token_dim)
        self.fusion.reset_parameters()
        self._require_fit()

    def _require_fit(self) -> None:
        """Raises `ConfigError` when towers, connector, mapper and fusion cannot work together."""
        ours, theirs, config = self.ego_geometry, self.exo_geometry, self.config
        frames = math.lcm(ours.frames_per_step, theirs.frames_per_step)
        if config.num_frames % frames:
            raise ConfigError(f"model.num_frames {config.num_frames}: a tower joins {frames} frames; give a multiple")
        differ = (
            f"model.teacher_tower has {theirs.width} channels on a grid of {self.feature_grid(exo=True)} (steps, rows, "
            f"columns), model.vision_tower {ours.width} on {self.feature_grid()}"
        )
        if theirs.width != ours.width and config.connector["sharing"] == "shared":
            raise ConfigError(f"{differ}: one connector cannot take both, set model.connector.sharing=per_branch")
        same = (ours.width, self.feature_grid()) == (theirs.width, self.feature_grid(exo=True))
        if not same and config.mapper["position"] == "connector":
            raise ConfigError(f"{differ}: between such towers F works on features, set model.mapper.position=encoder")
        if not config.has_mapper:
            return
        self.fusion.require_grids(self.feature_grid(), self.feature_grid(exo=True))
        for mapper, grid in ((self.mapper_f, self.mapper_grid(exo=True)), (self.mapper_g, self.mapper_grid())):
            if mapper is not None:
                mapper.require_grid(*grid[1:])

    def train(self, mode: bool = True) -> Exo2EgoModel:
        """Sets the mode; a frozen teacher stays in eval mode (not stated in the paper: A21)."""
        super().train(mode)
        if self.teacher_tower is not None and not self.teacher_trains:
            self.teacher_tower.eval()
        return self

    def drop_training_parts(self) -> None:
        """Removes the teacher and G, and tells the configuration: inference needs x and F(x) alone (A19)."""
        self.teacher_tower = self.mapper_g = None
        self.config.has_teacher = self.config.has_inverse = False
        if self.mapper_f is None:
            self.connector_exo = None

    @property
    def teacher_trains(self) -> bool:
        """Returns whether the teacher tower gets gradients (the ablation of Exo2Ego Table 8, row 2)."""
        return self.teacher_tower is not None and next(self.teacher_tower.parameters()).requires_grad

    def feature_grid(self, *, exo: bool = False) -> Grid:
        """Returns time steps, rows and columns of the ego tower's feature maps, or of the teacher's."""
        return (self.exo_geometry if exo else self.ego_geometry).grid(self.config.num_frames)

    def mapper_grid(self, *, exo: bool = False) -> Grid:
        """Returns the grid of x and G(y), or of y and F(x)."""
        grid = self.feature_grid(exo=exo)
        return self.connector.out_grid(grid) if self.config.mapper["position"] == "connector" else grid

    def num_video_tokens(self, view: View) -> int:
        """Returns the number of visual tokens that one clip takes in the language model."""
        exo_tokens = math.prod(self.connector.out_grid(self.feature_grid(exo=True)))
        if view == "exo":
            return exo_tokens
        return self.fusion.num_tokens(self.connector, self.feature_grid(), view == "ego", mapped_tokens=exo_tokens)

    def features(self, pixels: Tensor, *, teacher: bool) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] to the feature maps [B, T, L, C] on which F, G and KL work.

        With `mapper.position: connector` these are the connector's tokens on their grid.
        """
        tower = self.teacher_tower if teacher else self.vision_tower
        if tower is None:
            raise ValueError("this model has no teacher tower: it was built for a stage that does not use exo video")
        patches: Tensor = tower(pixels)
        if self.config.mapper["position"] == "encoder":
            return patches
        tokens = self._connect(patches, exo=teacher)
        return tokens.unflatten(1, (self.mapper_grid()[0], -1))

    def tokens(self, features: Tensor, *, exo: bool = False) -> Tensor:
        """Turns feature maps [B, T, L, C] into visual tokens [B, N, D]."""
        if self.config.mapper["position"] == "connector":
            return features.flatten(1, 2)
        return self._connect(features, exo=exo)

    def _connect(self, features: Tensor, *, exo: bool) -> Tensor:
        connector = self.connector_exo if exo and self.connector_exo is not None else self.connector
        tokens: Tensor = connector(features, *self.feature_grid(exo=exo)[1:])
        return tokens

    def map(self, mapper: nn.Module | None, features: Tensor) -> Tensor:
        """Applies F, from the ego tower's feature maps [B, T, L, C] to the teacher's space, or G, which leads back.

        They work on the grid that they lead to.
        """
        if mapper is None:
            raise ValueError("this model was built without that mapper")
        leads_to_exo = mapper is not self.mapper_g
        source, target = self.mapper_grid(exo=not leads_to_exo), self.mapper_grid(exo=leads_to_exo)
        mapped: Tensor = mapper(resampled(features, source, target), *target[1:])
        return mapped

    def fuse(self, own: Tensor, mapped: Tensor) -> Tensor:
        """Joins x and F(x) [B, T, L, C] into the visual tokens [B, N, D] of the `ego` view."""
        fusion = self.fusion
        if fusion.before_connector:
            return self._connect(fusion(own, mapped), exo=False)
        if self.connector_exo is not None or own.shape != mapped.shape:
            tokens: Tensor = fusion(self.tokens(own), self.tokens(mapped, exo=True))
        else:  # one connector call for both branches: same result, half the launches
            tokens = fusion(*self.tokens(torch.cat((own, mapped))).chunk(2))
        return tokens

    def visual_tokens(self, pixels: Tensor, view: View) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] to the visual tokens [B, N, D] of `view`."""
        features = self.features(pixels, teacher=view == "exo")
        if view == "ego":
            return self.fuse(features, self.map(self.mapper_f, features))
        return self.tokens(features, exo=view == "exo")

    def spliced(self, input_ids: Tensor, visual_tokens: Tensor | None) -> Tensor:
        """Embeds ids [B, S] and puts the visual tokens [B, N, D] in place of the video placeholders.

        Raises `ValueError` when a row's number of placeholders is not N (0 without visual tokens).
        """
        embeddings: Tensor = self.language_model.get_input_embeddings()(input_ids)
        placeholders = input_ids == self.config.video_token_id
        counts, expected = placeholders.sum(dim=1), 0 if visual_tokens is None else visual_tokens.shape[1]
        if not bool((counts == expected).all()):
            raise ValueError(
                f"each row needs {expected} video placeholders (id {self.config.video_token_id}) for the video given, "
                f"rows have {counts.tolist()}: the processor and the model disagree on frames, fusion or view"
            )
        if visual_tokens is None:
            return embeddings
        return embeddings.masked_scatter(placeholders.unsqueeze(-1), visual_tokens.to(embeddings.dtype))


class Exo2EgoForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Generates text about a first-person video from x and F(x); in stage 2 also returns what KL and CCL compare."""

    config_class = Exo2EgoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _tied_weights_keys: dict[str, str] = {}

    def __init__(self, config: Exo2EgoConfig, parts: PretrainedParts | None = None) -> None:
        super().__init__(config)
        self.model = Exo2EgoModel(config, parts)
        text = config.text_config.get_text_config()
        head = parts.lm_head if parts is not None else None
        self.lm_head = head or nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        library_parts = [part for part in self.model.modules() if isinstance(part, PreTrainedModel)]
        self._no_split_modules = sorted({name for part in library_parts for name in part._no_split_modules or ()})
        self.post_init()
        self.generation_config.suppress_tokens = [config.video_token_id]

    def _init_weights(self, module: nn.Module) -> None:
        """Leaves every part as its own library or its own constructor initialised it."""

    def get_input_embeddings(self) -> nn.Module:
        """Returns the language model's token embedding."""
        embedding: nn.Module = self.model.language_model.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """Returns the language model head."""
        return self.lm_head

    def visual_tokens(self, pixel_values_videos: Tensor, view: View | None = None) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] once, to be passed as `visual_tokens` [B, N, D] many times."""
        return self.model.visual_tokens(pixel_values_videos, view or self.config.default_view)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        labels: Tensor | None = None,
        view: View | None = None,
        exo_pixel_values_videos: Tensor | None = None,
        cycle: Cycle = "off",
        detach_cycle_input: bool = False,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Exo2EgoOutput:
        """Runs the model on ids [B, S] and pixels [B, T, 3, S, S].

        With `labels` [B, S] only label positions get logits; without, the last `logits_to_keep` (0: all) or those whose
        numbers it holds. With `exo_pixel_values_videos` [B, K, T, 3, S, S] (stage 2) the features for KL and cycle loss
        come too; `cycle` is both, forward or off (Exo2Ego §4.3).
        """
        guidance: dict[str, Any] = {}
        if exo_pixel_values_videos is not None:
            if pixel_values_videos is None:
                raise ValueError("exo_pixel_values_videos needs pixel_values_videos of the same clips")
            visual_tokens, guidance = self._guided(
                pixel_values_videos, exo_pixel_values_videos, cycle, detach_cycle_input
            )
        elif visual_tokens is None and pixel_values_videos is not None:
            visual_tokens = self.visual_tokens(pixel_values_videos, view)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.model.spliced(input_ids, visual_tokens)
        kwargs.setdefault("use_cache", labels is None)  # training reads every position once
        outputs = self.model.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )
        hidden = outputs.last_hidden_state
        if labels is not None:
            return Exo2EgoOutput(**self._at_labels(hidden, labels), **guidance)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return Exo2EgoOutput(logits=self.lm_head(hidden[:, kept]), past_key_values=outputs.past_key_values, **guidance)

    def _guided(
        self, ego_pixels: Tensor, exo_pixels: Tensor, cycle: Cycle, detach_cycle_input: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """Stage 2: x, F(x) and their tokens; y, G(F(x)), F(G(y)) for the losses. y never enters the language model."""
        model = self.model
        clips, views = exo_pixels.shape[:2]
        ego = model.features(ego_pixels, teacher=False)
        mapped = model.map(model.mapper_f, ego)
        with torch.set_grad_enabled(model.teacher_trains and torch.is_grad_enabled()):
            exo = model.features(exo_pixels.flatten(0, 1), teacher=True)
        guidance: dict[str, Any] = {
            "ego_features": ego,
            "mapped_features": mapped,
            "exo_features": exo.unflatten(0, (clips, views)),
        }
        if cycle != "off":
            start = model.map(model.mapper_f, ego.detach()) if detach_cycle_input else mapped
            guidance["ego_cycle"] = model.map(model.mapper_g, start)
        if cycle == "both":
            there_and_back = model.map(model.mapper_f, model.map(model.mapper_g, exo.detach()))
            guidance["exo_cycle"] = there_and_back.unflatten(0, (clips, views))
        return model.fuse(ego, mapped), guidance

    def _at_labels(self, hidden: Tensor, labels: Tensor) -> dict[str, Any]:
        """Computes logits only where a label is predicted: equal to the full cross-entropy, without [B, S, V]."""
        predicts = labels[:, 1:] != IGNORED
        target_ids = labels[:, 1:][predicts]
        target_logits = self.lm_head(hidden[:, :-1][predicts])
        total = nn.functional.cross_entropy(target_logits.float(), target_ids, reduction="sum")
        return {
            "loss": total / max(1, target_ids.numel()),
            "target_logits": target_logits,
            "target_ids": target_ids,
        }

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        pixel_values_videos: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        view: View | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Passes the video with the prompt only; later steps see it through the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, **kwargs
        )
        if past_key_values is None or past_key_values.get_seq_length() == 0:
            inputs |= {"pixel_values_videos": pixel_values_videos, "visual_tokens": visual_tokens, "view": view}
        return inputs

    def set_gradient_checkpointing(self, parts: Sequence[str]) -> None:
        """Turns activation checkpointing on for the named parts: towers, connector, mappers, language_model."""
        for module in self._modules_of(parts):
            recompute_activations(module)

    def compile_parts(self, parts: Sequence[str], backend: str = "inductor") -> None:
        """Compiles the blocks of the named parts: towers, connector, mappers, language_model."""
        for module in self._modules_of(parts):
            compile_blocks(module, backend)

    def _modules_of(self, parts: Sequence[str]) -> list[nn.Module]:
        """Returns the modules of the named parts that this model has, towers as the library's models."""
        model = self.model
        towers = [tower.tower if tower is not None else None for tower in (model.vision_tower, model.teacher_tower)]
        reached: dict[str, list[nn.Module | None]] = {
            "towers": [*towers],
            "connector": [model.connector, model.connector_exo],
            "mappers": [model.mapper_f, model.mapper_g],
            "language_model": [model.language_model],
        }
        return [module for part in parts for module in reached[part] if module is not None]

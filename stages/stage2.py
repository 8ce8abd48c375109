"""Stage 2: Teacher-Student Guidance (Exo2Ego §4.3).

The teacher is frozen. The ego encoder and the mapping F: X -> Y train, coupled with the inverse G: Y -> X, on
synchronised clips. Text is generated from x and F(x) (VTG); the KL divergence draws F(x) to the teacher's features y;
the cycle consistency loss keeps G(F(x)) near x and F(G(y)) near y. The language model stays frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from exo2ego.config import Config
from exo2ego.data.pairing import Pairing
from exo2ego.errors import ConfigError
from exo2ego.model.parts import ModelParts
from exo2ego.train.options import StageConfig
from exo2ego.train.stage import Stage
from stages.common import FROZEN_LANGUAGE_MODEL, run_as_command, text_term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exo2ego.data.batch import Batch
    from exo2ego.model.modeling import Exo2EgoOutput
    from exo2ego.train.objective import Term, Terms
    from exo2ego.train.parameters import FreezeTable


class TextLossOptions(Config):
    """Vision-grounded text generation."""

    weight: float = Field(default=1.0, ge=0)
    """Factor in the total loss (not stated in the paper: A13)."""


class DivergenceOptions(Config):
    """KL(y || F(x)) (not stated in the paper: A9, A10)."""

    weight: float = Field(default=1.0, ge=0)
    """Factor in the total loss; 0 leaves the term out (Exo2Ego Table 7, row 4)."""
    kind: Literal["gaussian", "gaussian_clip", "gaussian_batch", "softmax", "softmax_pooled", "softmax_space"] = (
        "gaussian"
    )
    """Distribution that is compared; gaussian = per frame and channel over the patches; gaussian_batch = also over
    the clips of a micro-batch, whose size then matters."""
    direction: Literal["forward", "reverse", "symmetric"] = "forward"
    """forward = KL(teacher || student)."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature; the loss is multiplied by its square."""
    epsilon: float = Field(default=1e-3, gt=0)
    """Added to variances, feature units squared."""
    mask_padding: bool = True
    """Leave grey padding patches out of the statistics and of the cycle loss (A17)."""


class CycleOptions(Config):
    """Cycle consistency loss (Exo2Ego §4.3)."""

    weight: float = Field(default=1.0, ge=0)
    """Factor in the total loss (not stated in the paper: A11, A13)."""
    directions: Literal["both", "forward", "off"] = "both"
    """both terms; forward = |G(F(x)) - x| alone; off = no G (Exo2Ego Table 7, row 3)."""
    detach_target: bool = True
    """Stop the gradient into x as a target, or the tower moves into what the mappers can copy (A12)."""
    detach_input: bool = False
    """Also stop the gradient of the cycle into x as input (A12)."""
    normalize: Literal["none", "teacher_std"] = "none"
    """Divide each channel's error by the teacher's standard deviation."""


class LossOptions(Config):
    """L = w_text VTG + w_kl KL + w_cycle CCL."""

    text: TextLossOptions = TextLossOptions()
    """VTG."""
    kl: DivergenceOptions = DivergenceOptions()
    """KL."""
    cycle: CycleOptions = CycleOptions()
    """CCL."""


class Stage2Config(StageConfig):
    """Teacher-Student Guidance."""

    loss: LossOptions = LossOptions()
    """The three losses."""
    pairing: Literal["all_pairs", "one_view", "grouped"] = "all_pairs"
    """all_pairs: 1.1M (ego, exo) pairs per epoch (Exo2Ego Table 1); grouped: each clip once with all views (A18)."""
    train_connector: bool = True
    """The connector follows the ego encoder (not stated in the paper: A2)."""
    train_teacher: bool = False
    """Also train the exo tower (the ablation of Exo2Ego Table 8, row 2)."""

    @model_validator(mode="after")
    def _losses_fit(self) -> Stage2Config:
        if self.model.mapper.kind == "none":
            raise ValueError("stage 2 needs a mapper: model.mapper.kind is none")
        if self.model.mapper.position == "connector" and self.loss.kl.mask_padding and self.model.aspect == "pad":
            raise ValueError("padding cannot be masked behind the connector: set loss.kl.mask_padding=false")
        if self.train_teacher and not self.loss.kl.weight:
            raise ValueError("train_teacher: only the KL divergence reaches the teacher, and loss.kl.weight is 0")
        if self.model.mapper.position == "connector" and self.model.connector.sharing == "per_branch":
            raise ValueError("mapper.position=connector maps into the ego connector's tokens: set sharing=shared")
        return self


class Stage2(Stage[Stage2Config]):
    """Trains the ego tower, the connector, F and G; the teacher gives the targets."""

    name = "stage2"
    title = "Teacher-Student Guidance"
    view = "ego"
    parents = ("stage1",)

    @property
    def parts(self) -> ModelParts:
        """Teacher and F; G only where a cycle is closed."""
        cycle = self.config.loss.cycle
        return ModelParts(teacher=True, mapper=True, inverse=cycle.directions != "off" and cycle.weight > 0)

    @property
    def pairing(self) -> Pairing:
        """Returns the configured pairing."""
        return self.config.pairing

    def freeze_table(self) -> FreezeTable:
        """Ego tower, connector, F and G train; the teacher and the language model are frozen (Exo2Ego §4.3)."""
        towers = self.config.optim.tower_multiplier
        return {
            "model.vision_tower.*": towers,
            "model.connector.*": 1.0 if self.config.train_connector else None,
            "model.connector_exo.*": None,
            "model.mapper_f.*": 1.0,
            "model.mapper_g.*": 1.0,
            "model.fusion.*": 1.0,
            "model.teacher_tower.*": towers if self.config.train_teacher else None,
            **FROZEN_LANGUAGE_MODEL,
        }

    def losses(self, model: nn.Module, batch: Batch) -> Terms:
        """VTG on [x; F(x)], KL(y || F(x)), |G(F(x)) - x| + |F(G(y)) - y|."""
        loss = self.config.loss
        cycle = loss.cycle.directions if self.parts.inverse else "off"
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            pixel_values_videos=batch.pixels,
            exo_pixel_values_videos=batch.exo_pixels,
            cycle=cycle,
            detach_cycle_input=loss.cycle.detach_input,
        )
        terms = {"text": text_term(output, loss.text.weight)}
        if loss.kl.weight > 0:
            terms["kl"] = self._divergence(output, batch)
        if cycle != "off":
            terms["cycle"] = self._cycle(output, batch)
        return terms

    def _divergence(self, output: Exo2EgoOutput, batch: Batch) -> Term:
        """Averages KL(y_k || F(x)) over the views k of each clip."""
        from exo2ego.losses.divergence import divergence_loss
        from exo2ego.train.objective import Term

        assert output.exo_features is not None
        assert output.mapped_features is not None
        assert batch.exo_patch_mask is not None
        kl = self.config.loss.kl
        num_views = output.exo_features.shape[1]
        exo, mapped = output.exo_features.flatten(0, 1), output.mapped_features.repeat_interleave(num_views, dim=0)
        per_pair = divergence_loss(
            exo,
            mapped,
            kind=kl.kind,
            direction=kl.direction,
            temperature=kl.temperature,
            epsilon=kl.epsilon,
            valid=self._valid(batch.exo_patch_mask.flatten(0, 1), exo),
            student_valid=self._valid(batch.patch_mask.repeat_interleave(num_views, dim=0), mapped),
            detach_teacher=not self.config.train_teacher,
        )
        return Term(_sum_over_clips(per_pair, batch), per="clip", weight=kl.weight)

    def _cycle(self, output: Exo2EgoOutput, batch: Batch) -> Term:
        """Adds |G(F(x)) - x| per clip and the mean of |F(G(y_k)) - y_k| over its views k."""
        from exo2ego.losses.cycle import cycle_loss
        from exo2ego.train.objective import Term

        assert output.ego_features is not None
        assert output.ego_cycle is not None
        assert output.exo_features is not None
        assert batch.exo_patch_mask is not None
        assert batch.view_weight is not None
        options = self.config.loss.cycle
        ego, exo = output.ego_features, output.exo_features.flatten(0, 1)
        scale = None
        if options.normalize == "teacher_std":
            if ego.shape[-1] != exo.shape[-1]:
                raise ConfigError(
                    f"loss.cycle.normalize=teacher_std divides each channel of x by the teacher's spread, but x has "
                    f"{ego.shape[-1]} channels and the teacher {exo.shape[-1]}: set normalize=none"
                )
            scale = exo[batch.view_weight.flatten() > 0].float().std(dim=(0, 1, 2))  # of views that are there
        ego_valid = self._valid(batch.patch_mask, ego)
        forward = cycle_loss(ego, output.ego_cycle, valid=ego_valid, detach_target=options.detach_target, scale=scale)
        total = (forward * batch.clip_weight).sum()
        if output.exo_cycle is not None:
            exo_valid = self._valid(batch.exo_patch_mask.flatten(0, 1), exo)
            backward = cycle_loss(exo, output.exo_cycle.flatten(0, 1), valid=exo_valid, scale=scale)
            total = total + _sum_over_clips(backward, batch)
        return Term(total, per="clip", weight=options.weight)

    def _valid(self, mask: Tensor, features: Tensor) -> Tensor | None:
        """Returns which places [N, T, L] of features show the video, from a picture's patch mask; None for all."""
        if not self.config.loss.kl.mask_padding or self.config.model.aspect != "pad":
            return None
        from exo2ego.model.geometry import resampled_mask

        return resampled_mask(mask, features.shape[2]).unsqueeze(1).expand(features.shape[:3])


def _sum_over_clips(per_pair: Tensor, batch: Batch) -> Tensor:
    """Averages values per (clip, view) [B*K] over each clip's views, and sums them over the clips."""
    assert batch.view_weight is not None
    per_clip = (per_pair.unflatten(0, batch.view_weight.shape) * batch.view_weight).sum(dim=1)
    return (per_clip * batch.clip_weight).sum()


CONFIG = Stage2Config

if __name__ == "__main__":
    run_as_command(Stage2, Stage2Config, "stages.stage2")

"""The three losses of stage 2 by hand, how views share a clip's weight, and what the ablations leave out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from exo2ego.config import load_config
from exo2ego.data.batch import Batch
from exo2ego.data.failures import Unreadable
from exo2ego.model.modeling import Exo2EgoOutput
from exo2ego.train.objective import Terms
from exo2ego.train.preparation import Prepared
from scripts.ablations.suites import as_overrides, read_suite
from stages.stage2 import Stage2, Stage2Config
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import NUM_EXO_VIEWS, TinyCorpus
from tests.tiny_runs import batch_of, prepare_orphan


def losses(prepared: Prepared, batch: Batch) -> dict[str, float]:
    terms: Terms = prepared.stage.losses(prepared.model, batch)
    return {name: term.total.item() for name, term in terms.items()}


def features(prepared: Prepared, batch: Batch, cycle: str = "both") -> Exo2EgoOutput:
    output: Exo2EgoOutput = prepared.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        pixel_values_videos=batch.pixels,
        exo_pixel_values_videos=batch.exo_pixels,
        cycle=cycle,
    )
    return output


def text_by_hand(output: Exo2EgoOutput) -> float:
    assert output.target_logits is not None
    assert output.target_ids is not None
    chosen = output.target_logits.exp()[range(len(output.target_ids)), output.target_ids]
    return float(-(chosen / output.target_logits.exp().sum(-1)).log().sum())


def gaussian_by_hand(teacher: Tensor, student: Tensor, valid: Tensor, student_valid: Tensor) -> float:
    """KL between two frames' diagonal Gaussians over their patches that show video, mean over frames and channels."""
    divergences = []
    for y, fx in zip(teacher, student, strict=True):
        p, q = y[valid], fx[student_valid]
        variance_p, variance_q = p.var(0, unbiased=False) + 1e-3, q.var(0, unbiased=False) + 1e-3
        distance = (p.mean(0) - q.mean(0)) ** 2
        log_ratio = variance_q.log() - variance_p.log()
        divergences.append(0.5 * (log_ratio + (variance_p + distance) / variance_q - 1))
    return float(torch.stack(divergences).mean())


@torch.no_grad()
def test_the_terms_by_hand(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "pairing=grouped")
    batch = batch_of(prepared, range(3))
    output = features(prepared, batch)
    assert output.ego_features is not None
    assert output.mapped_features is not None
    assert output.exo_features is not None
    assert output.ego_cycle is not None
    assert output.exo_cycle is not None
    assert batch.exo_patch_mask is not None
    assert batch.view_weight is not None
    assert batch.patch_mask.all()  # the ego picture is square
    kl, cycle = 0.0, 0.0
    for clip in range(3):
        views = [view for view in range(output.exo_features.shape[1]) if batch.view_weight[clip, view] > 0]
        assert len(views) in NUM_EXO_VIEWS
        cycle += float((output.ego_cycle[clip] - output.ego_features[clip]).abs().mean())
        for view in views:
            y, shown = output.exo_features[clip, view], batch.exo_patch_mask[clip, view]
            assert 0.5 < shown.float().mean() < 0.8  # the exo picture is wide: padded
            kl += gaussian_by_hand(y, output.mapped_features[clip], shown, batch.patch_mask[clip]) / len(views)
            returned = output.exo_cycle[clip, view]
            cycle += float((returned - y)[:, shown].abs().mean()) / len(views)
    expected = {"text": text_by_hand(output), "kl": kl, "cycle": cycle}
    # sums over a few thousand float32 features, in another order: 1e-5 relative was measured
    assert losses(prepared, batch) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_a_grouped_clip_is_the_average_of_its_pairs(corpus: TinyCorpus) -> None:
    grouped = prepare_orphan("stage2", corpus, "pairing=grouped")
    pairs = prepare_orphan("stage2", corpus, "pairing=all_pairs")
    whole = batch_of(grouped, [0])
    clip = whole.sample_ids[0]
    of_clip = [n for n in range(len(pairs.order)) if batch_of(pairs, [n]).sample_ids[0].startswith(f"{clip}@")]
    assert len(of_clip) in NUM_EXO_VIEWS
    each = [losses(pairs, batch_of(pairs, [position])) for position in of_clip]
    average = {name: sum(values[name] for values in each) / len(each) for name in each[0]}
    assert losses(grouped, whole) == pytest.approx(average, rel=1e-5)


@torch.no_grad()
def test_padded_views_and_unreadable_clips_carry_no_loss(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "pairing=grouped")
    singles = [batch_of(prepared, [position]) for position in range(4)]
    sizes = {batch.exo_pixels.shape[1] for batch in singles if batch.exo_pixels is not None}
    assert sizes == set(NUM_EXO_VIEWS)
    together = losses(prepared, batch_of(prepared, range(4)))
    apart = [losses(prepared, batch) for batch in singles]
    assert together == pytest.approx({name: sum(values[name] for values in apart) for name in together}, rel=1e-5)
    unreadable = Unreadable("take0/0/0", "take0_aria.mp4", "damaged", "it is")
    assert losses(prepared, prepared.collate([unreadable])) == {"text": 0.0, "kl": 0.0, "cycle": 0.0}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gaussian_clip", "softmax", "softmax_pooled", "softmax_space"])
def test_every_divergence_is_wired(corpus: TinyCorpus, kind: str) -> None:
    prepared = prepare_orphan("stage2", corpus, f"loss.kl.kind={kind}", "loss.kl.temperature=2", "pairing=grouped")
    assert 0 < losses(prepared, batch_of(prepared, range(2)))["kl"] < float("inf")


@torch.no_grad()
def test_mask_padding_false_counts_the_grey(corpus: TinyCorpus) -> None:
    masked = prepare_orphan("stage2", corpus)
    plain = prepare_orphan("stage2", corpus, "loss.kl.mask_padding=false")
    batch = batch_of(masked, range(2))
    assert batch.exo_patch_mask is not None
    everything = replace(batch, exo_patch_mask=torch.ones_like(batch.exo_patch_mask))
    assert losses(plain, batch) == pytest.approx(losses(masked, everything), rel=1e-5)
    assert losses(plain, batch)["kl"] != pytest.approx(losses(masked, batch)["kl"], rel=1e-2)


@torch.no_grad()
def test_cropped_pictures_have_no_padding_to_mask(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "model.aspect=crop", "model.mapper.position=connector")
    assert set(losses(prepared, batch_of(prepared, range(2)))) == {"text", "kl", "cycle"}


@torch.no_grad()
def test_teacher_std_leaves_padded_views_out(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "pairing=grouped", "loss.cycle.normalize=teacher_std")
    batch = next(b for b in (batch_of(prepared, [n]) for n in range(12)) if b.exo_pixels is not None)
    assert batch.exo_pixels is not None
    assert batch.exo_patch_mask is not None
    assert batch.view_weight is not None
    padding = torch.zeros_like(batch.exo_pixels[:, :1])
    padded = replace(
        batch,
        exo_pixels=torch.cat((batch.exo_pixels, padding), dim=1),
        exo_patch_mask=torch.cat((batch.exo_patch_mask, batch.exo_patch_mask[:, :1] & False), dim=1),
        view_weight=torch.cat((batch.view_weight, torch.zeros(1, 1)), dim=1),
    )
    assert losses(prepared, padded) == pytest.approx(losses(prepared, batch), rel=1e-5)


ABLATIONS = {
    ("table7", "no_kl"): {"text", "cycle"},
    ("table7", "no_ccl"): {"text", "kl"},
    ("table7", "fc_mapper"): {"text", "kl", "cycle"},
    ("table8", "exo_trained"): {"text", "kl", "cycle"},
    ("second_version", "forward_cycle"): {"text", "kl", "cycle"},
}


@torch.no_grad()
@pytest.mark.parametrize("ablation", ABLATIONS, ids="/".join)
def test_a_row_of_a_suite_changes_its_term_alone(corpus: TinyCorpus, ablation: tuple[str, str]) -> None:
    suite, row = ablation
    changes = read_suite(REPOSITORY / "stages" / "configs" / "ablations" / f"{suite}.yaml").suite.rows[row].changes
    path = REPOSITORY / "stages" / "configs" / "paper" / "stage2.yaml"
    shipped = load_config(Stage2Config, path, as_overrides(changes["stage2"]))
    paper = load_config(Stage2Config, REPOSITORY / "stages" / "configs" / "paper" / "stage2.yaml")
    changed = {key for key in shipped.model_dump() if getattr(shipped, key) != getattr(paper, key)}
    assert len(changed) == 1
    prepared = prepare_orphan("stage2", corpus, f"model.mapper.kind={shipped.model.mapper.kind}")
    tiny = prepared.stage.config.model_copy(
        update={"loss": shipped.loss, "train_teacher": shipped.train_teacher, "pairing": "all_pairs"}
    )
    stage = Stage2(tiny)
    if not stage.parts.inverse:
        prepared.model.model.mapper_g = None
    assert set(stage.losses(prepared.model, batch_of(prepared, [0]))) == ABLATIONS[ablation]


@torch.no_grad()
def test_the_forward_cycle_is_the_first_half(corpus: TinyCorpus) -> None:
    both = prepare_orphan("stage2", corpus)
    forward = prepare_orphan("stage2", corpus, "loss.cycle.directions=forward")
    batch = batch_of(both, [0])
    output = features(both, batch)
    assert output.ego_cycle is not None
    assert output.ego_features is not None
    by_hand = (output.ego_cycle - output.ego_features).abs().mean().item()
    assert losses(forward, batch)["cycle"] == pytest.approx(by_hand, rel=1e-5)
    assert losses(both, batch)["cycle"] > by_hand

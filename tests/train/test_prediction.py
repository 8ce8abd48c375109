"""The predicted cost of stages against what happens: operations and bytes of tiny models, figures of the real one."""

from __future__ import annotations

import functools
import gc
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from exo2ego.config import load_config
from exo2ego.data.batch import Batch
from exo2ego.errors import ConfigError
from exo2ego.model.cost import Trace
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.skeleton import build_skeleton, published
from exo2ego.train.hardware import GPUS, find_gpu
from exo2ego.train.memory import StaticMemory, static_memory
from exo2ego.train.prediction import Prediction, predict
from exo2ego.train.speed import SpeedMeter, StepCost
from exo2ego.train.stage import Stage
from exo2ego.train.stage_cost import make_trainable, skeleton_batch, step_cost, trace_stage
from scripts.bench.live_bytes import LiveBytes
from stages.stage3 import Stage3
from tests.shared_data import REPOSITORY
from tests.tiny_models import LANGUAGE
from tests.tiny_runs import STAGES

CONFIGS = REPOSITORY / "stages" / "configs"
ALL = "[towers, connector, mappers, language_model]"
RECOMPUTED = ("[]", ALL)
DIFFERENT = ("stage1", "stage2", "stage3")  # init_ego computes what stage 1 does
TOWER = (
    "{model_type: clip_vision_model, hidden_size: 32, intermediate_size: 128, num_hidden_layers: 3, "
    "num_attention_heads: 2, image_size: 64, patch_size: 8}"
)
TINY = (
    f"model.vision_tower={{architecture: {TOWER}}}",
    "model.vision_tower.from_pretrained=null",
    f"model.language_model.architecture={LANGUAGE | {'num_key_value_heads': 2}}".replace("None", "null"),
    "model.language_model.from_pretrained=null",
    "model.videollama2=null",
    "model.num_frames=4",
    "model.connector.depth=1",
    "model.mapper={width: 16, num_blocks: 2}",
    "precision=fp32",
)
SIZES = {"num_clips": 2, "num_views": 2, "text_tokens": 12, "target_tokens": 5}


def stage_of(name: str, size: str, *overrides: str) -> Stage[Any]:
    stage_class, config_class = STAGES[name]
    return stage_class(load_config(config_class, CONFIGS / size / f"{name}.yaml", list(overrides)))


def tiny_stage(name: str, recomputed: str) -> Stage[Any]:
    # dropout: the CPU keeps a float per element where CUDA keeps a byte
    lora = ["lora={rank: 4, alpha: 8, dropout: 0.0}"] if name == "stage3" else []
    return stage_of(name, "paper", *TINY, f"gradient_checkpointing={recomputed}", *lora)


def real_model(stage: Stage[Any]) -> tuple[Exo2EgoForConditionalGeneration, Batch]:
    """Returns the skeleton with memory and values, and a micro-batch for it."""
    model, _ = build_skeleton(stage.config.model, stage.parts)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.02)
        else:  # positions
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    make_trainable(stage, model)
    batch = skeleton_batch(stage, model, **SIZES)
    batch.pixels = torch.randn(batch.pixels.shape)
    if batch.exo_pixels is not None:
        batch.exo_pixels = torch.randn(batch.exo_pixels.shape)
    return model, batch


def traced(stage: Stage[Any]) -> Trace:
    model, _ = build_skeleton(stage.config.model, stage.parts)
    make_trainable(stage, model)
    return trace_stage(stage, model, skeleton_batch(stage, model, **SIZES))


def total_loss(stage: Stage[Any], model: nn.Module, batch: Batch) -> torch.Tensor:
    return torch.stack([term.total for term in stage.losses(model, batch).values()]).sum()


def convolution_backward(gradient: Any, value: Any, weight: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """One forward's operations per gradient: torch's own formula multiplies a depthwise weight's by its channels."""
    *_, transposed, _, _, mask = rest
    return conv_flop_count(value, weight, gradient, transposed=transposed) * (mask[0] + mask[1])


@pytest.mark.parametrize("recomputed", RECOMPUTED)
@pytest.mark.parametrize("name", DIFFERENT)
def test_operations_of_every_stage_are_those_of_the_flop_counter(name: str, recomputed: str) -> None:
    """Within 0.1 %: rotary embeddings and sums over patches are products to one counter and not to the other."""
    stage = tiny_stage(name, recomputed)
    trace = traced(stage)
    model, batch = real_model(stage)
    formulas = {torch.ops.aten.convolution_backward: convolution_backward}
    with sdpa_kernel(SDPBackend.MATH):  # a fused backward pass computes the scores again, which is no model FLOP
        with FlopCounterMode(display=False, custom_mapping=formulas) as forward:
            total = total_loss(stage, model, batch)
        with FlopCounterMode(display=False, custom_mapping=formulas) as backward:
            total.backward()
    assert trace.flops("forward_flops") == pytest.approx(forward.get_total_flops(), rel=1e-3)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert trace.flops("model_flops") + trace.flops("recomputed_flops") == pytest.approx(both, rel=1e-3)


@pytest.mark.parametrize("name", DIFFERENT)
def test_activations_of_every_stage_are_those_that_autograd_saves(name: str) -> None:
    """Within 1 %: kernels of the CPU save small statistics in other shapes."""
    stage = tiny_stage(name, "[]")
    trace = traced(stage)
    model, batch = real_model(stage)
    given = [
        *model.parameters(),
        *model.buffers(),
        batch.pixels,
        *([] if batch.exo_pixels is None else [batch.exo_pixels]),
    ]
    known, saved = {tensor.untyped_storage()._cdata for tensor in given}, {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        total = total_loss(stage, model, batch)
    assert trace.kept_bytes == pytest.approx(sum(storage.nbytes() for storage in saved.values()), rel=0.01)
    del total


@pytest.mark.parametrize("recomputed", RECOMPUTED)
@pytest.mark.parametrize("name", DIFFERENT)
def test_the_peak_of_every_stage_is_near_the_measured_one(name: str, recomputed: str) -> None:
    """Within 15 %: gradients that wait for a feature's second user are not modelled, nor when autograd frees what."""
    stage = tiny_stage(name, recomputed)
    trace = traced(stage)
    model, batch = real_model(stage)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    gc.collect()
    with LiveBytes() as live:
        total_loss(stage, model, batch).backward()
    assert trace.peak_bytes - trace.input_bytes == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_static_memory_without_sharding_is_exact(name: str) -> None:
    stage = tiny_stage(name, "[]")
    model, batch = real_model(stage)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    total_loss(stage, model, batch).backward()
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    frozen = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
    static = static_memory("DDP", sum(p.numel() for p in trained), frozen, 1, 0, None)
    assert static == StaticMemory(
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=sum(parameter.grad.nbytes for parameter in trained if parameter.grad is not None),
        masters=0,
        moments=sum(moment.nbytes for moment in moments),
        buffers=0,
    )


def test_more_sharding_never_needs_more_and_more_gpus_help() -> None:
    """Without message buffers, which do not shrink."""

    def needed(strategy: str, num_gpus: int) -> int:
        static = static_memory(strategy, 10**9, 15 * 10**9, num_gpus, 4 * 10**8, None)
        return static.total - static.buffers

    by_strategy = [needed(strategy, 16) for strategy in ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")]
    assert by_strategy == sorted(by_strategy, reverse=True)
    assert by_strategy[1] == 4 * 10**9 + 15 * 10**9 + 4 * 10**9 + 3 * 4 * 10**9 // 16
    assert needed("ZeRO-3", 32) == needed("ZeRO-3", 16) / 2
    assert needed("DDP", 32) == needed("DDP", 16)


@functools.cache
def predicted(name: str, size: str = "paper", *overrides: str) -> Prediction:
    return predict(stage_of(name, size, *overrides))


WIDE = "model.mapper.width=256"
# specs/model.md §6 (TFLOP per sample) counts half of causal attention, and its backward pass once instead of twice
NOTE = {"stage1": 72.2, "stage2": 142.2, "stage3": 140.0}
TEXT = {"stage1": 40, "stage2": 40, "stage3": 150}


@pytest.mark.parametrize("name", NOTE)
def test_operations_of_the_real_model_are_those_of_the_note(name: str) -> None:
    """Within 0.3 %, once causal attention is counted as there; the rest is F(G(y)), whose first layer ends in y."""
    found = predicted(name, "paper", WIDE)
    length = found.video_tokens + TEXT[name]
    attention = 4 * 32 * 4096 * length**2  # 32 layers, forward, in full
    counted_there = found.flops("model_flops") - 3 * attention + 2 * attention / 2
    assert counted_there / 1e12 == pytest.approx(NOTE[name], rel=3e-3)


def test_parts_of_the_real_model_are_those_of_the_note() -> None:
    """specs/model.md §1.2, §2.3, §6: parameters in millions, forward TFLOP per clip of 16 frames.

    A tower has 23 layers there too; <video> adds 64 rows to the language model's vocabulary.
    """
    parts = predicted("stage2", "paper", WIDE).parts
    counted = {name: round(part.parameters / 1e6, 2) for name, part in parts.items()}
    assert counted == {
        "ego tower": 290.91,
        "exo tower": 290.91,
        "mapping F": 207.38,
        "mapping G": 207.38,
        "connector": 489.19,
        "language model": 7110.92,
        "head": 131.33,
        "losses": 0.0,
    }
    forward = {name: round(part.forward_flops / 1e12, 3) for name, part in parts.items()}
    assert (forward["ego tower"], forward["exo tower"], forward["connector"]) == (5.857, 5.857, 6.485)
    assert forward["mapping F"] == forward["mapping G"] == 2 * 0.691
    trained = {name for name, part in parts.items() if part.trained}
    assert trained == {"ego tower", "mapping F", "mapping G", "connector"}


@pytest.mark.slow
def test_steps_and_hours_of_the_paper() -> None:
    """specs/model.md §6: steps exactly; hours within 8 %, the causal attention again."""
    runs = {
        ("init_ego",): (37109, 191),
        ("stage1",): (8594, 22.1),
        ("stage2",): (8594, 43.5),
        ("stage2", "pairing=one_view"): (2041, 10.3),
        ("stage2", "pairing=grouped", "batch.local_size=2"): (2041, 12.7),
        ("stage3",): (9156, 11.4),
    }
    for (name, *overrides), (steps, hours) in runs.items():
        found = predicted(name, "paper", WIDE, *overrides)
        assert found.total_steps == steps
        assert found.hours(312, 0.4) == pytest.approx(hours, rel=0.08)
        assert found.hours(312, 0.2) == pytest.approx(2 * found.hours(312, 0.4))


def test_the_local_batch_of_stage_3_is_lowered_as_in_training() -> None:
    plan = predicted("stage3").plan
    assert (plan.world_size, plan.local_size, plan.accumulation) == (16, 4, 1)


def test_without_recomputation_stage_2_does_not_fit_and_with_it_it_does() -> None:
    memory = GPUS["A800"].memory_gib
    assert predicted("stage2").fits(memory)
    without = predicted("stage2", "paper", "gradient_checkpointing=[]")
    assert not any(without.fits(memory, strategy) for strategy in without.static)
    assert without.flops("recomputed_flops") == 0
    assert without.flops("model_flops") == predicted("stage2").flops("model_flops")


@pytest.mark.slow
def test_forward_operations_of_the_real_model_are_those_of_the_flop_counter() -> None:
    """The counter sees the operations below autograd on the meta device: all but attention, which has no kernel."""
    stage = stage_of("stage2", "paper")
    model, _ = build_skeleton(stage.config.model, stage.parts)
    make_trainable(stage, model)
    with FlopCounterMode(display=False) as counter:
        trace = trace_stage(stage, model, skeleton_batch(stage, model, 1, 1, 40, 20))
    ego_and_exo = 2 * 23 * 16 * 4 * 577**2 * 1024
    language = 32 * 4 * 3082**2 * 4096
    assert counter.get_total_flops() + ego_and_exo + language == pytest.approx(trace.flops("forward_flops"), rel=1e-4)


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_cost_of_a_step_is_linear_enough_in_its_tokens(name: str) -> None:
    """Within 2 % of a full count at another text length, with a text as long as the video; 1e-5 at real size."""
    stage = tiny_stage(name, "[]")
    model, _ = build_skeleton(stage.config.model, stage.parts)
    cost = step_cost(stage, model.config, mean_views=1.5)
    make_trainable(stage, model)
    by_views = [trace_stage(stage, model, skeleton_batch(stage, model, 3, views, 40, 4)) for views in (1, 2)]
    full = sum(trace.flops("model_flops") for trace in by_views) / 2
    tokens = 3 * (model.model.num_video_tokens(stage.view) + 40)
    assert cost.flops(3, tokens) == pytest.approx(full, rel=0.02)


def test_grouped_views_cost_what_lies_between_the_whole_numbers() -> None:
    options = ("pairing=grouped", "assumed.num_clips=4", "assumed.num_pairs=10")
    few, some, many = (
        predict(stage_of("stage2", "paper", *TINY, *options, f"assumed.num_pairs={pairs}")) for pairs in (8, 10, 12)
    )
    assert some.samples.mean_views == 2.5
    assert some.flops("model_flops") == pytest.approx((few.flops("model_flops") + many.flops("model_flops")) / 2)
    assert some.activation_bytes == many.activation_bytes


def test_unknown_sample_counts_give_no_hours_but_everything_else() -> None:
    found = predict(stage_of("stage1", "paper", *TINY, "assumed.num_pairs=null"))
    assert found.total_steps is None
    assert found.hours(312, 0.4) is None
    assert found.memory_gib() > 0
    assert any("no steps and hours without assumed.num_pairs" in note for note in found.notes)
    assert predict(stage_of("stage1", "paper", *TINY, "assumed.num_pairs=null", "max_steps=7")).total_steps == 7


def test_gpus_that_cannot_make_the_batch_are_left_out() -> None:
    found = predict(
        stage_of("stage1", "paper", *TINY, "batch.global_size=6", "hardware.num_gpus=4", "batch.local_size=2")
    )
    assert found.plan.world_size == 3
    assert "4 GPUs cannot make a global batch of 6: predicted for 3" in found.notes


def test_an_unknown_name_is_refused_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("a prediction must not use the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    with pytest.raises(ConfigError, match=r"model.vision_tower: nobody/nothing is no folder, was not downloaded"):
        predict(stage_of("stage1", "paper", "model.vision_tower.from_pretrained=nobody/nothing"))
    assert predict(stage_of("stage1", "paper")).video_tokens == 1521


PRESETS = sorted(str(path.parent.relative_to(CONFIGS)) for path in (CONFIGS / "modern").glob("*/stage2.yaml"))
PRESETS.remove("modern/softmax_kl")  # recommended's architecture


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "recommended", *PRESETS])
def test_every_shipped_preset_can_be_predicted_on_a_bare_machine(preset: str) -> None:
    found = predicted("stage2", preset)
    assert 100 < found.flops("model_flops") / 1e12 < 250
    assert found.fits(GPUS["A800"].memory_gib, "ZeRO-2")
    assert all(part.trained == 0 for name, part in found.parts.items() if name in ("exo tower", "language model"))


def test_published_sizes_have_the_known_numbers_of_parameters() -> None:
    """In millions, as their model cards and VideoLLaMA2's shards say."""
    known = {
        "mistralai/Mistral-7B-Instruct-v0.2": 7241.73,
        "Qwen/Qwen2.5-7B-Instruct": 7615.62,
        "Qwen/Qwen3-8B": 8190.74,
    }
    for name, millions in known.items():
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**published(name)["text"]))
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A800-SXM4-80GB", "A800"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-16GB", None),
        ("AMD Instinct MI300X", None),
        ("NVIDIA H100 NVL", None),  # other speeds than the chip of nearly the same name
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
    ],
)
def test_a_driver_s_name_finds_its_gpu(device: str, gpu: str | None) -> None:
    assert find_gpu(device) == (GPUS[gpu] if gpu else None)


def test_a_gpu_can_be_given_by_hand(tmp_path: Path) -> None:
    stage = stage_of("stage1", "paper", "hardware={gpu: A100, peak_tflops: 500, memory_gib: 33}")
    assert (stage.config.hardware.resolved.peak_tflops, stage.config.hardware.resolved.memory_gib) == (500, 33)
    with pytest.raises(ConfigError, match="unknown GPU, expected one of A100"):
        stage_of("stage1", "paper", "hardware.gpu=A9000")


def test_speed_is_operations_over_time_and_peak() -> None:
    meter = SpeedMeter(StepCost(per_clip=1e12, per_token=1e9), peak_flops=1e13)
    metrics = {"seconds": 2.0, "samples_per_s": 4.0, "sequence_tokens": 2000.0, "data_wait_share": 0.25}
    assert meter.measured(metrics) == {"model_tflops_per_s": 5.0, "mfu": 0.5}
    slower = metrics | {"seconds": 6.0, "samples_per_s": 8 / 6, "data_wait_share": 0.75}
    assert meter.measured(slower)["mfu"] == pytest.approx(0.5 / 3)
    assert meter.summary(7200) == ("2 steps in 2.00 h: 2.0 clips/s  2.5 model TFLOP/s  MFU 25.0 %  data wait 62 %")
    assert "mfu" not in SpeedMeter(StepCost(1e12, 1e9), None).measured(metrics)
    assert SpeedMeter(None, None).measured(metrics) == {}
    assert math.isfinite(meter.flops)
    assert isinstance(tiny_stage("stage3", "[]"), Stage3)

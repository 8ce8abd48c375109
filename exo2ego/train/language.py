"""Training the small stand-in language model on text, with the same loop as every stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from exo2ego import provenance
from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.losses.text import text_loss
from exo2ego.model.options import SmallLanguageOptions
from exo2ego.model.small_language import small_mistral, train_tokenizer
from exo2ego.model.tokens import IGNORED
from exo2ego.storage import atomic_path, write_json
from exo2ego.train.batch_plan import BatchPlan, plan_batches
from exo2ego.train.journal import Journal
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.objective import Term, Terms
from exo2ego.train.options import OptimOptions
from exo2ego.train.updating import Updater


def train_small_language_model(
    lines: Sequence[tuple[str, str]],
    output_dir: Path,
    *,
    sizes: SmallLanguageOptions,
    optim: OptimOptions,
    batch_size: int,
    epochs: float,
    seed: int,
    record: dict[str, Any],
) -> None:
    """Trains on (context, answer) lines, loss on the answers, and writes one transformers folder or nothing.

    `record` goes beside them. Ctrl-C gives up: a minute's training has no checkpoints.
    """
    set_seed(seed)
    tokenizer = train_tokenizer((part for line in lines for part in line), sizes.vocabulary_size)
    model = small_mistral(sizes, tokenizer).train()
    plan = plan_batches(
        global_size=batch_size,
        local_size=batch_size,
        world_size=1,
        num_samples=len(lines),
        epochs=epochs,
        warmup_fraction=optim.warmup_fraction,
    )
    journal = Journal(
        output_dir.with_name(output_dir.name + "_log"),
        start_step=0,
        total_steps=plan.total_steps,
        log_every=100,
        enabled=True,
    )
    batches = _TextBatches(lines, tokenizer, plan, seed)
    try:
        stopped = train(_training_run(model, batches, plan, optim, journal, seed))
    finally:
        journal.close()
    if stopped:
        raise KeyboardInterrupt
    with atomic_path(output_dir) as folder:
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        write_json(folder / provenance.FILE_NAME, record)


def _training_run(
    model: nn.Module, batches: Iterable[Batch], plan: BatchPlan, optim: OptimOptions, journal: Journal, seed: int
) -> TrainingRun:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=optim.learning_rate, betas=optim.betas, eps=optim.epsilon, weight_decay=optim.weight_decay
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", rng_types=[])
    return TrainingRun(
        updater=Updater(accelerator, accelerator.prepare(model), optimizer, max_gradient_norm=optim.max_gradient_norm),
        losses=_text_only_losses,
        scheduler=get_cosine_schedule_with_warmup(optimizer, plan.warmup_steps, plan.total_steps),
        batches=batches,
        plan=plan,
        precision="fp32",
        journal=journal,
        failures=FailureBudget(0.0, None),
        save=lambda step: None,
        save_every=plan.total_steps,
        seed=seed,
    )


def _text_only_losses(model: nn.Module, batch: Batch) -> Terms:
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    predicts = batch.labels[:, 1:] != IGNORED
    return {"text": Term(text_loss(logits[:, :-1][predicts], batch.labels[:, 1:][predicts]), per="target_token")}


class _TextBatches:
    """Batches of whole lines in a seeded order, every token of an answer a target."""

    def __init__(
        self, lines: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, plan: BatchPlan, seed: int
    ) -> None:
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        # apart, as the processor does it: the border between context and answer is the same in every stage
        contexts, answers = (
            tokenizer(list(part), add_special_tokens=False).input_ids for part in zip(*lines, strict=True)
        )
        self.lines = [
            torch.tensor([begin, *context, *answer, end]) for context, answer in zip(contexts, answers, strict=True)
        ]
        self.context_lengths = [1 + len(context) for context in contexts]
        self.pad = tokenizer.pad_token_id
        self.plan = plan
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        """Yields the plan's batches."""
        for chosen in itertools.islice(self._endless_batches(), self.plan.total_steps):
            rows = [self.lines[index] for index in chosen]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
            labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
            attention_mask = (labels != IGNORED).long()
            for row, index in enumerate(chosen):
                labels[row, : self.context_lengths[index]] = IGNORED
            nothing = torch.empty(len(rows), 0)
            yield Batch(
                input_ids=ids,
                attention_mask=attention_mask,
                labels=labels,
                pixels=nothing,
                patch_mask=nothing,
                clip_weight=torch.ones(len(rows)),
            )

    def _endless_batches(self) -> Iterator[list[int]]:
        """Yields the lines of each batch: of like length, so that little is padding, in a random order of batches."""
        order, size = numpy.random.default_rng(self.seed), self.plan.global_size
        while True:
            by_length = sorted(order.permutation(len(self.lines)).tolist(), key=lambda index: len(self.lines[index]))
            starts = list(range(0, len(by_length) - size + 1, size)) or [0]
            for start in order.permutation(starts).tolist():
                yield by_length[start : start + size]

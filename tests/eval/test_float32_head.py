"""The head of a model in half precision gives exact logits, whatever kind of head it is."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from eval.answerers import float32_head
from eval.answerers.exo2ego import Exo2EgoAnswerer
from eval.answerers.float32_head import float32_logits
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.pretrained import PretrainedAnswerer
from eval.answerers.protocol import ScoreRequest
from tests.eval.tiny_families import BUILDERS
from tests.eval.tiny_model import tiny_model

WIDTH, VOCABULARY = 8, 70


class Model:
    """What is asked of a model: its head."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def get_output_embeddings(self) -> nn.Module:
        return self.head


class PackedHead(nn.Linear):
    """A quantised head: its weights are no numbers that could be multiplied."""

    def __init__(self) -> None:
        super().__init__(WIDTH, VOCABULARY)
        self.weight = nn.Parameter(torch.zeros(3, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return input.new_full((*input.shape[:-1], VOCABULARY), 7.0)


def project(head: nn.Module, hidden: Tensor) -> Tensor:
    with torch.inference_mode(), float32_logits(Model(head)):  # type: ignore[arg-type]
        logits: Tensor = head(hidden)
    return logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 0)])
def test_half_precision_is_multiplied_exactly(
    monkeypatch: pytest.MonkeyPatch, bias: bool, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(float32_head, "ROWS", 16)  # does not divide the vocabulary
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype)
    hidden = 20 * torch.randn(*shape, WIDTH).to(dtype)
    exact = hidden.double() @ head.weight.double().T + (head.bias.double() if bias else 0)
    logits = project(head, hidden)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), exact, rtol=0, atol=2e-5)
    assert head(hidden).dtype == dtype, "only within"


@pytest.mark.parametrize("head", [nn.Linear(WIDTH, VOCABULARY), PackedHead()])
def test_other_heads_give_what_they_give(head: nn.Module) -> None:
    hidden = torch.randn(4, WIDTH)
    with torch.inference_mode():
        assert torch.equal(project(head, hidden), head(hidden))


def test_a_failing_pass_leaves_the_head_as_it_was() -> None:
    head = nn.Linear(WIDTH, VOCABULARY).to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="spoilt"), float32_logits(Model(head)):  # type: ignore[arg-type]
        raise RuntimeError("spoilt")
    assert "forward" not in vars(head)


def test_letters_of_our_model_in_half_precision_do_not_tie() -> None:
    """Logits near 22, where bfloat16 knows eighths alone, of a head whose rows differ by far less."""
    model, processor = tiny_model()
    model.to(torch.bfloat16)
    answerer = Exo2EgoAnswerer(model, processor)
    request = ScoreRequest(answerer.render("Which?"), tuple("ABCDEFGH"), "letters")
    seen: list[Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1].float()))
    answerer.score(video := answerer.encode(numpy.zeros((2, 48, 48, 3), numpy.uint8)), [request])
    hook.remove()
    with torch.no_grad():
        noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
        model.lm_head.weight.copy_(22 * seen[0] / seen[0].square().sum() + 0.01 * noise)
    ids = [processor.encode_continuation(letter)[0] for letter in request.texts]
    with torch.inference_mode():
        rounded = model.lm_head(seen[0].to(torch.bfloat16))[ids]
    assert len(set(rounded.tolist())) < len(ids), "else the test means nothing"
    (scores,) = answerer.score(video, [request])
    assert len(set(scores)) == len(ids)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_family_has_such_a_head(tmp_path: Path, name: str) -> None:
    family, builder = BUILDERS[name]
    options = AnswererOptions("chat", None, 4, 2, EndpointOptions())
    answerer = load_answerer(f"{family}:{builder(tmp_path)}", options)
    assert isinstance(answerer, PretrainedAnswerer)
    answerer.model.to(torch.bfloat16)
    inputs = answerer.inputs(answerer.encode(numpy.zeros((2, 48, 64, 3), numpy.uint8)), answerer.render("Which?"))
    with torch.inference_mode():
        rounded = answerer.model(**inputs, logits_to_keep=1).logits
        with float32_logits(answerer.model):
            exact = answerer.model(**inputs, logits_to_keep=1).logits
    assert exact.dtype == torch.float32
    assert torch.allclose(exact, rounded.float(), rtol=2**-7, atol=0.01), "8 bits of mantissa"
    assert not torch.equal(exact, rounded.float())
    given: list[torch.dtype] = []
    hook = answerer.model.get_output_embeddings().register_forward_hook(lambda *passed: given.append(passed[2].dtype))
    request = ScoreRequest(answerer.render("Which?"), ("C pours", "C opens"), "options")
    answerer.score(answerer.encode(numpy.zeros((2, 48, 64, 3), numpy.uint8)), [request])
    hook.remove()
    assert given == [torch.bfloat16, *[torch.float32] * 3], "the video, whose logits nobody reads; question and options"

"""The processor: Mistral's own token ids, one placeholder per visual token, texts that cannot fake a video, saving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mistral_common
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import PreTrainedTokenizerBase

from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import DataError
from exo2ego.model.building import build_tokenizer
from exo2ego.model.small_language import train_tokenizer
from tests.tiny_models import tiny_options, tiny_tokenizer

NUM_VIDEO_TOKENS = {"ego": 6, "ego_only": 3, "exo": 4}
BOS, EOS, VIDEO = 1, 2, 32000
LINE_BREAK, SPACE = 13, 28705
INST, END_INST = [733, 16289, 28793], [733, 28748, 16289, 28793]  # [INST] and [/INST] in mistral_common's v1
# single spaces only: for runs of them transformers 5.23's conversion of a SentencePiece model merges in another order
TEXTS = [
    "What does C do?",
    "Look at the hands.\nWhich cup?\nOptions:\n(A) the red cup\n(B) the blue cup",
    "Qu'est-ce que c'est ? 日本 ünï",
    "#C C picks up two things.",
]


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Mistral-7B-Instruct-v0.2's tokenizer as our models load it, `<video>` added."""
    folder = tmp_path_factory.mktemp("mistral")
    pieces = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(pieces, folder / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return build_tokenizer(tiny_options(tokenizer=str(folder)))


def processor_of(tokenizer: PreTrainedTokenizerBase) -> Exo2EgoProcessor:
    return Exo2EgoProcessor(tokenizer, dict(NUM_VIDEO_TOKENS), num_frames=2, image_size=16, patch_size=8)


@pytest.fixture(scope="module")
def processor(mistral: PreTrainedTokenizerBase) -> Exo2EgoProcessor:
    return processor_of(mistral)


def mistral_turn(text: str) -> list[int]:
    """What mistral_common makes of a user turn: BOS, [INST], text, [/INST]."""
    request: ChatCompletionRequest = ChatCompletionRequest(messages=[UserMessage(content=text)])
    return list(MistralTokenizer.v1().encode_chat_completion(request).tokens)


def test_mistral_gets_one_new_token_and_its_own_padding(mistral: PreTrainedTokenizerBase) -> None:
    assert len(mistral) == VIDEO + 1
    assert mistral.convert_tokens_to_ids("<video>") == VIDEO
    assert mistral.pad_token_id == mistral.unk_token_id == 0


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_turn_are_mistrals(processor: Exo2EgoProcessor, text: str) -> None:
    """Without the video the ids are mistral_common's; with it the text's own ids stay as they are."""
    ids = mistral_turn(text)
    own = processor.tokenizer(f"[INST] {text} [/INST]", add_special_tokens=False).input_ids
    assert [BOS, *own] == ids
    assert ids[1:4] == INST
    body = ids[4 : -len(END_INST)]
    with_video = processor.encode_prompt(processor.chat_prompt(text))
    # chunk by chunk, as VideoLLaMA2: a chunk begins with SentencePiece's space, also before the line break
    head = [BOS, *INST, SPACE, *[VIDEO] * NUM_VIDEO_TOKENS["ego"], SPACE, LINE_BREAK]
    assert with_video[: len(head)] == head
    assert processor.tokenizer.decode(with_video[len(head) : -len(END_INST)]) == processor.tokenizer.decode(body)
    assert with_video[-len(END_INST) :] == END_INST


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_an_answer_are_mistrals(processor: Exo2EgoProcessor, text: str) -> None:
    """Mistral's v1 encodes an answer by itself and closes it with EOS."""
    own = MistralTokenizer.v1().instruct_tokenizer.tokenizer.encode(text, bos=False, eos=True)
    assert processor.encode_continuation(text) == own


def test_plain_form(processor: Exo2EgoProcessor) -> None:
    assert processor.plain_prompt() == "<video>"
    assert processor.encode_prompt("<video>", "exo") == [BOS, VIDEO, VIDEO, VIDEO, VIDEO]
    assert processor.encode_prompt("<video>") == [BOS, *[VIDEO] * NUM_VIDEO_TOKENS["ego"]], "the default view is ego"


def test_chat_form_without_and_with_a_template(mistral: PreTrainedTokenizerBase) -> None:
    processor = processor_of(mistral)
    expected = "[INST] <video>\nWhat does C do? [/INST]"
    assert processor.chat_prompt("What does C do?") == expected
    mistral.chat_template = (  # the published one of Mistral-7B-Instruct-v0.2, for one user turn
        "{{ bos_token }}{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
    )
    try:
        assert processor.chat_prompt("What does C do?") == expected, "BOS comes from encode_prompt, once"
    finally:
        mistral.chat_template = None


@given(
    st.text(alphabet=st.sampled_from("ab <>/videos\n[]"), max_size=30),
    st.sampled_from(["", "<video>", " <video> <video>"]),
)
def test_no_text_can_fake_a_placeholder(text: str, fake: str) -> None:
    processor = processor_of(tiny_tokenizer())
    video = processor.video_token_id
    assert video not in processor.encode_continuation(text + fake + text)
    assert processor.encode_continuation(text + fake)[-1] == processor.tokenizer.eos_token_id
    for view, count in NUM_VIDEO_TOKENS.items():
        assert processor.encode_prompt(processor.chat_prompt(text + fake), view).count(video) == count


def test_a_placeholder_in_a_text_reads_as_a_word(processor: Exo2EgoProcessor) -> None:
    decoded = processor.tokenizer.decode(processor.encode_continuation("a <video> of a cup"), skip_special_tokens=True)
    assert decoded == "a video of a cup"


@pytest.mark.parametrize("prompt", ["", "no video", "<video> and <video>"])
def test_a_prompt_has_exactly_one_video(processor: Exo2EgoProcessor, prompt: str) -> None:
    with pytest.raises(DataError, match=f"exactly one <video>, got {prompt.count('<video>')}"):
        processor.encode_prompt(prompt)


def test_a_tokenizer_without_begin_token() -> None:
    tokenizer = train_tokenizer(["C picks up the cup."], 270)
    tokenizer.bos_token = None
    assert (
        processor_of(tokenizer).encode_prompt("<video>", "ego_only") == [tokenizer.convert_tokens_to_ids("<video>")] * 3
    )


FRAMES = numpy.random.default_rng(0).integers(0, 256, (2, 18, 32, 3), dtype=numpy.uint8)


def test_prepares_a_prompt_with_its_video(processor: Exo2EgoProcessor) -> None:
    inputs = processor.prepare("<video>", FRAMES, "ego_only")
    assert inputs["input_ids"].tolist() == [[BOS, VIDEO, VIDEO, VIDEO]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1]]
    pixels, mask = processor.pixels(FRAMES)
    assert torch.equal(inputs["pixel_values_videos"], pixels.unsqueeze(0))
    assert pixels.shape == (2, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert mask.shape == (4,)


def test_call_makes_a_turn_of_a_bare_question(processor: Exo2EgoProcessor) -> None:
    called = processor("What does C do?", FRAMES)
    prepared = processor.prepare(processor.chat_prompt("What does C do?"), FRAMES)
    for name, value in prepared.items():
        assert torch.equal(called[name], value)
    of_one_view = processor("<video>", FRAMES, view="exo")["input_ids"]
    assert of_one_view.tolist() == [processor.encode_prompt("<video>", "exo")]
    assert processor("<video>", FRAMES)["input_ids"].tolist() == [processor.encode_prompt("<video>")]


@pytest.mark.parametrize("which", ["mistral", "small"])
def test_saved_and_loaded_it_gives_the_same_ids_and_pixels(
    mistral: PreTrainedTokenizerBase, tmp_path: Path, which: str
) -> None:
    tokenizer = mistral if which == "mistral" else tiny_tokenizer()
    processor = Exo2EgoProcessor(
        tokenizer,
        dict(NUM_VIDEO_TOKENS),
        num_frames=3,
        image_size=24,
        patch_size=8,
        aspect="crop",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.25, 0.25, 0.25),
        default_view="ego_only",
    )
    processor.save_pretrained(tmp_path)
    again = Exo2EgoProcessor.from_pretrained(str(tmp_path))
    assert type(again) is Exo2EgoProcessor
    settings = ("num_video_tokens", "num_frames", "image_size", "patch_size", "aspect", "image_mean", "default_view")
    assert [getattr(again, name) for name in settings] == [getattr(processor, name) for name in settings]
    assert len(again.tokenizer) == len(tokenizer)
    assert again.tokenizer.pad_token_id == tokenizer.pad_token_id
    for text in [*TEXTS, "\n leading", "ends with space "]:
        prompt = processor.chat_prompt(text)
        assert again.chat_prompt(text) == prompt
        assert again.encode_prompt(prompt) == processor.encode_prompt(prompt)
        assert again.encode_continuation(text) == processor.encode_continuation(text)
        assert again.tokenizer.decode(again.encode_continuation(text)) == tokenizer.decode(
            processor.encode_continuation(text)
        )
    assert torch.equal(again.pixels(FRAMES)[0], processor.pixels(FRAMES)[0])

"""Let a language model write the task instructions of EgoIT sources (Exo2Ego §3.2, Supplement B).

Any OpenAI-compatible endpoint will do; its key is read from an environment variable. The instructions that come with
the package need none. Use what was written with `--instructions FILE` of a source's builder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from data_builders.egoit.instruction_checks import one_line, parse_reply, reason_to_refuse
from data_builders.egoit.instruction_prompt import SOURCES, SourceName, instruction_prompt
from data_builders.egoit.instructions import read_instructions
from exo2ego.command_line import add_flags, given_flags, run_safely
from exo2ego.config import validate_config
from exo2ego.console import console
from exo2ego.data.prompting import normal_form
from exo2ego.errors import DataError, ServiceError
from exo2ego.language_prompt import Prompt
from exo2ego.language_service import LanguageService, ServiceOptions, estimate_tokens, token_cost
from exo2ego.provenance import provenance
from exo2ego.raw.files import RawFiles
from exo2ego.records import Conversation
from exo2ego.storage import hash_text, remove_leftovers, write_json

TOKENS_PER_INSTRUCTION = 45
"""About, for the estimate."""


class WriteOptions(ServiceOptions):
    """Options of the instruction writer."""

    out: Path
    """Folder for SOURCE.json of every source, with a summary; the answers are cached in its folder `answers`, unless
    `cache` names another."""
    sources: list[SourceName] = Field(default=list(SOURCES), min_length=1)
    """The EgoIT sources to write for."""
    count: int = Field(default=10, ge=1, le=50)
    """Instructions per source (paper: ten)."""
    max_rounds: int = Field(default=4, ge=1)
    """Answers to ask for, per source, until there are enough usable instructions."""
    rows: Path | None = None
    """Conversations (JSONL) of which some are shown to the model, as data (default: none is shown)."""
    num_rows: int = Field(default=5, ge=1, le=50)
    """How many conversations of each source are shown."""
    seed: int = 0
    """Decides which conversations are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes instructions from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.egoit.write_instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, WriteOptions)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the prompts and an estimate of the cost; no key, no call, no file"
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        options = validate_config(WriteOptions, given_flags(arguments, WriteOptions), "command line")
        if options.cache is None:
            options = options.model_copy(update={"cache": options.out / "answers"})
        service = LanguageService(options)
        if arguments.dry_run:
            print_plan(options)
        else:
            write_all(options, service)

    return run_safely(act, arguments.debug)


def print_plan(options: WriteOptions) -> None:
    """Prints the prompts and about what they would cost."""
    shown, _ = shown_rows(options)
    input_tokens = 0
    for source in options.sources:
        prompt = _prompt(options, source, shown.get(source, []))
        input_tokens += estimate_tokens(prompt.system + prompt.user)
        console.print(f"--- {source} ---\n{prompt.system}\n\n{prompt.user}\n", markup=False)
    output_tokens = TOKENS_PER_INSTRUCTION * options.count * len(options.sources)
    console.print(
        f"one answer per source: about {input_tokens:,} input and {output_tokens:,} output tokens"
        f"{_price(token_cost(input_tokens, output_tokens, options))}; "
        f"at most {options.max_rounds} answers of {options.max_answer_tokens:,} tokens per source"
        f"{_price(_highest_cost(options, input_tokens))}; nothing was sent",
        markup=False,
    )


def _highest_cost(options: WriteOptions, input_tokens: int) -> float | None:
    output_tokens = options.max_answer_tokens * len(options.sources)
    return token_cost(options.max_rounds * input_tokens, options.max_rounds * output_tokens, options)


def _price(cost: float | None) -> str:
    return "" if cost is None else f", {cost:.4f} at the given prices"


def write_all(options: WriteOptions, service: LanguageService) -> dict[str, Any]:
    """Writes the instructions of all sources and returns the summary; a source that is done stays if a later one fails.

    Raises `ServiceError` when the endpoint does not give enough usable instructions.
    """
    remove_leftovers(options.out)
    shown, inputs = shown_rows(options)
    host = urlsplit(options.base_url).hostname
    told: dict[str, Any] = {}
    for source in options.sources:
        instructions, account = write_one(options, service, source, shown.get(source, []))
        record = {"source": source, "written_by": f"{options.model} at {host}", "instructions": instructions}
        write_json(options.out / f"{source}.json", record)
        told[source] = account
        console.print(f"{source}: {len(instructions)} instructions {account}", markup=False)
    usage = service.usage
    cost = usage.cost(options)
    summary = {
        "sources": told,
        "usage": {**vars(usage), "cost": cost},
        "provenance": provenance(options.model_dump(mode="json"), options.seed, inputs),
    }
    write_json(options.out / "write_instructions.summary.json", summary)
    uncounted = f" ({usage.calls_without_count} calls without a count)" if usage.calls_without_count else ""
    console.print(
        f"{usage.calls} calls, {usage.cached_answers} answers from the cache, {usage.retries} retries; "
        f"{usage.input_tokens:,} input and {usage.output_tokens:,} output tokens{uncounted}{_price(cost)}",
        markup=False,
    )
    console.print(f"written: {options.out}", markup=False)
    return summary


def write_one(
    options: WriteOptions, service: LanguageService, source: SourceName, rows: Sequence[Conversation]
) -> tuple[list[str], dict[str, Any]]:
    """Returns exactly `count` instructions of a source, and how many answers they took and what was refused."""
    prompt = _prompt(options, source, rows)
    shown = [text for row in rows for text in (row.question, row.answer)]
    taken = {normal_form(text) for text in read_instructions(source)[:1]}  # the example in the prompt
    instructions: list[str] = []
    refused: Counter[str] = Counter()
    for number in range(options.max_rounds):
        answer = service.ask(prompt, sample=number)
        try:
            texts = [one_line(text) for text in parse_reply(answer.text)]
        except ValueError as error:
            cut_off = "cut off at max_answer_tokens, " if answer.finish_reason == "length" else ""
            refused[f"answer {number + 1}: {cut_off}{error}"] += 1
            continue
        for text in texts:
            reason = reason_to_refuse(text, taken, shown)
            if reason:
                refused[reason] += 1
            elif len(instructions) < options.count:
                instructions.append(text)
                taken.add(normal_form(text))
        if len(instructions) == options.count:
            return instructions, {"answers": number + 1, "refused": dict(refused)}
    raise ServiceError(
        f"{source}: {len(instructions)} usable instructions in {options.max_rounds} answers, expected {options.count}; "
        f"refused: {'; '.join(f'{reason} ({count})' for reason, count in refused.items()) or 'none'}; "
        "raise max_rounds or use another model"
    )


def shown_rows(options: WriteOptions) -> tuple[Mapping[str, list[Conversation]], dict[str, str]]:
    """Returns the conversations to show by source, drawn by seed, and the hash of their file."""
    if options.rows is None:
        return {}, {}
    files = RawFiles(options.rows.parent, "EgoIT")
    path = files.find(options.rows.name, what="the conversation table")
    drawn: dict[str, list[tuple[str, Conversation]]] = {source: [] for source in options.sources}
    for _, row in files.jsonl_rows(path, Conversation, "conversation table"):
        if row.source in drawn:
            best = drawn[row.source]
            best.append((hash_text(f"{options.seed}/shown/{row.conversation_id}"), row))
            if len(best) > 100:
                _keep_first(best, options.num_rows)
    for source, best in drawn.items():
        if not best:
            raise DataError(f"{path}: holds no conversation of {source}; leave it out of sources, or give other rows")
        _keep_first(best, options.num_rows)
    return {source: [row for _, row in best] for source, best in drawn.items()}, files.hashes()


def _keep_first(drawn: list[tuple[str, Conversation]], count: int) -> None:
    drawn.sort(key=lambda one: one[0])
    del drawn[count:]


def _prompt(options: WriteOptions, source: SourceName, rows: Sequence[Conversation]) -> Prompt:
    return instruction_prompt(source, options.count, read_instructions(source)[0], rows)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m data_builders.clip_store --clips FILE --media-root DIR --out DIR` (docs/clip_store.md)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_builders.clip_store.options import ClipStoreOptions
from exo2ego.command_line import run_flagged
from exo2ego.console import console

DESCRIPTION = """\
Decodes every source video once, in order, and writes the frames that training reads into WebDataset tar shards with an
index: the same frames, at the model's resolution, as short H.264 clips. Training and evaluation read them with
data.clip_store=DIR and clip_store=DIR. The same command continues a run that was stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Builds, continues, plans or verifies a clip store; returns the exit code."""

    def act(options: ClipStoreOptions) -> None:
        for line in run(options):
            console.print(line, markup=False)

    return run_flagged("data_builders.clip_store", DESCRIPTION, ClipStoreOptions, act, argv)


def run(options: ClipStoreOptions) -> Sequence[str]:
    """Does what the options say, and returns what there is to tell."""
    if options.verify:
        from data_builders.clip_store.verify import verify

        num_shards, num_clips = verify(options.out)
        return [f"{options.out}: sound: {num_shards:,} shards, {num_clips:,} clips, every checksum agrees"]
    from data_builders.clip_store.account import describe_account
    from data_builders.clip_store.build import build
    from data_builders.clip_store.plan import Plan, describe_plan

    made = build(options)
    if isinstance(made, Plan):
        return [*describe_plan(options, made), "dry run: nothing was written"]
    num_bytes = sum(shard.bytes for shard in made.shards)
    written = f"store  {options.out}: {len(made.shards):,} shards, {num_bytes / 1e9:.3f} GB"
    return [*describe_account(made.account, options), written]


if __name__ == "__main__":
    sys.exit(main())

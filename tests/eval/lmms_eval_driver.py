"""Runs inside lmms-eval's own environment: models of lmms-eval on our tasks, ours on another task; prints JSON.

Arguments: folder of a benchmark, folder of our tasks, folder of the other task, file to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models.model_utils.load_video import load_video_decord, read_video
from lmms_eval.tasks import TaskManager


def evaluate(model: str, arguments: str, tasks: list[str], folders: list[str], **options: Any) -> dict[str, Any]:
    """Returns lmms-eval's results and samples."""
    manager = TaskManager("ERROR", include_path=folders, include_defaults=False, model_name=model)
    found = simple_evaluate(model=model, model_args=arguments, tasks=tasks, task_manager=manager, **options)
    samples = {name: [_plain(row) for row in rows] for name, rows in found["samples"].items()}
    return {"results": found["results"], "samples": samples}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key in ("printed", "answer", "resps")}
    return {**kept, "id": row["doc"]["id"]}


def _brightness(clip: str) -> list[list[float]]:
    """Returns the means of four frames, as each of lmms-eval's readers takes them."""
    return [
        [float(frame.mean()) for frame in read] for read in (read_video(clip, num_frm=4), load_video_decord(clip, 4))
    ]


def main(benchmark: Path, tasks: str, other: str, out: Path) -> None:
    """Writes everything to `out`."""
    dummy = "response=B,read_bytes=16,decode_num_frames=4"
    qwen = f"pretrained={benchmark / 'qwen'},device=cpu,device_map=cpu,max_num_frames=4"
    clips = sorted((benchmark / "videos" / "egobench" / "clips").glob("*.mp4"))
    found = {
        "dummy": evaluate("dummy", dummy, ["egobench"], [tasks]),
        "qwen": evaluate("qwen2_5_vl", qwen, ["egobench_egoplan"], [tasks], limit=2),
        "other": evaluate("exo2ego", f"pretrained={benchmark / 'model'}", ["other_video_task"], [tasks, other]),
        "frames": {clip.stem: _brightness(str(clip)) for clip in clips},
    }
    out.write_text(json.dumps(found, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))

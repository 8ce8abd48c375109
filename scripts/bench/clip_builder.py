"""Ego-ExoClip builder against a straightforward pandas one, on generated annotations of the paper's size.

    python scripts/bench/clip_builder.py [--takes 2925] [--rounds 5]

Every measurement is a process of its own, in turns (ours, pandas pairs, pandas table, floor, ours, ...): CPU seconds
after the imports, and peak memory. Prints the ratio of the best times; fails when the tables differ or a goal is
missed.

- pandas pairs: one row dict per (narration, exo video) to JSON lines, as training code of the field stores its pairs.
- pandas table: our table, one row per narration with a list of videos, to Parquet, by vectorised pandas.
- floor: parsing the input with `json` and writing our output's bytes.
- ours, quarter: a quarter of the takes, for the growth of time and memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAPER_TAKES, PAPER_NARRATIONS, PAPER_EXO_VIDEOS = 2_925, 261_300, 12_553  # Exo2Ego §3.1, Table 1
QUARTER = "ours, quarter"

MIN_RATIO_TO_PAIRS = 12.0  # 80 % of the goal of 15
MAX_PEAK_MB = 400.0


def generate(root: Path, num_takes: int, seed: int = 0) -> None:
    """Writes takes, splits and atomic descriptions in proportion to the paper's size, two annotators per take."""
    generator = random.Random(seed)
    exo_counts = _spread(PAPER_EXO_VIDEOS * num_takes // PAPER_TAKES, num_takes)
    narration_counts = _spread(PAPER_NARRATIONS * num_takes // PAPER_TAKES, num_takes)
    takes, annotations = [], {}
    for number, (num_exo, num_narrations) in enumerate(zip(exo_counts, narration_counts, strict=True)):
        uid = f"{number:08d}-1111-4111-8111-111111111111"
        duration_s = round(generator.uniform(60, 226), 3)
        cameras = [f"cam{camera + 1:02d}" for camera in range(num_exo)]
        takes.append(_take(uid, f"cmu_bike{number:05d}_1", duration_s, cameras))
        annotations[uid] = [
            {
                "annotation_uid": f"{number:08d}-2222-4222-8222-{annotator:012d}",
                "annotator_id": str(10**14 + (2 * number + annotator) % 60),
                "rejected": False,
                "reject_reason": None,
                "descriptions": [
                    _description(generator, duration_s, cameras) for _ in range((num_narrations + annotator) // 2)
                ],
            }
            for annotator in range(2)
        ]
    (root / "annotations").mkdir(parents=True)
    (root / "takes.json").write_text(json.dumps(takes))
    splits = {"take_uid_to_split": dict.fromkeys(annotations, "train")}
    (root / "annotations/splits.json").write_text(json.dumps(splits))
    descriptions = {"ds": "240327", "take_cam_id_map": {}, "annotations": annotations}
    (root / "annotations/atomic_descriptions_train.json").write_text(json.dumps(descriptions))


def _spread(total: int, parts: int) -> list[int]:
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]


def _take(uid: str, name: str, duration_s: float, cameras: list[str]) -> dict[str, Any]:
    streams = {"rgb": "214-1", "slam-left": "1201-1", "slam-right": "1201-2", "et": "211-1"}
    aria = {stream: {"relative_path": f"frame_aligned_videos/aria01_{code}.mp4"} for stream, code in streams.items()}
    exo = {camera: {"0": {"relative_path": f"frame_aligned_videos/{camera}.mp4"}} for camera in cameras}
    return {
        "take_uid": uid,
        "take_name": name,
        "root_dir": f"takes/{name}",
        "duration_sec": duration_s,
        "task_id": 4001,
        "task_name": "Remove a Wheel",
        "parent_task_name": "Bike Repair",
        "university_name": "cmu",
        "capture": {"cameras": [{"cam_id": camera, "is_ego": camera == "aria01"} for camera in ("aria01", *cameras)]},
        "frame_aligned_videos": {"aria01": aria, **exo, "best_exo": {"0": {"relative_path": None}}},
    }


def _description(generator: random.Random, duration_s: float, cameras: list[str]) -> dict[str, Any]:
    words = generator.choices(["the", "cup", "table", "with", "his", "left", "hand", "into", "a", "bowl"], k=9)
    return {
        "text": f"C {generator.choice(('picks', 'moves', 'pours', 'holds'))} {' '.join(words)}.",
        "timestamp": round(generator.uniform(0, duration_s), 5),
        "subject": "C",
        "ego_visible": True,
        "best_exo": {"raw_cam_id": "1", "cam_id": generator.choice(cameras)},
        "unsure": False,
    }


def build_with_ours(root: Path, out: Path) -> None:
    """Runs the builder without report and plots, which do not grow with the number of narrations."""
    from data_builders.ego_exoclip.build import BuildOptions, build_table
    from data_builders.ego_exoclip.egoexo4d import find_annotation_files

    options = BuildOptions(root=root, out=out, check_files=False)
    build_table(options, find_annotation_files(root, "train"), out / "ours.parquet", out / "ours.arrow")


def pandas_table(root: Path) -> Any:
    """Returns the clip table as the obvious pandas code makes it: row dicts, groupby, shift."""
    import pandas

    takes = json.loads((root / "takes.json").read_text())
    raw = json.loads((root / "annotations/atomic_descriptions_train.json").read_text())["annotations"]
    splits = json.loads((root / "annotations/splits.json").read_text())["take_uid_to_split"]
    rows = []
    for uid, of_take in raw.items():
        if splits[uid] != "train":
            continue
        for number, annotation in enumerate(sorted(of_take, key=lambda one: one["annotation_uid"])):
            for one in [] if annotation["rejected"] else annotation["descriptions"]:
                best_exo = (one["best_exo"] or {}).get("cam_id") or ""
                flags = {"ego_visible": one["ego_visible"], "unsure": one["unsure"], "best_exo": best_exo}
                row = {"take_uid": uid, "annotation": number, "annotator": annotation["annotator_id"], **flags}
                rows.append({**row, "timestamp_s": one["timestamp"], "text": one["text"], "subject": one["subject"]})
    narrations = pandas.DataFrame(rows).merge(pandas.DataFrame([_pandas_take(take) for take in takes]), on="take_uid")
    narrations = narrations.sort_values(["take_name", "timestamp_s", "annotation", "text"])
    times = narrations.groupby("take_uid")["timestamp_s"]
    beta = times.transform(lambda one: (one.max() - one.min()) / (len(one) - 1))
    half = beta / (2 * beta.groupby(narrations["take_uid"]).first().mean())
    centre, duration = narrations["timestamp_s"], narrations.pop("duration_s")
    narrations["start_s"] = (centre - half).clip(lower=times.shift(1).fillna(0.0))
    narrations["end_s"] = (centre + half).clip(upper=times.shift(-1).fillna(duration))
    annotation = narrations.pop("annotation").astype(str)
    number = narrations.groupby(["take_uid", annotation]).cumcount().astype(str)
    narrations["clip_id"] = narrations["take_name"] + "/" + annotation + "/" + number
    return narrations


def _pandas_take(take: dict[str, Any]) -> dict[str, Any]:
    def path(relative_path: str) -> str:
        return f"{take['root_dir']}/{relative_path}".replace("_videos/", "_videos/downscaled/448/")

    exo = [camera["cam_id"] for camera in take["capture"]["cameras"] if not camera["is_ego"]]
    files = take["frame_aligned_videos"]
    return {
        "take_uid": take["take_uid"],
        "take_name": take["take_name"],
        "duration_s": take["duration_sec"],
        "university": take["university_name"],
        "scenario": take["parent_task_name"],
        "task": take["task_name"],
        "ego_video": path(files["aria01"]["rgb"]["relative_path"]),
        "exo_videos": [path(files[camera]["0"]["relative_path"]) for camera in sorted(exo)],
    }


def build_with_pandas_table(root: Path, out: Path) -> None:
    """Writes the pandas table to Parquet."""
    pandas_table(root).to_parquet(out / "pandas.parquet", index=False)


def build_with_pandas_pairs(root: Path, out: Path) -> None:
    """Writes one JSON line per (narration, exo video)."""
    pairs = pandas_table(root).explode("exo_videos").rename(columns={"exo_videos": "exo_video"})
    with (out / "pairs.jsonl").open("w") as stream:
        for row in pairs.to_dict("records"):
            stream.write(json.dumps(row) + "\n")


def floor(root: Path, out: Path) -> None:
    """Parses the input and writes as many bytes as our table has."""
    for path in (root / "takes.json", *sorted((root / "annotations").iterdir())):
        json.loads(path.read_text())
    num_bytes = sum(path.stat().st_size for path in out.glob("ours.*"))
    (out / "floor.bin").write_bytes(bytes(num_bytes))


BUILDERS: dict[str, Callable[[Path, Path], None]] = {
    "ours": build_with_ours,
    "pandas pairs": build_with_pandas_pairs,
    "pandas table": build_with_pandas_table,
    "floor": floor,
    QUARTER: build_with_ours,
}


def measure(name: str, root: Path, out: Path) -> dict[str, float]:
    """Runs one builder in this process; returns its CPU seconds without imports and the peak memory in MB."""
    sys.path.insert(0, str(REPOSITORY))
    if name != "floor":
        for module in ("pandas", "pyarrow.parquet", "data_builders.ego_exoclip.build"):  # pyarrow needs pandas as well
            importlib.import_module(module)
    imported_mb = _peak_mb()
    start = time.process_time()
    BUILDERS[name](root, out)
    return {"cpu_s": time.process_time() - start, "peak_mb": _peak_mb(), "imported_mb": imported_mb}


def _peak_mb() -> float:
    # Not getrusage: its maximum is inherited from the parent process.
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def check_equal(ours_path: Path, pandas_path: Path) -> int:
    """Compares the two tables row by row, times to 1e-9 s (the two α are summed differently); returns the rows."""
    import numpy
    import pyarrow.parquet

    ours, pandas = (pyarrow.parquet.read_table(path) for path in (ours_path, pandas_path))
    for name in ours.column_names:
        if name in ("start_s", "end_s"):
            numpy.testing.assert_allclose(ours[name], pandas[name], rtol=0, atol=1e-9, err_msg=name)
        elif ours[name].to_pylist() != pandas[name].to_pylist():
            raise SystemExit(f"FAILED: column {name} differs")
    return int(ours.num_rows)


def compare(folder: Path, num_takes: int, num_rounds: int) -> int:
    """Runs all builders in turns and prints the table of results; returns 1 when a goal is missed."""
    roots = {name: folder / ("quarter" if name == QUARTER else "full") for name in BUILDERS}
    generate(roots["ours"], num_takes)
    generate(roots[QUARTER], num_takes // 4)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in BUILDERS}
    for _ in range(num_rounds):
        for name, results in runs.items():
            (folder / name).mkdir(exist_ok=True)
            out = folder / ("ours" if name == "floor" else name)
            command = [sys.executable, __file__, "--measure", name, str(roots[name]), str(out)]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    num_clips = check_equal(folder / "ours/ours.parquet", folder / "pandas table/pandas.parquet")
    print(f"{num_clips:,} clips of {num_takes:,} takes; the tables are equal; best of {num_rounds} rounds")
    return report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> int:
    """Prints times, ratios and memory; returns 1 when a goal is missed."""
    cpu_s = {name: min(run["cpu_s"] for run in results) for name, results in runs.items()}
    peak_mb = {name: max(run["peak_mb"] for run in results) for name, results in runs.items()}
    print(f"{'':14}{'CPU s':>8}{'/ ours':>8}{'peak MB':>9}{'of it imports':>15}")
    for name, results in runs.items():
        ratio = cpu_s[name] / cpu_s["ours"]
        print(f"{name:14}{cpu_s[name]:8.2f}{ratio:8.2f}{peak_mb[name]:9.0f}{results[0]['imported_mb']:15.0f}")
    exponent = math.log(cpu_s["ours"] / cpu_s[QUARTER], 4)
    print(
        f"four times the narrations: time exponent {exponent:.2f}, memory +{peak_mb['ours'] - peak_mb[QUARTER]:.0f} MB"
    )
    reached = cpu_s["pandas pairs"] / cpu_s["ours"] >= MIN_RATIO_TO_PAIRS and peak_mb["ours"] <= MAX_PEAK_MB
    print(f"{MIN_RATIO_TO_PAIRS:.0f}x pandas pairs, at most {MAX_PEAK_MB:.0f} MB: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


def main() -> int:
    """Measures and compares, or makes one measurement for the process that compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=PAPER_TAKES, help="2,925 as in the paper")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "ROOT", "OUT"), help="one measurement, as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        name, root, out = arguments.measure
        print(json.dumps(measure(name, Path(root), Path(out))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), arguments.takes, arguments.rounds)


if __name__ == "__main__":
    sys.exit(main())

"""The planner of ablations: what is shared, what a key depends on, what a suite may say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.config import load_config, merge, parse_overrides, to_yaml, validate_config
from exo2ego.errors import ConfigError, DataError
from scripts import ablate
from scripts.ablations.planning import Contents, Plan, make_plan, require_tables
from scripts.ablations.suites import (
    BASES,
    BaseSet,
    NamedSuite,
    Suite,
    as_overrides,
    find_base,
    read_suite,
    read_suites,
    require_made_for,
)
from tests.shared_data import REPOSITORY

SUITES = REPOSITORY / "stages" / "configs" / "ablations"
SHIPPED = sorted(SUITES.glob("*.yaml"))


def shipped(*names: str) -> list[NamedSuite]:
    return [read_suite(SUITES / f"{name}.yaml") for name in names]


def base(name: str = "tiny", **changes: Any) -> BaseSet:
    read = load_config(BaseSet, REPOSITORY / BASES / f"{name}.yaml")
    return validate_config(BaseSet, merge(read.model_dump(mode="json"), changes), "test")


def plan_of(*names: str, base_set: BaseSet | None = None, seeds: tuple[int, ...] = (0,), out: str = "out") -> Plan:
    return make_plan(shipped(*names), base_set or base(), seeds, Path(out), Contents())


def counts(plan: Plan) -> dict[str, int]:
    return dict(Counter(name.rpartition("-")[0] for name in plan.runs))


def suite_with(changes: dict[str, Any]) -> Suite:
    values = {
        "title": "t",
        "source": "s",
        "measure": "m",
        "reference": "full",
        "bases": ["tiny"],
        "rows": {"full": {"label": "full"}, "other": {"label": "other"}},
    }
    return validate_config(Suite, merge(values, changes), "suite.yaml")


@pytest.fixture(autouse=True)
def _at_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_equal_runs_are_shared_within_and_between_suites() -> None:
    assert counts(plan_of("table7")) == {"init_ego": 1, "stage1": 1, "stage2": 4, "stage3": 5, "evaluation": 5}
    both = plan_of("table7", "table8")
    assert counts(both) == {"init_ego": 1, "stage1": 1, "stage2": 5, "stage3": 7, "evaluation": 7}
    assert both.evaluations["table7", "full", 0] == both.evaluations["table8", "full", 0]
    three_seeds = plan_of("table7", "table8", seeds=(0, 1, 2))
    assert counts(three_seeds) == {name: 3 * count for name, count in counts(both).items()}


def test_stages_and_prompts_are_evaluations_of_one_run() -> None:
    assert counts(plan_of("table15")) == {"init_ego": 1, "stage1": 1, "stage2": 1, "stage3": 1, "evaluation": 3}
    assert counts(plan_of("table16")) == {"init_ego": 1, "stage1": 1, "stage2": 1, "stage3": 1, "evaluation": 3}
    trained = {name for name in plan_of("table7").runs if not name.startswith("evaluation")}
    asked = plan_of("table15", "table16").runs
    assert {name for name in asked if not name.startswith("evaluation")} < trained


def test_data_settings_retrain_what_reads_them() -> None:
    plan = plan_of("table9", base_set=base("paper"))
    assert counts(plan) == {"init_ego": 2, "control_stage3": 4, "evaluation": 4}
    tables = {run.tables for run in plan.runs.values() if run.module == "stages.init_ego"}
    assert tables == {("data/egoclip/clips.parquet",), ("data/exo_pretraining/videollama2_conversations.jsonl",)}


def test_parents_come_first_and_a_step_is_one_level_below_its_parent() -> None:
    plan = plan_of("table7", "table8", "second_version", seeds=(0, 1))
    seen: set[str] = set()
    for run in plan.runs.values():
        assert run.parent is None or run.parent in seen
        assert run.level == (plan.runs[run.parent].level + 1 if run.parent else 0)
        seen.add(run.name)


def test_steps_trained_once_are_shared_by_seeds() -> None:
    plan = plan_of("table7", base_set=base(once=["init_ego", "stage1"]), seeds=(0, 1, 2))
    assert counts(plan) == {"init_ego": 1, "stage1": 1, "stage2": 12, "stage3": 15, "evaluation": 15}


def keys(plan: Plan) -> set[str]:
    return {run.key for run in plan.runs.values()}


def first_key(base_set: BaseSet) -> str:
    return next(iter(plan_of("table15", base_set=base_set).runs.values())).key


@pytest.mark.parametrize(
    "changes",
    [
        {"output_dir": "elsewhere"},
        {"data": {"root": "elsewhere"}},
        {"data": {"num_workers": 3}},
        {"batch": {"local_size": 2}},
        {"checkpoint": {"every_steps": 7}},
        {"log_every": 9},
        {"parent": "elsewhere"},
    ],
)
def test_a_key_ignores_places_and_what_a_continuation_may_change(changes: dict[str, Any]) -> None:
    assert first_key(base(changes={"init_ego": changes})) == first_key(base())


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"learning_rate": 0.5}},
        {"batch": {"global_size": 4}},
        {"max_steps": 5},
        {"model": {"num_frames": 2}},
        {"train_connector": False},
        {"data": {"text_format": "chat"}},
        {"data": {"table": "another.parquet"}},
        {"model": {"language_model": {"from_pretrained": "another/model"}}},
    ],
)
def test_a_key_changes_with_what_decides_the_outcome(changes: dict[str, Any]) -> None:
    assert first_key(base(changes={"init_ego": changes})) != first_key(base())


def test_a_changed_parent_changes_every_key_behind_it() -> None:
    before = keys(plan_of("table7"))
    assert before.isdisjoint(keys(plan_of("table7", base_set=base(changes={"init_ego": {"max_steps": 5}}))))
    later = keys(plan_of("table7", base_set=base(changes={"stage3": {"max_steps": 5}})))
    assert len(before & later) == 6  # initialisation, stage 1 and four times stage 2


def test_the_seed_is_in_the_key_and_the_output_folder_is_not() -> None:
    assert keys(plan_of("table7")).isdisjoint(keys(plan_of("table7", seeds=(1,))))
    assert keys(plan_of("table7")) == keys(plan_of("table7", out="another"))


def test_inputs_count_by_content_not_by_name(tmp_path: Path) -> None:
    def written(name: str, table: str, weights: str) -> str:
        folder = tmp_path / name
        (folder / "language").mkdir(parents=True)
        (folder / "clips.jsonl").write_text(table)
        (folder / "language" / "model.safetensors").write_text(weights)
        (folder / "language" / "provenance.json").write_text(name)  # when it was made decides nothing
        changes = {
            "data": {"table": str(folder / "clips.jsonl")},
            "model": {"language_model": {"from_pretrained": str(folder / "language")}},
        }
        return first_key(base(changes={"init_ego": changes}))

    first = written("a", "rows", "weights")
    assert written("b", "rows", "weights") == first
    assert written("c", "other rows", "weights") != first
    assert written("d", "rows", "other weights") != first


def test_large_weights_count_by_size_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.ablations.planning.WHOLE_FILE_BYTES", 100)
    monkeypatch.setattr("scripts.ablations.planning.PIECE_BYTES", 10)
    weights = tmp_path / "weights"
    weights.mkdir()
    hashes = set()
    for content in (b"a" * 300, b"a" * 301, b"b" + b"a" * 299, b"a" * 299 + b"b", b"a" * 155 + b"b" + b"a" * 144):
        (weights / "model.safetensors").write_bytes(content)
        hashes.add(Contents().of(str(weights)))
    assert len(hashes) == 5


def test_a_missing_table_is_named_before_anything_runs() -> None:
    contents = Contents()
    nowhere = {"init_ego": {"data": {"table": "nowhere/clips.parquet"}}}
    make_plan(shipped("table15"), base(changes=nowhere), [0], Path("out"), contents)
    with pytest.raises(DataError, match=r"nowhere/clips\.parquet"):
        require_tables(contents)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_suite_plans_on_every_base_it_claims(path: Path) -> None:
    named = read_suite(path)
    for name in named.suite.bases:
        require_made_for(named, name)
        planned = make_plan([named], load_config(BaseSet, find_base(name)), [0, 1], Path("out"), Contents())
        assert {row for _, row, _ in planned.evaluations} == set(named.suite.rows)


def test_the_shipped_suites_hold_the_papers_numbers() -> None:
    paper = {
        "table7": [55.6, 53.2, 54.4, 51.4, 54.7],
        "table8": [55.6, 54.9, 52.5],
        "table9": [38.9, 41.2, 48.7, 49.1],
        "table15": [None, None, None],
        "table16": [54.5, 55.2, 55.6],
    }
    for name, numbers in paper.items():
        assert [row.paper for row in shipped(name)[0].suite.rows.values()] == numbers
    stages = [row.paper_tasks for row in shipped("table15")[0].suite.rows.values()]
    assert [sum(tasks.values()) for tasks in stages] == pytest.approx([362.3, 402.5, 435.2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"other": {"lable": "x"}}}, r"rows.other.lable: unknown key \(did you mean `rows.label`\?\)"),
        ({"refrence": "full"}, r"refrence: unknown key \(did you mean `reference`\?\)"),
        ({"reference": "ful"}, "`ful` is no row; rows: full, other"),
        ({"rows": {"other": {"changes": {"stage22": {}}}}}, r"is no step of this row's chain .*did you mean `stage2`"),
    ],
)
def test_a_wrong_suite_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suite_with(changes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"changes": {"stage2": {"loss": {"kl": {"wieght": 0}}}}},
            r"row other: stage2.*\n.*did you mean `loss.kl.weight`",
        ),
        ({"changes": {"stage2": {"loss": {"kl": {"weight": -1}}}}}, r"row other: stage2.*\n.*loss.kl.weight"),
        ({"evaluation": {"prompt": "first_persn@1"}}, "row other: evaluation"),
        ({"evaluation": {"modes": ["letter"]}}, "has not `likelihood`"),
        ({"data": {"stage3": "exo"}}, "no data set `exo`; it has: none"),
        ({"chain": ["init_ego", "stag2"]}, r"chain: `stag2` is no step.*did you mean `stage2`"),
        ({"chain": ["contrl/stage3"]}, r"`contrl/stage3` is no step.*did you mean `control/stage3`"),
    ],
)
def test_a_row_that_does_not_fit_the_base_is_refused(row: dict[str, Any], message: str) -> None:
    named = NamedSuite("suite", suite_with({"rows": {"other": row}}))
    with pytest.raises(ConfigError, match=message):
        make_plan([named], base(), [0], Path("out"), Contents())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"once": ["stag1"]}, r"once: `stag1` is no step.*did you mean `stage1`"),
        ({"changes": {"control/stage_3": {}}}, r"changes: `control/stage_3` is no.*did you mean `control/stage3`"),
        ({"evaluation": {"after": {"init_eg": {}}}}, r"after: `init_eg` is no step.*did you mean `init_ego`"),
    ],
)
def test_a_base_that_names_no_step_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base(**changes)


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    copy = tmp_path / "table7.yaml"
    shutil.copy(SUITES / "table7.yaml", copy)
    assert [named.name for named in read_suites(SHIPPED)] == [path.stem for path in SHIPPED]
    for second in (copy, SUITES / "table7.yaml"):
        with pytest.raises(ConfigError, match="both would write the table `table7`"):
            read_suites([SUITES / "table7.yaml", second])


def test_overrides_read_back_as_the_values_they_were_made_of() -> None:
    values = {
        "loss": {"cycle": {"directions": "off", "weight": 0}},
        "lora": None,
        "rate": 2e-05,
        "text": "2e-5",
        "odd": 'it\'s "a" {brace\nnext: é',
        "flag": True,
        "list": ["a/b.jsonl", "c d"],
        "seed": 1,
        "path": "runs/x: y",
        "optim": {"groups": {"model.mapper_f.*": {"multiplier": 1e-05, "weight_decay": None}}, "epsilon": 1e-8},
    }
    assert parse_overrides(as_overrides(values)) == values


NAMES = st.text("abc_*.", min_size=1).filter(lambda name: all(name.split(".")))
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("a. -e5é")
)


@given(
    st.dictionaries(
        st.text("abc_", min_size=1),
        st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner) | st.lists(inner), max_leaves=8),
    )
)
def test_any_overrides_read_back(values: dict[str, Any]) -> None:
    assert parse_overrides(as_overrides(values)) == values


def test_a_runs_overrides_are_its_changes() -> None:
    groups = {"model.vision_tower.*": {"multiplier": 0.5}, "model.mapper_f.*": {"weight_decay": 0.0}}
    changes = {"optim": {"groups": groups}, "max_steps": 3}
    plan = plan_of("table15", base_set=base(changes={"init_ego": changes}))
    run = next(run for run in plan.runs.values() if run.module == "stages.init_ego")
    assert parse_overrides(run.overrides) == {**changes, "seed": 0, "output_dir": str(run.output)}


def test_the_size_of_a_micro_batch_is_in_the_key_where_the_loss_depends_on_it() -> None:
    def key(kind: str, size: int) -> str:
        changes = {"loss": {"kl": {"kind": kind}}, "batch": {"local_size": size}}
        plan = plan_of("table7", base_set=base(changes={"stage2": changes}))
        return next(run.key for run in plan.runs.values() if run.module == "stages.stage2")

    assert key("gaussian", 1) == key("gaussian", 2)
    assert key("gaussian_batch", 1) != key("gaussian_batch", 2)


def test_a_suite_survives_printing() -> None:
    for path in SHIPPED:
        suite = read_suite(path).suite
        copy = validate_config(Suite, parse_yaml_text(to_yaml(suite)), "printed")
        assert copy == suite


def parse_yaml_text(text: str) -> Any:
    from exo2ego.config import parse_yaml

    return parse_yaml(text, "printed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "papr"], "did you mean `paper`"),
        (["--seeds", "0,x"], "--seeds 0,x"),
        (["--seeds", "1,1"], "given twice"),
        (["--jobs", "0"], "--jobs 0"),
        (["--launch", "torchrun '"], "--launch torchrun ': cannot be split into words: No closing quotation"),
        (["--launch", "nosuchprog -n 8"], "nosuchprog is no program here"),
        (["--suite", "nosuch.yaml"], "nosuch.yaml: cannot be read .No such file.*; give an existing YAML file$"),
        (["--base", "tiny", "--rows", "no_kll"], "no such row"),
        (["--base", "tiny", "--run", "nothing", "--out", "nowhere"], "tables do not exist|is no run of this plan"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate.main(["--suite", str(SUITES / "table7.yaml"), *arguments]) in (2, 3)
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error")
    assert re.search(message, error), error


def test_a_suite_is_refused_on_a_base_it_is_not_made_for(tmp_path: Path) -> None:
    named = shipped("table9")[0]
    with pytest.raises(ConfigError, match="is not made for --base tiny, but for paper, recommended"):
        require_made_for(named, "tiny")
    own = tmp_path / "own.yaml"
    shutil.copy(REPOSITORY / BASES / "paper.yaml", own)
    require_made_for(named, str(own))


def test_the_documented_base_of_ones_own_reads_nothing_else(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "ablations.md").read_text()
    found = re.search(r"# my_cluster.yaml\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    own = tmp_path / "my_cluster.yaml"
    own.write_text(found[1].replace("/path/to/exo2ego", str(REPOSITORY)))
    plan = plan_of("table7", "table9", "second_version", base_set=load_config(BaseSet, own))
    assert {Path(table).parts[:2] for run in plan.runs.values() for table in run.tables} == {("/", "data")}
    roots = {"data.root=/data", "data.root=/data/ego4d", "data.root=/data/egoexo4d"}
    for run in plan.runs.values():
        assert roots & set(run.overrides), run


def test_a_dry_run_prints_what_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--suite", str(SUITES / "table7.yaml"), "--base", "tiny", "--rows", "no_ccl", "--dry-run"]
    assert ablate.main([*arguments, "--launch", "torchrun --nproc_per_node 8"]) == 0
    printed = capsys.readouterr().out
    assert (
        "torchrun --nproc_per_node 8 -m stages.stage2 --config stages/configs/tiny/stage2.yaml --resume auto" in printed
    )
    assert """'loss.cycle.directions="off"'""" in printed  # YAML reads a bare off as false
    assert "python -m eval.egobench" in printed
    assert "2 rows, 8 runs: 1 init_ego, 1 stage1, 2 stage2, 2 stage3, 2 evaluation" in printed


def test_the_generated_world_is_built_where_its_configurations_look() -> None:
    script = (REPOSITORY / "scripts" / "ablation_world.sh").read_text()
    folder = "runs/ablation_world"
    assert f"${{EXO2EGO_WORLD:-{folder}}}" in script
    named = base("world").evaluation.changes
    read = {path.removeprefix(f"{folder}/") for path in (*named["data"]["questions"], named["data"]["root"])}
    for run in plan_of("table7", "second_version", base_set=base("world")).runs.values():
        read |= {table.removeprefix(f"{folder}/") for table in run.tables}
    assert read == {"questions/questions.jsonl", "egoexo4d", "clips/train/clips.parquet", "conversations.jsonl"}
    for path in read:
        assert f"$out/{path}" in script


def test_the_world_script_refuses_an_unknown_argument() -> None:
    done = subprocess.run(["bash", "scripts/ablation_world.sh", "--smok"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--smok" in done.stderr

"""Who may import whom (docs/architecture.md), read from the source; and what a module may load when it is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest

from tests.conftest import RunPython
from tests.shared_data import FOLDER_VARIABLE, REPOSITORY
from tests.source_tree import ROOTS, entry_points, imported_modules, module_name, source_files, syntax_tree

COMMANDS_OF_EVAL = tuple(name for name in entry_points() if name.startswith("eval."))
FORBIDDEN = {
    "exo2ego": ("stages", "data_builders", "eval", "scripts", "tests"),
    "exo2ego/model": ("exo2ego.data", "exo2ego.train", "exo2ego.losses"),
    "exo2ego/losses": ("exo2ego.data", "exo2ego.train", "exo2ego.model"),
    "exo2ego/data": ("exo2ego.train", "exo2ego.losses", "exo2ego.model.modeling", "exo2ego.model.building"),
    "data_builders": (
        *("torch", "torchvision", "transformers", "exo2ego.model", "exo2ego.train", "exo2ego.losses"),
        *("stages", "eval", "scripts", "tests"),
    ),
    "stages": ("data_builders", "eval", "scripts", "tests"),
    "eval": ("data_builders", "stages", "exo2ego.train", "exo2ego.losses", "scripts", "tests"),
    "eval/answerers": ("eval.questions", "eval.predictions", "eval.answering", "eval.metrics", "eval.reporting"),
    "eval/metrics": (
        *("torch", "transformers", "eval.answerers", "eval.answering", "eval.reporting", "eval.retrieval"),
        *("eval.predictions", *COMMANDS_OF_EVAL),
    ),
    "eval/reporting": ("torch", "transformers", "eval.answerers", "eval.answering", *COMMANDS_OF_EVAL),
}
HEAVY = {"torch", "transformers", "datasets", "accelerate", "deepspeed", "timm", "av", "decord", "matplotlib", "pandas"}


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_layers_hold(folder: str) -> None:
    broken = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for path in source_files(folder)
        for line, name in imported_modules(path)
        if any(is_inside(name, package) for package in FORBIDDEN[folder])
    ]
    assert not broken


def test_packages_of_the_library_form_no_cycle() -> None:
    below: dict[str, set[str]] = defaultdict(set)
    for path in source_files("exo2ego"):
        package = ".".join(module_name(path).split(".")[:2])
        for _, name in imported_modules(path):
            other = ".".join(name.split(".")[:2])
            if is_inside(name, "exo2ego") and other not in (package, "exo2ego"):
                below[package].add(other)
    assert below
    TopologicalSorter(below).prepare()  # raises CycleError, which names the cycle


def test_every_command_of_the_evaluator_is_known() -> None:
    with_main = {
        module_name(path)
        for path in source_files("eval")
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in syntax_tree(path).body)
    }
    assert {"eval.egobench", "eval.judge", "eval.compare"} <= with_main
    assert set(COMMANDS_OF_EVAL) == with_main


def test_modules_of_the_evaluator_form_no_cycle() -> None:
    modules = {module_name(path): path for path in source_files("eval")}
    below: dict[str, set[str]] = {}
    for module, path in modules.items():
        parts = [name.split(".") for _, name in imported_modules(path, at_run_time=True) if is_inside(name, "eval")]
        prefixes = ([".".join(part[:end]) for end in range(len(part), 0, -1)] for part in parts)
        below[module] = {next(name for name in names if name in modules) for names in prefixes}
    assert "eval.reporting.results" in below["eval.report"]
    TopologicalSorter(below).prepare()  # raises CycleError, which names the cycle


def declared_distributions() -> set[str]:
    """The distributions in pyproject.toml; one requirement per line, which keeps this free of a TOML parser on 3.10.

    Those of lmms-eval's own environment have a list of their own.
    """
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    names = re.findall(r'^    "([A-Za-z0-9_.-]+)(?:\[[\w,-]+\])?[><=]', text, flags=re.MULTILINE)
    text = (REPOSITORY / "scripts" / "lmms_eval_requirements.txt").read_text(encoding="utf-8")
    names += re.findall(r"^([A-Za-z0-9_.-]+)==", text, flags=re.MULTILINE)
    return {name.lower().replace("_", "-") for name in names}


def test_every_third_party_import_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = declared_distributions()
    assert {"torch", "pydantic", "av", "pytest"} <= declared
    undeclared = []
    for path in source_files(*ROOTS, "tests", "scripts"):
        for line, name in imported_modules(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in (*ROOTS, "tests", "scripts"):
                continue
            providers = {provider.lower().replace("_", "-") for provider in distributions.get(top, [top])}
            if not providers & declared:
                undeclared.append(f"{path.relative_to(REPOSITORY)}:{line} imports {name} of {sorted(providers)}")
    assert not undeclared


def test_importing_any_builder_loads_no_torch(run_python: RunPython) -> None:
    names = [module_name(path) for path in source_files("data_builders") if path.name != "__main__.py"]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('torch' in sys.modules)"
    done = run_python("-c", code)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("module", entry_points())
def test_help_is_quick_because_it_loads_nothing_heavy(run_python: RunPython, module: str) -> None:
    code = f"""
import runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as finished:
    print("exit code", finished.code)
print("loaded", *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = run_python("-c", code)
    assert f"usage: python -m {module}" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-2:] == ["exit code 0", "loaded"]


def test_only_one_place_knows_where_the_shared_material_lies() -> None:
    knowing = {path for path in source_files("tests", *ROOTS) if FOLDER_VARIABLE in path.read_text(encoding="utf-8")}
    assert knowing == {REPOSITORY / "tests" / "shared_data.py"}

"""The parts of the house style (CONTRIBUTING.md) that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.shared_data import REPOSITORY
from tests.source_tree import ROOTS, imported_modules, source_files, syntax_tree

SOURCES = source_files(*ROOTS, "scripts")
TESTS = source_files("tests")


def numbered(path: Path, node: ast.AST, message: str) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)} {message}"


def test_files_and_functions_are_short() -> None:
    faults = []
    for path in (*SOURCES, *TESTS):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > (600 if path in TESTS else 400):
            faults.append(f"{path.relative_to(REPOSITORY)} has {num_lines} lines")
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    faults.append(numbered(path, node, f"{node.name} has {length} lines"))
    assert not faults


def test_a_file_is_named_for_what_it_holds() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in SOURCES if path.stem in vague and path.parent.name != "stages"]


def test_every_module_and_public_name_is_documented() -> None:
    faults = []
    for path in SOURCES:
        tree = syntax_tree(path)
        if not ast.get_docstring(tree):
            faults.append(numbered(path, tree, "has no module docstring"))
        for node in tree.body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
                faults.append(numbered(path, node, f"{node.name} has no docstring"))
    assert not faults


def test_failures_are_never_swallowed() -> None:
    faults = []
    for path in SOURCES:
        for node in ast.walk(syntax_tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            catches_all = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if catches_all and not raises and node.name is None:
                faults.append(numbered(path, node, "catches everything, and neither raises nor reports it"))
    assert not faults


def test_annotations_are_not_evaluated() -> None:
    future = {path for path in SOURCES for _, name in imported_modules(path) if name == "__future__.annotations"}
    assert not [path for path in SOURCES if has_functions(path) and path not in future]


def has_functions(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) for node in ast.walk(syntax_tree(path)))

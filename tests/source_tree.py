"""The repository's source files, for tests that read code instead of running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.shared_data import REPOSITORY

ROOTS = ("exo2ego", "stages", "data_builders", "eval")


def source_files(*folders: str) -> list[Path]:
    """Returns all Python files under the given folders of the repository, sorted."""
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


@cache
def syntax_tree(path: Path) -> ast.Module:
    """Returns the parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """Returns the dotted name under which a file of the repository is imported."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything a file imports anywhere, `from a import b` as `a.b`.

    With `at_run_time` without what it imports for its annotations alone, under `if TYPE_CHECKING:`.
    """
    left_out = _imported_for_types(path) if at_run_time else set()
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(syntax_tree(path)):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def _imported_for_types(path: Path) -> set[ast.AST]:
    blocks = (node for node in ast.walk(syntax_tree(path)) if isinstance(node, ast.If))
    guarded = (node for node in blocks if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"))
    return {inner for node in guarded for statement in node.body for inner in ast.walk(statement)}


def entry_points() -> list[str]:
    """Returns what a user runs with `python -m`: packages with `__main__.py`, and single files that run."""
    packages = [module_name(path).removesuffix(".__main__") for path in source_files(*ROOTS) if path.stem == "__main__"]
    folders = [*ROOTS, "scripts", "data_builders/egoit", "data_builders/egobench"]
    files = [path for folder in folders for path in sorted((REPOSITORY / folder).glob("*.py"))]
    files = [path for path in files if path.stem != "__main__"]
    return packages + [module_name(path) for path in files if _is_runnable(path)]


def _is_runnable(path: Path) -> bool:
    tests = [node.test for node in syntax_tree(path).body if isinstance(node, ast.If)]
    return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)

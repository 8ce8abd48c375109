"""Score matrices of other models: reading them, and showing what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from exo2ego.errors import DataError


def read_matrix(path: Path, shape: tuple[int, int], what: str) -> NDArray[Any]:
    """Reads a matrix of numbers from a `.npy` file without unpickling; raises `DataError` when it is another shape."""
    try:
        matrix = numpy.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected an array of {shape} written by numpy.save") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array of numpy.save: {error}") from error
    if not isinstance(matrix, numpy.ndarray) or matrix.dtype.kind not in "fiu":
        raise DataError(f"{path}: expected one array of numbers as numpy.save writes it (.npy)")
    if matrix.shape != shape:
        hint = "; transpose it" if matrix.shape == shape[::-1] else ""
        raise DataError(f"{path}: has shape {matrix.shape}, expected {shape}: {what}, in the order of the files{hint}")
    return matrix if matrix.dtype.kind == "f" else matrix.astype(numpy.float64)


def show_json(numbers: Mapping[str, float | int | None]) -> None:
    """Prints one JSON object; what is not a number becomes null."""
    plain = {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}
    print(json.dumps(plain, indent=2), flush=True)

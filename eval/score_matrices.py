"""Score matrices of other models: reading them, and showing what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy
from numpy.lib.format import MAGIC_PREFIX, open_memmap
from numpy.typing import NDArray

from exo2ego.errors import DataError

_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, OverflowError, RecursionError)
"""What NumPy raises for a file or a header that is cut off or changed."""


def map_array(path: Path) -> NDArray[Any]:
    """Opens an array of `numpy.save` without reading its values or unpickling; raises `DataError`.

    A damaged header may claim any size: only what the file holds can be mapped.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise DataError(f"{path}: is no array of numpy.save (.npy); load it and write it with numpy.save")
        return open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected an array written by numpy.save (.npy)") from error
    except _DAMAGE as error:
        fault = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read as an array of numpy.save ({fault}); write it again") from error


def read_matrix(path: Path, shape: tuple[int, int], what: str) -> NDArray[Any]:
    """Reads a matrix of numbers from a `.npy` file without unpickling; raises `DataError` when it is another shape."""
    matrix = map_array(path)
    if matrix.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {matrix.dtype}, expected floats or integers")
    if matrix.shape != shape:
        hint = "; transpose it" if matrix.shape == shape[::-1] else ""
        raise DataError(f"{path}: has shape {matrix.shape}, expected {shape}: {what}, in the order of the files{hint}")
    return numpy.array(matrix, dtype=matrix.dtype if matrix.dtype.kind == "f" else numpy.float64)


def show_json(numbers: Mapping[str, float | int | None]) -> None:
    """Prints one JSON object; what is not a number becomes null."""
    plain = {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}
    print(json.dumps(plain, indent=2), flush=True)

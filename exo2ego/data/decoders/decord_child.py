"""The process in which decord runs, started by `decord_process`; reads requests from stdin, answers on stdout.

A request is one line of JSON: `{"open": path}` or `{"read": [indices]}`. An answer is one line of JSON with `dtype`
and `shape`, and the array's bytes after it, or with `error`. Imports nothing of the package: it is started as a file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import decord  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np


def answer(request: dict[str, Any], reader: Any) -> tuple[Any, Any]:
    """Returns (the opened reader, the answer's array): frame times [n, 2] in seconds, or frames [n, H, W, 3]."""
    if "open" in request:
        reader = decord.VideoReader(request["open"], num_threads=1)
        return reader, np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
    return reader, reader.get_batch(request["read"]).asnumpy()


def serve() -> None:
    """Answers requests until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what C libraries print must not mix with the answers
    reader = None
    for line in sys.stdin:
        try:
            reader, array = answer(json.loads(line), reader)
        except Exception as error:  # whatever decord raises is the answer
            answers.write(json.dumps({"error": str(error).splitlines()[0][:300]}).encode() + b"\n")
        else:
            answers.write(json.dumps({"dtype": str(array.dtype), "shape": array.shape}).encode() + b"\n")
            answers.write(np.ascontiguousarray(array).data)
        answers.flush()


if __name__ == "__main__":
    serve()

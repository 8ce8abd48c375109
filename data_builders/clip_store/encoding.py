"""The stored form of a clip: a short H.264 video in mp4, and its members in a tar shard."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence

import numpy

from exo2ego.data.decoders import FrameArray
from exo2ego.data.spans import Span

# One group of pictures per clip: training always reads all of it. `fastdecode` (no CABAC, no loop filter) costs 4 % of
# bytes and saves 45 % of decoding time (docs/clip_store.md). x264's macroblock tree is off because it gives the same
# pictures other bytes from one call to the next, even with one thread.
ENCODER_OPTIONS = {"preset": "veryfast", "tune": "fastdecode", "g": "9999", "threads": "1", "x264-params": "mbtree=0"}
TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)


def encode_clip(pictures: Sequence[FrameArray], crf: int) -> bytes:
    """Returns an mp4 of pictures [h, w, 3] with even edges; the same pictures give the same bytes.

    Its frames are 1/30 s apart whatever their distance in the source was: the index holds their times.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=30, options={**ENCODER_OPTIONS, "crf": str(crf)})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def tar_members(
    span: Span, timestamps_s: Sequence[float], source_size: tuple[int, int], clip: bytes
) -> tuple[bytes, int]:
    """Returns the tar members of one clip, `<key>.json` and `<key>.mp4`, and where in them the mp4's bytes begin."""
    description = {**span._asdict(), "timestamps_s": list(timestamps_s), "source_size": list(source_size)}
    head = _member(f"{span.key}.json", json.dumps(description).encode())
    return head + _member(f"{span.key}.mp4", clip), len(head) + TAR_BLOCK


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % TAR_BLOCK)

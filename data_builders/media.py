"""Where the videos of a raw dataset lie on this disk, as paths relative to the media root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_builders.source import Account, DatasetOptions
from exo2ego.errors import ConfigError, DataError


class MediaFolder:
    """Finds videos in any of the layouts in which a dataset is spread, and counts those that are not there.

    `layouts` are paths below the videos' folder with `{name}` for what a row gives, the official one first; a path
    without a suffix is a folder of pictures. The names must be safe (`raw_rows.FileStem`, `RelativePath`): a path never
    leaves the media root.
    """

    def __init__(self, options: DatasetOptions, layouts: Sequence[str], account: Account) -> None:
        self._videos = Path(os.path.abspath(options.videos_folder))
        self._media_root = Path(os.path.abspath(options.media_root)) if options.media_root else self._videos
        self._policy = options.missing_videos
        self._layouts = list(layouts)
        self._account = account
        self._found: dict[tuple[tuple[str, str], ...], tuple[str, bool]] = {}
        if not self._videos.is_relative_to(self._media_root):
            raise ConfigError(
                f"media_root: the videos' folder {self._videos} must lie inside the media root {self._media_root}; "
                "give a folder above both"
            )

    def find(self, where: str, **names: str) -> str | None:
        """Returns the path of a video relative to the media root, None where the row must be left out.

        A video that is not there is named by the layout of the last one that was found, at first the official one; it
        is noted, dropped, or stops the build with `DataError`, as the options say.
        """
        key = tuple(sorted(names.items()))
        if key not in self._found:
            self._found[key] = self._look_up(names)
        path, exists = self._found[key]
        if exists:
            return path
        if self._policy == "stop":
            raise DataError(f"{where}: the video {self._media_root / path} is not there; missing_videos=stop")
        if self._policy == "drop":
            self._account.drop("missing_video", f"{where}: {path}")
            return None
        self._account.note("missing_video", f"{where}: {path}")
        return path

    def _look_up(self, names: dict[str, str]) -> tuple[str, bool]:
        paths = [layout.format(**names) for layout in self._layouts]
        for place, path in enumerate(paths):
            full = self._videos / path
            # Chunks may lie in a folder that is named as the whole video would be.
            if full.is_file() if PurePosixPath(path).suffix else full.is_dir():
                self._layouts.insert(0, self._layouts.pop(place))  # the next one most likely lies alike
                return self._relative(path), True
        return self._relative(paths[0]), False

    def _relative(self, path: str) -> str:
        full = Path(os.path.normpath(self._videos / path))
        if not full.is_relative_to(self._videos):
            raise DataError(f"{path!r} leads out of the videos' folder {self._videos}")
        return full.relative_to(self._media_root).as_posix()

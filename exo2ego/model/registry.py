"""Which connectors, mappers and towers there are: a name and where it is made, imported when used (torch-free)."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

Registry = Mapping[str, str]
"""Name in the configuration -> `module:factory`."""

CONNECTORS: dict[str, str] = {
    "stc": "exo2ego.model.connector:stc",
    "stc_v35": "exo2ego.model.connector:stc_v35",
    "stp": "exo2ego.model.connector:stp",
    "mlp": "exo2ego.model.connector:mlp",
    "linear": "exo2ego.model.connector:linear",
}
"""`model.connector.kind` -> factory(in_channels, out_channels, depth) of a `Connector`."""

MAPPERS: dict[str, str] = {
    "resnet": "exo2ego.model.mapper:ResnetMapper",
    "fc": "exo2ego.model.mapper:FullyConnectedMapper",
    "transformer": "exo2ego.model.transformer_mapper:TransformerMapper",
}
"""`model.mapper.kind` -> factory(in_channels, out_channels, options) of a `Mapper`; `none` is no mapper."""

TOWERS: dict[str, str] = {
    "clip_vision_model": "exo2ego.model.vision_tower:FrameTower",
    "siglip_vision_model": "exo2ego.model.vision_tower:FrameTower",
    "qwen2_vl_vision": "exo2ego.model.qwen2_vl_tower:Qwen2VLTower",
}
"""transformers' `model_type` of a vision configuration -> subclass of `VisionTower`."""


def named(registry: Registry, name: str) -> Any:
    """Imports and returns what `name` stands for; raises `ValueError` (see `check_name`)."""
    module, _, attribute = registry[check_name(registry, name)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_name(registry: Registry, name: str, *besides: str) -> str:
    """Returns `name` where the registry or `besides` has it; raises `ValueError` with the nearest name otherwise."""
    known = (*registry, *besides)
    if name in known:
        return name
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"`{name}` is none of {', '.join(known)}{hint}")

"""A storyboard as the YAML that people write: short, in the order of the documentation, without what is the default."""

from __future__ import annotations

from typing import Any

import yaml

from .shot import Keyframe, Shot
from .storyboard import Storyboard

__all__ = ["story_text"]


def story_text(storyboard: Storyboard) -> str:
    """YAML that `parse_storyboard` reads back to an equal storyboard."""
    film = storyboard.to_dict()
    film["fps"] = int(film["fps"]) if float(film["fps"]).is_integer() else film["fps"]
    film["shots"] = [_shot(shot) for shot in storyboard.shots]
    kept = {key: value for key, value in film.items() if value != {}}
    return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _shot(shot: Shot) -> dict[str, Any]:
    fields = shot.model_dump(mode="json", exclude_none=True)
    if shot.keyframes == [Keyframe(at=0.0)]:
        del fields["keyframes"]
    for name, default in (("transition", "cut"), ("scene", ""), ("action", "")):
        if fields.get(name) == default:
            del fields[name]
    return fields


class _Dumper(yaml.SafeDumper):
    """Short lists of numbers and cameras stand in one line."""

    def represent_data(self, data: Any) -> Any:
        node: Any = super().represent_data(data)
        camera = isinstance(data, dict) and {"scale", "angle", "movement"} == set(data)
        if camera or (isinstance(data, list) and all(isinstance(item, int) for item in data)):
            node.flow_style = True
        return node

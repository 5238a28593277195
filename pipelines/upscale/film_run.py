"""A finished film's folder as something to upscale: its clips, how they follow each other, and its keyframes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...core.documents import as_array, as_integer, as_object, as_text
from ...core.errors import InputError
from ...core.files import sha256_file
from ...execution.manifest import MANIFEST, read_manifest
from ...execution.stage import Kinds, Record
from ...media.image import open_image
from ...media.source_video import SourceVideo
from ..join import JoinedClip, joined_clips
from .job import UpscaleClip
from .keyframes import Picture

__all__ = ["FilmRun", "film_clips"]

_TRANSITIONS = ("cut", "blend", "match")


@dataclass(frozen=True)
class FilmRun:
    """What the folder of a finished film gives.

    Attributes:
        folder: where it is.
        clips: one for each shot, without keyframes.
        placed: where each lies in the film.
        rate: frames per second.
        own: the keyframes of each shot, by the shot's id.
    """

    folder: Path
    clips: list[UpscaleClip]
    placed: list[JoinedClip]
    rate: Fraction
    own: Mapping[str, Mapping[int, Picture]]

    @property
    def times(self) -> Sequence[Fraction]:
        """When each frame of the film appears, in seconds."""
        last = self.placed[-1]
        return [n / self.rate for n in range(last.start + last.frames)]

    def with_own_keyframes(self) -> list[UpscaleClip]:
        """The clips with those of the film's keyframes that are larger than its frames: the others add nothing."""
        return [replace(clip, keyframes=_larger(self.own.get(clip.name, {}), clip.size)) for clip in self.clips]

    def with_keyframes(self, pictures: Mapping[int, Picture]) -> list[UpscaleClip]:
        """The clips with pictures that are given by frame of the film; in a dissolve it is the later clip's."""
        found = []
        for i, (clip, place) in enumerate(zip(self.clips, self.placed, strict=True)):
            stop = self.placed[i + 1].start if i + 1 < len(self.placed) else place.start + place.frames
            own = {frame - place.start: path for frame, path in pictures.items() if place.start <= frame < stop}
            found.append(replace(clip, keyframes=own))
        return found


def film_clips(folder: Path, kinds: Kinds) -> FilmRun:
    """Read the folder of a finished film, of one of `kinds`.

    Raises:
        InputError: no film's folder, a film that is not finished, or clips that were changed since.
    """
    if not (folder / MANIFEST).is_file():
        rule = "must be a video, or the folder of a finished film"
        raise InputError("VIDEO", rule, str(folder), "give a video file, or what --out of `anchorshot film` was")
    manifest = read_manifest(folder, kinds)
    records = {name: Record(**entry) for name, entry in manifest.get("stages", {}).items()}
    if "film" not in records:
        raise InputError("VIDEO", "must be a finished film", str(folder), "finish it with --resume first")
    inputs = records["film"].inputs
    digests = [as_text(digest, "film.clips") for digest in as_array(inputs.get("clips"), "film.clips")]
    transitions = [as_text(name, "film.transitions") for name in as_array(inputs.get("transitions"), "transitions")]
    if len(transitions) != len(digests) or not digests or not set(transitions) <= set(_TRANSITIONS):
        raise InputError("film.transitions", "must join all clips", transitions, "render the film again")
    try:
        rate = Fraction(as_text(inputs.get("fps"), "film.fps"))
    except (ValueError, ZeroDivisionError):
        raise InputError("film.fps", "must be a rate", inputs.get("fps"), "render the film again") from None
    names = {digest: name for record in records.values() for name, digest in record.outputs.items()}
    clips, own = [], {}
    for digest in digests:
        clip = _clip(folder, names.get(digest, ""), digest)
        clips.append(clip)
        own[clip.name] = _keyframes(folder, clip, records)
    placed = joined_clips([clip.frames for clip in clips], transitions, rate)  # type: ignore[arg-type]
    return FilmRun(folder, clips, placed, rate, own)


def _clip(folder: Path, name: str, digest: str) -> UpscaleClip:
    path = folder / name
    if not name.startswith("clips/") or not path.is_file() or sha256_file(path) != digest:
        rule, fix = "must have the clips that its film was made of", "render it again with --resume"
        raise InputError("VIDEO", rule, f"{name or 'one is missing'} in {folder}", fix)
    source = SourceVideo(path)
    return UpscaleClip(path.stem, len(source.times), source.size, path=path, identity=digest)


def _keyframes(folder: Path, clip: UpscaleClip, records: Mapping[str, Record]) -> dict[int, Picture]:
    """The keyframes of a shot by their frame, as its clip's timeline has them; films from texts have none."""
    record = records.get(f"{clip.name}/clip")
    timeline: Any = {} if record is None else record.inputs.get("timeline", {})
    found = {}
    for k, key in enumerate(as_array(as_object(timeline, "timeline").get("keyframes", []), "timeline.keyframes")):
        frame = as_integer(as_object(key, "keyframe").get("frame"), "keyframe.frame", 0, clip.frames - 1)
        path = folder / f"keyframes/{clip.name}_{k:02d}.png"
        if path.is_file():
            found[frame] = path
    return found


def _larger(pictures: Mapping[int, Picture], size: tuple[int, int]) -> dict[int, Picture]:
    found = {}
    for frame, path in pictures.items():
        with open_image(path) as picture:
            if picture.width > size[1] and picture.height > size[0]:
                found[frame] = path
    return found

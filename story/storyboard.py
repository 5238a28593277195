"""The storyboard: a film as people write it down, checked hard before anything is rendered.

Read one with `load_storyboard`; check plain data with `Storyboard.parse`. Both raise `InputError` for anything wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ..core.errors import InputError, closest
from ..core.limits import MAX_FILM_KEYFRAMES, MAX_NAMED, MAX_SHOTS
from ..core.validation import Lines, line_of, place_of, to_input_error
from .load import StoryData, read_story, read_story_text
from .names import Character, check_tags, expand_names, find_names, introduce_names
from .numbering import number_shots
from .shot import Camera, Id, Keyframe, Shot, Strict, clean_text
from .timeline import MAX_FPS, MIN_FPS, frame_rate, plain_fps

__all__ = [
    "Camera", "Caption", "Character", "Keyframe", "Shot", "Storyboard", "expand_names", "load_storyboard",
    "parse_storyboard",
]  # fmt: skip

MIN_SIDE, MAX_SIDE, SIDE_STEP = 32, 4096, 16
MAX_PIXELS = 4096 * 2304
_PREPOSITIONS = {
    "aboard", "above", "across", "against", "along", "alongside", "amid", "amidst", "among", "around", "at", "atop",
    "before", "behind", "below", "beneath", "beside", "between", "beyond", "by", "down", "in", "inside", "near", "off",
    "on", "onto", "opposite", "outside", "over", "past", "through", "throughout", "under", "underneath", "up", "upon",
    "within",
}  # fmt: skip

Title = Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(clean_text)]
Name = Annotated[str, Field(pattern=r"^[^\s<>:]([^<>:]{0,38}[^\s<>:])?$"), BeforeValidator(clean_text)]
Description = Annotated[str, Field(min_length=1, max_length=400), BeforeValidator(clean_text)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP)]
Fps = Annotated[float, Field(ge=MIN_FPS, le=MAX_FPS), AfterValidator(lambda fps: plain_fps(frame_rate(fps)))]


@dataclass(frozen=True)
class Caption:
    """What the models are told about one shot or keyframe.

    Attributes:
        prompt: for generation: ``<Name>`` tags, each described at the film's first mention only.
        query: for retrieval: descriptions in the place of the tags.
        names: characters in it, in order of first mention.
    """

    prompt: str
    query: str
    names: tuple[str, ...]


class Storyboard(Strict):
    """A film: its cast, its places and its shots in order."""

    title: Title = Field(default="Untitled", examples=["Two friends"])
    fps: Fps = Field(default=8, description="Frames per second. The pocket studio is trained at 8.", examples=[8])
    size: Annotated[tuple[Side, Side], Field(strict=False)] = Field(
        default=(160, 80),
        description="[width, height] in pixels, multiples of 16. The pocket studio is trained at [160, 80].",
        examples=[[160, 80]],
    )
    characters: dict[Name, Description] = Field(
        default_factory=dict,
        max_length=MAX_NAMED,
        description="Name: looks. A prompt tags the name as <Name>; the first mention in the film carries the looks.",
        examples=[{"Mira": "a yellow square with a crown"}],
        json_schema_extra={"additionalProperties": False},
    )
    places: dict[Id, Description] = Field(
        default_factory=dict,
        max_length=MAX_NAMED,
        description='Key: words that follow "in", e.g. "the desert", or words with their preposition, "on the moon".',
        examples=[{"dunes": "the desert"}],
        json_schema_extra={"additionalProperties": False},
    )
    shots: list[Shot] = Field(
        min_length=1,
        max_length=MAX_SHOTS,
        description="In film order.",
        examples=[[{"id": "s01", "scene": "<Mira> waves on the left."}]],
    )
    mode: Literal["keyframes", "pairs"] | None = Field(
        default=None,
        description="What `anchorshot film` makes shots from: keyframes (the default), or pairs of a start and an end "
        "frame.",
        examples=["pairs"],
    )

    _folder: Path | None = PrivateAttr(default=None)
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def parse(
        cls,
        data: object,
        *,
        folder: str | os.PathLike[str] | None = None,
        lines: Lines | None = None,
        source: str = "",
        notes: Iterable[str] = (),
    ) -> Storyboard:
        """Check plain data (as read from YAML or JSON) and return the storyboard.

        Args:
            data: a mapping with the fields of this class.
            folder: where keyframe images lie. Without it images are checked by their words only, and
                `image_path` cannot be used.
            lines, source: lines and name of the file, for errors.
            notes: see `notes`.

        Raises:
            InputError: the first thing wrong: field, rule, value and fix.
        """
        if not isinstance(data, Mapping):
            seen = None if data is None else f"a {type(data).__name__}"
            rule = "must be a mapping with title, characters, places and shots"
            raise InputError("storyboard", rule, seen, "start the file with `title: …` and `shots:`", source)
        _check_counts(data, lines or {}, source)
        try:
            board = cls.model_validate(dict(data), context={"folder": folder})
        except ValidationError as error:
            raise to_input_error(error, _model_at, lines or {}, source) from None
        board._folder = None if folder is None else Path(folder)
        board._notes = tuple(notes)
        return board

    @model_validator(mode="before")
    @classmethod
    def _number(cls, data: Any) -> Any:
        shots = data.get("shots") if isinstance(data, Mapping) else None
        return {**data, "shots": number_shots(shots)} if isinstance(shots, list) else data

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Storyboard:
        width, height = self.size
        if width * height > MAX_PIXELS:
            rule = f"must have at most {MAX_PIXELS} pixels"
            raise InputError("size", rule, f"{width} × {height}", "use e.g. [1280, 640] and upscale the film")
        for kind, texts in (("characters", self.characters), ("places", self.places)):
            for key, text in texts.items():
                if "<" in text or ">" in text:
                    raise InputError(f"{kind}.{key}", "must be plain words without < or >", text, "remove the tag")
        seen: dict[str, int] = {}
        folder = (info.context or {}).get("folder")
        for i, shot in enumerate(self.shots):
            where = f"shots[{i}]"
            # Case does not count: the ids become file names, and some file systems fold case.
            if (first := seen.setdefault(shot.id.lower(), i)) != i:
                rule = f"must be unique, but shots[{first}] has it too"
                raise InputError(f"{where}.id", rule, shot.id, "give every shot its own id")
            if shot.place is not None and shot.place not in self.places:
                raise InputError(f"{where}.place", "is not in places", shot.place, self._place_fix(shot.place))
            check_tags(shot.scene, self.characters, f"{where}.scene")
            check_tags(shot.action, self.characters, f"{where}.action")
            if shot.transition == "match" and not i:
                fix = "use cut"
                raise InputError(f"{where}.transition", "match needs a shot before this one", shot.transition, fix)
            shot.timeline(self.fps, where)
            for k, keyframe in enumerate(shot.keyframes):
                check_tags(keyframe.text or "", self.characters, f"{where}.keyframes[{k}].text")
                if keyframe.image is not None and folder is not None:
                    _resolve_image(Path(folder), keyframe.image, f"{where}.keyframes[{k}].image")
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader left out or had to decide, one line each; empty for a storyboard's own formats."""
        return self._notes

    def _place_fix(self, place: str) -> str:
        near = closest(place, self.places)
        if near:
            return f"did you mean `{near}`?"
        known = ", ".join(list(self.places)[:8])
        return f'add `{place}: "the …"` under places' + (f" or use one of {known}" if known else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types that `parse` reads back to an equal storyboard."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels, the order that algorithms use."""
        return self.size[1], self.size[0]

    @property
    def rate(self) -> Fraction:
        """Exact frames per second (24000/1001 for 23.976)."""
        return frame_rate(self.fps)

    @property
    def cast(self) -> list[Character]:
        """The characters, each with the ids of the shots that mention it."""
        names = [set(find_names(" ".join(shot.texts))) for shot in self.shots]
        return [
            Character(name, text, tuple(s.id for s, found in zip(self.shots, names, strict=True) if name in found))
            for name, text in self.characters.items()
        ]

    def captions(self) -> list[Caption]:
        """One caption per shot, in film order.

        The prompt is ``{scale}, {movement}, in {place}. {scene} {action}``, with the camera angle after the scale
        unless it is eye level. The first mention of a name in the FILM carries its description (Captain Cinema,
        Appendix B), so caption the whole film even when only some shots are rendered.
        """
        known: set[str] = set()
        return [self.caption(shot, known) for shot in self.shots]

    def keyframe_captions(self) -> list[list[Caption]]:
        """One caption per keyframe, by shot: interleaved image-text pairs (Captain Cinema §3.2).

        A keyframe without a text of its own has its shot's, and so have several of one shot. The first mention of a
        name in the film's KEYFRAMES carries its description: where no keyframe has a text of its own, these are the
        captions of `captions`.
        """
        known: set[str] = set()
        film = []
        for shot in self.shots:
            captions, shown = [], set[str]()
            for keyframe in shot.keyframes:
                if keyframe.text:
                    known |= shown
                    captions.append(self._caption(shot, _sentence(keyframe.text), known))
                else:  # equal ones stay equal: each tells who is new in this shot
                    captions.append(self._caption(shot, _body(shot), known.copy()))
                    shown |= set(captions[-1].names)
            known |= shown
            film.append(captions)
        return film

    def caption(self, shot: Shot, known: set[str]) -> Caption:
        """The caption of one shot where the `known` characters need no description; `known` gains the others."""
        return self._caption(shot, _body(shot), known)

    def _caption(self, shot: Shot, body: str, known: set[str]) -> Caption:
        """The caption of a shot that shows `body`; `known` gains the names that it introduces."""
        camera = shot.camera
        head: list[str] = [camera.scale, camera.movement]
        if camera.angle != "eye level":
            head.insert(1, camera.angle)
        if shot.place is not None:
            head.append(_locate(self.places[shot.place]))
        told, query = introduce_names(body, self.characters, known), expand_names(body, self.characters)
        opening = ", ".join(head)
        return Caption(f"{opening}. {told}", f"{opening}. {query}", tuple(find_names(body)))

    def subset(self, shots: str | None) -> list[int]:
        """Positions (from 0, in film order) of the shots that a selection such as ``s02,s04-s06`` names.

        None selects all. An id that itself holds a hyphen is taken as that id before it is read as a range.

        Raises:
            InputError: an empty selection, an unknown id, or a range that runs backwards.
        """
        if shots is None:
            return list(range(len(self.shots)))
        positions = {shot.id: i for i, shot in enumerate(self.shots)}
        chosen: set[int] = set()
        for part in (p.strip() for p in shots.split(",")):
            if not part:
                raise InputError("--shots", "must list shot ids", shots, "write e.g. s02,s04-s06")
            chosen.update(_range(part, positions))
        return sorted(chosen)

    def image_path(self, keyframe: Keyframe) -> Path | None:
        """Where the user's own picture for `keyframe` lies, or None if it is to be generated.

        Raises:
            InputError: the storyboard was made without a folder, or the picture is gone or leads out of the folder.
        """
        if keyframe.image is None:
            return None
        if self._folder is None:
            fix = "load the storyboard from a file, or pass folder= to Storyboard.parse"
            raise InputError("keyframe.image", "needs the storyboard's folder", keyframe.image, fix)
        return _resolve_image(self._folder, keyframe.image, "keyframe.image")


def load_storyboard(path: str | os.PathLike[str], *, shown: str = "", raw: bytes | None = None) -> Storyboard:
    """Read a storyboard file in any of the formats of `formats.KINDS`.

    Args:
        path: the file; its suffix decides the format, and a ``.txt`` is told by its content.
        shown: what errors call the path, where the path itself is nobody's business.
        raw: the file's content, if it is known.

    Raises:
        InputError: the file cannot be read, or anything in it is wrong.
    """
    return _from_data(read_story(path, shown=shown, raw=raw))


def parse_storyboard(text: str, kind: str = "yaml", *, folder: str | os.PathLike[str] | None = None) -> Storyboard:
    """The same from text in hand.

    Args:
        text: the storyboard.
        kind: yaml, json, csv, txt, fountain or fdx; ``auto`` tells it by the text.
        folder: where keyframe images lie, see `Storyboard.parse`.

    Raises:
        InputError: anything in it is wrong.
    """
    return _from_data(read_story_text(text, kind, folder=folder))


def _from_data(story: StoryData) -> Storyboard:
    return Storyboard.parse(story.data, folder=story.folder, lines=story.lines, source=story.source, notes=story.notes)


def _check_counts(data: Mapping[Any, Any], lines: Lines, source: str) -> None:
    """Refuse too many of anything before each is looked at, so that a check costs no more than a film may hold."""
    shots = data.get("shots")
    shots = shots if isinstance(shots, list) else []
    counts = {name: len(data[name]) for name in ("characters", "places") if isinstance(data.get(name), Mapping)}
    keyframes = [s.get("keyframes") for s in shots[:MAX_SHOTS] if isinstance(s, Mapping)]
    for name, count, most, fix in (
        ("shots", len(shots), MAX_SHOTS, "split the film into several storyboards"),
        ("characters", counts.get("characters", 0), MAX_NAMED, "describe only who comes again"),
        ("places", counts.get("places", 0), MAX_NAMED, "use the same words where the place is the same"),
        ("keyframes", sum(len(k) for k in keyframes if isinstance(k, list)), MAX_FILM_KEYFRAMES,
         "split the film into several storyboards"),
    ):  # fmt: skip
        if count > most:
            where = place_of(source, line_of((name,), lines))
            raise InputError(name, f"must hold at most {most}", f"{count} items", fix, where)


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model whose fields stand at `location` in a storyboard."""
    shape = tuple(part for part in location if not isinstance(part, int))
    models: dict[tuple[Any, ...], type[BaseModel]] = {
        (): Storyboard, ("shots",): Shot, ("shots", "camera"): Camera, ("shots", "keyframes"): Keyframe,
    }  # fmt: skip
    return models.get(shape)


def _resolve_image(folder: Path, image: str, field: str) -> Path:
    """The picture's real path; it must exist and, with every link followed, lie inside `folder`."""
    try:
        root = folder.resolve()
        path = (root / image).resolve()
        inside, found = path.is_relative_to(root), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a ring of links
        raise InputError(field, "cannot be opened", image, f"check the path ({type(error).__name__})") from error
    if not inside:
        fix = "copy the picture into the folder instead of linking to it"
        raise InputError(field, "must stay inside the storyboard's folder", image, fix)
    if not found:
        fix = "check the path; it starts at the storyboard's folder"
        raise InputError(field, "is a picture that does not exist", image, fix)
    return path


def _body(shot: Shot) -> str:
    return " ".join(_sentence(text) for text in (shot.scene, shot.action) if text)


def _sentence(text: str) -> str:
    return text if text.rstrip("\"'”’)")[-1:] in tuple(".!?…") else f"{text}."


def _locate(place: str) -> str:
    """``the desert`` → ``in the desert``; ``on the moon`` stays."""
    words = place.rstrip(". ")
    first, _, rest = words.partition(" ")
    if first.lower() in _PREPOSITIONS:
        return f"{first.lower()} {rest}".rstrip()
    return words if words.lower().startswith(("next to ", "close to ")) else f"in {words}"


def _range(part: str, positions: Mapping[str, int]) -> range:
    if part in positions:
        return range(positions[part], positions[part] + 1)
    cuts = [i for i, c in enumerate(part) if c == "-"]
    for cut in cuts:
        first, last = part[:cut].strip(), part[cut + 1 :].strip()
        if first in positions and last in positions:
            if positions[first] > positions[last]:
                raise InputError("--shots", "has a range that runs backwards", part, f"write {last}-{first}")
            return range(positions[first], positions[last] + 1)
    ends = [part]
    if cuts:
        first, last = part[: cuts[0]].strip(), part[cuts[0] + 1 :].strip()
        ends = [e for e in (first, last) if e not in positions] or [part]
    near = closest(ends[0], positions)
    fix = f"did you mean {near}?" if near else f"the ids are {', '.join(list(positions)[:8])}"
    raise InputError("--shots", "names a shot that does not exist", ends[0], fix)

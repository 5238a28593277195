"""Manifests that somebody has edited: refused in one line, or what they no longer say rightly is made again."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.core.files import write_atomic
from anchorshot.execution.manifest import MANIFEST, parse_manifest, read_manifest
from anchorshot.models.studio import load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.kinds import KINDS, open_run
from anchorshot.story.storyboard import Storyboard

FILES = {"s01/keyframe-0": "keyframes/s01_00.png", "s01/clip": "clips/s01.mkv", "film": "film.mp4"}
INFO = {"s01/keyframe-0": {"remembers": [], "tokens": 50}, "s01/clip": {"keyframe_psnr_db": [30.5], "motion": 0.1}}
ODD = [None, True, -1, 0, 3.5, 10**30, "", "x", "../x", [], [1], ["x"], {}, {"a": 1}, {"a": []}, [[]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest") / "film"
    with open_run(folder, resume=False) as run:
        run.describe(title="x", seeds={"s01": 1})
        run.new_takes(["s02"])
        for stage, name in FILES.items():
            write_atomic(run.file(name), stage)
            run.finish(stage, {"studio": "0" * 64, "settings": {"steps": 4}}, [name], 0.5, **INFO.get(stage, {}))
        run.complete([])
    return folder


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The location of everything in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, held in inner for place in places(held, (*path, key)))]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_edit_of_a_manifest_is_a_crash(data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    """Any value replaced, removed or added anywhere: refused, or the run goes through and ends whole."""
    folder = tmp_path / "film"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    manifest: Any = json.loads((folder / MANIFEST).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(manifest)))
        odd = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        if not place:
            manifest = odd if data.draw(st.booleans()) else manifest
            continue
        holder = manifest
        for key in place[:-1]:
            holder = holder[key]
        how = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del holder[place[-1]]
        elif how == "add" and isinstance(holder, dict):
            holder[data.draw(st.sampled_from(["x", "again", "stale", "removed", "info", "takes"]))] = odd
        else:
            holder[place[-1]] = odd
        if not isinstance(manifest, dict | list):
            break
    (folder / MANIFEST).write_text(json.dumps(manifest))
    try:
        with open_run(folder, resume=True) as run:
            assert isinstance(run.take("s01"), int) and len(run.results_of("s01")) <= 3 + len(run.results)
            for stage, name in FILES.items():
                inputs = {"studio": "0" * 64, "settings": {"steps": 4}}
                if run.why(stage, inputs, [name], list(INFO.get(stage, {}))) is not None:
                    write_atomic(run.file(name), stage)
                    run.finish(stage, inputs, [name], 0.5, **INFO.get(stage, {}))
                record = run.record(stage)
                assert record is not None and set(INFO.get(stage, {})) <= record.info.keys()
            run.complete([])
        assert [(folder / name).read_text() for name in FILES.values()] == list(FILES)
        read_manifest(folder, KINDS)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        assert [(folder / name).read_text() for name in FILES.values()] == list(FILES)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("format",), 2, "format: must be 1"),
        (("task",), ["film"], "task: must be one of"),
        (("takes", "s02"), "two", "takes.s02: must be a whole number"),
        (("stages",), None, "stages: must be a JSON object"),
        (("stages", "film"), 1, "stages.film: must be"),
        (("stages", "film", "outputs"), None, "stages.film.outputs: must be"),
        (("stages", "film", "outputs", "film.mp4"), "x", "must be a SHA-256"),
        (("stages", "film", "seconds"), "1", "stages.film.seconds: must be a number"),
        (("stages", "film", "extra"), 1, "is not a field of a stage"),
        (("stages", "s01/clip", "info", "keyframe_psnr_db"), [None], "keyframe_psnr_db[0]: must be a number"),
        (("stages", "s01/keyframe-0", "info", "remembers"), "x", "remembers: must be"),
        (("again",), {"a": 1}, "again: must be a JSON list"),
        (("removed",), [1], "removed[0]: must be a text"),
    ],
)
def test_what_is_wrong_is_named(place: tuple, value: Any, words: str, whole: Path) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())
    holder = manifest
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(InputError) as caught:
        parse_manifest(manifest, KINDS)
    assert words in f"{caught.value.field}: {caught.value.rule}"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1, "format": 1}', '{"format": NaN}', "1" * 5000, "\xff"])
def test_hostile_text_is_refused_at_once(text: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "film"))
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="cannot be resumed"), open_run(folder, resume=True):
        pass


def test_figures_that_are_gone_or_too_few_do_not_stop_a_film(tiny_studio: Path, tmp_path: Path) -> None:
    """A real film: what is missing is made again; a figure too few is none in the summary."""
    shot = {"id": "s01", "action": "It rains.", "seconds": 0.625}
    board, out = Storyboard.parse({"title": "x", "size": [64, 32], "shots": [shot]}), tmp_path / "film"
    make_film(board, load_studio(tiny_studio), out)
    film = (out / "film.mp4").read_bytes()

    def edited(edit: Any) -> dict[str, Any]:
        manifest = json.loads((out / MANIFEST).read_text())
        edit(manifest["stages"])
        (out / MANIFEST).write_text(json.dumps(manifest))
        summary = make_film(board, load_studio(tiny_studio), out, resume=True)
        assert (out / "film.mp4").read_bytes() == film
        return summary

    assert edited(lambda stages: stages["s01/clip"]["info"].pop("motion"))["timings"]["made"] == ["s01/clip"]
    cut = edited(lambda stages: stages["s01/clip"]["info"].update(keyframe_psnr_db=[]))
    assert cut["timings"]["made"] == [] and cut["shots"][0]["keyframes"][0]["psnr_db"] is None
    odd = {"requested": "x", "frame": [], "attempts": 2}
    kept = edited(lambda stages: stages["s01/keyframe-0"]["info"].update(odd))
    assert kept["shots"][0]["keyframes"][0]["requested"] == 0 and kept["check"] is None
    swapped = edited(lambda stages: stages["s01/keyframe-0"].update(outputs=stages["film"]["outputs"]))
    assert swapped["timings"]["made"] == ["s01/keyframe-0"]

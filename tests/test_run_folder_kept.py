"""Folders of films made by an earlier version (`tests/run_folders`) resume with nothing made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anchorshot.core.files import sha256_file
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.text_film import make_text_film
from anchorshot.story.storyboard import load_storyboard

KEPT = Path(__file__).parent / "run_folders"
MAKE = {"film": make_film, "tell": make_text_film}


def studio(folder: Path, task: str) -> Studio:
    """The studio of the kept films. Where the shipped weights were trained on since, the folder names today's."""
    found = load_studio(KEPT / "studio.yaml")
    weights = json.loads((KEPT / "weights.json").read_text())
    folder_of_weights = KEPT / found.config.models_dir
    if any(sha256_file(folder_of_weights / name) != digest for name, digest in weights.items()):
        manifest = json.loads((folder / "manifest.json").read_text())
        parts = ("video", "video_vae", "video_text", "clip") if task == "tell" else ()
        for record in manifest["stages"].values():
            if "studio" in record["inputs"]:
                record["inputs"]["studio"] = found.fingerprint(*parts)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return found


@pytest.mark.parametrize("task", MAKE)
def test_a_film_of_an_earlier_version_resumes_with_nothing_made_again(task: str, tmp_path: Path) -> None:
    folder = tmp_path / task
    shutil.copytree(KEPT / task, folder)
    kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json"}
    said: list[str] = []
    story = load_storyboard(KEPT / "story.yaml")
    summary = MAKE[task](story, studio(folder, task), folder, resume=True, say=said.append)
    assert summary["timings"]["made"] == []
    assert not said
    assert all(file.read_bytes() == content for file, content in kept.items())


def test_a_changed_shot_of_such_a_film_is_made_again_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "film"
    shutil.copytree(KEPT / "film", folder)
    story = load_storyboard(KEPT / "story.yaml")
    last = story.shots[-1].model_copy(update={"action": "<Pip> jumps on the right."})
    story = story.model_copy(update={"shots": [*story.shots[:-1], last]})
    summary = make_film(story, studio(folder, "film"), folder, resume=True)
    assert summary["timings"]["made"] == ["film", "s03/clip", "s03/keyframe-0", "s03/keyframe-1"]

"""The command line: exit codes, one line for bad input, and arguments that reach their command."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchorshot.cli import main
from anchorshot.cli.console import StageProgress
from anchorshot.cli.film import _show as show_film

GOOD = """
title: Two friends
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown, Pip: a pink circle with a bow}
places: {dunes: the desert}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., seconds: 1.125}
  - {id: s02, place: dunes, action: <Pip> jumps on the right., seconds: 1.125, keyframes: [{at: 0}, {at: 0.5}]}
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_moved_keyframe_shows_both_times_where_they_look_different(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [{"requested": a, "snapped": b} for a, b in ((0.376, 0.375), (0.4, 0.375))]
    shot = {"id": "s01", "place": None, "start": 0.0, "seconds": 1.0, "take": 1, "kept": True, "keyframes": keys}
    show_film({"title": "x", "seconds": 1.0, "shots": [shot], "files": []}, Path("out"))
    assert "│ 0.38 s, 0.40 → 0.38 s │" in capsys.readouterr().out


STORY_FAULTS = {
    "broken YAML": "title: [",
    "tabs": "title: x\n\tshots: []",
    "empty file": "",
    "a list": "- 1\n- 2",
    "no shots": "title: x\nshots: []",
    "unknown field": GOOD + "music: loud\n",
    "unknown place": changed("place: dunes", "place: mars"),
    "unknown name": changed("<Pip>", "<Pop>"),
    "no text": changed("action: <Mira> waves on the left.", "action: ''"),
    "unknown movement": changed("seconds: 1.125}", "seconds: 1.125, camera: {movement: sideways}}"),
    "keyframe after the end": changed("{at: 0.5}", "{at: 7}"),
    "keyframes out of order": changed("[{at: 0}, {at: 0.5}]", "[{at: 0.5}, {at: 0}]"),
    "negative time": changed("{at: 0}", "{at: -1}"),
    "NaN time": changed("{at: 0.5}", "{at: .nan}"),
    "infinite length": changed("seconds: 1.125", "seconds: .inf"),
    "zero length": changed("seconds: 1.125", "seconds: 0"),
    "not 4n+1": changed("seconds: 1.125", "frames: 8"),
    "the same id twice": changed("id: s02", "id: S01"),
    "a path as id": changed("id: s02", "id: ../s02"),
    "huge size": changed("[160, 80]", "[40000, 40000]"),
    "odd size": changed("[160, 80]", "[161, 80]"),
    "fps of zero": changed("fps: 8", "fps: 0"),
    "text as fps": changed("fps: 8", "fps: fast"),
    "image outside": changed("{at: 0}", "{at: 0, image: ../../etc/x.png}"),
    "absolute image": changed("{at: 0}", "{at: 0, image: /etc/x.png}"),
    "missing image": changed("{at: 0}", "{at: 0, image: gone.png}"),
    "python object": "!!python/object/apply:os.system ['true']",
    "alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with code 2 and exactly one line on stderr; return the line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert not sys.stdout.closed
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in lines[0] and lines[0].startswith("anchorshot")
    return lines[0]


@pytest.mark.parametrize("fault", STORY_FAULTS)
def test_a_bad_storyboard_is_one_line_and_code_2(fault: str, tmp_path: Path, capsys) -> None:
    story = tmp_path / "story.yaml"
    story.write_text(STORY_FAULTS[fault])
    refused(capsys, "film", story, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_files_and_arguments(tmp_path: Path, capsys) -> None:
    story = tmp_path / "story.yaml"
    story.write_text(GOOD)
    out = tmp_path / "out"
    (tmp_path / "binary.yaml").write_bytes(b"title: \xff")
    (tmp_path / "file").write_text("")
    for words, arguments in {
        "must be an existing": ["film", tmp_path / "gone.yaml"],
        "UTF-8": ["film", tmp_path / "binary.yaml"],
        "must be a regular": ["film", tmp_path],
        "must end in": ["film", tmp_path / "file"],
        "does not exist (got": ["film", story, "--shots", "s09"],
        "must list": ["film", story, "--shots", ","],
        "backwards": ["film", story, "--shots", "s02-s01"],
        "--dependents": ["film", story, "--dependents"],
        "number from 2 to 32": ["film", story, "--joint", "33"],
        "0…1, or be LOW-HIGH": ["film", story, "--context-noise", "0.3-0.1"],
        "negative: matters only with guidance": ["film", story, "--negative", "a forest"],
        "cfg: must be a finite number": ["film", story, "--cfg", "nan"],
        "choose from 'euler', 'heun', 'dpmpp_2m'": ["film", story, "--sampler", "ddim"],
        "device of this machine": ["film", story, "--device", "toaster"],
        "not a folder": ["film", story, "--json", tmp_path],
        "must lie in a folder": ["film", story, "--json", tmp_path / "file" / "x.json"],
        "unrecognized": ["film", story, "--fast"],
        "required": ["film"],
        "invalid choice": ["render"],
        "must be one of": ["evaluate", "everything"],
        "number from 1 to": ["evaluate", "keyframes", "--stories", "0"],
        "number from 0 to": ["evaluate", "keyframes", "--seed", "x"],
        "one of keyframes, video": ["bench", "all"],
        "separated by commas": ["evaluate", "keyframes", "--pairs", "8,,16"],
        "must be one of vae": ["train", "everything"],
        "RECIPE: must be an existing recipe file": ["train", tmp_path / "gone.yaml"],
        "--warm: is for the pocket studio's recipes": ["train", "mine.yaml", "--warm"],
        "must be a built-in studio": ["bench", "video", "--studio", "poket"],
        'device of this machine (got "meta")': ["film", story, "--device", "meta"],
        "--json: must not be empty": ["film", story, "--json", ""],
        "--out: must not be empty": ["train", "vae", "--out", ""],
        "--out: must be a writable folder": ["train", "vae", "--out", tmp_path / "file"],
        "out: must be a writable folder": ["evaluate", "keyframes", "--out", tmp_path / "file"],
        "number from 1 to 1024": ["film", story, "--threads", "0"],
    }.items():
        line = refused(capsys, *arguments, *(["--out", out] if arguments[0] == "film" else []))
        assert words in line, line
    assert not out.exists()


def test_help_and_version_answer_without_loading_models(capsys) -> None:
    assert main(["--help"]) == 0
    assert {"film", "evaluate", "bench", "train"} <= set(re.findall(r"\w+", capsys.readouterr().out))
    for command in ("film", "evaluate", "bench", "train"):
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().err == ""
    code = "import sys; from anchorshot.cli import main; main(['film', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def render(story: Path, studio: Path, out: Path, *more: str | Path) -> int:
    return main(["film", *map(str, (story, "--studio", studio, "--out", out, "--device", "cpu", *more))])


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.yaml"
    path.write_text(GOOD.replace("[160, 80]", "[64, 32]").replace("1.125", "0.625"))
    return path


def test_film_writes_its_files_and_the_json(story: Path, tiny_studio: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert render(story, tiny_studio, out, "--shots", "s01", "--json", tmp_path / "new" / "summary.json") == 0
    captured = capsys.readouterr()
    told = [re.sub(r"[\d.]+ s", "- s", line).strip() for line in captured.err.splitlines()]
    assert told == ["- s  s01/keyframe-0 made in - s", "- s  s01/clip made in - s", "- s  film made in - s"]
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == summary
    assert [shot["id"] for shot in summary["shots"]] == ["s01"]
    for name in ("film.mp4", "contact_sheet.png", "summary.json"):
        assert (out / name).stat().st_size > 0 and str(out / name) in captured.out


def test_settings_of_keyframes_reach_the_film(story: Path, tiny_studio: Path, tmp_path: Path) -> None:
    flags = ("--joint", "2", "--context-noise", "0.001-0.25", "--cfg", "2", "--negative", "a forest")
    more = ("--sampler", "heun", "--level", "latent", "--shots", "s01")
    assert render(story, tiny_studio, tmp_path / "out", *flags, *more) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    asked = {"window": 2, "mode": "full", "context_noise": [0.001, 0.25], "cfg": 2.0, "negative": "a forest",
             "sampler": "heun", "level": "latent"}  # fmt: skip
    assert asked.items() <= manifest["stages"]["s01/keyframe-0"]["inputs"]["settings"].items()
    assert "s02/keyframe-0" in manifest["stages"]  # of the same window


def test_ctrl_c_ends_with_130_and_leaves_a_resumable_folder(
    story: Path, tiny_studio: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT in the middle of a clip's sampling; then --resume makes only what was missing."""

    def update(self: StageProgress, stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "video" and done == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(StageProgress, "update", update)
        assert render(story, tiny_studio, tmp_path / "out") == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert "interrupted" in line and "--resume" in line
    assert not (tmp_path / "out" / "film.mp4").exists()
    assert render(story, tiny_studio, tmp_path / "out", "--resume") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["timings"]["made"] == ["film", "s02/clip"]


def test_bad_pictures_and_weights_are_one_line(story: Path, tiny_studio: Path, tmp_path: Path, capsys) -> None:
    """A NaN picture, a pickle named .safetensors, a size the studio cannot make, a folder of somebody else's."""
    picture = np.full((40, 40), np.nan, np.float32)
    Image.fromarray(picture).save(tmp_path / "nan.tiff")
    (tmp_path / "nan.tiff").rename(tmp_path / "nan.png")
    own = tmp_path / "own.yaml"
    own.write_text(story.read_text().replace("{at: 0}", "{at: 0, image: nan.png}"))
    studio = Path(shutil.copytree(tiny_studio.parent, tmp_path / "studio")) / "tiny.yaml"
    (studio.parent / "vae.safetensors").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "film.mp4").write_text("holiday")
    out = tmp_path / "out"
    rest = ["--device", "cpu", "--studio"]
    assert "must be a picture" in refused(capsys, "film", own, "--out", out, *rest, tiny_studio)
    assert "pickle" in refused(capsys, "film", story, "--out", out, *rest, studio)
    assert "no film of ours" in refused(capsys, "film", story, "--out", tmp_path / "taken", *rest, tiny_studio)
    assert "--redo" in refused(capsys, "film", story, "--out", out, "--redo", "s09", *rest, tiny_studio)
    assert not (out / "film.mp4").exists() and not (out / "keyframes").exists()


def test_anything_else_ends_with_1_and_is_told(story: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("anchorshot.models.studio.load_studio", broken)
    assert main(["film", str(story), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "anchorshot: failed: RuntimeError: the disk is full"

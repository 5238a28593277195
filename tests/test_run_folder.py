"""The run folder: what it lists is whole and unchanged, whatever happened before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anchorshot.pipelines.run_folder import MANIFEST, RunFolder, open_run
from anchorshot.story.errors import InputError
from anchorshot.story.files import write_atomic


def work(folder: Path, log: Path) -> None:
    """A run of three stages; what it begins and finishes goes to a log."""
    with open_run(folder, resume=True) as run:
        run.describe(title="x")
        for stage in ("s01/keyframe-0", "s01/clip", "s02/clip"):
            if run.why(stage, {"text": stage}) is not None:
                with open(log, "a") as file:
                    file.write(f"{stage} begun\n")
                make(run, stage, {"text": stage})
                with open(log, "a") as file:
                    file.write(f"{stage} finished\n")


def work_until_killed(folder: Path, log: Path, n: int) -> int:
    """`work` in a process that dies, as by `kill -9`, just before its n-th file takes its name. Returns its status.

    All changes on the disk are such renames, so every state that the folder passes through is met.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    real, left = os.replace, n

    def replace(source: str, target: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace  # type: ignore[assignment]
    try:
        work(folder, log)
        os._exit(0)
    finally:
        os._exit(1)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make(run: RunFolder, stage: str, inputs: dict | None = None, text: str = "x") -> str:
    name = f"clips/{stage.replace('/', '_')}.mkv"
    write_atomic(run.file(name), text)
    run.finish(stage, inputs or {}, [name], 0.1, tokens=(1, 2))
    return name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no kill -9 on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_anywhere_it_resumes_to_the_same_folder(tmp_path: Path) -> None:
    work(tmp_path / "whole", tmp_path / "log")
    expected = contents(tmp_path / "whole")
    for n in range(1, 100):
        folder, log = tmp_path / f"run{n}", tmp_path / f"log{n}"
        status = work_until_killed(folder, log, n)
        if status == 0:  # past the last file
            break
        assert status == signal.SIGKILL
        work(folder, log)
        assert contents(folder) == expected, n
        lines = log.read_text().splitlines()
        finished = [line for line in lines if line.endswith("finished")]
        assert len(finished) == len(set(finished)), "a finished stage was made twice"
        assert len(lines) <= 2 * 3 + 1, "more than the one interrupted stage was begun twice"
    assert n > 3 * 2  # three outputs, each with an entry in the manifest


def test_a_finished_stage_stays_until_something_changes(tmp_path: Path) -> None:
    inputs = {"prompt": "a", "size": (80, 160), "steps": 4}
    with open_run(tmp_path, resume=False) as run:
        assert run.why("s01/clip", inputs) == "not made yet"
        name = make(run, "s01/clip", inputs)
        assert run.why("s01/clip", inputs) is None
    with open_run(tmp_path, resume=True) as run:
        assert run.why("s01/clip", inputs) is None
        record = run.record("s01/clip")
        assert record is not None and record.info == {"tokens": [1, 2]}
        assert run.why("s01/clip", {**inputs, "prompt": "b"}) == "prompt changed"
        assert run.why("s01/clip", {"prompt": "a", "size": [80, 160]}) == "steps changed"
        assert run.why("s01/clip", {**inputs, "seed": 3, "steps": 5}) == "steps, seed changed"
    for spoil, reason in (
        (lambda p: p.write_bytes(b"other"), f"{name} is damaged"),
        (lambda p: p.unlink(), f"{name} is missing"),
    ):
        spoil(tmp_path / name)
        with open_run(tmp_path, resume=True) as run:
            assert run.why("s01/clip", inputs) == reason


def test_takes_count_up_and_only_the_redone_shot_is_forgotten(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        for stage in ("s1/keyframe-0", "s1/clip", "s10/clip", "s2/clip"):
            make(run, stage)
        assert run.take("s1") == 1
        run.new_takes(["s1"], again=["s2", "nobody"])
    with open_run(tmp_path, resume=True) as run:
        assert [run.take(shot) for shot in ("s1", "s2", "s10")] == [2, 1, 1]
        assert list(run.stages) == ["s10/clip"]
        assert run.why("s1/keyframe-0", {}) == run.why("s1/clip", {}) == "not made yet"
        assert run.why("s10/clip", {}) is None


def test_without_resume_a_film_is_made_anew_and_foreign_files_stay(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        name = make(run, "s01/clip")
        run.new_takes(["s02"])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "clips" / "mine.mkv").write_text("mine")
    with open_run(tmp_path, resume=False) as run:
        assert run.record("s01/clip") is None and run.take("s02") == 1
    assert not (tmp_path / name).exists()
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "clips" / "mine.mkv").exists()


def test_a_manifest_can_not_have_files_elsewhere_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    folder = tmp_path / "run"
    with open_run(folder, resume=False) as run:
        make(run, "s01/clip")
    manifest = json.loads((folder / MANIFEST).read_text())
    outputs = {"../victim.png": "", str(victim): "", "clips/../../victim.png": "", "clips/..": "", "manifest.json": ""}
    manifest["stages"]["s01/clip"]["outputs"] = outputs
    (folder / MANIFEST).write_text(json.dumps(manifest))
    victim.write_text("keep")
    with open_run(folder, resume=False):
        pass
    assert victim.read_text() == "keep"


def test_foreign_files_of_the_same_name_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("holiday")
    for resume in (False, True):
        with pytest.raises(InputError, match="no film of ours"), open_run(tmp_path, resume=resume):
            pass
    assert (tmp_path / "film.mp4").read_text() == "holiday"


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"format": 99}', '{"format": 1, "stages": {"a": {"x": 1}}}', "\x00"]
)
def test_a_broken_manifest_is_refused_on_resume_only(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="manifest that cannot be resumed") as caught, open_run(tmp_path, resume=True):
        pass
    assert "\n" not in str(caught.value)
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")
        code = (
            "import sys; from anchorshot.pipelines.run_folder import *; open_run(sys.argv[1], resume=True).__enter__()"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "in use by another run" in done.stderr
    with open_run(tmp_path, resume=True) as run:
        assert run.why("s01/clip", {}) is None


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError, match="writable folder"), open_run(bad, resume=False):
            pass


FOLDERS = ("keyframes", "clips", "latents", "stills")


@pytest.mark.parametrize("folder", FOLDERS)
def test_half_written_files_are_swept_away(folder: str, tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        (run.file(f"{folder}/.tmp-1-abc.mkv")).write_text("half")
    with open_run(tmp_path, resume=True):
        assert list((tmp_path / folder).iterdir()) == []


def test_nothing_of_a_told_film_is_left_to_the_next_one(tmp_path: Path) -> None:
    names = ["latents/s01_segment.safetensors", "clips/s01.mkv", "stills/s01_00.png"]
    with open_run(tmp_path, resume=False) as run:
        for name in (*names, "weights.png"):
            write_atomic(run.file(name), "x")
        run.finish("s01/clip", {}, names, 0.1)
    (tmp_path / "stills" / "mine.png").write_text("mine")
    with open_run(tmp_path, resume=False):
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {".lock", MANIFEST, "stills", "stills/mine.png"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_foreign_folders_of_the_same_name_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    with pytest.raises(InputError, match=f"no film of ours.*{folder}"), open_run(tmp_path, resume=False):
        pass


def test_the_other_kind_of_film_is_not_gone_on_with(tmp_path: Path) -> None:
    """Nor a told film from before manifests said so; a fresh run may replace it."""
    with open_run(tmp_path, resume=False, task="tell") as run:
        run.file("clips/s01.mkv").write_bytes(b"clip")
        run.finish("s01/segment", {}, ["clips/s01.mkv"], 1.0)
    for _ in range(2):
        with pytest.raises(InputError, match="must hold a film with keyframes .*a told film.*another folder"):
            with open_run(tmp_path, resume=True):
                pass
        with open_run(tmp_path, resume=True, task="tell") as run:
            assert set(run.stages) == {"s01/segment"}
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        manifest.pop("task", None)
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with open_run(tmp_path, resume=False) as run:
        assert not run.stages and not (tmp_path / "clips" / "s01.mkv").exists()


def test_what_changed_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        run.finish("s01/clip", {"seed": 1, "settings": {"gamma": 0.2, "dipw": {"tau": 1, "every": 4}}}, [], 1.0)
        now = {"seed": 1, "settings": {"gamma": 0.3, "dipw": {"tau": 1, "every": 2}}}
        assert run.why("s01/clip", now) == "settings (gamma, dipw (every)) changed"
        assert run.why("s01/clip", {"seed": 2, "settings": None}) == "seed, settings changed"

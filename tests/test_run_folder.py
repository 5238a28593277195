"""The run folder: what it lists is whole and unchanged, whatever happened before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anchorshot.core.errors import InputError
from anchorshot.core.files import write_atomic
from anchorshot.execution.run_folder import MANIFEST, SCRATCH, RunFolder
from anchorshot.pipelines.kinds import open_run, owns

STAGES = ("s01/keyframe-0", "s01/clip", "s02/clip")


def work(folder: Path, log: Path, *, resume: bool = True, redo: str = "", text: str = "x") -> None:
    """A run of three stages; what it begins and finishes goes to a log."""
    with open_run(folder, resume=resume) as run:
        run.describe(title=text)
        if redo:
            run.new_takes([redo])
        for stage in STAGES:
            inputs = {"text": text, "take": run.take(stage[:3])}
            if run.why(stage, inputs) is not None:
                with open(log, "a") as file:
                    file.write(f"{stage} begun\n")
                make(run, stage, inputs, f"{text} {stage} {run.take(stage[:3])}")
                with open(log, "a") as file:
                    file.write(f"{stage} finished\n")
        write_atomic(run.file("summary.json"), text)
        run.complete(["summary.json"])


def killed(work: Callable[[], None], n: int) -> bool:
    """Whether `work`, in a process of its own, met its n-th rename or removal of a file; it dies just before that.

    It dies as by `kill -9`. All changes on the disk are such steps, so every state that the folder passes through is
    met.
    """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status != 0
    left = n

    def dying(real: Callable) -> Callable:
        def step(*arguments: object, **options: object) -> object:
            nonlocal left
            if ".tmp-" not in str(arguments[-1]) and ".lock" not in str(arguments[-1]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return step

    os.replace, os.unlink = dying(os.replace), dying(os.unlink)
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but its lock."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def make(run: RunFolder, stage: str, inputs: dict | None = None, text: str = "x") -> str:
    name = f"clips/{stage.replace('/', '_')}.mkv"
    write_atomic(run.file(name), text)
    run.finish(stage, inputs or {}, [name], 0.1, sizes=(1, 2))
    return name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no kill -9 on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_anywhere_it_resumes_to_the_same_folder(tmp_path: Path) -> None:
    work(tmp_path / "whole", tmp_path / "log")
    expected = contents(tmp_path / "whole")
    for n in range(1, 100):
        folder, log = tmp_path / f"run{n}", tmp_path / f"log{n}"
        if not killed(lambda: work(folder, log), n):  # noqa: B023 (called at once)
            break
        work(folder, log)
        assert contents(folder) == expected, n
        lines = log.read_text().splitlines()
        finished = [line for line in lines if line.endswith("finished")]
        assert len(finished) == len(set(finished)), "a finished stage was made twice"
        assert len(lines) <= 2 * 3 + 1, "more than the one interrupted stage was begun twice"
    assert n > 3 * 2  # three outputs, each with an entry in the manifest


def told(folder: Path) -> dict[str, bytes]:
    """The folder's files and its finished stages, but for how long these took."""
    files = contents(folder)
    manifest = json.loads(files.pop(MANIFEST))
    return files | {"stages": json.dumps(manifest["stages"], sort_keys=True).encode()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no kill -9 on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("how", ["anew", "redo"])
def test_a_film_in_the_folder_is_replaced_file_by_file(how: str, tmp_path: Path) -> None:
    """Killed anywhere, a second film (or a new take) is gone on with, and ends as if it had not been killed.

    Before, the folder still has every file of the first that has no successor, and nothing that is vouched for is gone.
    """

    def first(folder: Path) -> None:
        work(folder, tmp_path / "log")
        with open_run(folder, resume=True) as run:  # what the second does not have
            write_atomic(run.file("keyframes/s07_00.png"), "old")
            run.finish("s07/keyframe-0", {}, ["keyframes/s07_00.png"], 0.1)

    text = "y" if how == "anew" else "x"
    options = {"resume": False, "text": text} if how == "anew" else {"redo": "s01"}
    first(tmp_path / "whole")
    before = contents(tmp_path / "whole")
    work(tmp_path / "whole", tmp_path / "log", **options)
    expected = told(tmp_path / "whole")
    assert ("keyframes/s07_00.png" in expected) == (how == "redo")
    for n in range(1, 100):
        folder = tmp_path / f"run{n}"
        first(folder)
        if not killed(lambda: work(folder, tmp_path / "log", **options), n):  # noqa: B023 (called at once)
            break
        left = contents(folder)
        stages = json.loads(left[MANIFEST])["stages"]
        vouched = [name for entry in stages.values() for name in entry["outputs"]]
        assert set(vouched) <= left.keys()
        missing = before.keys() - left.keys()
        assert not missing or (set(STAGES) <= stages.keys() and "s07/keyframe-0" not in stages)
        if json.loads(left[MANIFEST])["title"] == text and (how == "anew" or "takes" in str(left[MANIFEST])):
            begun = left[MANIFEST] != before[MANIFEST]
        else:
            begun = False
        work(folder, tmp_path / "log", **({"text": text} if begun else options))
        assert told(folder) == expected, n
    assert n > 3 * (2 if how == "anew" else 1)


def test_a_run_that_ends_before_it_writes_leaves_the_film_as_it_was(tmp_path: Path) -> None:
    """The whole folder, byte for byte; a new folder is not even there, nor the folders above it."""
    work(tmp_path / "film", tmp_path / "log")
    before, lock = contents(tmp_path / "film"), (tmp_path / "film" / ".lock").exists()
    for folder in (tmp_path / "film", tmp_path / "new" / "below"):
        for resume in (False, True):
            with pytest.raises(RuntimeError), open_run(folder, resume=resume) as run:
                run.describe(title="another")
                run.new_takes(["s01"])
                assert run.why("s01/clip", {"other": 1}) is not None
                raise RuntimeError
    assert contents(tmp_path / "film") == before and (tmp_path / "film" / ".lock").exists() == lock
    assert not (tmp_path / "new").exists()


def test_a_finished_stage_stays_until_something_changes(tmp_path: Path) -> None:
    inputs = {"prompt": "a", "size": (80, 160), "steps": 4}
    with open_run(tmp_path, resume=False) as run:
        assert run.why("s01/clip", inputs) == "not made yet"
        name = make(run, "s01/clip", inputs)
        assert run.why("s01/clip", inputs) is None
    with open_run(tmp_path, resume=True) as run:
        assert run.why("s01/clip", inputs) is None
        record = run.record("s01/clip")
        assert record is not None and record.info == {"sizes": [1, 2]}
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
        run.new_takes(["s1"], dependents=["s2", "nobody"])
        run.complete([])
    with open_run(tmp_path, resume=True) as run:
        assert [run.take(shot) for shot in ("s1", "s2", "s10")] == [2, 1, 1]
        assert run.why("s1/keyframe-0", {}) == run.why("s1/clip", {}) == run.why("s2/clip", {}) == "it was asked for"
        assert run.why("s10/clip", {}) is None
        make(run, "s1/clip")
        assert run.why("s1/clip", {}) is None


def test_an_interrupted_redo_goes_on_with_its_take(tmp_path: Path) -> None:
    """The same command again counts no further take; what only follows another shot's new take can have its own."""

    def take(run: RunFolder, *results: str) -> None:
        for result in results:
            name = run.file(f"{result.replace('/', '-')}.mkv")
            write_atomic(name, "x")
            run.finish(result, {}, [name.name], 0.0, take=run.take(result[:2]))

    with open_run(tmp_path, resume=False) as run:
        take(run, "s1/keyframe-0", "s1/clip", "s2/clip")
        run.complete([])
    for finished in ("s1/keyframe-0", "s1/clip"):  # interrupted after the first, then whole
        with open_run(tmp_path, resume=True) as run:
            run.new_takes(["s1"], dependents=["s2"])
            assert run.take("s1") == 2
            assert (run.why("s1/keyframe-0", {}) is None) == (finished == "s1/clip")
            take(run, finished)
    with open_run(tmp_path, resume=True) as run:
        assert run.why("s1/clip", {}) is None and run.why("s2/clip", {}) == "it was asked for"
        run.new_takes(["s1", "s2"])
        assert [run.take(shot) for shot in ("s1", "s2")] == [3, 2]


def test_without_resume_a_film_is_made_anew_and_foreign_files_stay(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        name = make(run, "s01/clip")
        run.new_takes(["s02"])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "clips" / "mine.mkv").write_text("mine")
    with open_run(tmp_path, resume=False) as run:
        assert run.record("s01/clip") is None and run.take("s02") == 1 and (tmp_path / name).exists()
        run.complete([])
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
    manifest["stages"]["s01/clip"]["outputs"] = dict.fromkeys(outputs, "0" * 64)
    victim.write_text("keep")
    for text in (manifest, manifest | {"removed": list(outputs)}):
        (folder / MANIFEST).write_text(json.dumps(text))
        with open_run(folder, resume=False) as run:
            run.complete([])
        assert victim.read_text() == "keep" and (folder / MANIFEST).exists()


@pytest.mark.parametrize(
    "name",
    [f"clips/{'x' * 300}.mkv", f"clips/{'é' * 200}.mkv", f"contact_sheet_{'1' * 300}.png"],
    ids=["clip", "accents", "sheet"],
)
def test_names_longer_than_a_file_can_have_stop_no_run(name: str, tmp_path: Path) -> None:
    """As files to remove, and as what an earlier film made."""
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"removed": [name]}))
    with open_run(tmp_path, resume=True) as run:
        assert run.record("s01/clip") is not None
    manifest["stages"]["s01/clip"]["outputs"] = {name: "0" * 64}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with open_run(tmp_path, resume=False) as run:
        run.complete([])
    assert json.loads((tmp_path / MANIFEST).read_text())["stages"] == {}


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
    (tmp_path / ".lock").touch()  # a run has left it
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="manifest that cannot be resumed") as caught, open_run(tmp_path, resume=True):
        pass
    assert "\n" not in str(caught.value)
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")
        code = "import sys; from anchorshot.pipelines.kinds import *; open_run(sys.argv[1], resume=True).__enter__()"
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
    """But only by the very names that we give them, and no folders, nor what a link leads to."""
    elsewhere = tmp_path / "elsewhere"
    names = [".tmp-thesis.txt", ".tmp-1-abc.mkv", ".tmp-1-0123456789ab.tar.gz", "tmp-1-0123456789ab"]
    with open_run(tmp_path / "film", resume=False) as run:
        (run.file(f"{folder}/.tmp-1-0123456789ab.mkv")).write_text("half")
        (run.file(f"{folder}/.tmp-77-ba9876543210")).write_text("half")
        for name in names:
            (run.file(f"{folder}/{name}")).write_text("mine")
        (tmp_path / "film" / folder / ".tmp-2-0123456789ab.mkv").mkdir()
    elsewhere.mkdir()
    (elsewhere / ".tmp-1-0123456789ab.mkv").write_text("mine")
    other = next(name for name in FOLDERS if name != folder)
    (tmp_path / "film" / other).symlink_to(elsewhere)
    with open_run(tmp_path / "film", resume=True):
        left = {path.name for path in (tmp_path / "film" / folder).iterdir()}
    assert left == {*names, ".tmp-2-0123456789ab.mkv"}
    assert (elsewhere / ".tmp-1-0123456789ab.mkv").exists()


def test_nothing_changes_in_a_folder_that_is_refused(tmp_path: Path) -> None:
    """Somebody else's: half-written files by our names stay, and no lock is left."""
    (tmp_path / ".tmp-1-0123456789ab.txt").write_text("mine")
    (tmp_path / MANIFEST).write_text('{"name": "a web page", "icons": []}')
    before = contents(tmp_path)
    for resume, match in ((False, "no film of ours.*manifest"), (True, "cannot be resumed")):
        with pytest.raises(InputError, match=match), open_run(tmp_path, resume=resume):
            pass
    assert contents(tmp_path) == before and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    "name", ["film.mp4", "summary.json", "clips/s01_clip.mkv", "keyframes", MANIFEST, ".lock", SCRATCH]
)
def test_a_folder_where_a_file_should_be_is_refused(name: str, tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        make(run, "s01/clip")
    (tmp_path / name).unlink(missing_ok=True)
    if name in ("keyframes", SCRATCH):
        (tmp_path / name).write_text("a file where a folder should be")
    else:
        (tmp_path / name).mkdir()
    for resume in (False, True):
        with pytest.raises(InputError) as caught, open_run(tmp_path, resume=resume):
            pass
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_film_may_not_be_given_as_an_input(tmp_path: Path) -> None:
    out = tmp_path / "film"
    (out / "keyframes").mkdir(parents=True)
    (tmp_path / "link").symlink_to(out)
    (out / "keyframes" / "s01_00.png").write_text("x")
    (tmp_path / "picture.png").symlink_to(out / "keyframes" / "s01_00.png")
    ours = ["film/film.mp4", "film/manifest.json", "film/clips/s9.mkv", "link/keyframes/s01_00.png", "picture.png"]
    ours.append(f"film/{SCRATCH}/anything.json")
    assert all(owns(out, tmp_path / name) for name in [*ours, "film/../film/contact_sheet_02.png"])
    assert all(owns(tmp_path / "link", tmp_path / name) for name in ours)
    others = ["film/story.yaml", "film.mp4", "film/clips/inner/s01.mkv", "film", "film/images/s01.png", "filmclips"]
    assert not any(owns(out, tmp_path / name) for name in others)


def test_nothing_of_a_told_film_is_left_to_the_next_one(tmp_path: Path) -> None:
    names = ["latents/s01_segment.safetensors", "clips/s01.mkv", "stills/s01_00.png"]
    with open_run(tmp_path, resume=False) as run:
        for name in (*names, "weights.png"):
            write_atomic(run.file(name), "x")
        run.finish("s01/clip", {}, names, 0.1)
    (tmp_path / "stills" / "mine.png").write_text("mine")
    with open_run(tmp_path, resume=False) as run:
        run.complete([])
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {".lock", MANIFEST, "stills", "stills/mine.png"}


def test_no_film_is_made_among_another_film_s_files(tmp_path: Path) -> None:
    """Its own clips would be swept, replaced and vouched for by the film around it."""
    with open_run(tmp_path / "film", resume=False) as run:
        write_atomic(run.file("clips/s01.mkv"), b"x")
        run.finish("s01/clip", {"a": 1}, ["clips/s01.mkv"], 0.1)
    (tmp_path / "link").symlink_to(tmp_path / "film" / "clips")
    before = sorted(tmp_path.rglob("*"))
    for name in ("film/clips", "film/keyframes/new", "link", "link/new", "film/x/../clips"):
        for resume in (False, True):
            with (
                pytest.raises(InputError, match="among another film's own files"),
                open_run(tmp_path / name, resume=resume),
            ):
                pass
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("film/other", "clips/film"):  # of no film
        with open_run(tmp_path / name, resume=False):
            pass


@pytest.mark.parametrize("folder", [*FOLDERS, SCRATCH])
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
            assert set(run.results) == {"s01/segment"}
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        manifest.pop("task", None)
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with open_run(tmp_path, resume=False) as run:
        assert not run.results and not run.results_of("s01")
        run.complete([])
    assert not (tmp_path / "clips").exists()


def test_what_changed_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False) as run:
        run.finish("s01/clip", {"seed": 1, "settings": {"gamma": 0.2, "dipw": {"tau": 1, "every": 4}}}, [], 1.0)
        now = {"seed": 1, "settings": {"gamma": 0.3, "dipw": {"tau": 1, "every": 2}}}
        assert run.why("s01/clip", now) == "settings (gamma, dipw (every)) changed"
        assert run.why("s01/clip", {"seed": 2, "settings": None}) == "seed, settings changed"

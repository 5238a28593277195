"""Films made by several workers: the same bytes, whatever happens to a worker on the way; stages of one's own."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError
from tiny_film import STORY, frames, made, story

from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.core.files import write_atomic
from anchorshot.execution.local import WorkerExecutor
from anchorshot.execution.run_folder import SCRATCH
from anchorshot.execution.stage import FilmKind, Kinds, Task, Workspace
from anchorshot.execution.workers import Desk, attempt
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines import kinds
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.job import FilmCrew, FilmJob, FilmSettings
from anchorshot.pipelines.stages.clips import Clips, clip_file
from anchorshot.pipelines.stages.join import Join
from anchorshot.pipelines.stages.keyframes import Keyframes
from anchorshot.pipelines.stages.sheet import Sheet
from anchorshot.pipelines.text_film import make_text_film
from anchorshot.sampling.text2story.segments import StorySettings

ONE = WorkerExecutor([None], threads=1)
TWO = WorkerExecutor([None, None], threads=1)


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def whole(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The film as one process makes it."""
    folder = tmp_path_factory.mktemp("workers") / "whole"
    make_film(story(), studio, folder)
    return folder


@pytest.fixture(scope="module")
def whole_text(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text film as one process makes it, with every stage that there is."""
    folder = tmp_path_factory.mktemp("workers") / "text"
    make_text_film(story(), studio, folder, StorySettings(backward=0.4))
    return folder


@pytest.fixture
def keyframes_only(whole: Path, tmp_path: Path) -> Path:
    """The film without its clips, which go freely."""
    folder = Path(shutil.copytree(whole, tmp_path / "film"))
    shutil.rmtree(folder / "clips")
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest, but for how long everything took."""
    found = json.loads((folder / "manifest.json").read_text())
    for record in found["stages"].values():
        record.pop("seconds")
    return found


def everything(folder: Path) -> dict[str, bytes]:
    """Every file that a film leaves, but for those that tell times; nothing of the workers' own may be among them."""
    times = ("manifest.json", "summary.json", ".lock")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in times
    }


def test_two_workers_make_the_film_that_one_process_makes(whole: Path, studio: Studio, tmp_path: Path) -> None:
    """Also where one of them is killed in the middle of a clip: its shot is made by another."""
    seen: dict[str, list[float]] = {}
    killed: list[int] = []

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        seen.setdefault(stage, []).append(done / total)
        if stage == "video" and done and not killed:
            worker = multiprocessing.active_children()[0]
            killed.append(worker.pid or 0)
            worker.kill()

    summary = make_film(story(), studio, tmp_path / "film", executor=TWO, progress=progress)
    assert killed and everything(tmp_path / "film") == everything(whole)
    assert manifest(tmp_path / "film") == manifest(whole)
    assert len(made(summary)) == 4 + 3 + 1
    assert list(seen) == ["keyframes", "video"]
    assert all(shares[-1] == 1 and len(shares) > 4 for shares in seen.values())
    assert not multiprocessing.active_children()


def test_a_worker_makes_the_text_film_that_one_process_makes(whole_text: Path, studio: Studio, tmp_path: Path) -> None:
    make_text_film(story(), studio, tmp_path / "film", StorySettings(backward=0.4), executor=ONE)
    assert everything(tmp_path / "film") == everything(whole_text)
    assert manifest(tmp_path / "film") == manifest(whole_text)


def test_a_finished_film_needs_no_worker(whole: Path, studio: Studio, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "film"))

    def progress(*anything: object) -> None:
        pytest.fail("nothing is to be made")

    summary = make_film(story(), studio, folder, resume=True, executor=TWO, progress=progress)
    assert made(summary) == set() and everything(folder) == everything(whole)


def test_ctrl_c_ends_the_workers_and_the_film_resumes(whole: Path, studio: Studio, keyframes_only: Path) -> None:
    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "video" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_film(story(), studio, keyframes_only, resume=True, executor=ONE, progress=progress)
    assert not multiprocessing.active_children() and not (keyframes_only / SCRATCH).exists()
    make_film(story(), studio, keyframes_only, resume=True)
    assert everything(keyframes_only) == everything(whole)


# --- stages of one's own ---------------------------------------------------------------------------------------------


class Lengths(Clips):
    """Writes how long each clip is, by workers: a stage that no other file knows."""

    name = "lengths"
    folders = {"lengths": ".txt"}
    records = "length"
    figures = {}
    wanted = ()

    def tasks(self, run: Any) -> list[Task]:
        shots = [self.job.story.shots[i] for i in self.job.chosen]
        return [
            Task(self.name, f"{shot.id}/length", {f"{shot.id}/length": (f"lengths/{shot.id}.txt",)},
                 asks=(f"{shot.id}/clip",), detail=clip_file(shot))
            for shot in shots
        ]  # fmt: skip

    def inputs(self, task: Task, run: Any) -> dict[str, Any]:
        return {task.key: {"clip": run.record(f"{task.shots[0]}/clip").outputs[task.detail]}}

    def reads(self, task: Task) -> list[str]:
        return [task.detail]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        size = workspace.source(task.detail).stat().st_size
        write_atomic(workspace.target(task.files[0]), f"{size} bytes")
        return [{"bytes": size}]


class Broken(Clips):
    """Cannot make the clip of the second shot."""

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        if task.shots == ["s02"]:
            raise OSError(5, "Input/output error")
        return super().make(task, workspace)


class Full(Clips):
    """Finds the disk full."""

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        raise OSError(28, "No space left on device", str(workspace.target(task.files[0])))


class Refused(Clips):
    """Finds out late that something given cannot be used."""

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        raise InputError("size", "must fit", 7, "use 8")


@pytest.fixture
def with_stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Have films go through other stages."""

    def use(*stages: type) -> None:
        monkeypatch.setattr(kinds, "KINDS", Kinds(FilmKind("film", "a film", stages), kinds.KINDS["tell"]))

    yield use


@pytest.mark.parametrize("executor", [None, ONE], ids=["in process", "by a worker"])
def test_a_stage_of_one_s_own(
    executor: WorkerExecutor | None, whole: Path, studio: Studio, tmp_path: Path, with_stages: Any
) -> None:
    """It is one class and one word in the registry; its files are the film's, and go with the film."""
    folder = Path(shutil.copytree(whole, tmp_path / "film"))
    with_stages(Keyframes, Clips, Lengths, Join, Sheet)
    summary = make_film(story(), studio, folder, resume=True, executor=executor)
    assert made(summary) == {"s01/length", "s02/length", "s03/length"}
    for shot in ("s01", "s02", "s03"):
        size = (folder / "clips" / f"{shot}.mkv").stat().st_size
        assert (folder / "lengths" / f"{shot}.txt").read_text() == f"{size} bytes"
    assert kinds.owns(folder, folder / "lengths" / "s01.txt")
    assert made(make_film(story(), studio, folder, resume=True)) == set()


def test_a_shot_that_always_fails_is_named_and_the_others_are_made(
    command: list[str],
    whole: Path,
    studio: Studio,
    keyframes_only: Path,
    with_stages: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_stages(Keyframes, Broken, Join, Sheet)
    assert main([*command, str(keyframes_only), "--resume", "--devices", "cpu"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "failed: shots s02: Input/output error (3 attempts); 2 more of the film's tasks" in last
    assert "what is finished stays; add --resume" in last
    clips = {path.name for path in (keyframes_only / "clips").iterdir()}
    assert clips == {"s01.mkv", "s03.mkv"} and not multiprocessing.active_children()
    with_stages(Keyframes, Clips, Join, Sheet)
    assert made(make_film(story(), studio, keyframes_only, resume=True)) == {"s02/clip"}
    assert everything(keyframes_only) == everything(whole)


def test_bad_input_is_not_tried_again(studio: Studio, keyframes_only: Path, tmp_path: Path) -> None:
    """A worker hands it over as what ends the run, as it does with a full disk (see below)."""
    runner = FilmCrew(FilmJob(story(), [0, 1, 2], studio, FilmSettings.of(studio, (32, 64))), (Refused,))
    task = Task(Refused.name, "s01/clip", {"s01/clip": ("clips/s01.mkv",)})
    said: list[object] = []
    message = attempt(runner, task, Desk(keyframes_only, tmp_path / "own", said.append))
    assert message[0] == "refused" and str(message[1]).startswith("size: must fit") and not said


def test_a_full_disk_that_safetensors_tells_ends_the_run_too(keyframes_only: Path, tmp_path: Path) -> None:
    """Latents of text films are written by it, and its error is no OSError."""

    def failing(text: str) -> Any:
        def run(task: Task, desk: Desk) -> Any:
            raise SafetensorError(text)

        return SimpleNamespace(run=run)

    task = Task("segments", "s01/segment", {"s01/segment": ("latents/s01.safetensors",)})
    desk = Desk(keyframes_only, tmp_path / "own", lambda message: None)
    full = failing("Error while serializing: I/O error: No space left on device (os error 28)")
    kind, error = attempt(lambda: full, task, desk)
    assert kind == "refused" and isinstance(error, OSError) and error.strerror == "No space left on device"
    assert attempt(lambda: full, task, desk, shared=False)[0] == "failed"  # another machine's disk may have room
    broken = failing("Error while serializing: I/O error: Input/output error (os error 5)")
    assert attempt(lambda: broken, task, desk)[0] == "failed"


def test_a_full_disk_ends_the_run_at_once(studio: Studio, keyframes_only: Path, with_stages: Any) -> None:
    """As in one process: every other shot would be sampled for nothing, three times."""
    with_stages(Keyframes, Full, Join, Sheet)
    with pytest.raises(OSError, match=r"No space left on device.*clips/s01.mkv"):
        make_film(story(), studio, keyframes_only, resume=True, executor=ONE)
    assert not multiprocessing.active_children() and not (keyframes_only / SCRATCH).exists()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tiny_studio: Path, tmp_path: Path) -> list[str]:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(STORY))
    return ["film", str(file), "--studio", str(tiny_studio), "--device", "cpu", "--threads", "1", "--out"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", "cpu,"], "--devices: must be devices"),
        (["--devices", "cpu,cpu", "--workers", "3"], "--workers: must be as many as --devices"),
        (["--devices", "cuda:0,cuda:1"], "--devices: does not go with another --device"),
        (["--devices", "cpu", "--ray"], "--devices: does not go with --ray"),
        (["--workers", "0"], "--workers: must be a whole number"),
        (["--ray", ""], "--ray: must be the address"),
    ],
)
def test_what_workers_may_not_be(
    options: Sequence[str], said: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_frames_are_what_is_compared(whole: Path) -> None:
    """`everything` covers all that a viewer sees."""
    assert frames(whole).items() <= everything(whole).items()

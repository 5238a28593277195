"""What the command writes: paths that are looked at first, output that goes away, signals, a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anchorshot.cli import main
from anchorshot.cli.console import StageProgress, pick_threads, resumable
from anchorshot.cli.film import _show
from anchorshot.cli.streams import Failure, Guarded, guarded_streams, reason_of, stoppable
from anchorshot.cli.targets import JsonFile
from anchorshot.core.errors import InputError
from anchorshot.models.studio import load_studio

STORY = """
title: "a [/b] film [red]x :cat: [link=y]"
fps: 8
size: [64, 32]
characters: {Mira: a yellow square with a crown}
places: {dunes: "the [dim]desert"}
shots: [{id: s01, place: dunes, action: <Mira> waves on the left., seconds: 0.625}]
"""
unix = pytest.mark.skipif(os.name != "posix", reason="of Unix")


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.yaml"
    path.write_text(STORY)
    return path


def film(story: Path, studio: Path, out: Path, *more: object) -> int:
    return main(["film", *map(str, (story, "--studio", studio, "--out", out, "--device", "cpu", *more))])


def test_users_text_is_no_markup(story: Path, tiny_studio: Path, tmp_path: Path, capsys) -> None:
    """Brackets in titles and paths are printed as they are, and control characters as escapes."""
    out = tmp_path / "x [/final] [bold]"
    assert film(story, tiny_studio, out) == 0
    printed = capsys.readouterr().out
    assert "a [/b] film [red]x :cat: [link=y]" in printed and f"{out / 'film.mp4'}" in printed
    shot = {"id": "s[1]", "place": "[/x]", "start": 0.0, "seconds": 1.0, "take": 1, "kept": True, "keyframes": []}
    _show({"title": "[/t]", "seconds": 1.0, "shots": [shot], "files": ["a\x1b[2J.mp4"]}, Path("o\udcff"))
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[/t]", "s[1]", "[/x]", "\\x1b[2J", "\\udcff")) and "\x1b" not in printed
    with StageProgress() as progress:
        progress._bars.disable = False
        progress.update("clip", 1, 2, "[/nonsense] [red]")
        assert "[/nonsense]" in "".join(
            str(segment.text) for segment in progress._bars.console.render(progress._bars.get_renderable())
        )


def test_progress_without_a_terminal_counts_steps(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr("anchorshot.cli.console._QUIET", -1.0)
    with resumable(tmp_path) as progress:
        progress.update("keyframes", 1, 160, "s01")
    with StageProgress() as progress:
        progress.update("evaluate", 3, 48)
    film, evaluate = (line.split(" s  ")[1] for line in capsys.readouterr().err.splitlines())
    assert film == "keyframes: step 1 of 160, s01" and evaluate == "evaluate 3 of 48"


def test_json_is_written_whole_or_to_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.json"
    target = JsonFile(file)
    assert not file.parent.exists()  # nothing is made before the end
    target.write({"title": "é \udcff"})
    assert json.loads(file.read_text())["title"].startswith("é")
    JsonFile(file).write([1])  # one's own may be replaced
    assert json.loads(file.read_text()) == [1] and [p.name for p in file.parent.iterdir()] == ["x.json"]
    JsonFile(None).write({})


@unix
def test_json_goes_into_streams_and_through_links(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="can be written"):  # nobody reads it: no waiting
        JsonFile(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    while True:  # until the reader is there
        with contextlib.suppress(InputError):
            target = JsonFile(tmp_path / "pipe")
            break
    target.write({"a": 1})
    reader.join(10)
    assert json.loads(read[0]) == {"a": 1} and (tmp_path / "pipe").is_fifo()
    JsonFile(Path(os.devnull)).write({})
    assert not Path(os.devnull).is_file()
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    (tmp_path / "real.json").write_text("{}")
    JsonFile(tmp_path / "link.json").write([2])
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text().split() == ["[", "2", "]"]
    code = "from anchorshot.cli.targets import *; from pathlib import Path; print('one')\n"
    code += "JsonFile(Path('/dev/stdout')).write([2]); print('three')"
    if Path("/dev/stdout").exists():  # a file, opened anew, would be written from its start
        with (tmp_path / "out.txt").open("wb") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert (tmp_path / "out.txt").read_text().split() == ["one", "[", "2", "]", "three"]


def test_json_replaces_nothing_but_json(tmp_path: Path) -> None:
    board, film, other = tmp_path / "story.json", tmp_path / "film.mp4", tmp_path / "manifest.json"
    for path, text in ((board, "{}"), (film, "film"), (other, "{}")):
        path.write_text(text)
    (tmp_path / "same.json").hardlink_to(board)
    names = {
        "a folder": tmp_path, "holds no JSON": film, "manifest": other, "reads": tmp_path / "same.json",
        "lie in a folder": film / "x.json", "too long": tmp_path / ("x" * 300), "null": Path("a\0b"),
        "of the command's own": tmp_path / "own.json",
    }  # fmt: skip
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for words, path in names.items():
        with pytest.raises(InputError, match=words) as caught:
            JsonFile(path, [board], lambda path: path.name == "own.json")
        assert caught.value.field == "--json" and "\n" not in str(caught.value)
    target = JsonFile(tmp_path / "later.json")
    (tmp_path / "later.json").write_text("{}")
    with pytest.raises(InputError, match="reads"):
        target.keep_off([tmp_path / "later.json"])
    (tmp_path / "later.json").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@unix
def test_json_that_fails_at_the_end_leaves_the_film(story: Path, tiny_studio: Path, tmp_path: Path, capsys) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    assert film(story, tiny_studio, tmp_path / "out", "--json", "/dev/full") == 1
    captured = capsys.readouterr()
    assert "No space left" in captured.err.splitlines()[-1] and "film is complete" in captured.err
    assert (tmp_path / "out" / "film.mp4").exists() and str(tmp_path / "out" / "film.mp4") in captured.out
    assert not Path("/dev/full").is_file()


@unix
@pytest.mark.parametrize("how", ["closed", "full", "unread"])
def test_output_that_goes_away_does_not_stop_the_work(how: str) -> None:
    """In a process of its own, whose stdout is closed, full, or a pipe that nobody reads."""
    code = "import sys; from anchorshot.cli import commands as cli; from types import SimpleNamespace as N\n"
    code += "cli.import_module = lambda *a: N(run=lambda o: (print('x' * 99999), print('done', file=sys.stderr)))\n"
    code += "raise SystemExit(cli.run(['film', 'x']))"
    shell = {"closed": ">&-", "full": ">/dev/full", "unread": "| true"}[how]
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {shell}; exit ${{PIPESTATUS[0]}}', sys.executable, code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    first, last = done.stderr.splitlines()
    assert (done.returncode, first) == (1, "done") and "not everything could be printed" in last


def test_characters_that_a_terminal_does_not_have_become_escapes() -> None:
    raw = io.BytesIO()
    stream = Guarded(io.TextIOWrapper(raw, "ascii", write_through=True))
    assert stream.write("a → b") == 5 and raw.getvalue() == b"a \\u2192 b" and stream.error is None
    before = sys.stdout
    with guarded_streams() as (out, _):
        assert sys.stdout is out
    assert sys.stdout is before


@unix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("signals", "code", "word"), [
    ([signal.SIGINT], 130, "interrupted"), ([signal.SIGINT] * 9, 130, "interrupted"),
    ([signal.SIGTERM], 143, "terminated"), ([signal.SIGTERM, signal.SIGINT], 143, "terminated"),
])  # fmt: skip
def test_signals_end_the_run_with_one_line(signals, code, word, capfd, monkeypatch, tmp_path: Path) -> None:
    """However often they come: also while the first is being answered, half-written files are removed."""
    half = tmp_path / "half"

    def run(options: object) -> None:
        with resumable(tmp_path):
            half.touch()
            try:
                for number in signals:
                    signal.raise_signal(number)
            finally:
                for number in signals[1:]:
                    signal.raise_signal(number)
                half.unlink()

    monkeypatch.setattr(
        "anchorshot.cli.commands.import_module", lambda *names: type("m", (), {"run": staticmethod(run)})
    )
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["film", "x.yaml"]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"anchorshot: {word}; what is finished stays") and "--resume" in line
    assert not half.exists() and (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@unix
@pytest.mark.parametrize(("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_a_signal_while_modules_are_loaded_ends_the_run_at_once(number: int, code: int, word: str) -> None:
    """Also where what is being loaded would swallow the exception, as libraries in Rust and C do."""
    run = "import signal; from anchorshot.cli import commands, main\n"
    run += (
        f"def load(*names):\n  try: signal.raise_signal({number})\n  except BaseException: raise SystemError('odd')\n"
    )
    run += "commands.import_module = load; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", run, "film", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, f"anchorshot: {word}\n")


@unix
def test_a_signal_before_anything_is_loaded_is_one_line() -> None:
    """Before the command's own handlers are set: Python's raises KeyboardInterrupt in the middle of an import."""
    run = "import sys, signal; from anchorshot.cli import main\n"
    run += "class Finder:\n  def find_spec(self, name, *more):\n"
    run += "    if name == 'anchorshot.cli.commands': signal.raise_signal(2)\n"
    run += "sys.meta_path.insert(0, Finder()); raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", run, "film", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "anchorshot: interrupted\n")


@unix
def test_what_is_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stoppable(last=False):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_errors_of_the_machine_are_one_line(capsys, monkeypatch, tmp_path: Path) -> None:
    """A full disk is no fault of ours: no traceback, and how to go on."""

    class FFmpegError(Exception):
        pass

    full = OSError(errno.ENOSPC, "No space left on device", "a\nb.mkv")
    kinds = {"No space left on device: a b.mkv": full, "not enough memory": MemoryError(), "x264": FFmpegError("x264")}
    for words, error in kinds.items():
        assert reason_of(error) is not None
        for resume in (False, True):

            def run(options: object, error: Exception = error, resume: bool = resume) -> None:
                with resumable(tmp_path) if resume else contextlib.nullcontext():
                    raise error

            monkeypatch.setattr(
                "anchorshot.cli.commands.import_module", lambda *n, r=run: type("m", (), {"run": staticmethod(r)})
            )
            assert main(["film", "x.yaml"]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert words in line and ("--resume" in line) == resume
    assert reason_of(ValueError("ours")) is None and reason_of(Failure("x")) == "x"


def test_inputs_that_a_film_would_replace_are_refused(story: Path, tiny_studio: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert film(story, tiny_studio, out) == 0
    own = out / "own.yaml"
    own.write_text(STORY.replace("seconds: 0.625", "seconds: 0.625, keyframes: [{at: 0, image: keyframes/s01_00.png}]"))
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for resume in ([], ["--resume"]):
        assert film(own, tiny_studio, out, *resume) == 2
        assert "replaces" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_tiny_studios_get_one_thread_unless_told_otherwise(tiny_studio: Path, monkeypatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    studio = load_studio(tiny_studio)
    pick_threads(None, studio)
    assert chosen == []  # OMP_NUM_THREADS is set for all tests
    monkeypatch.delenv("OMP_NUM_THREADS")
    pick_threads(None, studio)
    pick_threads(3, studio)
    monkeypatch.setattr("anchorshot.models.studio_files._TINY", 1000)
    pick_threads(None, studio)
    assert chosen == [1, 3]


def test_a_studio_s_name_is_looked_up_before_anything_heavy_is_imported(story: Path) -> None:
    code = "import sys; from anchorshot.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for command in (["film", story], ["tell", story], ["evaluate", "keyframes"], ["bench", "video"]):
        arguments = [sys.executable, "-c", code, *map(str, command), "--studio", "pokket"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout == "2 False\n" and "did you mean pocket?" in done.stderr

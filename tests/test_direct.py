"""`anchorshot direct`: a storyboard that `film` takes, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_server import chatting, failed
from test_agents import GOOD

from anchorshot.cli import main
from anchorshot.story.storyboard import load_storyboard

KEY = "sk-very-secret-0123456789abcdef"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with code 2 and exactly one line on stderr; return the line."""
    code = main(["direct", *map(str, arguments)])
    error = capsys.readouterr().err
    assert code == 2 and len(error.splitlines()) == 1, error
    return error


def test_rules_direct_a_film_for_the_pocket_studio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "new" / "story.yaml", tmp_path / "summary.json"
    theme = "Mira, a red square with a crown, meets Pip in the desert"
    assert main(["direct", theme, "--out", str(out), "--shots", "4", "--json", str(summary)]) == 0
    story = load_storyboard(out)
    assert len(story.shots) == 4 and story.size == (160, 80) and story.fps == 8 and story.notes == ()
    assert out.read_text().startswith("# Directed by rules.\ntitle: ")
    told = capsys.readouterr()
    assert "s04" in told.out and str(out) in told.out.replace("\n", "") and told.err == ""
    assert json.loads(summary.read_text())["shots"] == 4
    again = tmp_path / "again.yaml"
    assert main(["direct", theme, "--out", str(again), "--shots", "4"]) == 0
    assert again.read_text() == out.read_text(), "the same theme and seed, the same bytes"
    assert main(["direct", theme, "--out", str(tmp_path / "other.yaml"), "--shots", "4", "--seed", "5"]) == 0
    assert (tmp_path / "other.yaml").read_text() != out.read_text()


def test_an_endpoint_directs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with chatting(failed(503, Retry_After="0"), GOOD) as server:
        asked = ["--url", server.url, "--model", "big", "--key-env", "MY_KEY", "--cache", str(tmp_path / "cache")]
        asked += ["--size", "1280x720", "--fps", "24", "--shots", "3", "--studio", "flux-wan"]
        for name in ("one.yaml", "two.yaml"):
            assert main(["direct", "The harbour", "--out", str(tmp_path / name), *asked]) == 0
        assert len(server.seen) == 2 and server.seen[1].headers["Authorization"] == f"Bearer {KEY}"
    story = load_storyboard(tmp_path / "two.yaml")
    assert story.size == (1280, 720) and story.fps == 24 and list(story.characters) == ["Mira", "Pip"]
    told = capsys.readouterr()
    assert "endpoint (big): 1 request, 1 more try, 120 + 30 tokens" in told.out and "1 from the cache" in told.out
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY not in path.read_text("utf-8")
    assert KEY not in told.out + told.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "--shots", "3"], "theme: must say"),
        (["x", "--shots", "0"], "whole number from 1 to 100"),
        (["x", "--studio", "flux-wan"], "--client: must be a language model"),
        (["x", "--studio", "poket"], "did you mean pocket?"),
        (["x", "--client", "endpoint"], "--model"),
        (["x", "--client", "endpoint", "--model", "m"], "--url"),
        (["x", "--client", "transformers", "--model", "nowhere"], "must be a folder of transformers"),
        (["x", "--url", "file:///etc/passwd", "--model", "m"], "must be an http:// or https:// address"),
        (["x", "--url", "http://127.0.0.1:1", "--model", "m", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["x", "--key-env", "A"], "belongs to --client endpoint"),
        (["x", "--model", "m", "--client", "rules"], "of no use"),
        (["x", "--size", "wide"], "--size: must be WIDTHxHEIGHT"),
        (["x", "--size", "161x80"], "--size: must be a multiple of 16"),
        (["x", "--fps", "fast"], "--fps: must be a number"),
        (["x", "--fps", "0"], "--fps: "),
        (["x", "--timeout", "0"], "whole number from 1"),
        (["x", "--out", "story.json"], "--out: must end in .yaml"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "story.yaml"
    out.write_text("mine")
    assert "--out: must not exist yet" in refused(capsys, "x", "--out", out)
    assert out.read_text() == "mine"
    assert "--json" in refused(capsys, "x", "--out", tmp_path / "a.yaml", "--json", tmp_path / "a.yaml")


def test_a_useless_answer_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chatting("no") as server:
        error = refused(capsys, "x", "--out", tmp_path / "s.yaml", "--url", server.url, "--model", "m")
    assert "must give a usable storyboard" in error and list(tmp_path.iterdir()) == []

"""Bad model files over a finished film: what is refused must leave the film. For developers.

    python -m anchorshot.benchmarks.bad_films [--seed 0] [--only configs]

The cases of `bad_inputs`, each as the studio of a film that is to take the place of a finished one. A fault is any
exception but a refusal in one line, or a file of the finished film that is gone; a file whose successor was written
before the run ended is none.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from ..models.studio import load_studio
from ..pipelines.film import make_film
from ..story.storyboard import Storyboard, parse_storyboard
from . import bad_inputs
from .bad_inputs import Case, options_of, run, timed

__all__ = ["main"]

_STORY = """
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown}
places: {dunes: the desert}
shots:
  - {id: s01, place: dunes, action: <Mira> DOES on the left., frames: 5}
"""
_STEPS = {"keyframe": {"steps": 1}, "video": {"steps": 1}}
_LIMIT = 60.0


def _story(what: str) -> Storyboard:
    return parse_storyboard(_STORY.replace("DOES", what), "yaml")


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def restore(folder: Path) -> None:
    """The pocket studio's own files in a folder, and beside it a finished film, which is made once."""
    finished, out = folder.parent / "finished", folder.parent / "out"
    bad_inputs.restore(folder)
    if not finished.exists():
        make_film(_story("waves"), load_studio(folder / "studio.yaml"), finished)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished, out)


def judge(case: Case, folder: Path) -> tuple[str, str, float]:
    """(verdict, message, seconds) of a film with a bad studio, over a finished one."""
    out = folder.parent / "out"
    before = _digests(out)
    case[2](folder)
    verdict, said, seconds = timed(
        lambda: make_film(_story("jumps"), load_studio(folder / "studio.yaml"), out), limit=_LIMIT
    )
    after = _digests(out)
    lost = [name for name in before if name not in after]
    broken = verdict != "taken" and after.get("film.mp4") != before["film.mp4"]
    if lost or broken:
        return "fault", f"lost {lost or 'film.mp4'} ({verdict}: {said})", seconds
    return verdict, said, seconds


def main(arguments: list[str] | None = None) -> int:
    """Run all cases and print what became of them; 1 where there was a fault."""
    options = options_of(__doc__, arguments, "weights, configs, loras or studios")
    bad_inputs.YAML["defaults"] = _STEPS
    chosen = [case for case in bad_inputs.cases(options.seed) if options.only in (None, case[0])]
    return run(chosen, restore, judge, options.taken)


if __name__ == "__main__":
    sys.exit(main())

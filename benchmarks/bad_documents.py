"""Bad storyboards, pictures and manifests by the hundred: refused in one line, or read. For developers.

    python -m anchorshot.benchmarks.bad_documents [--seed 0] [--only pictures]

As `bad_inputs`, which does the same with model files. A manifest that is refused must leave its folder as it was.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import InputError
from ..media.image import read_image
from ..pipelines.kinds import open_run
from ..story.storyboard import load_storyboard
from .bad_inputs import WRONG, Case, options_of, run, timed

__all__ = ["cases", "main"]

STORY: dict[str, Any] = {
    "title": "Two friends", "fps": 8, "size": [160, 80], "characters": {"Mira": "a yellow square"},
    "places": {"dunes": "the desert"},
    "shots": [{
        "id": "s01", "place": "dunes", "scene": "<Mira> stands.", "action": "<Mira> waves.", "seconds": 2.125,
        "camera": {"scale": "wide shot", "angle": "eye level", "movement": "static"}, "transition": "cut", "seed": 7,
        "keyframes": [{"at": 0.0, "text": "<Mira> waves."}],
    }],
}  # fmt: skip
TEXTS = {
    "csv": "scene,place,seconds,scale\n<Mira: a yellow square> waves,the desert,2.0,wide shot\n<Mira> jumps,town,1,\n",
    "tsv": "Shot\tDescription\tShot Size\tDuration\n1\tA man walks\tWS\t0:03\n2\tHe stops\tCU\t2,5\n",
    "txt": "# title: Two\n\n[the desert; close-up; 2 s] <Mira: a yellow square> waves.\n\n[the town] <Mira> jumps.\n",
    "fountain": "Title: Two\n\nINT. KITCHEN - DAY\n\nMira cooks.\n\nMIRA\nHello.\n\nCUT TO:\n\nEXT. TOWN\n\nRain.\n",
    "fdx": '<?xml version="1.0"?><FinalDraft><Content><Paragraph Type="Scene Heading"><Text>INT. ROOM - DAY</Text>'
    '</Paragraph><Paragraph Type="Action"><Text>Mira waves.</Text></Paragraph></Content></FinalDraft>',
}  # fmt: skip


def _writing(name: str, raw: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(raw)

    return change


def story_cases(rng: random.Random) -> Iterator[Case]:
    """Wrong values in every field of a storyboard, and damaged texts of every format."""

    def case(title: str, suffix: str, raw: bytes) -> Case:
        return "stories", f"{title} .{suffix}", _writing(f"x.{suffix}", raw)

    for path in _paths(STORY):
        for value in [*rng.sample(WRONG, 6), float("nan"), float("inf"), "x" * 100_000]:
            text = json.dumps(_with(STORY, path, value))
            yield case(f"{path} = {value!r:.16}", rng.choice(["json", "yaml"]), text.encode())
    whole = {"json": json.dumps(STORY), "yaml": json.dumps(STORY, indent=1), **TEXTS}
    for suffix, text in whole.items():
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp037"):
            yield case(f"whole in {encoding}", suffix, text.encode(encoding))
        for n in range(30):
            raw = bytearray(text.encode())
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(raw))
                raw[at : at + rng.randint(0, 3)] = rng.choice(
                    [
                        b"",
                        b"[",
                        b"]]",
                        b"<",
                        b">",
                        b"\t",
                        b"\0",
                        b";",
                        b'"',
                        b"\xff",
                        b"99999999999",
                        b"\n\n",
                        b"&a *a ",
                    ]
                )
            yield case(f"damaged {n}", suffix, bytes(raw))
        for unit in (text[:60], "[", "<Mira: a>", "a,", "- ", "\n", '"', "#", "INT. A\n\n"):
            yield case(f"a megabyte of {unit[:8]!r}", suffix, (unit * (1_000_000 // len(unit))).encode())


def picture_cases(rng: random.Random) -> Iterator[Case]:
    """Pictures of every format and mode, cut, damaged, with odd profiles and chunks, and what is no picture."""
    noise = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    whole: dict[str, bytes] = {}
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr", "HSV"):
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "EPS"):
            out = io.BytesIO()
            try:
                picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else None
                (picture or Image.fromarray(noise).convert(mode)).save(out, kind)
            except Exception:  # a mode that this format does not have
                continue
            whole[f"{kind} {mode}"] = out.getvalue()

    def case(title: str, raw: bytes) -> Case:
        return "pictures", title, _writing("x.png", raw)

    for title, raw in whole.items():
        yield case(title, raw)
        yield case(f"{title}, cut", raw[: rng.randrange(len(raw))])
    for title in [name for name in whole if name.split()[0] in ("PNG", "JPEG", "WEBP")]:
        for n in range(6):
            bad = bytearray(whole[title])
            for _ in range(rng.randint(1, 8)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            yield case(f"{title}, damaged {n}", bytes(bad))
    for profile in (b"x", b"\0" * 128, bytes(range(256)) * 4):
        for kind in ("PNG", "JPEG", "WEBP"):
            out = io.BytesIO()
            Image.fromarray(noise).save(out, kind, icc_profile=profile)
            yield case(f"{kind}, profile {profile[:3]!r}", out.getvalue())
    for width, height in ((1, 1), (15, 400), (16384, 16), (16385, 16), (16000, 5500), (20000, 20000)):
        out = io.BytesIO()
        Image.new("1", (width, height)).save(out, "PNG")
        yield case(f"{width}×{height}", out.getvalue())
    yield "pictures", "a pipe", lambda folder: os.mkfifo(folder / "x.png")
    yield "pictures", "a folder", lambda folder: (folder / "x.png").mkdir()
    yield "pictures", "a ring", lambda folder: (folder / "x.png").symlink_to("x.png")


def manifest_cases(rng: random.Random) -> Iterator[Case]:
    """A finished run's manifest with wrong values in every field, and damaged."""
    entry = {
        "inputs": {"prompt": "x", "seed": 1},
        "outputs": {"film.mp4": "0" * 64},
        "seconds": 1.0,
        "info": {"frames": 9},
    }
    manifest = {"format": 1, "task": "film", "title": "x", "takes": {"s01": 2}, "stages": {"film": entry}}

    def case(title: str, raw: bytes) -> Case:
        return "manifests", title, _writing("manifest.json", raw)

    for path in _paths(manifest):
        for value in WRONG:
            yield case(f"{path} = {value!r:.16}", json.dumps(_with(manifest, path, value)).encode())
    text = json.dumps(manifest).encode()
    for n in range(60):
        bad = bytearray(text)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        yield case(f"bit {n}", bytes(bad))
    for title, raw in (("empty", b""), ("deep", b"[" * 50_000), ("cut", text[:40]), ("binary", bytes(range(256)))):
        yield case(title, raw)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


def cases(seed: int = 0) -> list[Case]:
    """All cases of a seed, in order."""
    rng = random.Random(seed)
    return [*story_cases(rng), *picture_cases(rng), *manifest_cases(rng)]


def restore(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def judge(case: Case, folder: Path) -> tuple[str, str, float]:
    """(verdict, message, seconds) of one case."""
    kind, _, change = case
    change(folder)
    work: dict[str, Callable[[], object]] = {
        "stories": lambda: load_storyboard(next(folder.iterdir())),
        "pictures": lambda: read_image(folder / "x.png"),
        "manifests": lambda: _resume(folder),
    }
    return timed(work[kind])


def _resume(folder: Path) -> None:
    """Open a run folder to resume it, as a film does, and ask for all that it knows."""
    (folder / "film.mp4").write_bytes(b"a film")
    before = (folder / "manifest.json").read_bytes()
    try:
        with open_run(folder, resume=True) as film:
            for name, record in film.results.items():
                film.why(name, record.inputs, list(record.outputs))
            film.take("s01")
    except InputError:
        kept = (folder / "manifest.json").read_bytes() == before and (folder / "film.mp4").read_bytes() == b"a film"
        if not kept:
            raise RuntimeError("a refused folder was changed") from None
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run all cases and print what became of them; 1 where there was a fault."""
    options = options_of(__doc__, arguments, "stories, pictures or manifests")
    return run([c for c in cases(options.seed) if options.only in (None, c[0])], restore, judge, options.taken)


if __name__ == "__main__":
    sys.exit(main())

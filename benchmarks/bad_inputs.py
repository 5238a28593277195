"""Bad model files, LoRAs and studios by the hundred: each must be refused in one line, or work. For developers.

    python -m anchorshot.benchmarks.bad_inputs [--seed 0] [--only loras]

Every case is a change to the pocket studio's own files. A case is `refused` (one line), `taken` (the part loads), or a
fault: any other exception, more than one line, or more than ten seconds.
"""

# mypy: disable-error-code="misc"
# (the many small lambdas that change one thing each have no types to infer)
from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..models import studio as studios
from ..models.studio import load_studio

__all__ = ["Case", "cases", "judge", "main"]

POCKET = Path(studios.__file__).parent.parent / "pocket" / "weights"
YAML: dict[str, Any] = {
    "name": "bad", "models_dir": ".", "keyframe": {"file": "keyframe.safetensors"},
    "keyframe_text": {"kind": "t5", "file": "t5.safetensors"}, "video": {"file": "video.safetensors"},
    "video_text": {"kind": "t5", "file": "t5_video.safetensors"},
    "video_vae": {"kind": "wan_vae", "file": "vae.safetensors"}, "clip": {"file": "clip.safetensors"},
}  # fmt: skip
PARTS = {
    "keyframe": "keyframe", "t5": "keyframe_text", "video": "video", "t5_video": "video_text", "vae": "video_vae",
    "clip": "clip",
}  # fmt: skip
LIMIT = 10.0
WRONG: list[Any] = [
    None, True, -1, 0, 1, 3, 10**6, 10**12, 10**40, 1e30, 0.5, "", "x", "²", "hf-hub:some/model", [], [1], [[]], {},
    {"a": 1},
]  # fmt: skip

Files = dict[str, bytes]
Case = tuple[str, str, Callable[[Path], None]]
"""(kind, name, what changes a folder that holds the pocket studio)."""


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and data."""
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: Any, data: bytes) -> bytes:
    """The file of a header (anything, or its bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lora_file(tensors: dict[str, tuple[str, list[int]]], metadata: Any = None, fill: bytes = b"") -> bytes:
    """A safetensors file of tensors given by type and shape."""
    size = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I64": 8, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "U8": 1}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for key, (kind, shape) in tensors.items():
        count = size[kind]
        for side in shape:
            count *= side
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + count]}
        data += (fill * count)[:count] if fill else bytes(count)
    return join(header, data)


def replaced(name: str, make: Callable[[], bytes]) -> Callable[[Path], None]:
    """A case in which a file holds other bytes, which are made when it is its turn."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(make())

    return change


def header_cases(stem: str, rng: random.Random) -> Iterator[Case]:
    """What a header can say wrongly."""
    name, raw = f"{stem}.safetensors", (POCKET / f"{stem}.safetensors").read_bytes()
    header, data = split(raw)
    keys = sorted(key for key in header if key != "__metadata__")

    def changed(title: str, change: Callable[[dict[str, Any], str], Any]) -> Case:
        copy, key = json.loads(json.dumps(header)), rng.choice(keys)
        made = change(copy, key)
        return "weights", f"{stem}: {title} ({key})", replaced(name, lambda: join(made or copy, data))

    for kind in ("I8", "U8", "BOOL", "C64", "F64", "F8_E8M0", "F4", "F6_E2M3", "XX", 7, None):
        yield changed(f"dtype {kind}", lambda h, k, kind=kind: h[k].update(dtype=kind))
    for shape in ([], [0], [1], [2**63], [2**40, 2**40], [-1], ["1"], [1.5], "x", None, [1] * 100, [[1]]):
        yield changed(f"shape {str(shape)[:20]}", lambda h, k, s=shape: h[k].update(shape=s))
    yield changed("shape transposed", lambda h, k: h[k].update(shape=h[k]["shape"][::-1] or [0]))
    yield changed("shape flat", lambda h, k: h[k].update(shape=[_count(h[k]["shape"])]))
    for offsets in ([0, 4], [0, 2**62], [4, 0], [], ["a", "b"], None):
        yield changed(f"offsets {offsets}", lambda h, k, o=offsets: h[k].update(data_offsets=o))
    yield changed("missing", lambda h, k: h.pop(k) and None)
    yield changed("renamed", lambda h, k: h.update({k + "x": h.pop(k)}))
    yield changed("block number", lambda h, k: h.update({"blocks.999999999.ffn.0.weight": h.pop(k)}))
    yield changed("block ²", lambda h, k: h.update({"double_blocks.².lin.weight": h.pop(k)}))
    yield changed("entry no object", lambda h, k: h.update({k: 3}))
    for value in WRONG:
        yield changed(f"metadata {value!r:.20}", lambda h, k, v=value: h.update({"__metadata__": v}))
    twice = json.dumps(header)[:-1] + f", {json.dumps(keys[0])}: {json.dumps(header[keys[0]])}" + "}"
    for title, bad in {
        "name twice": twice.encode(), "deep": b"[" * 5000, "list": b"[1]", "empty object": b"{}", "empty": b"",
        "NaN": b'{"a": NaN}', "digits": b'{"a": ' + b"9" * 5000 + b"}", "not UTF-8": b'{"\xff": 1}',
    }.items():  # fmt: skip
        yield "weights", f"{stem}: header {title}", replaced(name, lambda bad=bad: join(bad, data))
    for length in (0, 4, 8, 100, len(raw) // 2, len(raw) - 1):
        yield "weights", f"{stem}: cut to {length}", replaced(name, lambda length=length: raw[:length])
    yield "weights", f"{stem}: longer", replaced(name, lambda: raw + b"x")
    yield "weights", f"{stem}: header length", replaced(name, lambda: struct.pack("<Q", 2**62) + raw[8:])
    for value in (b"\xff", b"\x7f"):
        start = len(raw) - len(data)
        where = rng.randrange(start, len(raw) - 64)
        yield (
            "weights",
            f"{stem}: {value!r} at {where}",
            replaced(name, lambda where=where, value=value: raw[:where] + value * 64 + raw[where + 64 :]),
        )
    for title, layers in {"text": "b", "list": [1], "number": 3, "format": {"format": "nvfp4"}, "none": None}.items():
        stored = json.dumps({"layers": {keys[0].removesuffix(".weight"): layers}})
        yield changed(
            f"quantisation {title}", lambda h, k, s=stored: h["__metadata__"].update(_quantization_metadata=s)
        )


def _count(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def config_cases(stem: str, rng: random.Random) -> Iterator[Case]:
    """Every argument of a config, with values of other types and sizes."""
    name, raw = f"{stem}.safetensors", (POCKET / f"{stem}.safetensors").read_bytes()
    header, data = split(raw)
    config = json.loads(header["__metadata__"]["config"])

    def with_config(title: str, text: str) -> Case:
        copy = {**header, "__metadata__": {**header["__metadata__"], "config": text}}
        return "configs", f"{stem}: {title}", replaced(name, lambda: join(copy, data))

    for text in ("", "x", "[]", "1", "null", "{}", "[" * 5000, '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}'):
        yield with_config(f"config {text[:16]}", text)
    for path in _paths(config):
        for value in rng.sample(WRONG, 5):
            copy = json.loads(json.dumps(config))
            inner = copy
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = value
            yield with_config(f"{'.'.join(map(str, path))} = {value!r:.20}", json.dumps(copy))
    for extra in ("attn_implementation", "quantization_config", "auto_map", "num_labels", "text_cfg", "_name_or_path"):
        yield with_config(f"extra {extra}", json.dumps({**config, extra: "kernels-community/x"}))


def _paths(config: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from _paths(value, (*before, key))


def lora_cases(rng: random.Random) -> Iterator[Case]:
    """LoRAs for the pocket's video model (width 160), as tools write them, with one thing wrong."""
    module = "blocks.0.self_attn.q"
    pair = {f"{module}.lora_A.weight": ("F32", [2, 160]), f"{module}.lora_B.weight": ("F32", [160, 2])}

    def made(title: str, tensors: dict[str, tuple[str, list[int]]], metadata: Any = None, fill: bytes = b"") -> Case:
        def change(folder: Path) -> None:
            (folder / "lora.safetensors").write_bytes(lora_file(tensors, metadata, fill))
            _studio(folder, {**YAML, "video": {"file": "video.safetensors", "loras": [{"file": "lora.safetensors"}]}})

        return "loras", title, change

    for kind in ("F64", "F16", "BF16", "I8", "I64", "BOOL", "C64", "F8_E4M3", "U8"):
        yield made(f"dtype {kind}", {key: (kind, shape) for key, (_, shape) in pair.items()})
    for a, b in (
        ([0, 160], [160, 0]), ([2, 159], [160, 2]), ([2, 161], [160, 2]), ([160, 2], [2, 160]), ([2, 160], [161, 2]),
        ([], []), ([2], [160]), ([2, 160], [160, 3]), ([2, 160, 1, 1], [160, 2, 1, 1]), ([1, 2, 160], [1, 160, 2]),
        ([0], [0]), ([2, 160, 0], [160, 2]), ([2000, 160], [160, 2000]),
    ):  # fmt: skip
        yield made(f"shapes {a} {b}", dict(zip(pair, (("F32", a), ("F32", b)), strict=True)))
    for fill in (b"\xff", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"):
        yield made(f"values {fill!r}", pair, None, fill)
    for alpha in (("F32", []), ("F32", [1]), ("F32", [3]), ("F32", [0]), ("I64", []), ("BOOL", []), ("C64", [])):
        yield made(f"alpha {alpha}", {**pair, f"{module}.alpha": alpha})
    yield made("alpha NaN", {**pair, f"{module}.alpha": ("F32", [])}, None, b"\xff")
    for key, wrong in (("lora_alpha", WRONG), ("alpha_pattern", WRONG), ("use_rslora", WRONG)):
        for value in wrong:
            text = json.dumps({"lora_alpha": 4, key: value})
            yield made(f"{key} {value!r:.20}", pair, {"lora_adapter_metadata": text})
    for text in ("", "x", "[]", "1", "[" * 5000, '{"lora_alpha": 1, "lora_alpha": 2}', '{"lora_alpha": NaN}'):
        yield made(f"metadata {text[:20]}", pair, {"lora_adapter_metadata": text})
    shapes: tuple[list[int], ...] = ([], [0], [160], [160, 160], [1, 6, 160], [6, 160], [160, 1], [1, 1, 1, 1, 1])
    names = "diff diff_b diff_m w_norm b_norm lokr_w1 hada_w1_a lora_B.bias reshape_weight dora_scale oft_blocks"
    for part in (*names.split(), "lora_mid.weight", "unknown"):
        for shape in rng.sample(shapes, 3):
            where = "blocks.0" if part == "diff_m" else module
            yield made(f"{part} {shape}", {**pair, f"{where}.{part}": ("F32", list(shape))})
    for first in ([0, 0], [1], [160], [160, 160], [3000, 3000], [3, 3]):
        factors = {f"{module}.lokr_w1": ("F32", first), f"{module}.lokr_w2": ("F32", [40, 40])}
        yield made(f"LoKr {first}", factors)
        sides = {f"{module}.hada_w{n}_{s}": ("F32", first) for n in (1, 2) for s in "ab"}
        yield made(f"LoHa {first}", sides)
    for spelled in ("lora_unet_", "lycoris_", "pipe.dit.", "base_model.model.", "x.", "", "lora_te1_", "....", "²."):
        yield made(f"prefix {spelled}", {spelled + key: value for key, value in pair.items()})
    yield made("control", {"patch_embedding.lora_A.weight": ("F32", [2, 32, 1, 2, 2]),
                           "patch_embedding.lora_B.weight": ("F32", [160, 2, 1, 1, 1])})  # fmt: skip
    yield made("nothing", {})


def studio_cases(rng: random.Random) -> Iterator[Case]:
    """Studio files, and what stands where a model file should."""

    def text(title: str, data: Any) -> Case:
        return "studios", title, lambda folder: _studio(folder, data)

    for field in YAML:
        yield text(f"without {field}", {key: value for key, value in YAML.items() if key != field})
        for value in WRONG:
            yield text(f"{field} = {value!r:.20}", {**YAML, field: value})
    for part in ("clip", "video", "keyframe_text"):
        for value in rng.sample(WRONG, 6):
            for key in ("file", "config", "dtype", "loras", "tokenizer", "offload"):
                yield text(f"{part}.{key} = {value!r:.20}", {**YAML, part: {**YAML[part], key: value}})
    names = (
        "hf-hub:a/b local-dir:/tmp ViT-B-16-SigLIP roberta-ViT-B-32 ViT-L-14 ViT-H-14-378-quickgelu coca_ViT-B-32 "
        "none.json /dev/null /dev/zero . ../../../etc/passwd"
    ).split()
    for name in (*names, "x" * 2000, "\0"):
        yield text(f"clip.config {name:.20}", {**YAML, "clip": {"file": "clip.safetensors", "config": name}})
        yield text(f"clip.file {name:.20}", {**YAML, "clip": {"file": name}})
        yield text(f"video.file {name:.20}", {**YAML, "video": {"file": name}})
        yield text(
            f"tokenizer {name:.20}",
            {**YAML, "keyframe_text": {"kind": "t5", "file": "t5.safetensors", "tokenizer": name}},
        )
    for stem, part in PARTS.items():
        yield "studios", f"{stem} is a pipe", lambda folder, stem=stem: _pipe(folder / f"{stem}.safetensors")
        yield "studios", f"{stem} is a folder", lambda folder, stem=stem: _folder(folder / f"{stem}.safetensors")
        other = rng.choice([name for name in PARTS if name != stem])
        yield text(f"{part} from {other}", {**YAML, part: {**YAML[part], "file": f"{other}.safetensors"}})
    for title, index in {
        "list": "[]", "map list": '{"weight_map": []}', "map null": '{"weight_map": null}',
        "mixed": '{"weight_map": {"a": 1}}',
        "outside": '{"weight_map": {"a": "../clip.safetensors"}}', "absolute": '{"weight_map": {"a": "/etc/passwd"}}',
        "missing": '{"weight_map": {"a": "no.safetensors"}}', "deep": "[" * 5000, "empty": "", "none": "{}",
        "other name": '{"weight_map": {"a": "config.json"}}', "empty name": '{"weight_map": {"a": ""}}',
    }.items():  # fmt: skip
        yield "studios", f"index {title}", lambda folder, index=index: _indexed(folder, index)
    for raw in (
        b"",
        b"\xff",
        b"a: [",
        b"[" * 5000,
        b"a: &a [*a]",
        b"x" * 70000,
        b"!!python/object:os.system {}",
        b"{1: 2}",
    ):
        yield (
            "studios",
            f"bytes {raw[:12]!r}",
            lambda folder, raw=raw: (folder / "studio.yaml").write_bytes(raw) and None,
        )


def _studio(folder: Path, data: Any) -> None:
    (folder / "studio.yaml").write_text(json.dumps(data), encoding="utf-8")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _indexed(folder: Path, index: str) -> None:
    path = folder / "sharded"
    path.mkdir()
    (path / "model.safetensors.index.json").write_text(index)
    _studio(folder, {**YAML, "video": {"file": "sharded"}})


def cases(seed: int = 0) -> list[Case]:
    """All cases of a seed, in order."""
    rng = random.Random(seed)
    out: list[Case] = []
    for stem in PARTS:
        out += header_cases(stem, rng)
        out += config_cases(stem, rng)
    return [*out, *lora_cases(rng), *studio_cases(rng)]


def judge(case: Case, folder: Path) -> tuple[str, str, float]:
    """(verdict, message, seconds) of one case in a folder with the pocket studio: refused, taken, or a fault."""
    _, _, change = case
    change(folder)

    def load() -> None:
        studio = load_studio(folder / "studio.yaml")
        studio.check()
        for part in PARTS.values():
            getattr(studio, part)

    return timed(load)


def restore(folder: Path) -> None:
    """The pocket studio's own files, in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for stem in PARTS:
        shutil.copy(POCKET / f"{stem}.safetensors", folder)
    _studio(folder, YAML)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def run(
    chosen: list[Case],
    restore: Callable[[Path], None],
    judge: Callable[[Case, Path], tuple[str, str, float]],
    taken: bool,
) -> int:
    """Run cases, each in a folder that `restore` makes anew, and print what became of them; 1 if there was a fault."""
    counts: Counter[tuple[str, str]] = Counter()
    slowest, peak = (0.0, ""), (_peak(), "at the start")
    with tempfile.TemporaryDirectory() as scratch:
        for case in chosen:
            restore(Path(scratch) / "case")
            verdict, said, seconds = judge(case, Path(scratch) / "case")
            counts[case[0], verdict] += 1
            slowest = max(slowest, (seconds, case[1]))
            peak = max(peak, (_peak(), case[1]), key=lambda seen: seen[0])  # it never falls: the first that reached it
            if verdict == "fault" or (taken and verdict == "taken"):
                print(f"{verdict.upper()} {case[0]}: {case[1]}: {said[:300]} ({seconds:.1f} s)", flush=True)
    for (kind, verdict), number in sorted(counts.items()):
        print(f"{kind:10} {verdict:8} {number}")
    print(f"{sum(counts.values())} cases; slowest {slowest[0]:.1f} s ({slowest[1]}); peak {peak[0]} MB ({peak[1]})")
    return int(any(verdict == "fault" for _, verdict in counts))


def timed(work: Callable[[], object], limit: float = LIMIT) -> tuple[str, str, float]:
    """(verdict, message, seconds) of a piece of work: refused in one line, taken, or a fault."""
    begin = time.perf_counter()
    verdict, said = "taken", ""
    try:
        work()
    except InputError as error:
        verdict, said = "refused", str(error)
        if "\n" in said or len(said) > 1000:
            verdict = "fault"
    except Exception as error:  # what this is here to find
        verdict, said = "fault", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - begin
    return ("fault" if seconds > limit else verdict), said, seconds


def options_of(doc: str | None, arguments: list[str] | None, kinds: str) -> argparse.Namespace:
    """The command line of a sweep."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0] if doc else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help=f"one kind: {kinds}")
    parser.add_argument("--taken", action="store_true", help="also print what was taken")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run all cases and print what became of them; 1 where there was a fault."""
    options = options_of(__doc__, arguments, "weights, configs, loras or studios")
    return run([c for c in cases(options.seed) if options.only in (None, c[0])], restore, judge, options.taken)


if __name__ == "__main__":
    sys.exit(main())

"""The shape of the package: imports run one way, hosts stay apart, the root costs nothing to import."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(importlib.util.find_spec("anchorshot").origin).parent  # type: ignore[union-attr, arg-type]

# A part may import from itself and from parts on lower floors; the longest name in this table that fits says which part
# a module belongs to. `media` is a leaf: of the package it may use only what is named below. `cli` comes last, because
# it only hands over to the others. docs/architecture.md draws the same floors.
LEVELS = {
    "core": 0,
    "kernels": 1,
    "story": 1,
    "memory": 2,
    "media": 3,
    "models": 3,
    "pocket": 4,
    "models.studio": 5,
    "agents": 6,
    "sampling": 6,
    "execution": 7,
    "pipelines": 8,
    "training": 9,
    "pocket.recipes": 10,
    "evaluation": 9,
    "comfyui": 9,
    "nodes": 10,
    "benchmarks": 11,
    "cli": 12,
}
#: ComfyUI's own modules that do not begin with `comfy`
COMFYUI = {"folder_paths", "latent_preview", "node_helpers"}
#: the web server that ComfyUI runs on and brings along
SERVER = {"aiohttp"}
MEDIA_MAY_USE = {"core", "memory.golden_mem", "memory.memory_pack"}
HEAVY = {
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "open_clip",
    "kornia",
    "av",
    "PIL",
    "triton",
    "comfy",
    "comfy_api",
}
SKIPPED = {"build", "output", "runs", "tests", "docs", "stories"}


def files() -> Iterator[Path]:
    """All files of the package, without tests, hidden folders and build products."""
    for folder, below, names in os.walk(ROOT):
        below[:] = sorted(name for name in below if name not in SKIPPED and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names))


def source_files() -> list[Path]:
    """All Python files of the package."""
    return [path for path in files() if path.suffix == ".py"]


def module_name(path: Path) -> str:
    """`story/files.py` → `story.files`, `story/__init__.py` → `story`, the root → ``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> list[tuple[int, int, str]]:
    """(line, relative level, dotted target) of every import in the file, also those inside functions.

    `from .a import b` gives both `a` and `a.b`, because `b` may be a module.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((node.lineno, 0, alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if base:
                found.append((node.lineno, node.level, base))
            for alias in node.names:
                found.append((node.lineno, node.level, f"{base}.{alias.name}" if base else alias.name))
    return found


def resolve(path: Path, level: int, target: str) -> str:
    """A relative import as a dotted path from the package root."""
    package = list(path.relative_to(ROOT).parent.parts)
    up = level - 1
    assert up <= len(package), f"{path}: the import climbs out of the package"
    return ".".join([*package[: len(package) - up], target])


def package_of(module: str) -> str:
    return module.partition(".")[0]


def part_of(module: str) -> str:
    """The part of the package that a module belongs to: the longest name in LEVELS that fits, else its package."""
    fitting = [part for part in LEVELS if f"{module}.".startswith(f"{part}.")]
    return max(fitting, key=len, default=package_of(module))


def direction_faults(path: Path) -> list[str]:
    """Every import of `path` that runs against the direction, or that names the package absolutely."""
    faults = []
    name = module_name(path)
    here = part_of(name)
    for line, level, target in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if level == 0:
            if package_of(target) in {"anchorshot", *LEVELS}:
                faults.append(f"{where}: absolute import of {target}; inside the package imports are relative")
            continue
        found = resolve(path, level, target)
        there = part_of(found)
        if there not in LEVELS or there == here:
            continue
        if not here and there == "nodes":
            continue  # what ComfyUI calls; that it is not imported sooner is tested below
        if here not in LEVELS:
            faults.append(f"{where}: {name or 'the root'} has no level, yet it imports {found}")
        elif here == "media":
            if found != "memory" and not any(f"{found}.".startswith(f"{module}.") for module in MEDIA_MAY_USE):
                faults.append(f"{where}: media is a leaf and may not import {found}")
        elif there == "media":
            if LEVELS[here] < LEVELS["execution"]:
                faults.append(f"{where}: {here} may not import media")
        elif LEVELS[there] >= LEVELS[here]:
            faults.append(f"{where}: {here} may not import {found}")
    return faults


def test_imports_run_one_way() -> None:
    faults = [fault for path in source_files() for fault in direction_faults(path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("story/x.py", "from ..sampling import flow", "story may not import"),
        ("memory/x.py", "from ..models.clip import ClipScorer", "memory may not import"),
        ("models/backbones/flux/x.py", "from ....pipelines import film", "models may not import"),
        ("models/x.py", "from ..pocket import world", "models may not import"),
        ("training/x.py", "from ..pocket.recipes import family", "training may not import"),
        ("models/x.py", "from ..media.video import VideoWriter", "models may not import media"),
        ("media/x.py", "from ..story.storyboard import Storyboard", "media is a leaf"),
        ("kernels/x.py", "from ..models.layouts.pairs import Pairs", "kernels may not import"),
        ("evaluation/x.py", "from ..training import loop", "evaluation may not import"),
        ("sampling/x.py", "from anchorshot.models import vae", "absolute import"),
        ("sampling/x.py", "import story.files", "absolute import"),
        ("sampling/x.py", "def f():\n    from ..cli import main", "sampling may not import"),
    ],
)
def test_the_direction_test_sees_faults(file: str, line: str, expected: str, tmp_path: Path, monkeypatch) -> None:
    """The rule has teeth: a tree with one forbidden import is refused."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    (tmp_path / "story").mkdir(exist_ok=True)
    (fault, *_) = direction_faults(path)
    assert expected in fault


def test_allowed_imports_pass(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for file, line in [
        ("media/x.py", "from ..core.errors import InputError"),
        ("pipelines/x.py", "from ..media.video import VideoWriter\nfrom ..sampling.flow import euler"),
        ("models/backbones/flux/x.py", "from ...encoders.text import TextCond\nfrom ....memory.golden_mem import PHI"),
        ("cli/x.py", "from ..evaluation import run"),
    ]:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n")
        assert direction_faults(path) == []


def test_comfy_stays_in_its_places() -> None:
    """`comfy*` appears only in nodes/, comfyui/ and in files called native*, so that everything else runs headless."""
    faults = []
    for path in source_files():
        parts = path.relative_to(ROOT).parts
        backbone = parts[:2] == ("models", "backbones") or parts[0] == "pocket"
        if parts[0] in ("nodes", "comfyui") or (backbone and path.name.startswith("native")):
            continue
        faults += [
            f"{path.relative_to(ROOT)}:{line}: {target}"
            for line, level, target in imports(path)
            if level == 0 and (package_of(target).startswith("comfy") or package_of(target) in COMFYUI)
        ]
    assert not faults, "\n".join(faults)


def test_nodes_name_no_backbone() -> None:
    """What ComfyUI calls finds a model's adapter by its class, so that another backbone needs no change there."""
    named = [folder.name for folder in (ROOT / "models/backbones").iterdir() if (folder / "spec.py").exists()]
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for path in source_files()
        if path.relative_to(ROOT).parts[0] in ("nodes", "comfyui")
        for line, level, target in imports(path)
        if level and any(f"{resolve(path, level, target)}.".startswith(f"models.backbones.{name}.") for name in named)
    ]
    assert named and not faults, "\n".join(faults)


def test_root_imports_nothing_heavy() -> None:
    """At module level the root imports nothing of the package and nothing heavy (functions may, when called)."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        assert not (isinstance(node, ast.ImportFrom) and node.level), "the root imports a part of the package"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not HEAVY & {package_of(n) for n in names}


def test_importing_the_root_loads_nothing_heavy() -> None:
    code = f"import sys, anchorshot; print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loads_under_any_folder_name(tmp_path: Path) -> None:
    """ComfyUI loads the root as a module named by its folder, dashes and dots included."""
    folder = tmp_path / "anchorshot-0.1.0 (copy)"
    folder.symlink_to(ROOT, target_is_directory=True)
    spec = importlib.util.spec_from_file_location(
        str(folder).replace(".", "_x_"), folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__version__


def pyproject() -> dict:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def test_packaging_names_every_part() -> None:
    """The wheel's package list equals the packages on disk, the versions agree, and requirements.txt has no torch."""
    project = pyproject()
    on_disk = {f"anchorshot.{module_name(p)}".rstrip(".") for p in source_files() if p.name == "__init__.py"}
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk
    folders = {path.parent for path in source_files()}
    bare = [folder for folder in folders if not (folder / "__init__.py").exists() and folder.name != "locks"]
    assert not bare, f"an installed copy would lack {bare}"
    assert f'__version__ = "{project["project"]["version"]}"' in (ROOT / "__init__.py").read_text()
    wanted = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert sorted(wanted) == sorted(project["project"]["dependencies"])
    assert not [w for w in wanted if w.startswith(("torch", "kornia", "open_clip", "accelerate", "peft", "timm"))]


def test_every_library_is_declared() -> None:
    """What the code imports is in `dependencies` or the `headless` extra (`train` for training), under its own name."""
    distribution = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open_clip_torch"}
    project = pyproject()["project"]
    extras = project["optional-dependencies"]

    def names(wanted: list[str]) -> set[str]:
        return {re.split(r"[\[<>=~! ]", line)[0].lower() for line in wanted}

    headless = names(project["dependencies"] + extras["headless"])
    missing = set()
    for path in source_files():
        declared = headless | (
            names(extras["train"]) if part_of(module_name(path)) in ("training", "pocket.recipes") else set()
        )
        if module_name(path) == "execution.ray":
            declared |= names(extras["ray"])
        if module_name(path) == "agents.grammar":
            declared |= names(extras["agents"])
        if module_name(path).startswith(("kernels.", "benchmarks.kernel")):
            declared.add("triton")  # comes with PyTorch where it is there; the kernels do without
        for _, level, target in imports(path):
            name = package_of(target)
            if level or name in sys.stdlib_module_names or name.startswith("comfy") or name in COMFYUI:
                continue
            if name in SERVER and path.relative_to(ROOT).parts[0] == "comfyui":
                continue
            if distribution.get(name, name).lower() not in declared:
                missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert not missing, missing


def test_every_data_file_travels_in_a_wheel() -> None:
    """Files that the program reads at run time (studios, weights, schemas, recipes) match a package-data pattern."""
    setuptools = pyproject()["tool"]["setuptools"]
    patterns = setuptools["package-data"]
    lost = []
    for path in files():
        relative = path.relative_to(ROOT)
        if path.suffix not in {".yaml", ".json", ".safetensors"}:
            continue
        owner = next(p for p in path.parents if p == ROOT or (p / "__init__.py").exists())
        package = ".".join(["anchorshot", *owner.relative_to(ROOT).parts])
        inside = path.relative_to(owner).as_posix()
        if not any(
            Path(inside).match(p) and inside.count("/") == p.count("/")
            for p in patterns["*"] + patterns.get(package, [])
        ):
            lost.append(relative.as_posix())
    assert not lost, lost

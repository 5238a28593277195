"""Suite `storytelling` on a set, broken off and gone on with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from close import same_picture, same_result

from anchorshot import evaluation
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.networks import MetricModels
from anchorshot.evaluation.parts import PartCache
from anchorshot.evaluation.suites.text2story.films import Figures, FilmRunner, films_row
from anchorshot.evaluation.suites.text2story.prompt_set import film_key
from anchorshot.evaluation.suites.text2story.storytelling_set import DATA, ScenePrompts, SetStory
from anchorshot.models.studio import load_studio
from anchorshot.sampling.text2story.segments import StorySettings

# The package that the tiny LPIPS is made with asks torchvision for its networks in an old way.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision.models.*")

SMALL: dict[str, Any] = {"size": (64, 96), "frames": 5}


def test_a_broken_off_run_leaves_what_is_finished(tiny_studio: Path, tmp_path: Path) -> None:
    """Ctrl-C in the second story of three: the first one's figures are those of a run of one story."""
    asked: dict[str, Any] = {"seed": 1, "shots": 2, "prompt_set": "benchmark", "variants": ["full", "plain"], **SMALL}

    def stop(stage: str, done: float, total: float, note: str = "") -> None:
        if done == 6:
            raise KeyboardInterrupt

    partial = tmp_path / "out" / "storytelling_partial.json"
    with pytest.raises(KeyboardInterrupt, match="1 of 3 stories are in .*storytelling_partial.json; add --resume"):
        evaluation.run("storytelling", tiny_studio, stories=3, out=tmp_path / "out", progress=stop, **asked)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {partial.name, "storytelling_parts"}
    kept = json.loads(partial.read_text())
    seen: list[tuple[bool, int]] = []

    def watch(stage: str, done: float, total: float, note: str = "") -> None:
        seen.append((partial.exists(), json.loads(partial.read_text())["stories"]))

    whole = evaluation.run("storytelling", tiny_studio, stories=1, out=tmp_path / "out", progress=watch, **asked)
    assert seen == [(True, 1)] * 4 and not partial.exists() and (tmp_path / "out" / "storytelling.json").is_file()
    assert kept.pop("complete") is False and kept.pop("stories_asked") == 3
    for result in (kept, whole):
        for row in result["rows"]:
            del row["seconds"], row["time_ratio"]
    assert same_result(kept, json.loads(json.dumps(whole)))  # the texts of three stories were encoded together


def test_a_broken_off_run_goes_on(tiny_studio: Path, judges: MetricModels, judge_files: Path, tmp_path: Path) -> None:
    """Finished films are not made again, a film cut short is; figures and pictures are those of an unbroken run."""
    asked: dict[str, Any] = {"seed": 1, "shots": 2, "prompt_set": "benchmark", "variants": ["full", "plain"], **SMALL}
    asked |= {"studio": load_studio(tiny_studio), "stories": 2, "judges": judges}

    def run(out: str, stop: float = math.inf, **more: Any) -> tuple[dict[str, Any], list[str]]:
        """The result without times, and the films that the run made."""
        made, tell = list[str](), FilmRunner.film

        def watched(self: FilmRunner, plot: Any, number: int, *rest: Any) -> Figures:
            film = tell(self, plot, number, *rest)
            assert len(film["seconds"]) == 1  # the first segment blends with nothing, so its time is another's
            made.append(f"{'plain' if self.sampler.settings.dipw is None else 'full'} {number}")
            return film

        def progress(stage: str, done: float, total: float, note: str = "") -> None:
            if done >= stop:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FilmRunner, "film", watched)
            result = evaluation.run("storytelling", out=tmp_path / out, progress=progress, **asked | more)
        for row in result["rows"]:
            del row["seconds"], row["time_ratio"]
        return result, made

    expected, made = run("whole")
    assert made == ["full 0", "plain 0", "plain 1", "full 1"]
    parts = tmp_path / "out" / "storytelling_parts"

    def broken() -> None:
        with pytest.raises(KeyboardInterrupt):
            run("out", stop=7)  # full 1 is in its second segment
        assert len(list(parts.iterdir())) == 3

    broken()
    (broken_part,) = parts.glob("plain-0000-*.safetensors")
    broken_part.write_bytes(b"half a file")
    with pytest.raises(InputError, match="size"):  # a mistake costs nothing
        run("out", size=(65, 96))
    resumed, made = run("out", resume=True)
    assert same_result(resumed, expected) and made == ["plain 0", "full 1"]
    assert same_picture(*(tmp_path / out / "storytelling_frames.png" for out in ("whole", "out")))
    assert not parts.exists()
    broken()
    whole, made = run("out", resume=True, variants=["plain", "full", "prior_shift:3"])  # what is there stays
    assert sorted(made) == ["full 0", "full 1", "full 1"] and [row["variant"] for row in whole["rows"]][1] == "full"
    config = yaml.safe_load(tiny_studio.read_text()) | {"models_dir": str(tiny_studio.parent)}
    config["defaults"]["video"]["steps"] += 1
    (tmp_path / "slower.yaml").write_text(yaml.safe_dump(config))
    config["clip"] |= {"dtype": "float16"}
    config["defaults"]["video"]["steps"] -= 1
    (tmp_path / "coarser.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "set.yaml").write_text(DATA.read_text().replace("look: a ", "look: one "))
    clip = load_studio(tiny_studio).clip.config
    (tmp_path / "gelu.json").write_text(json.dumps(clip | {"model_cfg": clip["model_cfg"] | {"quick_gelu": True}}))
    named = {"dino": judge_files / "dinov2", "lpips": judge_files / "alex.safetensors"}
    gelu = MetricModels.load(judge_files / "clip.safetensors", tmp_path / "gelu.json", **named)
    broken()
    finished = {file.name for file in parts.iterdir()}
    assert len(run("out", resume=True, seed=2)[1]) == 4
    one: dict[str, Any] = {"resume": True, "variants": ["full"], "stories": 1}  # a film is enough to tell
    for change in (
        {"judges": None},
        {"judges": MetricModels(dino=judges.dino)},
        {"judges": gelu},
        {"frames": 9},
        {"size": (64, 112)},
        {"prompt_set": tmp_path / "set.yaml"},
        {"studio": tmp_path / "slower.yaml"},
    ):
        assert run("out", **one | change)[1] == ["full 0"], change
        assert {file.name for file in parts.iterdir()} == finished, change  # what another run has finished stays
    coarser = run("out", resume=True, studio=tmp_path / "coarser.yaml")[1]
    assert coarser == ["full 0", "full 1"]  # of what the plain model makes, another CLIP is the judge
    assert [file.name for file in parts.iterdir()] == [name for name in finished if name.startswith("full-0000")]
    assert run("out", **one)[1] == []  # without a change it is not made again
    assert len(run("out")[1]) == 4 and not parts.exists()  # a run that does not go on makes all


def test_costs_of_another_device_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = {name: torch.rand(4) for name in ("scene", "action", "both", "cosines", "jumps", "seconds")}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    film["peak"] = torch.tensor(1 << 30)
    cuda, cpu = (PartCache(tmp_path / "parts", True, torch.device(kind)) for kind in ("cuda", "cpu"))
    cuda.save("full", 0, {"seed": 0}, film)
    same, other = cuda.load("full", 0, {"seed": 0}), cpu.load("full", 0, {"seed": 0})
    assert same is not None and other is not None and cpu.load("full", 0, {"seed": 1}) is None
    assert same.keys() == film.keys() and film.keys() - other.keys() == {"seconds", "peak"}
    assert films_row([other])["seconds"] is films_row([other])["peak"] is None
    both = films_row([other, other | {"seconds": torch.tensor([2.0, 3.0, 4.0])}])
    assert both["seconds"] == 3 and both["jump"] == pytest.approx(float(film["jumps"].mean()))
    cpu.remove()
    assert not (tmp_path / "parts").exists()


def test_films_of_earlier_versions_are_found() -> None:
    """The key of a film is made of these words, whatever the classes are called today."""
    story = SetStory("pond", "pair", ("Ada",), (ScenePrompts("a", "b", "c", "d"),))
    key = film_key(StorySettings(), story, 3)
    assert key["number"] == 3 and str(key["settings"]).startswith("StorySettings(dipw=DIPW(")
    pairs = "ScenePrompts(scene='a', action='b', scene_query='c', action_query='d')"
    assert key["plot"] == f"Plot(place='pond', cast='pair', names=('Ada',), pairs=({pairs},))"

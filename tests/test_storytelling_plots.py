"""Suite `storytelling` on a set of prompt pairs: films scored as they are made, by what is at hand and by judges."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from anchorshot import evaluation
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.networks import MetricModels
from anchorshot.evaluation.metrics.pixels import jump
from anchorshot.evaluation.suites.text2story.pocket import run_storytelling
from anchorshot.evaluation.suites.text2story.prompt_set import SET_VARIANTS, run_prompt_set
from anchorshot.evaluation.suites.text2story.scores import StoryMetrics
from anchorshot.evaluation.suites.text2story.story_size import natural_length
from anchorshot.evaluation.suites.text2story.storytelling_set import StorytellingSet, prompt_pair, storytelling_set
from anchorshot.evaluation.suites.text2story.variants import SETTINGS
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.story_stage import story_model, story_sampler
from anchorshot.pocket.recogniser import Recogniser
from anchorshot.sampling.noise import noise_source

# The package that the tiny LPIPS is made with asks torchvision for its networks in an old way.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision.models.*")

SIZE, FRAMES = (80, 160), 9
SMALL: dict[str, Any] = {"size": SIZE, "frames": FRAMES}
SET = """
casts:
  - {id: mo-pi, a: {name: Mo, look: a dog in a red scarf, later: him}, b: {name: Pi, look: a grey cat, later: her}}
places:
  - id: hill
    starring: 1
    scenes:
      - {scene: "{A} is on a hill.", action: "{A} sits down."}
      - {scene: "{A} is in a valley.", action: "{A} runs."}
"""


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


def told(studio: Studio, stories: int, shots: int, seed: int) -> torch.Tensor:
    """Whole films of the full method, `[N, M, T, 3, H, W]`, made without the suite."""
    model = story_model(studio, FRAMES, SIZE)
    sampler = story_sampler(studio, model, SETTINGS)
    films = []
    for n, plot in enumerate(storytelling_set(stories=stories, scenes=shots, seed=seed)):
        pairs = [prompt_pair([plot], i) for i in range(shots)]
        made = sampler.story(pairs, [[noise_source(seed, n, i)] for i in range(shots)])
        films.append(torch.stack([torch.cat(list(model.decode(segment.latents)), 1)[0] for segment in made]))
    return torch.stack(films)


def test_the_suite_on_the_benchmark(studio: Studio, tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    result = evaluation.run(
        "storytelling", studio, 1, 2, 2, prompt_set="benchmark", **SMALL, out=tmp_path,
        progress=lambda stage, done, total, note="": seen.append((done, total)),
    )  # fmt: skip
    rows = {row["variant"]: row for row in result["rows"]}
    films = 2 * 2 * len(SET_VARIANTS)
    assert tuple(rows) == SET_VARIANTS and seen == [(i, films) for i in range(1, films + 1)]
    facts = {"set": "benchmark", "stories": 2, "shots": 2, "size": [160, 80], "frames": FRAMES}
    facts |= {"clip": "studio", "features": "clip", "jump_metric": "ssim", "judges": {}}
    assert {name: result[name] for name in facts} == facts
    for row in rows.values():
        assert all(-1 <= row[name] <= 1 for name in ("clip_add", "clip_combined", "consistency"))
        assert row["action"] is row["place"] is row["identity"] is row["memory_ratio"] is None
        assert 0 < row["jump"] < 2 and row["seconds"] > 0
    assert rows["plain"]["time_ratio"] == 1 and set(result["weights"]) == {
        "full", "paper_prior", "without_twb", "without_sar"
    }  # fmt: skip
    assert json.loads((tmp_path / "storytelling.json").read_text()) == json.loads(json.dumps(result))
    with Image.open(tmp_path / "storytelling_frames.png") as sheet:
        assert sheet.width > 6 * 160 and sheet.height > 2 * 5 * 80
    stream = io.StringIO()
    evaluation.print_table(result, Console(file=stream, width=80))
    text = stream.getvalue()
    assert "2 stories of benchmark" in text and "consistency: CLIP's image features; jump: 1 − SSIM" in text
    assert all(name in text for name in SET_VARIANTS) and max(map(len, text.splitlines())) <= 80


def test_a_folder_that_cannot_be_written_is_refused_first(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for arguments in ({"prompt_set": "benchmark"}, {}):
            with pytest.raises(InputError, match="^out: must be a writable folder"):
                evaluation.run("storytelling", studio, out=out, **arguments)  # type: ignore[arg-type]


def test_scores_are_those_of_the_whole_films(studio: Studio, judges: MetricModels) -> None:
    """Films scored segment by segment, by all judges, against the metrics' definitions on films made at once."""
    result = evaluation.run(
        "storytelling", studio, 2, 2, 3, prompt_set="benchmark", variants=["full"], judges=judges, **SMALL
    )
    assert [result[name] for name in ("clip", "features", "jump_metric")] == ["file", "dino", "lpips"]
    assert result["judges"] == {"clip": "clip.safetensors", "dino": "dinov2", "lpips": "alex.safetensors"}
    (row,) = result["rows"]
    assert row["time_ratio"] is None  # the plain model is not among the variants
    films, plots = told(studio, 2, 3, 2), storytelling_set(stories=2, scenes=3, seed=2)
    assert judges.clip and judges.dino and judges.lpips
    add, combined, steps, joints = [], [], [], []
    for film, plot in zip(films, plots, strict=True):
        for segment, pair in zip(film, plot.pairs, strict=True):
            texts = [pair.scene_query, pair.action_query, f"{pair.scene_query} {pair.action_query}"]
            similar = judges.clip.embed_images(segment[::4]) @ judges.clip.embed_texts(texts).T
            add.append(similar[:, :2].mean())
            combined.append(similar[:, 2].mean())
        features = judges.dino(film[:, ::4].flatten(0, 1))
        steps.append(torch.cosine_similarity(features[1:], features[:-1]).mean())
        joints.append(judges.lpips(film[:-1, -1], film[1:, 0]).mean())
    for name, values in {"clip_add": add, "clip_combined": combined, "consistency": steps, "jump": joints}.items():
        assert row[name] == pytest.approx(float(torch.stack(values).mean()), abs=1e-5), name


def test_without_judges_clip_and_ssim_stand_in(studio: Studio) -> None:
    result = evaluation.run("storytelling", studio, 2, 1, 2, prompt_set="benchmark", variants=["full"], **SMALL)
    (film,) = told(studio, 1, 2, 2)
    features = studio.clip.embed_images(film[:, ::4].flatten(0, 1))
    (row,) = result["rows"]
    expected = torch.cosine_similarity(features[1:], features[:-1]).mean()
    assert row["consistency"] == pytest.approx(float(expected), abs=1e-5)
    assert row["jump"] == pytest.approx(float(jump(film[0, -1:], film[1, :1])), abs=1e-5)


def test_judges_on_the_pocket_world(studio: Studio, judges: MetricModels) -> None:
    torch.manual_seed(0)
    reader = Recogniser(width=8).eval()
    plain = run_storytelling(studio, reader, 0, 1, 2, ["ground_truth"])[0]
    judged = run_storytelling(studio, reader, 0, 1, 2, ["ground_truth"], networks=judges)[0]
    assert [plain[name] for name in ("clip", "features", "jump_metric")] == ["studio", "recogniser", "ssim"]
    assert [judged[name] for name in ("clip", "features", "jump_metric")] == ["file", "dino", "lpips"]
    for name in ("clip_add", "clip_combined", "consistency", "jump"):
        assert judged["rows"][0][name] != plain["rows"][0][name]
    for name in ("action", "place", "identity"):
        assert judged["rows"][0][name] == plain["rows"][0][name]


def test_blocks_of_a_film_add_up(studio: Studio) -> None:
    """All at once and segment by segment are the same; stories do not run into each other; one frame has no step."""
    plots = storytelling_set(stories=2, scenes=2)
    judge = StoryMetrics([prompt_pair(plots, i) for i in range(2)], studio.clip)
    films = torch.rand(2, 2, 5, 3, 80, 160)
    whole, parts = judge.film(), judge.film()
    whole.add(films[:, :, ::4], films[:, :, [0, -1]])
    for n in range(2):
        for i in range(2):
            block = films[n : n + 1, i : i + 1]
            parts.add(block[:, :, ::4], block[:, :, [0, -1]], n, i)
    assert parts.row() == pytest.approx(whole.row(), abs=1e-5)
    single = judge.film()
    single.add(films[:, :1, :1], films[:, :1, [0, 0]])
    assert single.row()["consistency"] is single.row()["jump"] is None


def test_a_studio_has_a_length_of_its_own(studio: Studio, mochi_studio: Path) -> None:
    assert natural_length(load_studio("pocket")) == ((80, 160), 17)
    assert natural_length(studio) == ((480, 832), 81)  # Wan 2.1's, by the 16 channels of its VAE
    assert natural_length(load_studio(mochi_studio)) == ((480, 848), 163)


def test_mochi_tells_the_benchmark(mochi_studio: Path) -> None:
    """Segments of 6n+1 frames: the last one is not among every fourth, and the jump starts from it all the same."""
    result, films = run_prompt_set(
        load_studio(mochi_studio), StorytellingSet.read(), 0, 1, 2, ["full"], size=(64, 64), frames=7
    )
    assert result["frames"] == 7 and result["rows"][0]["jump"] > 0
    assert films["full"][0].shape == (6, 3, 64, 64)  # first, middle and last of two segments
    expected = jump(films["full"][0][2:3], films["full"][0][3:4])
    assert result["rows"][0]["jump"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.cuda
def test_on_a_gpu_memory_is_measured(tiny_studio: Path, judge_files: Path) -> None:
    judges = MetricModels.load(
        judge_files / "clip.safetensors", None, judge_files / "dinov2", judge_files / "alex.safetensors", device="cuda"
    )
    result, _ = run_prompt_set(
        load_studio(tiny_studio, device="cuda"),
        StorytellingSet.read(),
        0,
        1,
        2,
        ["full", "plain"],
        networks=judges,
        **SMALL,
    )
    full, plain = result["rows"]
    assert full["memory_ratio"] > 0 and plain["memory_ratio"] == 1
    assert all(-1 <= full[name] <= 1 for name in ("clip_add", "clip_combined", "consistency"))


def test_a_set_of_ones_own_from_the_command_line(tiny_studio: Path, judge_files: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "set.yaml").write_text(SET)
    arguments = [
        "evaluate",
        "storytelling",
        "--set",
        tmp_path / "set.yaml",
        "--studio",
        tiny_studio,
        "--size",
        "160x80",
    ]
    arguments += ["--frames", "5", "--variants", "plain", "--out", tmp_path / "out", "--json", tmp_path / "rows.json"]
    arguments += ["--dino", judge_files / "dinov2", "--lpips", judge_files / "alex.safetensors", "--device", "cpu"]
    arguments += ["--clip", f"{judge_files / 'clip.safetensors'},{tmp_path / 'clip.json'}"]
    clip = load_studio(tiny_studio).clip
    (tmp_path / "clip.json").write_text(json.dumps(clip.config))
    assert main([str(part) for part in arguments]) == 0
    result = json.loads((tmp_path / "rows.json").read_text())
    assert (result["set"], result["stories"], result["shots"], result["frames"]) == ("set.yaml", 1, 2, 5)
    assert result["judges"] == {"clip": "clip.safetensors", "dino": "dinov2", "lpips": "alex.safetensors"}
    assert "CLIP: from a file; consistency: DINO; jump: LPIPS" in capsys.readouterr().out


def test_bad_requests_are_refused(studio: Studio, tmp_path: Path) -> None:
    broken = yaml.safe_load(SET)
    broken["places"][0]["scenes"][0]["action"] = "{C} sits down."
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    benchmark: dict[str, Any] = {"prompt_set": "benchmark"} | SMALL
    for words, suite, arguments in (
        ("among full.*ground_truth.*pocket world", "storytelling", benchmark | {"variants": ["ground_truth"]}),
        ("variants: must be among", "storytelling", benchmark | {"variants": ["fuller"]}),
        ("stories: must be a whole number from 1 to 32", "storytelling", benchmark | {"stories": 33}),
        ("shots: must be a whole number from 1 to 12", "storytelling", benchmark | {"shots": 13}),
        ("size: must be multiples of 16.*165x90.*use 160x96", "storytelling", benchmark | {"size": (90, 165)}),
        ("size: .*at least 64.*use 160x64", "storytelling", benchmark | {"size": (32, 160)}),
        ("size: must be height and width", "storytelling", benchmark | {"size": (80,)}),
        ("frames: .*4n.1", "storytelling", benchmark | {"frames": 8}),
        ("set: must be pocket, benchmark or.*did you mean benchmark", "storytelling", {"prompt_set": "benchmrk"}),
        ("set: must be pocket", "storytelling", {"prompt_set": tmp_path}),
        (r"broken.yaml.*scenes\[0\].*known slots.*\{C\}", "storytelling", {"prompt_set": tmp_path / "broken.yaml"}),
        ("size: is for a set", "storytelling", {"size": SIZE}),
        ("frames: is for a set", "storytelling", {"frames": 5}),
        ("set: is for the suites keyframes and storytelling", "video", {"prompt_set": "benchmark"}),
        ("size: is for the suite storytelling", "keyframes", {"size": SIZE}),
        ("judges: is for the suites storytelling and pairs", "keyframes", {"judges": MetricModels()}),
        ("resume: is for the suites storytelling and upscale", "keyframes", {"resume": True}),
        ("resume: is for a set", "storytelling", {"resume": True, "prompt_set": "pocket"}),
        ("pairs: is for the suite keyframes", "storytelling", benchmark | {"pairs": [8]}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            evaluation.run(suite, studio, **arguments)


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, arguments in (
        ("--size: must be width x height", ["storytelling", "--set", "benchmark", "--size", "80"]),
        ("--set: is for the suites keyframes and storytelling", ["video", "--set", "benchmark"]),
        ("--dino: is for the suites storytelling and pairs", ["keyframes", "--dino", tmp_path]),
        ("dino: must be a folder", ["storytelling", "--dino", tmp_path / "gone"]),
        ("lpips: file must exist", ["storytelling", "--lpips", tmp_path / "gone"]),
        ("clip: file must exist", ["storytelling", "--clip", f"{tmp_path}/a.safetensors,ViT-Z"]),
        ("set: must be pocket", ["storytelling", "--set", "gone.yaml"]),
    ):
        assert main(["evaluate", *map(str, arguments), "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1
        assert words in captured.err, captured.err
    assert not (tmp_path / "out").exists()

"""Suite `storytelling`: measures with known values, variants that are what they say, and what the suite writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from anchorshot import evaluation
from anchorshot.benchmarks.storytelling import disagreement
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.pixels import jump
from anchorshot.evaluation.stories import shipped_recogniser
from anchorshot.evaluation.suites.text2story.pocket import _sample_films, run_storytelling
from anchorshot.evaluation.suites.text2story.pocket_prompts import prompt_pair, prompt_stories
from anchorshot.evaluation.suites.text2story.variants import VARIANTS, settings_of
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.story_stage import story_model, story_pictures, story_sampler
from anchorshot.pocket.recogniser import Recogniser
from anchorshot.sampling.text2story.action_similarity import SAR
from anchorshot.sampling.text2story.prompt_mixing import DIPW
from anchorshot.sampling.text2story.segments import StorySettings


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(width=8).eval()


def test_variants_leave_out_one_part_each() -> None:
    full = StorySettings(gamma=0.4)
    assert settings_of("full", full) == full
    assert settings_of("without_dipw", full) == StorySettings(dipw=None, gamma=0.4)
    assert settings_of("without_twb", full) == StorySettings(gamma=0.0)
    assert settings_of("without_sar", full) == StorySettings(gamma=0.4, semantic=False)
    assert settings_of("plain", full) == StorySettings(dipw=None, gamma=0.0)
    assert settings_of("prior_shift:3", full) == StorySettings(DIPW(prior_shift=3.0), gamma=0.4)
    assert settings_of("prior_clock:steps", full) == StorySettings(DIPW(prior_clock="steps"), gamma=0.4)
    paper = DIPW(prior_clock="steps", prior_shift=1.0)
    assert settings_of("paper_prior", full) == StorySettings(paper, "alone", gamma=0.4)
    assert settings_of("action_prompt:alone", full) == StorySettings(action_prompt="alone", gamma=0.4)
    assert settings_of("sar:within", full) == StorySettings(gamma=0.4, sar=SAR(pair="within"))
    clip = SAR("clip", "adjacent", centred=True, bounded=True)
    assert settings_of("sar:clip+adjacent+centred+bounded", full) == StorySettings(gamma=0.4, sar=clip)
    none = ("without_all", "prior_shift", "prior_shift:", "prior_shift:0", "prior_shift:nan", "prior_shift:soon")
    for wrong in (*none, "prior_clock:soon", "action_prompt:", "sar:", "sar:bert", "sar:clip+", "paper_prior:2"):
        with pytest.raises(InputError, match="^variants: must be among .* or prior_shift"):
            settings_of(wrong)


def test_a_jump_is_none_between_equal_pictures_and_grows_with_the_change() -> None:
    g = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 80, 160, generator=g)
    assert jump(picture, picture).abs().max() < 1e-5
    near, far = (picture + amount * torch.randn(picture.shape, generator=g) for amount in (0.05, 0.5))
    assert (jump(picture, near.clamp(0, 1)) < jump(picture, far.clamp(0, 1))).all()


def test_the_suite(studio: Studio, recogniser: Recogniser, tmp_path: Path) -> None:
    result = evaluation.run("storytelling", studio, 0, 2, 2, recogniser=recogniser, out=tmp_path)
    rows = {row["variant"]: row for row in result["rows"]}
    assert tuple(rows) == VARIANTS and result["shots"] == 2
    for name, row in rows.items():
        assert all(0 <= row[column] <= 1 for column in ("action", "place", "identity"))
        assert all(-1 <= row[column] <= 1 for column in ("clip_add", "clip_combined", "consistency"))
        assert (row["seconds"] is None) == (name == "ground_truth")
    assert rows["full"]["memory_ratio"] >= 1 and rows["plain"]["memory_ratio"] == 1
    assert set(result["weights"]) == {"full", "paper_prior", "without_twb", "without_sar"}
    steps = studio.defaults.video.steps
    assert all(len(values) == steps and all(0 < value < 1 for value in values) for values in result["weights"].values())
    assert json.loads((tmp_path / "storytelling.json").read_text()) == json.loads(json.dumps(result))
    with Image.open(tmp_path / "storytelling_frames.png") as sheet:
        assert sheet.width > 6 * 160 and sheet.height > 2 * 7 * 80
    stream = io.StringIO()
    evaluation.print_table(result, Console(file=stream, width=80))
    text = stream.getvalue()
    assert all(name in text for name in VARIANTS) and max(map(len, text.splitlines())) <= 80


def test_the_truth_is_read_right() -> None:
    """The shipped studio: what the suite calls right is right for true films, and for another story's films is not."""
    reader = shipped_recogniser()
    pocket = load_studio("pocket")
    result, films = run_storytelling(pocket, reader, 1, 3, 2, ["ground_truth"])
    (row,) = result["rows"]
    assert min(row["action"], row["place"], row["identity"]) > 0.95
    assert len(films["truth"]) == 3 and films["truth"][0].shape == (34, 3, 80, 160)


def test_one_segment_does_not_depend_on_the_others_in_its_batch(studio: Studio) -> None:
    sampler, told = story_sampler(studio, story_model(studio, 17, (80, 160)), StorySettings()), prompt_stories(4, 3, 2)
    alone, together = (_sample_films(sampler, some, 2, 4, lambda: None)[0] for some in (told[:1], told))
    torch.testing.assert_close(together[:1], alone, atol=2e-4, rtol=0)


def test_a_scorer_agrees_with_itself_and_not_with_another(studio: Studio) -> None:
    model = story_model(studio, 17, (80, 160))
    told = prompt_stories(0, 2, 1)
    rgb, video = story_pictures(model), story_pictures(model, "decoded_video")
    assert disagreement(studio, model, told, video, video, cheap_every=1) == 0
    assert disagreement(studio, model, told, rgb, video, cheap_every=1) > 0
    with pytest.raises(InputError, match="preview"):
        story_pictures(model, "sketch")  # type: ignore[arg-type]


def test_alike_actions_blend_less(studio: Studio) -> None:
    """SAR with either text encoder: the same action twice leaves nothing of γ, another leaves something."""
    model = story_model(studio, 5, (80, 160))
    first, second = (prompt_pair(prompt_stories(0, 2, 2), i) for i in range(2))
    for sar in (SAR("text"), SAR("clip")):
        sampler = story_sampler(studio, model, StorySettings(sar=sar))
        assert sampler.gamma(first, first).abs().max() < 1e-6
        assert sampler.gamma(first, second).max() > sampler.gamma(first, first).max()


def test_bad_requests_are_refused(studio: Studio, recogniser: Recogniser) -> None:
    for fields, arguments in {
        "must be among": {"variants": ["fuller"]},
        "pairs: is for": {"pairs": [8]},
        "stories": {"stories": 0},
        "seed": {"seed": -1},
        "shots": {"shots": 100_000},
    }.items():
        with pytest.raises(InputError, match=fields):
            evaluation.run("storytelling", studio, recogniser=recogniser, **arguments)  # type: ignore[arg-type]

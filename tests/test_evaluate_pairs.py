"""Suite pairs: roll-outs against a plain loop, what its figures read, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan, QwenImageTransformer2DModel, WanTransformer3DModel
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from anchorshot import evaluation
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.evaluation.stories import held_out_stories, shipped_recogniser
from anchorshot.evaluation.suites.pairs.figures import FIGURES, PairFigures
from anchorshot.evaluation.suites.pairs.judges import Judges
from anchorshot.evaluation.suites.pairs.rollout import PairModels, PairPolicy, roll_out
from anchorshot.evaluation.suites.pairs.stories import LENGTHS, ToldStory, true_pairs
from anchorshot.evaluation.suites.pairs.variants import Variant, chosen_variants, without_dpo
from anchorshot.memory.memory_pack import MemoryPack
from anchorshot.memory.retrieval import rank_memory
from anchorshot.models.encoders.text_cond import TextCond
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pocket.configs import CLIP, T5, VAE, VIDEO
from anchorshot.pocket.recogniser import Recogniser
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.sampling.noise import noise_source
from anchorshot.sampling.pairs import memory_segments, sample_pair
from tests import tiny_qwen
from tests.tiny_weights import strong

QWEN = {
    **{"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": [4, 6, 6], "zero_cond_t": True},
}
WAN = VIDEO | {
    **{"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4},
    **{"text_dim": 32, "freq_dim": 16, "ffn_dim": 64, "num_layers": 1},
}
SMALL_VAE = VAE | {
    **{"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [0.05] * 4}
}
SMALL_T5 = T5 | {"d_model": 32, "d_kv": 8, "num_layers": 1, "d_ff": 48}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A studio of the real classes with random weights, loaded from files; 2 steps, so that tests are fast."""
    folder = tmp_path_factory.mktemp("studio")
    torch.manual_seed(0)

    def save(name: str, kind: str | None, state: dict, metadata: dict[str, str]) -> None:
        copies = {k: v.detach().clone() for k, v in (state if kind is None else to_public(kind, state)).items()}
        save_file(copies, folder / f"{name}.safetensors", metadata=metadata)

    pair = strong(QwenImageTransformer2DModel(**QWEN), 0)
    save("pair", "qwen_image", pair.state_dict(), {"config": json.dumps(QWEN)})
    save("qwen_vl", None, tiny_qwen.public_state(tiny_qwen.tiny_vl()), tiny_qwen.metadata())
    save("video", "wan", WanTransformer3DModel(**WAN).state_dict(), {"config": json.dumps(WAN)})
    vae = AutoencoderKLWan(**SMALL_VAE)
    with torch.no_grad():  # as initialised, all frames would be about as grey
        vae.decoder.conv_out.weight *= 5
    save("vae", "wan_vae", vae.state_dict(), {"config": json.dumps(SMALL_VAE)})
    tokenizer = build_tokenizer()
    t5 = T5EncoderModel(T5Config(vocab_size=tokenizer.get_vocab_size(), **SMALL_T5))
    save("t5", "t5", t5.state_dict(), {"config": json.dumps(SMALL_T5), "tokenizer": tokenizer.to_str()})
    save("clip", None, open_clip.CLIP(**CLIP).state_dict(), {"config": json.dumps(CLIP)})
    data = {"name": "tiny", "models_dir": ".", "video_text": {"kind": "t5", "file": "t5.safetensors"}}
    data |= {name: {"file": f"{name}.safetensors"} for name in ("video", "clip", "pair")}
    data |= {"pair_text": {"file": "qwen_vl.safetensors"}, "video_vae": {"kind": "wan_vae", "file": "vae.safetensors"}}
    pairs = {"steps": 2, "shift": 3.0, "prompt": "{text}\n{frames} frames"}
    data |= {"defaults": {"pair": pairs, "video": {"steps": 1, "shift": 3.0}}}
    (folder / "studio.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_studio(folder / "studio.yaml")


@pytest.fixture(scope="module")
def models(studio: Studio) -> PairModels:
    return PairModels.of(studio)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return shipped_recogniser()


def told(count: int, shots: int) -> list[ToldStory]:
    return [ToldStory(story) for story in held_out_stories(3, count, shots)]


@torch.no_grad()
def plain_roll_out(models: PairModels, story: ToldStory, pack: MemoryPack, seed: int) -> torch.Tensor:
    """One story, one shot at a time: what the batched roll-out has to equal."""
    settings, frames = models.sampling, []
    for p, length in enumerate(story.lengths):
        previous = None if not frames else [frames[-1]]
        text = TextCond(*models.text.encode([f"{story.caption(p)}\n{length} frames"], previous))
        memory = []
        if frames:
            keys = torch.cat([models.clip.embed_images(frame[None]) for frame in frames])
            order = rank_memory("clip", len(frames), models.clip.embed_query(story.query(p)), keys)
            latents = [models.vae.encode_image(frames[k][None]) for k in order]
            memory = memory_segments(pack.pack(latents, (5, 10)), pack, (5, 10), settings.layout)
        noise = noise_source(seed, story.truth.seed, p)
        latents = sample_pair(models.transformer, text, (4, 10, 20), memory, settings, noise)
        frames += [models.vae.decode_image(latent)[0] for latent in latents]
    return torch.stack(frames).unflatten(0, (-1, 2))


@pytest.mark.parametrize("pack", [MemoryPack(), MemoryPack("references", pyramid=True)])
def test_a_batched_roll_out_equals_a_plain_loop(models: PairModels, pack: MemoryPack) -> None:
    stories, full = told(2, 3), PairPolicy(pack)
    run = roll_out(models, stories, full, seed=5)
    for story, frames in zip(stories, run.frames, strict=True):
        torch.testing.assert_close(frames, plain_roll_out(models, story, pack, 5), atol=2e-4, rtol=0)
    assert run.memory_tokens == [0, pack.tokens(2, (5, 10)), pack.tokens(4, (5, 10))]
    assert [len(kept) for kept in run.remembered[0]] == [0, 2, 4] and sorted(run.remembered[1][2]) == [0, 1, 2, 3]
    assert len(run.seconds) == 3 and min(run.seconds) > 0 and run.tokens[0] > 100


def test_every_part_that_a_variant_leaves_out_shows_in_its_frames(models: PairModels) -> None:
    stories, full = told(1, 2), PairPolicy(MemoryPack())
    run = {
        name: roll_out(models, stories, policy, 5).frames[0]
        for name, policy in {
            "full": full,
            "no pack": replace(full, pack=None),
            "no history": replace(full, pack=None, previous=False),
            "not joint": replace(full, joint=False),
        }.items()
    }
    for name in ("no pack", "no history"):  # the first shot has no history: it is the same
        torch.testing.assert_close(run[name][0], run["full"][0], atol=2e-4, rtol=0)
        assert (run[name][1] - run["full"][1]).abs().amax() > 1e-3, name
    assert (run["no history"][1] - run["no pack"][1]).abs().amax() > 1e-3
    assert (run["not joint"][0] - run["full"][0]).abs().amax() > 1e-3


def test_captions_keep_back_the_colour_of_who_comes_back() -> None:
    for story in told(4, 6):
        known: set[str] = set()
        for p, shot in enumerate(story.truth.shots):
            plain, full = story.caption(p), story.caption(p, "told")
            again = [actor.name for actor in shot.actors if actor.name in known]
            assert (plain != full) == bool(again), (plain, full)
            for actor in shot.actors:
                look = story.board.characters[actor.name]
                assert (look in plain) == (actor.name not in known) and look in full
            known |= {actor.name for actor in shot.actors}
            assert story.lengths[p] in LENGTHS and story.query(p) and "<" not in story.query(p)


def test_what_true_pairs_show_is_read_right(models: PairModels, recogniser: Recogniser) -> None:
    stories = told(3, 4)
    true = true_pairs(stories)
    figures = PairFigures(stories, true, Judges.of(recogniser, models.clip), recogniser)
    found = figures(true)
    assert list(found) == list(FIGURES) and all(len(values) == 3 for values in found.values())
    for name in ("identity", "colour", "place", "side", "scale", "movement", "length"):
        values = [value for value in found[name] if value is not None]
        assert values and min(values) > 0.9, (name, found[name])
    assert found["TVS_gt"] == pytest.approx([1.0] * 3, abs=1e-5)

    # The next shot's end frame for this one's: what is asked of single shots is no longer there.
    wrong = true.clone()
    wrong[:, :, 1] = true.roll(1, 1)[:, :, 1]
    worse = figures(wrong)
    for name in ("SC", "BC", "kept_within", "movement", "length", "TVS_gt"):
        assert mean(worse[name]) < mean(found[name]) - 0.05, name
    assert worse["scale"] == found["scale"]  # of the start frame

    # Every shot is its first one: nothing changes across shots, and the texts' changes are missed.
    still = true[:, :1].expand_as(true)
    same = figures(still)
    for name in ("SC_E", "BC_E", "SC_E_mean", "BC_E_mean"):
        assert same[name] == pytest.approx([1.0] * 3, abs=1e-5), name
        assert mean(found[name]) < 0.95
    assert mean(same["TVS_gt"]) < 0.9 and mean(same["identity"]) < mean(found["identity"])


def mean(values: list[float | None]) -> float:
    found = [value for value in values if value is not None]
    return sum(found) / len(found)


def test_one_shot_has_nothing_across_shots(models: PairModels, recogniser: Recogniser) -> None:
    stories = told(2, 1)
    true = true_pairs(stories)
    found = PairFigures(stories, true, Judges.of(recogniser, models.clip), recogniser)(true)
    for name in ("SC_E", "BC_E_mean", "SC_E_tracked", "TVS_gt", "TVS_text", "identity"):
        assert found[name] == [None, None], name
    assert None not in found["SC"]


def test_variants_mean_what_their_names_say(studio: Studio) -> None:
    own = studio.defaults.pair
    made = {name: Variant.parse(name, own).policy for name in evaluation.suites.PairsSuite.variants}
    full = PairPolicy(MemoryPack(), "clip")
    assert made["ground_truth"] is None and made["full"] == full and made["no_dpo"] == full
    assert made["no_memory_pack"] == replace(full, pack=None)
    assert made["no_history"] == replace(full, pack=None, previous=False)
    assert made["no_dual_encoding"] == replace(full, joint=False)
    assert made["references"] == replace(full, pack=MemoryPack("references", pyramid=True))
    assert Variant.parse("previous_end", own).policy == replace(full, rank_by="image")
    assert not Variant.parse("no_dpo", own).preferred
    with pytest.raises(InputError, match="variants: must be among ground_truth, full"):
        Variant.parse("canvases", own)


def test_preferences_are_a_lora_that_can_be_left_out(studio: Studio, tmp_path: Path) -> None:
    assert "no_dpo" not in [variant.name for variant in chosen_variants(studio, None)]
    with pytest.raises(InputError, match="variants: no_dpo needs a studio whose pair model has a DPO LoRA"):
        chosen_variants(studio, ("full", "no_dpo"))
    data = yaml.safe_load(studio.file.read_text())
    for part in ("pair", "pair_text"):
        data[part]["loras"] = [{"file": "style.safetensors"}, {"file": "loras/pair_DPO.safetensors"}]
    (tmp_path / "studio.yaml").write_text(yaml.safe_dump(data))
    both = load_studio(tmp_path / "studio.yaml")
    assert "no_dpo" in [variant.name for variant in chosen_variants(both, None)]
    plain = without_dpo(both)
    for name in ("pair", "pair_text"):
        assert [lora.file for lora in getattr(plain.config, name).loras] == [["style.safetensors"]]
        assert len(getattr(both.config, name).loras) == 2


def test_the_suite_writes_a_report(studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    names = "ground_truth,full,no_dual_encoding,references"
    arguments = ["--stories", "2", "--shots", "2", "--films", "1", "--variants", names, "--out", str(tmp_path / "out")]
    assert main(["evaluate", "pairs", "--studio", str(studio.file), *arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "SC E" in out and "TVS gt" in out and "no_dual_encoding less full" in out
    result = json.loads(file.read_text())
    rows = {row["variant"]: row for row in result["rows"]}
    assert list(rows) == names.split(",") and (result["films"], result["features"], result["clip"]) == (
        1,
        "recogniser",
        "studio",
    )
    full = rows["full"]
    assert full["SC"] is not None and full["SC_se"] > 0 and full["SC_video"] is not None and full["seconds"] > 0
    assert rows["ground_truth"]["tokens"] is None and rows["ground_truth"]["TVS_gt"] > 0.3
    paired = result["paired"]["no_dual_encoding"]["SC"]
    assert paired["difference"] == pytest.approx(rows["no_dual_encoding"]["SC"] - full["SC"], abs=1e-6)
    assert paired["stories"] == 2 and "full" not in result["paired"]
    assert result["by_shot"]["full"]["memory_tokens"] == [0, MemoryPack().tokens(2, (5, 10))]
    for name in ("pairs.png", "pairs_frames.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()


def test_it_refuses_a_studio_without_a_pair_model_and_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "pairs", "--studio", "flux-wan", "--device", "cpu"]) == 2
    assert "pair: must be set for start and end frames" in capsys.readouterr().err
    assert main(["evaluate", "keyframes", "--films", "2", "--device", "cpu"]) == 2
    assert "--films: is for the suite pairs" in capsys.readouterr().err


def test_its_table_fits_a_terminal(studio: Studio) -> None:
    row = dict.fromkeys((*FIGURES, "SC_video", "BC_video", "SC_E_video", "BC_E_video", "identity_se"), 0.1234)
    row |= {"tokens": 1234.5, "memory_tokens": 49, "seconds": 12.345}
    rows = [{"variant": name, **row} for name in evaluation.suites.PairsSuite.variants]
    result = {"suite": "pairs", "studio": "tiny", "seed": 0, "stories": 16, "shots": 8, "rows": rows, "films": 4}
    result |= {"paired": {}, "features": "recogniser", "clip": "studio", "judges": {}}
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    evaluation.print_table(result, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)

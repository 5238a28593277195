"""Recipe files: supervised training, then preferences, on a tiny Qwen-Image and Qwen2.5-VL from files."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from anchorshot.core.errors import InputError
from anchorshot.models.io.lora import LoraSpec
from anchorshot.models.layouts.start_end import pair_ids
from anchorshot.models.studio import load_studio
from anchorshot.training.lora import merge_lora
from anchorshot.training.objectives import FlowInputs
from anchorshot.training.pairs.flow import Conditions, PairLearner, PairPredictor
from anchorshot.training.pairs.recipe_file import read_recipe
from anchorshot.training.pairs.recipes import Times
from anchorshot.training.pairs.run import _studio, run
from anchorshot.training.processes import launch
from tests.pair_shots import SIZE, picture, write_models, write_shots
from tests.tiny_weights import gap

ROOT = Path(__file__).parent.parent


def studio_of(folder: Path) -> Path:
    """The pocket studio with a tiny random pair model."""
    shipped = yaml.safe_load((ROOT / "studios" / "pocket.yaml").read_text())
    pair, text = write_models(folder / "models")
    weights = load_studio("pocket").roots[0]
    shipped |= {
        "name": "tiny",
        "models_dir": str(weights.resolve()),
        "pair": {"kind": "qwen_image", "file": str(pair)},
        "pair_text": {"kind": "qwen_vl", "file": str(text)},
    }
    shipped["defaults"]["pair"] = {"prompt": "{text}\nshot time {seconds}", "system_prompt": "the red square"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(shipped))
    return folder / "tiny.yaml"


def recipe_of(folder: Path, name: str, **changes) -> Path:
    """A shipped recipe at a size that a test can train."""
    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    recipe["studio"] = "tiny.yaml"
    recipe["data"] |= {"file": "shots.jsonl", "cache": "cache", "sizes": [list(SIZE)], "hold_out": 0.0, "inner": 4}
    recipe["lora"] |= {"rank": 4, "text_rank": 4}
    recipe["training"] |= {"steps": 4, "batch": 3, "lr": 0.01, "warmup": 0, "precision": "no", "save_every": 2,
                           "log_every": 1}  # fmt: skip
    for section, values in changes.items():
        recipe[section] = recipe[section] | values if isinstance(values, dict) else values
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pairs")
    write_shots(folder)
    studio_of(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """The first stage in one process."""
    run(recipe_of(folder, "stage_sft"), folder / "sft", device="cpu")
    return folder / "sft"


def log(out: Path, name: str) -> list[dict]:
    return json.loads((out / f"{name}.log.json").read_text())


def test_the_shipped_recipes_say_what_the_paper_says():
    sft, dpo = (read_recipe(ROOT / "recipes" / f"stage_{stage}.yaml") for stage in ("sft", "dpo"))
    assert (sft.training.steps, dpo.training.steps) == (100_000, 20_000)
    for recipe in (sft, dpo):
        assert recipe.lora.rank == recipe.lora.text_rank == 64
        assert recipe.training.lr == 1e-4 and recipe.training.weight_decay == 0
    assert sft.preferred is None and dpo.preferred is not None and dpo.preferred.share_t


def test_what_saves_memory_in_films_is_not_used(tmp_path):
    recipe, path = (read_recipe(ROOT / "recipes" / "stage_sft.yaml"), ROOT / "recipes" / "stage_sft.yaml")
    assert load_studio("qwen-wan").config.pair.offload == "block"
    studio = _studio(recipe, path, torch.device("cpu"))
    for part in (studio.config.pair, studio.config.pair_text):
        assert part.offload == "none" and not part.fp8
    pair = recipe.pairs(studio.defaults.pair)
    assert (pair.packing, pair.limit, pair.guidance) == ("canvas", None, studio.defaults.pair.guidance)
    with pytest.raises(InputError, match="studio: must have a pair model"):
        _studio(recipe.model_copy(update={"studio": "flux-wan"}), path, torch.device("cpu"))


def test_supervised_training_writes_one_lora_for_both_models(trained):
    losses = [entry["loss"] for entry in log(trained, "stage_sft")]
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
    weights = load_file(trained / "weights" / "stage_sft.safetensors")
    assert {key.split(".")[0] for key in weights} == {"transformer", "text_encoders"}
    moved = [key for key, value in weights.items() if "lora_B" in key and value.abs().max() > 0]
    assert any(key.startswith("text_encoders") for key in moved) and any("transformer_blocks" in key for key in moved)
    checkpoint = load_file(trained / "stage_sft.safetensors")
    assert not any("base_layer" in key or "img_in" in key for key in checkpoint), "frozen weights are not kept"


def test_a_run_goes_on_as_if_it_had_not_stopped(folder, trained, tmp_path):
    path = recipe_of(folder, "stage_sft", training={"steps": 2})
    run(path, tmp_path, device="cpu")
    with pytest.raises(InputError, match="--out: must hold no checkpoints"):
        run(path, tmp_path, device="cpu")
    run(recipe_of(folder, "stage_sft"), tmp_path, resume=True, device="cpu")
    resumed, whole = log(tmp_path, "stage_sft"), log(trained, "stage_sft")
    assert [e["loss"] for e in resumed] == pytest.approx([e["loss"] for e in whole], rel=1e-5)


def test_preferences_begin_at_ln_2_on_the_first_stage_s_model(folder, trained, tmp_path):
    start = {"start": [str(trained / "weights" / "stage_sft.safetensors")]}
    run(recipe_of(folder, "stage_dpo", lora=start), tmp_path, device="cpu")
    first, *_, last = log(tmp_path, "stage_dpo")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["accuracy"] == 0.5
    assert first["drift"] == first["margin"] == 0
    assert last["drift"] > 0
    # The reference was the model with the first stage's LoRA, which both files together have to give.
    studio = load_studio(folder / "tiny.yaml")
    transformer = studio.pair
    files = [LoraSpec(x, both=True) for x in (Path(start["start"][0]), tmp_path / "weights" / "stage_dpo.safetensors")]
    before = transformer.transformer_blocks[0].attn.to_q.weight.clone()
    merge_lora(transformer, "qwen_image", files[:1])
    between = transformer.transformer_blocks[0].attn.to_q.weight.clone()
    merge_lora(transformer, "qwen_image", files[1:])
    after = transformer.transformer_blocks[0].attn.to_q.weight
    assert gap(between, before) > 1e-4 and gap(after, between) > 1e-4


def in_two(paths: list[Path], out: Path, shard: bool) -> None:
    torch.set_num_threads(1)
    for path in paths:
        run(path, out / path.stem, resume=True, device="cpu", shard=shard)


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(folder, trained, tmp_path, shard):
    """Both stages; the second begins anew, to need nothing of the first."""
    dpo = recipe_of(folder, "stage_dpo", lora={"start": []}, training={"steps": 2})
    launch(in_two, ([recipe_of(folder, "stage_sft"), dpo], tmp_path, shard), 2)
    here, there = (log(out, "stage_sft") for out in (tmp_path / "stage_sft", trained))
    assert [e["loss"] for e in here] == pytest.approx([e["loss"] for e in there], rel=1e-3)
    run(dpo, tmp_path / "one", device="cpu")
    for key in ("loss", "drift", "margin"):
        here, there = (log(tmp_path / name, "stage_dpo") for name in ("stage_dpo", "one"))
        assert [e[key] for e in here] == pytest.approx([e[key] for e in there], rel=2e-2, abs=1e-6)
    for stage in ("stage_sft", "stage_dpo"):
        assert (tmp_path / stage / "weights" / f"{stage}.safetensors").is_file()


def learner(folder: Path, checkpointing=False) -> PairLearner:
    studio = load_studio(folder / "tiny.yaml")
    return PairLearner(studio.pair, studio.pair_text, checkpointing)


def test_rows_with_histories_of_different_length_are_what_they_are_alone(folder):
    model = learner(folder)
    predictor = PairPredictor(load_studio(folder / "tiny.yaml").defaults.pair.pack, "stacked")
    g = torch.Generator().manual_seed(0)
    noisy, t = torch.randn(2, 2, 16, 4, 8, generator=g), torch.tensor([0.3, 0.8]).view(2, 1, 1, 1, 1)
    tiles = predictor.pack.tiles(2, (2, 4))
    memory = [torch.randn(2, 16, 2 * tile.rows, 2 * tile.cols, generator=g) for tile in tiles]
    there = torch.tensor([[True, True], [True, False]])
    seen = (picture(3) * 255).to(torch.uint8)
    told = Conditions(["the red square", "the circle with crown waves"], [seen, None], memory, there)

    def velocity(rows: slice, ranks: int) -> torch.Tensor:
        part = Conditions(
            told.prompts[rows], told.pictures[rows], [m[rows] for m in memory[:ranks]], there[rows, :ranks]
        )
        with torch.no_grad():
            return predictor.from_text(model, noisy[rows], FlowInputs(noisy[rows], noisy[rows], t[rows], t, part))

    both = velocity(slice(0, 2), 2)
    assert gap(both[:1], velocity(slice(0, 1), 2)) < 1e-4
    assert gap(both[1:], velocity(slice(1, 2), 1)) < 1e-4
    assert both.shape == noisy.shape and len(pair_ids((2, 4))[0]) == 8


def test_times_lean_to_noise_where_they_are_shifted():
    g = torch.Generator().manual_seed(0)
    plain, shifted = Times().draw(4000, g), Times(shift=2.2).draw(4000, g)
    assert float(plain.median()) == pytest.approx(0.5, abs=0.02)
    assert float(shifted.median()) == pytest.approx(2.2 / 3.2, abs=0.02)
    assert 0 < float(shifted.min()) and float(shifted.max()) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "rl"}, "stage: must be one of sft, dpo"),
        ({"training": {"lr": "1e-4"}}, "training.lr: must be a number"),
        ({"lora": {"rank": 0, "text_rank": 0}}, "lora.rank: must be at least 1 on one of the two models"),
        ({"data": {"size": [64, 32]}}, "data.size: is not a known field.*did you mean `sizes`"),
        ({"data": {"sizes": [[60, 32]]}}, "data.sizes.*must be a multiple of 16"),
        ({"preferences": {"beta": 2.0}}, "preferences: is for the stage dpo"),
        ({"data": {"inner": 1}, "stage": "dpo"}, "data.inner: must be at least 2"),
        ({"pair": {"packing": "stack"}}, "pair.packing: must be one of"),
        ({"pair": {"level": "pixel"}}, "pair.level: must be latent"),
        ({"studio": "pocket.yaml"}, "studio"),
        ({"data": {"file": "none.jsonl"}}, "data.file: must be an existing data set"),
    ],
)
def test_a_faulty_recipe_is_named(folder, tmp_path, change, message):
    recipe = yaml.safe_load(recipe_of(folder, "stage_sft").read_text())
    for section, values in change.items():
        recipe[section] = recipe.get(section, {}) | values if isinstance(values, dict) else values
    path = folder / "faulty.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=message):
        run(path, tmp_path, device="cpu")

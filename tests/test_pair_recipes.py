"""How the pocket pair model is taught: frames, captions, conversations, batches, first weights."""

import math
import random

import pytest
import torch
from transformers import Qwen2VLImageProcessor

from anchorshot.models.encoders.qwen_vl import load_qwen_vl
from anchorshot.models.io.lora import LoraSpec, load_lora
from anchorshot.models.studio import load_studio
from anchorshot.pocket import configs
from anchorshot.pocket.recipes import export
from anchorshot.pocket.recipes.captions import tell_shots
from anchorshot.pocket.recipes.pair_data import PairData
from anchorshot.pocket.recipes.pair_dpo import PreferenceDraws, PreferenceRecipe
from anchorshot.pocket.recipes.pair_flow import PairStudent, predict
from anchorshot.pocket.recipes.pair_frames import (
    LENGTHS,
    encode_pairs,
    encode_recoloured,
    read_captions,
    shot_frames,
)
from anchorshot.pocket.recipes.pair_prompts import image_patches, pair_caption, pair_ids, without_colour
from anchorshot.pocket.recipes.pair_start import from_keyframe_model
from anchorshot.pocket.recipes.pair_text import PairReadingRecipe, encode_chat
from anchorshot.pocket.recipes.pairs import PairRecipe
from anchorshot.pocket.recipes.pairs_layout import GRID, tiles_of
from anchorshot.pocket.recipes.text import Teacher, build_t5
from anchorshot.pocket.render import render
from anchorshot.pocket.tokenizer import build_chat_tokenizer, build_tokenizer
from anchorshot.pocket.world import FPS, make_story
from anchorshot.training.loop import LoopConfig, train
from anchorshot.training.processes import Share, means_over_processes


@pytest.fixture(scope="module")
def pocket_studio():
    return load_studio("pocket", device="cpu")


@pytest.fixture(scope="module")
def data(pocket_studio, tmp_path_factory):
    stories = [make_story(n, 5) for n in range(4)]
    cache = tmp_path_factory.mktemp("pairs") / "tables.safetensors"
    tables = encode_pairs(stories, pocket_studio.video_vae, pocket_studio.clip, cache)
    again = encode_pairs(stories, pocket_studio.video_vae, pocket_studio.clip, cache)
    assert all(torch.equal(a, b) for a, b in zip(tables, again, strict=True))
    return PairData(stories, tables, read_captions(stories))


@pytest.mark.parametrize(
    ("look", "plain"),
    [
        ("a yellow square with a crown", "a square with a crown"),
        ("an orange star in a scarf", "a star in a scarf"),
        ("a star, navy, with a bow", "a star with a bow"),
        ("the teal box with the bow", "the box with the bow"),
        ("cyan ball, hat", "ball, hat"),
    ],
)
def test_a_look_without_its_colour(look, plain):
    assert without_colour(look) == plain


def test_captions_keep_back_the_colour_of_those_who_are_known():
    for seed in range(20):
        for shot in tell_shots(make_story(seed, 3), random.Random(seed)):
            names = {a.name for a in shot.truth.actors}
            full, hidden = pair_caption(shot, ()), pair_caption(shot, names)
            for name in names:
                look = shot.board.characters[name]
                assert look in full and without_colour(look) in hidden and look not in hidden


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("first_word", ["wide shot", "close-up", "<Lina> waits"])
def test_conversations_are_what_the_encoder_makes_of_the_text(image, first_word):
    caption = f"{first_word}, pan left, in the beach. <Lina>, a turquoise disc that has a scarf, waits at right."
    ids, first = pair_ids(build_tokenizer().encode(caption).ids[:-1], 17, image=image)
    shown = "<|vision_start|>" + "<|image_pad|>" * 18 + "<|vision_end|>" if image else ""
    text = f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{shown}{caption}"
    text += "\n17 frames<|im_end|>\n<|im_start|>assistant\n"
    assert build_chat_tokenizer().encode(text).ids == ids
    assert build_chat_tokenizer().id_to_token(ids[first]).startswith("▁")


def test_patches_are_the_public_processors():
    frames = torch.randint(0, 256, (2, 84, 168, 3), dtype=torch.uint8)
    processor = Qwen2VLImageProcessor(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28 * 28, max_pixels=10**7
    )
    expected = processor(images=[frame.movedim(-1, 0) for frame in frames], return_tensors="pt")
    patches, grid = image_patches(frames)
    assert expected["image_grid_thw"].tolist() == [[1, *grid]] * 2
    assert torch.allclose(patches.flatten(0, 1), expected["pixel_values"], atol=1e-5)  # fp32 of another order


def test_tables_hold_start_end_and_two_inner_frames_in_order(data, pocket_studio):
    story, shot = data.stories[1], 3
    assert shot_frames(story, shot) in LENGTHS
    last = (shot_frames(story, shot) - 1) / FPS
    for column, t in ((0, 0.0), (1, last)):
        picture = torch.from_numpy(render(story.shots[shot], t)[0].copy()).movedim(-1, 0)[None] / 255
        latent = pocket_studio.video_vae.encode_image(picture)
        assert torch.allclose(data.tables.latents[1, shot, column].float(), latent[0], atol=5e-3)  # kept as fp16
    inner = data.tables.latents[:, :, 2:].float()
    assert not torch.equal(inner[:, :, 0], inner[:, :, 1])


def test_a_batch_remembers_the_best_ranked_frames_of_other_shots(data):
    draws = data.draws(3, 6)
    for step in range(40):
        batch = draws.draw(step)
        for row in range(6):
            _, story, shot = batch.shot[row].tolist()
            places = [tuple(p) for p in batch.memory[row].tolist() if p[0] >= 0]
            assert all(p != shot for p, _ in places) and len(set(places)) == len(places)
            keys = torch.stack([data.tables.keys[story, p, f] for p, f in places] or [torch.zeros(64)])
            scores = keys @ data.tables.queries[story, shot]
            assert (scores[:-1] >= scores[1:] - 1e-6).all()
            assert not batch.hidden[row] & ~batch.known[row]
            if batch.packing is None and batch.previous is None:
                assert not batch.hidden[row]  # nobody shows the colour


def test_a_batch_is_shared_out_by_rows(data):
    recipe = PairRecipe(data.draws(0, 6))
    student, step = recipe.build().eval(), 0
    while recipe.data.draw(step).packing is None:
        step += 1
    whole = recipe.inputs(recipe.data.draw(step), step)
    parts = [recipe.share(whole, Share(n, 2)) for n in range(2)]
    with torch.no_grad():
        sums = recipe.objective.sums(student, whole)
        halves = [recipe.objective.sums(student, part) for part in parts]
    for key, (total, weight) in sums.items():
        assert torch.isclose(sum(h[key].total for h in halves), total, rtol=1e-4)
        assert sum(float(h[key].weight) for h in halves) == pytest.approx(float(weight), rel=1e-5)


def test_places_that_are_empty_change_nothing(data):
    recipe = PairRecipe(data.draws(0, 3))
    student, step = recipe.build().eval(), 0
    while recipe.data.draw(step).packing != "canvas":
        step += 1
    inputs = recipe.inputs(recipe.data.draw(step), step)
    inputs = inputs._replace(remembered=inputs.remembered.clone())
    inputs.remembered[:, 2:] = False
    other = inputs._replace(memory=[m if n < 2 else m + 5 for n, m in enumerate(inputs.memory)])
    with torch.no_grad():
        text = student.encode(inputs)
        assert torch.allclose(
            predict(student, inputs, inputs.noise, *text), predict(student, other, inputs.noise, *text), atol=1e-5
        )
    assert sum(t.rows * t.cols for t in tiles_of("canvas")) <= GRID[0] * GRID[1]


def test_a_frame_that_is_given_stays_and_is_not_learned(data):
    recipe = PairRecipe(data.draws(0, 3))
    student, step = recipe.build().eval(), 0
    while (batch := recipe.data.draw(step)).given is None:
        step += 1
    inputs = recipe.inputs(batch, step)
    other = 1 if batch.given == "start" else 0
    with torch.no_grad():
        text = student.encode(inputs)
        out = predict(student, inputs, inputs.noise, *text)
        noise = inputs.noise.clone()
        noise[:, 1 - other] += 3  # where the given frame stands, noise does not matter
        assert torch.allclose(predict(student, inputs, noise, *text), out, atol=1e-5)
        assert out.shape[1] == GRID[0] * GRID[1]
        changed = inputs._replace(latents=inputs.latents + 1)
        assert not torch.allclose(predict(student, changed, inputs.noise, *text), out, atol=1e-3)


def test_first_weights_fit_and_know_the_keyframe_models_pictures(pocket_studio):
    flux = {k: v.float() for k, v in pocket_studio.keyframe.state_dict().items()}
    student = PairStudent()
    student.transformer.load_state_dict(from_keyframe_model(flux, torch.zeros(32), 1.0))
    first = student.transformer.transformer_blocks[0].attn.to_q.weight
    assert torch.equal(first, flux["transformer_blocks.0.attn.to_q.weight"])
    single = student.transformer.transformer_blocks[2]
    assert torch.equal(single.attn.to_q.weight, single.attn.add_q_proj.weight)


def test_a_few_steps_of_reading_and_of_pairs_learn(data, tmp_path):
    teacher = Teacher(build_t5(), build_tokenizer())
    reading = PairReadingRecipe(data.stories, data.tables.seen, teacher, batch_size=6)
    quick = LoopConfig(steps=8, lr=3e-3, muon_lr=0.01, warmup=2, precision="no", save_every=8, log_every=1)
    trained = train(reading, quick, tmp_path)
    losses = _losses(reading, trained, 100)
    assert losses < _losses(reading, reading.build(), 100)
    pairs = PairRecipe(data.draws(0, 4))
    trained = train(pairs, quick, tmp_path)
    assert _losses(pairs, trained, 100) < _losses(pairs, pairs.build(), 100)


def test_alignment_prefers_whole_movements(data, tmp_path):
    """From ln 2 down; the adapters are written as one file for both models, and off they leave the trained student."""
    torch.manual_seed(0)
    student = PairStudent()
    draws = PreferenceDraws(data.stories, data.tables, data.captions, 0, 4, least=0.1)
    recipe = PreferenceRecipe(draws, student.state_dict(), beta=500.0)
    model = recipe.build()
    assert _losses(recipe, model, 3) == pytest.approx(math.log(2), abs=1e-6)
    batch = draws.draw(3)
    assert batch.shown == "pair" and all(draws.moving[s, p] for _, s, p in batch.shot.tolist())
    quick = LoopConfig(steps=6, lr=3e-3, warmup=1, precision="no", save_every=6, log_every=1, ema=0.0)
    trained = train(recipe, quick, tmp_path)
    assert _losses(recipe, trained, 3) < math.log(2) - 0.01
    path = export.export_pair_dpo(tmp_path, trained.state_dict(), 0, {})
    loaded = student.transformer.eval()
    load_lora(loaded, "qwen_image", LoraSpec(path), torch.float32)
    inputs = recipe.inputs(batch, 3).conditions
    with torch.no_grad():
        text = trained.encode(inputs)
        expected = predict(trained, inputs, inputs.noise, *text)
        student.transformer = loaded
        got = predict(student, inputs, inputs.noise, *text)
        assert torch.allclose(got, expected, atol=2e-3)  # the file is bf16
        assert (got - expected).abs().max() < 0.5 * (
            expected - predict(recipe.build().eval(), inputs, inputs.noise, *text)
        ).abs().max()


def test_a_loser_may_be_the_pair_in_a_colour_that_only_the_memory_tells(data, pocket_studio):
    """Only the character of the pair whose colour is kept back is drawn anew; the other losers are inner frames."""
    wrong = encode_recoloured(data.stories, pocket_studio.video_vae)
    draws = PreferenceDraws(data.stories, data.tables, data.captions, 0, 8, least=0.0, hidden=1.0, recoloured=wrong)
    recipe = PreferenceRecipe(draws, PairStudent().state_dict())
    seen = set()
    for step in range(12):
        batch = draws.draw(step)
        inputs = recipe.inputs(batch, step)
        for row, (story, shot) in enumerate(batch.shot[:, 1:].tolist()):
            kept_back = int(batch.hidden[row])
            seen.add(kept_back > 0)
            if not kept_back:
                assert torch.equal(inputs.loser[row], data.tables.latents[story, shot, 2:].float())
                continue
            side = 1 if kept_back > 1 else 0
            changed = (inputs.loser[row] - inputs.winner[row]).abs().amax((0, 1, 2))
            near = data.tables.share[story, shot, :2].float().amax((0, 1)) > 0
            half = slice(0, 10) if side == 0 else slice(10, 20)
            other = slice(10, 20) if side == 0 else slice(0, 10)
            assert changed[half][near[half]].max() > 0.5
            assert changed[half].max() > changed[other].max()
    assert seen == {True, False}


@torch.no_grad()
def _losses(recipe, model, step):
    inputs = recipe.inputs(recipe.data.draw(step), step)
    means, _ = means_over_processes(recipe.objective.sums(model.eval(), inputs))
    return float(recipe.objective.loss(means)[0])


def test_the_exported_encoder_reads_as_the_trained_one(tmp_path):
    torch.manual_seed(0)
    student = PairStudent().eval()
    path = export.export_qwen_vl(tmp_path, student.qwen.state_dict(), 0, {})
    encoder = load_qwen_vl(path, dtype=torch.float32, device="cpu")
    student.qwen.load_state_dict(encoder.model.state_dict())  # kept in bf16
    caption = "medium shot, static, in the moon. <Pip>, a pink ball with a hat, waves."
    frame = torch.from_numpy(render(make_story(1, 1).shots[0])[0].copy())
    states, mask = encoder.encode([caption + "\n13 frames"], [frame.movedim(-1, 0) / 255])
    inputs = encoder.inputs([caption + "\n13 frames"], [frame.movedim(-1, 0) / 255])[0]
    ids, _ = pair_ids(build_tokenizer().encode(caption).ids[:-1], 13, image=True)
    assert inputs.ids[0].tolist() == ids and inputs.drop == 8 and bool(mask.all())
    grid = (6, 12)
    with torch.no_grad():
        expected = encode_chat(student.qwen, torch.tensor([ids]), inputs.patches[None], grid)[:, 8:]
    assert torch.allclose(states, expected, atol=1e-5)
    assert encoder.names[:1] and configs.PAIR["joint_attention_dim"] == encoder.dim

"""The training loop: exact resume, schedules, and that the recipes' losses are what the papers say."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.encoders.clip import ClipScorer, build_clip
from anchorshot.pocket import configs
from anchorshot.pocket.dataset import StoryLatents
from anchorshot.pocket.recipes import run
from anchorshot.pocket.recipes.captions import tell_shots
from anchorshot.pocket.recipes.export import checkpoint_weights
from anchorshot.pocket.recipes.keyframe_flow import KeyframeStudent
from anchorshot.pocket.recipes.keyframes import KeyframeRecipe, Stage
from anchorshot.pocket.recipes.recogniser import RecogniserRecipe
from anchorshot.pocket.recipes.story_frames import StoryFrames, side_bits
from anchorshot.pocket.recipes.text import ReadingRecipe, Teacher, build_t5, grown
from anchorshot.pocket.recipes.vae import VaeRecipe
from anchorshot.pocket.recipes.video import LAYOUTS, ClipLatents, VideoRecipe, caption_variants, draw_clip
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.pocket.world import ACTIONS, PLACES, make_story
from anchorshot.training.attention import cpu_attention, plain_attention
from anchorshot.training.loop import LoopConfig, learning_rate, train
from anchorshot.training.muon import MuonAdamW, orthogonalised
from anchorshot.training.processes import means_over_processes


@pytest.mark.parametrize("muon", [0.0, 0.01])
def test_resume_takes_the_same_steps(tmp_path, muon):
    """Six steps in one go, and three, a stop, three more: the same weights, averages and optimizer, bit for bit."""
    recipe = RecogniserRecipe(batch_size=4, bank=16, width=8)
    config = LoopConfig(steps=6, lr=1e-3, muon_lr=muon, warmup=2, save_every=3, log_every=3, precision="no")
    train(recipe, config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(_model, step):
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, config, tmp_path / "parts", on_save=stop)
    train(recipe, config, tmp_path / "parts")
    whole = load_file(tmp_path / "whole" / "recogniser.safetensors")
    parts = load_file(tmp_path / "parts" / "recogniser.safetensors")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    log = json.loads((tmp_path / "parts" / "recogniser.log.json").read_text())
    assert [e["step"] for e in log] == [3, 6]
    assert (tmp_path / "parts" / "recogniser.png").stat().st_size > 1000


def test_a_few_steps_learn(tmp_path):
    recipe = RecogniserRecipe(batch_size=16, bank=32, width=8)
    train(recipe, LoopConfig(steps=25, lr=3e-3, warmup=2, precision="no", log_every=1), tmp_path)
    losses = [e["loss"] for e in json.loads((tmp_path / "recogniser.log.json").read_text())]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    weights = checkpoint_weights(tmp_path / "recogniser.safetensors")
    assert weights.keys() == recipe.build().state_dict().keys()


@pytest.mark.parametrize("flags", [{"is_causal": True}, {"enable_gqa": True}, {"is_causal": True, "enable_gqa": True}])
def test_plain_attention_of_language_models(flags):
    q, k, v = (torch.randn(2, heads, 6, 8) for heads in ((4, 2, 2) if "enable_gqa" in flags else (4, 4, 4)))
    assert torch.allclose(
        plain_attention(q, k, v, **flags), F.scaled_dot_product_attention(q, k, v, **flags), atol=1e-5
    )


def test_learning_rate_warms_up_and_decays():
    config = LoopConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [learning_rate(config, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_plain_attention_is_attention(mask):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    keep = torch.rand(2, 1, 1, 7) > 0.3
    keep[..., 0] = True
    attn_mask = {None: None, "bool": keep, "float": torch.randn(2, 1, 5, 7)}[mask]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask)
    stock = F.scaled_dot_product_attention
    with cpu_attention():
        assert F.scaled_dot_product_attention is plain_attention
        got = F.scaled_dot_product_attention(q, k, v, attn_mask)
    assert F.scaled_dot_product_attention is stock
    assert torch.allclose(got, expected, atol=1e-5)


def test_plain_attention_is_attention_of_a_language_model():
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(plain_attention(q, k, v, is_causal=True, enable_gqa=True), expected, atol=1e-5)


def story_data(stories=6, shots=5) -> StoryLatents:
    g = torch.Generator().manual_seed(0)
    tiers = [torch.randn(stories, shots, 16, *s, generator=g) for s in ((10, 20), (6, 12), (2, 4))]
    truth = [make_story(n, shots) for n in range(stories)]
    weight = torch.rand(stories, shots, 10, 20, generator=g)
    return StoryLatents(tiers, weight, truth, torch.zeros(16), torch.ones(16))


def keyframe_recipe(**kwargs) -> KeyframeRecipe:
    stages = (Stage(2, 0, 3, 1), Stage(2, 2, 2, 2), Stage(9, 3, 2, 2))
    frames = StoryFrames(story_data(), lambda texts: torch.randn(len(texts), 32))
    return KeyframeRecipe(frames, stages, **kwargs)


def loss_of(recipe, model, step):
    return loss_over(recipe, model, recipe.inputs(recipe.data.draw(step), step))


def loss_over(recipe, model, inputs):
    means, _ = means_over_processes(recipe.objective.sums(model, inputs))
    return recipe.objective.loss(means)


def test_context_grows_stage_by_stage():
    recipe = keyframe_recipe(joint=0.0)
    counts = [[len(recipe.data.draw(s).context) for s in steps] for steps in ([0, 1], [2, 3], range(4, 13))]
    assert set(counts[0]) == {0} and max(counts[1]) <= 2 and max(counts[2]) == 3


def test_tables_say_what_captions_say():
    """Ids, labels and padding of the tables are those of the captions themselves; looks are labelled for the known."""
    recipe = keyframe_recipe(joint=0.0)
    frames, tokenizer = recipe.data.frames, build_tokenizer()
    variants = [
        (frames.variant(n, author), n, tell_shots(story, random.Random(f"{author}/{story.seed}")))
        for author in range(frames.caption_variants)
        for n, story in enumerate(frames.data.stories)
    ]
    assert len({row for row, _, _ in variants}) == len(variants) == 12
    for row, n, shots in variants:
        for p, text in enumerate(shots):
            shot = text.truth
            described = {shot.actors[0].name}
            everyone = side_bits(shot, {a.name for a in shot.actors})
            picks = torch.tensor([[row, p, side_bits(shot, described), known] for known in (0, everyone)])
            got = frames.gather(picks, 0)
            ids = tokenizer.encode(text.caption(described)).ids
            assert got.ids[0][: len(ids)].tolist() == ids and not got.ids[0][len(ids) :].any()
            assert bool((got.looks[0] < 0).all())
            colours = {int(c) for c in got.looks[1, :, 0] if c >= 0}
            assert colours == {a.look.colour for a in shot.actors}, text.caption(described)
            assert torch.equal(got.latent[0], frames.data.tiers[0][n, p])


def test_targets_never_repeat_what_memory_tells():
    """A target's caption tells a character's looks only when no context frame shows it (no leak, no riddle)."""
    recipe = keyframe_recipe(joint=0.0)
    described = total = 0
    for step in range(4, 30):
        batch = recipe.data.draw(step)
        total += len(batch.new)
        described += int((batch.new[:, 2] > 0).sum())
        shown = {
            (int(n), actor.name)
            for n, p, _, _ in batch.context.flatten(0, 1).tolist()
            for actor in recipe.data.frames.data.stories[n % 6].shots[p].actors
        }
        for n, p, bits, _ in batch.new.tolist():
            names = {a.name for a in recipe.data.frames.data.stories[n % 6].shots[p].actors if bits >> a.side & 1}
            mine = batch.new[:, 0].tolist().count(n) == batch.targets  # else two rows have the same story
            assert not mine or not names & {name for story, name in shown if story == n}
    assert 0 < described < total, "some targets must rely on memory alone"


@pytest.mark.parametrize("step", [0, 3, 6])
def test_keyframe_loss_is_finite_and_reaches_every_part(step):
    recipe = keyframe_recipe(joint=0.0)
    model = KeyframeStudent()
    for p in model.parameters():  # zero-initialised gates would hide a part from its gradient
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    loss, _ = loss_of(recipe, model, step)
    loss.backward()
    assert torch.isfinite(loss)
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    allowed = ("transformer_blocks.1", "relative_attention_bias")  # the last double block's text end has its own
    assert [n for n in silent if not any(a in n for a in allowed)] == []


def test_a_perfect_velocity_has_no_loss():
    """The target is v = noise − data, exactly what the batch's noise seed gives."""
    recipe = keyframe_recipe(joint=1.0)
    inputs = recipe.inputs(recipe.data.draw(4), 4)
    assert inputs.joint
    model = KeyframeStudent()
    z0 = inputs.new.latent
    seen = {}

    def oracle(pairs, mode, past=None):
        assert mode == "full" and past is None
        k = inputs.targets
        x = torch.stack(pairs.latents, 1).flatten(0, 1)
        t = pairs.timestep.flatten()[:, None, None]
        from anchorshot.models.layouts.pairs import pack_latent

        clean = pack_latent(z0)
        noise = (x - (1 - t) * clean) / t
        seen["rows"] = x.shape[0]
        return list((noise - clean).unflatten(0, (-1, k)).unbind(1))

    model.flux.forward_pairs = oracle
    loss, _ = loss_over(recipe, model, inputs)
    assert float(loss) < 1e-8 and seen["rows"] == z0.shape[0]


def clip_data() -> ClipLatents:
    g = torch.Generator().manual_seed(0)
    latents = [torch.randn(3, 16, sum(lay.latent_chunks), 10, 20, generator=g).half() for lay in LAYOUTS]
    weights = [torch.rand(3, sum(lay.latent_chunks), 10, 20, generator=g).half() for lay in LAYOUTS]
    captions = [["wide shot."] * 3 for _ in LAYOUTS]
    return ClipLatents(latents, weights, captions, [[("all.", "scene.", "act.")] * 3 for _ in LAYOUTS])


def test_video_noise_is_off_keyframes_only():
    recipe = VideoRecipe(clip_data(), lambda t: (torch.randn(len(t), 4, 128), torch.ones(len(t), 4)), batch_size=2)
    model = DirectorWan(**configs.VIDEO)
    stock = model.forward_chunks
    seen = []

    def watch(latents, timestep, text, rope_index=None):
        seen.append((latents, timestep))
        return stock(latents, timestep, text, rope_index)

    model.forward_chunks = watch
    for step in range(6):
        batch = recipe.data.draw(step)
        inputs = recipe.inputs(batch, step)
        loss, _ = loss_over(recipe, model, inputs)
        assert torch.isfinite(loss)
        latents, times = seen[-1]
        for f in range(latents.shape[2]):
            given = f in batch.pinned
            assert torch.equal(latents[:, :, f], inputs.clean[:, :, f]) == given
            assert bool((times[:, f] == 0).all()) == given


def test_without_keyframes_the_caption_tells_everything():
    """Text to video gets the looks of all; with keyframes, and with two shots, the story's own caption."""
    words = ("wide shot.", "all.", "scene.", "act.")
    encode = lambda texts: (torch.stack([torch.full((4, 128), float(words.index(t))) for t in texts]), None)  # noqa: E731
    recipe = VideoRecipe(clip_data(), encode, batch_size=2)
    seen: dict[bool, set[float]] = {True: set(), False: set()}
    for step in range(150):
        batch = recipe.data.draw(step)
        free = not batch.pinned
        assert not free or LAYOUTS[batch.layout].shots == 1
        seen[free] |= set(recipe.inputs(batch, step).conditions.text.unique().tolist())
    assert seen == {True: {1.0, 2.0, 3.0}, False: {0.0}}
    shot = next(shot for seed in range(9) for shot in make_story(seed, 2).shots[1:] if not shot.described)
    everything, scene, actions = caption_variants(shot)
    for actor in shot.actors:
        assert f"<{actor.name}>, {actor.look.describe()}," in everything
        assert ACTIONS[actor.action] in everything and ACTIONS[actor.action] in actions
        assert ACTIONS[actor.action] not in scene
    assert everything.endswith(actions) and PLACES[shot.layout.place] in scene


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clip_layouts_are_on_the_grid(layout):
    assert all(n % 4 == 1 for n in layout.chunks)
    frames, masks, text = draw_clip(layout, 5, "train")
    assert len(frames) == len(masks) == sum(layout.chunks)
    assert text.count("shot") + text.count("close-up") >= layout.shots


def test_vae_recipe_has_a_loss_at_every_size():
    recipe = VaeRecipe("clips", pictures=2, clips=1, bank=8)
    model = recipe.build()
    step = recipe.sizes.index((16, 32))
    loss, numbers = loss_of(recipe, model, step)
    assert torch.isfinite(loss) and {"psnr_pictures", "psnr_clips", "change_error"} <= numbers.keys()


def test_clip_recipe_starts_near_chance():
    from anchorshot.pocket.recipes.clip import ClipRecipe

    recipe = ClipRecipe(batch_size=8, bank=16)
    model = recipe.build()
    loss, _ = loss_of(recipe, model, 0)
    # contrast among 8, two readings by fresh heads whose logits have a spread of about 4, and twins that lie together
    assert 3.0 < float(loss.detach()) < 12.0
    assert isinstance(recipe.scorer, ClipScorer) and type(model.clip) is type(build_clip(configs.CLIP))
    texts = recipe.data.draw(0).texts
    assert not torch.equal(texts[0], texts[1]), "a pair differs in what is done"


@pytest.mark.cuda
def test_replayed_graphs_learn_what_plain_steps_learn(tmp_path):
    """Two kinds of steps in turn, replayed and launched one by one: the same losses and weights up to rounding."""
    found = {}
    for graphs in (False, True):
        recipe = VaeRecipe("clips", pictures=2, clips=1, bank=16)
        config = LoopConfig(steps=9, lr=1e-3, muon_lr=0.003, warmup=2, precision="no", log_every=3, graphs=graphs)
        model = train(recipe, config, tmp_path / str(graphs))
        log = json.loads((tmp_path / str(graphs) / "vae_clips.log.json").read_text())
        found[graphs] = torch.tensor([e["loss"] for e in log]), model.state_dict()
    assert torch.allclose(found[True][0], found[False][0], rtol=0.05)
    assert found[True][1].keys() == found[False][1].keys()


def test_unknown_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="RECIPE"):
        run("everything", tmp_path)


def test_a_run_in_the_way_is_refused(tmp_path):
    (tmp_path / "clip.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="--resume"):
        run("clip", tmp_path)


@given(st.integers(0, 2**20), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_orthogonalised_keeps_directions_and_evens_sizes(seed, rows, columns):
    """Singular values come to lie around 1, whatever they were; singular vectors stay."""
    x = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    y = orthogonalised(x)
    on_axes = u.mT @ y @ v.mT
    clear = s > 0.1 * s[..., :1]  # the iteration takes more rounds to lift what is far smaller
    sizes = on_axes.diagonal(dim1=-2, dim2=-1)[clear]
    assert float(sizes.min()) > 0.5 and float(sizes.max()) < 1.3
    off = on_axes - torch.diag_embed(on_axes.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) < 0.15


def test_muon_takes_matrices_only_and_beats_a_bad_scale():
    """A badly scaled least-squares problem: Muon makes the same progress in every direction."""
    with pytest.raises(ValueError, match="vectors"):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.zeros(3))], "orthogonal": True}], lr=0.1)
    scale = torch.logspace(0, -3, 16)
    target = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    bias = torch.nn.Parameter(torch.ones(16))
    groups = [{"params": [weight], "orthogonal": True}, {"params": [bias]}]
    optimizer = MuonAdamW(groups, lr=0.1, weight_decay=0.0)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 100)
        loss = (scale * (weight - target)).square().sum() + bias.square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    error = (weight - target).square().mean(0).detach()
    assert float(error.max()) < 1.0 and float(bias.detach().abs().max()) < 0.1


def test_muon_leaves_zero_columns_alone():
    """What a gradient hook freezes inside a kernel stays frozen through the orthogonalisation."""
    x = torch.randn(1, 8, 12)
    x[..., ::3] = 0
    assert float(orthogonalised(x)[..., ::3].abs().max()) == 0


def test_text_encoder_learns_to_read(tmp_path):
    """Which side a word is about, from words eight tokens away, within a few dozen steps."""
    recipe = ReadingRecipe(batch_size=32, plain=1.0)
    model = train(recipe, LoopConfig(60, lr=3e-3, muon_lr=0.01, warmup=10, ema=0.5, precision="no"), tmp_path)
    batch = recipe.data.draw(10_000)
    with torch.no_grad():
        logits, _ = model(batch.ids)
    for fact, chance in (("side", 0.5), ("colour", 0.125)):
        known = batch.facts[fact] >= 0
        right = float((logits[fact].argmax(-1) == batch.facts[fact])[known].float().mean())
        assert right > (1 + chance) / 2, (fact, right)


def test_reading_labels_cover_the_caption():
    recipe = ReadingRecipe()
    shot = next(s for s in make_story(3, 8).shots if len(s.actors) == 2)
    described = {shot.actors[0].name}
    ids, facts = recipe.data.read(shot.caption(described), shot, described)
    assert ids == build_tokenizer().encode(shot.caption(described)).ids
    left = [i for i, side in enumerate(facts["side"]) if side == shot.actors[0].side]
    assert len(left) >= 6, "name, three looks, action and side"
    assert {facts["colour"][i] for i in left} == {shot.actors[0].look.colour}
    assert all(facts["colour"][i] < 0 for i in range(len(ids)) if i not in left)


def test_an_encoder_that_grew_says_what_it_said():
    """More words and layers, the same states for the old captions; and the teacher's words are matched with ours."""
    shape = {**configs.T5, "num_layers": 2, "pad_token_id": 0, "eos_token_id": 1}
    pieces = json.loads(build_tokenizer().to_str())
    kept = [[p.title() if p.startswith("▁<") else p, score] for p, score in pieces["model"]["vocab"] if p != "▁hops"]
    pieces["model"]["vocab"], pieces["normalizer"] = kept[::-1], None
    order = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    pieces["model"]["vocab"].sort(key=lambda item: order.get(item[0], 3))
    old = Tokenizer.from_str(json.dumps(pieces))
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(vocab_size=old.get_vocab_size(), **shape)).eval()
    grew = build_t5().eval()
    grew.load_state_dict(grown(model.state_dict(), old))
    recipe = ReadingRecipe(batch_size=8, plain=1.0, teacher=Teacher(model, old))
    batch = recipe.data.draw(0)
    with torch.no_grad():
        states = grew(input_ids=batch.ids, attention_mask=batch.ids != 0).last_hidden_state
    row, token = batch.mine.unbind(-1)
    assert len(row) > 8 * 6
    # the same numbers through two more layers that add zero; batches are padded to other lengths
    assert torch.allclose(states[row, token], batch.taught, atol=1e-4)
    rows = grew.shared.weight
    assert torch.equal(rows[new_id("▁hops")], rows[new_id("▁jumps")]), "a new word begins as the plain one"


def new_id(piece):
    return build_tokenizer().token_to_id(piece)

"""Evaluation: roll-outs against a plain loop, and what a suite writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan, FluxTransformer2DModel, WanTransformer3DModel
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from anchorshot import evaluation
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.classifier import Scores, StoryTruth
from anchorshot.evaluation.metrics.pixels import boundary_jump, diversity, frame_change
from anchorshot.evaluation.stories import held_out_stories
from anchorshot.evaluation.suites.keyframes.rollout import MemoryPolicy, StorySet, extend, generate_jointly, step_cost
from anchorshot.evaluation.suites.keyframes.run import RETRIEVAL_BUDGET, Variant, classify_frames, true_frames
from anchorshot.evaluation.suites.video.run import held_out_clips, sample_clips
from anchorshot.memory.frame_memory import MemoryFrame
from anchorshot.memory.golden_mem import GoldenMem
from anchorshot.memory.retrieval import rank_memory
from anchorshot.models.backbones.flux.cost import count_flux
from anchorshot.models.cost import Pair
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.layouts.pairs import NoiseLevel
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.job import FilmSettings
from anchorshot.pocket.configs import CLIP, KEYFRAME, T5, VAE, VIDEO
from anchorshot.pocket.recogniser import Recogniser
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.pocket.world import Story
from anchorshot.sampling.frame_encoders import StudioEncoders
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes
from anchorshot.sampling.noise import noise_source

# --- roll-outs --------------------------------------------------------------------------------------------------------

FLUX = KEYFRAME | {
    **{"in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
    **{"joint_attention_dim": 32, "axes_dims_rope": [4, 6, 6]},
}
WAN = VIDEO | {
    **{"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4},
    **{"text_dim": 32, "freq_dim": 16, "ffn_dim": 64, "num_layers": 1},
}
SMALL_VAE = VAE | {
    "base_dim": 8,
    "decoder_base_dim": 8,
    "z_dim": 4,
    "latents_mean": [0.0] * 4,
    "latents_std": [0.05] * 4,
}
SMALL_T5 = T5 | {"d_model": 32, "d_kv": 8, "num_layers": 1, "d_ff": 48}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A studio of the real classes with random weights, loaded from files; 2 steps, so that tests are fast."""
    folder = tmp_path_factory.mktemp("studio")
    torch.manual_seed(0)

    def save(name: str, kind: str | None, model: torch.nn.Module, config: dict, **metadata: str) -> None:
        state = model.state_dict() if kind is None else to_public(kind, model.state_dict())
        copies = {key: value.detach().clone() for key, value in state.items()}
        save_file(copies, folder / f"{name}.safetensors", metadata={"config": json.dumps(config), **metadata})

    flux = FluxTransformer2DModel(**FLUX)
    with torch.no_grad():  # as initialised, frames would hardly look at each other
        for parameter in flux.parameters():
            parameter *= 3
    save("keyframe", "flux", flux, FLUX)
    save("video", "wan", WanTransformer3DModel(**WAN), WAN)
    save("vae", "wan_vae", AutoencoderKLWan(**SMALL_VAE), SMALL_VAE)
    tokenizer = build_tokenizer()
    t5 = T5EncoderModel(T5Config(vocab_size=tokenizer.get_vocab_size(), **SMALL_T5))
    save("t5", "t5", t5, SMALL_T5, tokenizer=tokenizer.to_str())
    save("clip", None, open_clip.CLIP(**CLIP), CLIP)
    defaults = {"keyframe": {"steps": 2, "images": 2}, "video": {"steps": 2, "shift": 3.0}}
    data = {"name": "tiny", "models_dir": ".", "keyframe_text": {"kind": "t5", "file": "t5.safetensors"}}
    data |= {name: {"file": f"{name}.safetensors"} for name in ("keyframe", "video", "clip")}
    data |= {"video_vae": {"kind": "wan_vae", "file": "vae.safetensors"}, "defaults": defaults}
    (folder / "studio.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_studio(folder / "studio.yaml")


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(width=8).eval()


@pytest.fixture(scope="module")
def settings(studio: Studio) -> KeyframeSettings:
    return FilmSettings.of(studio, (80, 160)).keyframe


def stories(count: int, shots: int) -> list[Story]:
    return held_out_stories(3, count, shots)


def policy(memory: GoldenMem | None, retrieval: str = "clip", noise: NoiseLevel = 0.1) -> MemoryPolicy:
    return MemoryPolicy(memory, retrieval, noise)  # type: ignore[arg-type]


@torch.no_grad()
def plain_roll_out(
    studio: Studio, story: Story, memory: GoldenMem, settings: KeyframeSettings, seed: int
) -> torch.Tensor:
    """One story, one frame at a time, memory ranked by CLIP: what the batched roll-out has to equal."""
    frames: list[torch.Tensor] = []
    for p, shot in enumerate(story.shots):
        order = []
        if frames:
            keys = torch.cat([studio.clip.embed_images(frame[None]) for frame in frames])
            order = rank_memory("clip", p, studio.clip.embed_texts([shot.query])[0], keys)
        context = [
            ContextFrame(
                MemoryFrame(frames[k][None]).latent(slot.size, StudioEncoders(studio)),
                studio.keyframe_text.encode([story.shots[k].prompt]),
            )
            for k, slot in memory.assign(order, (5, 10))
        ]
        prompt = studio.keyframe_text.encode([shot.prompt])
        noise = noise_source(seed, story.seed, p)
        (latent,) = sample_keyframes(studio.keyframe, [prompt], (4, 10, 20), context, settings, noise)
        frames.append(studio.image_vae.decode_image(latent)[0])
    return torch.stack(frames)


def test_a_batched_roll_out_equals_a_plain_loop(studio: Studio, settings: KeyframeSettings) -> None:
    told, memory = stories(3, 4), GoldenMem(groups=2, images=1)
    run = extend(StorySet(studio, told, seed=5), policy(memory), settings)
    for story, frames in zip(told, run.frames, strict=True):
        torch.testing.assert_close(frames, plain_roll_out(studio, story, memory, settings, 5), atol=5e-5, rtol=0)
    # Not a trivial equality: memory, noise and story all show in the frames.
    none = extend(StorySet(studio, told, seed=5), policy(None), settings)
    torch.testing.assert_close(none.frames[:, 0], run.frames[:, 0])
    assert (none.frames[:, 1:] - run.frames[:, 1:]).abs().amax((0, 2, 3, 4)).min() > 1e-2
    other = extend(StorySet(studio, told[:1], seed=6), policy(memory), settings)
    assert (other.frames[0] - run.frames[0]).abs().mean() > 2e-3
    assert len(run.seconds) == 4 and min(run.seconds) > 0


def test_short_stories_are_the_beginning_of_long_ones(studio: Studio, settings: KeyframeSettings) -> None:
    assert [s.shots for s in stories(2, 2)] == [s.shots[:2] for s in stories(2, 4)]
    assert not {s.seed for s in held_out_stories(0, 50, 1)} & {s.seed for s in held_out_stories(1, 50, 1)}
    memory = policy(GoldenMem(groups=1, images=2), "recency")
    long = extend(StorySet(studio, stories(2, 4), 0), memory, settings)
    short = extend(StorySet(studio, stories(2, 2), 0), memory, settings)
    first = long.first(2)
    torch.testing.assert_close(first.frames, short.frames, atol=5e-5, rtol=0)
    assert first.remembered == short.remembered and first.slots == short.slots
    assert long.remembered[0] == [[], [0], [1, 0], [2, 1]]
    assert [[slot.size for slot in shot] for shot in long.slots] == [[], [(3, 6)], [(3, 6)] * 2, [(3, 6)] * 2]


def test_variants_mean_what_their_names_say(studio: Studio) -> None:
    film = FilmSettings.of(studio, (80, 160))
    made = {name: Variant.parse(name, film, 8).policy for name in ("full", "goldenmem", "none", "noise:0.6")}
    assert made["full"] == MemoryPolicy(GoldenMem(1, 7, 0), "clip", 0.1)
    assert made["goldenmem"] == MemoryPolicy(GoldenMem(3, 2, 1), "clip", 0.1)
    assert made["none"] == MemoryPolicy(None, "clip", 0.1)
    assert made["noise:0.6"] == MemoryPolicy(GoldenMem(3, 2, 1), "clip", 0.6)
    assert Variant.parse("noise:0.001-0.25", film, 8).policy == policy(GoldenMem(3, 2, 1), noise=(0.001, 0.25))
    for kind in ("clip", "text", "recency"):
        assert Variant.parse(f"retrieval:{kind}", film, 8).policy == policy(GoldenMem(1, RETRIEVAL_BUDGET, 1), kind)
        first = Variant.parse(f"retrieval:{kind}:0", film, 8).policy
        assert first == policy(GoldenMem(1, RETRIEVAL_BUDGET, 0), kind)
        assert Variant.parse(f"goldenmem:2:{kind}", film, 8).policy == policy(GoldenMem(3, 2, 2), kind)
    assert Variant.parse("goldenmem:0", film, 8).policy == policy(GoldenMem(3, 2, 0))
    assert Variant.parse("latent", film, 8).policy == policy(GoldenMem(3, 2, 1, "latent"))
    assert Variant.parse("joint", film, 8).kind == "joint" and Variant.parse("ground_truth", film, 8).kind == "truth"
    wrong = ("goldenmem:", "goldenmem:9", "goldenmem:x", "retrieval:clip:text", "latent:1:2")
    for name in (
        "",
        "golden",
        "retrieval:",
        "retrieval:dice",
        *wrong,
        "noise:",
        "noise:2",
        "noise:nan",
        "noise:-0.1",
        "noise:0.5-0.1",
        "noise:0-0.1-0.2",
    ):
        with pytest.raises(InputError, match="variants"):
            Variant.parse(name, film, 8)


def test_joint_frames_see_each_other(studio: Studio, settings: KeyframeSettings) -> None:
    told = stories(2, 3)
    run = generate_jointly(StorySet(studio, told, 0), 3, settings)
    alone = generate_jointly(StorySet(studio, told[1:], 0), 3, settings)
    torch.testing.assert_close(run.frames[1:], alone.frames, atol=5e-5, rtol=0)
    fewer = generate_jointly(StorySet(studio, told, 0), 2, settings)
    assert run.frames.shape == (2, 3, 3, 80, 160)
    assert (run.frames[:, :2] - fewer.frames).abs().max() > 1e-2


def test_cost_counts_what_the_model_computes(studio: Studio, settings: KeyframeSettings) -> None:
    told = StorySet(studio, stories(1, 4), 0)
    memory = policy(GoldenMem(groups=2, images=1))
    run = extend(told, memory, settings)
    tokens, flops = step_cost(told, memory, run, settings, 4)
    lengths, kept = told.lengths[0], run.remembered[0][3]
    context = [Pair((1, 2), lengths[kept[1]]), Pair((3, 6), lengths[kept[0]])]  # the least relevant first
    new = Pair((5, 10), lengths[3])
    assert tokens == 2 + 18 + 50 + lengths[kept[0]] + lengths[kept[1]] + lengths[3]
    step = count_flux(studio.keyframe, [new], mode="causal", cached=context)
    fill = count_flux(studio.keyframe, context, mode="causal")
    assert step < flops < step + fill / settings.steps  # filling the cache needs no output projection
    assert flops == pytest.approx(step + fill / settings.steps, rel=0.02)
    joint, each = step_cost(told, None, run, settings, 4)
    pairs = [Pair((5, 10), length) for length in lengths]
    assert joint == 4 * 50 + sum(lengths) and each == count_flux(studio.keyframe, pairs) / 4


# --- suites -----------------------------------------------------------------------------------------------------------


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_keyframes_suite(studio: Studio, recogniser: Recogniser, tmp_path: Path) -> None:
    names = ["ground_truth", "full", "goldenmem", "none", "joint", "noise:0.1"]
    seen: list[tuple[float, float]] = []
    arguments = dict(seed=1, stories=2, variants=names, pairs=[3, 2], recogniser=recogniser)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        seen.append((done, total))

    result = evaluation.run("keyframes", studio, **arguments, out=tmp_path, progress=progress)
    rows = {(row["variant"], row["pairs"]): row for row in result["rows"]}
    assert set(rows) == {(name, count) for name in names for count in (2, 3)}
    assert (result["suite"], result["studio"], result["seed"], result["stories"], result["shots"]) == (
        "keyframes", "tiny", 1, 2, 3
    )  # fmt: skip
    for row in rows.values():
        shares = (*Scores.NAMES, "recall", "diversity", "diversity_truth")
        assert all(row[name] is None or 0 <= row[name] <= 1 for name in shares)
    # The same thing under two names; all earlier frames and none of them; every frame at full size costs more.
    same = [{k: v for k, v in rows[name, 3].items() if k != "variant"} for name in ("goldenmem", "noise:0.1")]
    assert same[0] == same[1]
    assert rows["full", 3]["recall"] == 1.0 and rows["none", 3]["recall"] == 0.0
    assert rows["none", 3]["tokens"] < rows["goldenmem", 3]["tokens"] < rows["full", 3]["tokens"]
    assert rows["none", 3]["flops"] < rows["goldenmem", 3]["flops"] < rows["full", 3]["flops"]
    assert rows["ground_truth", 3]["tokens"] is None and rows["joint", 3]["recall"] is None

    told = held_out_stories(1, 2, 3)
    truth = StoryTruth.of([story.shots for story in told])
    run = extend(StorySet(studio, told, 1), Variant.parse("none", FilmSettings.of(studio, (80, 160)), 3).policy,
                 FilmSettings.of(studio, (80, 160)).keyframe)  # type: ignore[arg-type]  # fmt: skip
    scores = Scores(classify_frames(recogniser, run.frames), truth)
    assert {name: rows["none", 3][name] for name in Scores.NAMES} == pytest.approx(scores.all(), nan_ok=True)
    assert rows["none", 3]["diversity_truth"] == pytest.approx(diversity(true_frames(told)))
    by_tier = rows["goldenmem", 3]["identity_by_tier"]
    assert set(by_tier) == {"1", "forgotten"} and sum(part["count"] for part in by_tier.values()) > 0
    assert rows["none", 3]["identity_by_tier"]["forgotten"]["share"] == pytest.approx(rows["none", 3]["identity"])
    assert result["by_shot"]["none@3"] == scores.by_shot("identity")

    assert result["reader"] == Scores(classify_frames(recogniser, true_frames(told)), truth).all()

    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)
    again = evaluation.run("keyframes", studio, **arguments)
    assert without_times(again["rows"]) == without_times(result["rows"])
    assert json.loads((tmp_path / "keyframes.json").read_text()) == json.loads(json.dumps(result))
    assert {path.name for path in tmp_path.iterdir()} == {"keyframes.json", "keyframes.png", "keyframes_frames.png"}
    with Image.open(tmp_path / "keyframes_frames.png") as sheet:
        assert sheet.width > 3 * 160 and sheet.height > 2 * 4 * 80  # 2 stories × truth, goldenmem, full, none


def test_video_suite(studio: Studio, tmp_path: Path) -> None:
    result = evaluation.run("video", studio, stories=4, out=tmp_path)
    rows = {row["variant"]: row for row in result["rows"]}
    assert set(rows) == {"ground_truth", "multi_chunk", "latent_replacement", "replication"}
    # Whatever the network does, a chunk starts with its keyframe as the VAE shows it; without chunks, only frame 0 can.
    for name in ("multi_chunk", "ground_truth"):
        assert rows[name]["keyframes_exact"] == 1.0
        assert rows[name]["keyframe_psnr"] == pytest.approx(rows[name]["vae_psnr"], abs=0.05)
    for name in ("latent_replacement", "replication"):
        assert rows[name]["keyframes_exact"] == pytest.approx(4 / 9)  # 9 keyframes, 4 of them at frame 0
    assert all(0 < row["snap_error"] <= 2 for row in rows.values())
    assert len({row["boundary_jump_truth"] for row in rows.values()}) == 1
    clips = held_out_clips(0, 4, 8)
    assert [clip.timeline.keyframe_frames for clip in clips] == [[0, 9], [0, 5, 14], [0, 5], [0, 13]]
    starts = [clip.timeline.chunk_starts for clip in clips]
    jump = boundary_jump([frame_change(clip.frames) for clip in clips], starts)
    assert rows["replication"]["boundary_jump_truth"] == pytest.approx(jump)
    assert set(result["change"]["truth"]) == {"0,9", "0,5,14", "0,5", "0,13"}
    assert len(result["clips"]) == 16 and len(result["change"]["multi_chunk"]["0,9"]) == 17
    data = json.loads((tmp_path / "video.json").read_text())
    assert data == json.loads(json.dumps(result))
    for name in ("video.png", "video_frames.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()


def test_a_clip_does_not_depend_on_its_neighbours(studio: Studio) -> None:
    clips = held_out_clips(0, 6, 2)
    together = sample_clips(studio, clips, 0, "multi_chunk")
    assert [video.shape[0] for video in together] == [clip.timeline.frames for clip in clips]
    for clip in (clips[1], clips[5]):  # one layout, captions of two lengths
        (alone,) = sample_clips(studio, [clip], 0, "multi_chunk")
        torch.testing.assert_close(together[clip.number], alone, atol=5e-5, rtol=0)


def test_the_table_shows_every_row(studio: Studio, recogniser: Recogniser) -> None:
    found = [
        evaluation.run(
            "keyframes", studio, stories=1, shots=2, variants=["none", "ground_truth"], recogniser=recogniser
        ),
        evaluation.run("video", studio, stories=1, variants=["multi_chunk"]),
    ]
    for result in found:
        stream = io.StringIO()
        evaluation.print_table(result, Console(file=stream, width=80))
        text = stream.getvalue()
        assert "seed 0" in text and all(row["variant"] in text for row in result["rows"])
        assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_bad_requests_are_refused(studio: Studio, recogniser: Recogniser) -> None:
    for fields, arguments in {
        "suite": ("audio", {}),
        "variants": ("keyframes", {"variants": ["full", "fuller"]}),
        "variants:": ("video", {"variants": []}),
        "must be among": ("video", {"variants": ["full"]}),
        "pairs": ("keyframes", {"pairs": [8, 0]}),
        "pairs: is for": ("video", {"pairs": [8]}),
        "stories": ("keyframes", {"stories": 0}),
        "seed": ("video", {"seed": -1}),
        "shots": ("video", {"shots": 100_000}),
    }.items():
        with pytest.raises(InputError, match=fields):
            evaluation.run(arguments[0], studio, recogniser=recogniser, **arguments[1])  # type: ignore[arg-type]

"""One text in both hosts: the same ids, states and keyframes from ComfyUI's own encoders and from the command's."""

from __future__ import annotations

import json
import logging
import random
import re
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_cond import T5TokenizerOptions
from comfy_extras.nodes_model_advanced import ModelSamplingFlux
from hypothesis import given
from hypothesis import strategies as st
from in_comfyui import tiny, tiny_text
from in_comfyui.flux_runs import SIZE, relative
from in_comfyui.node_inputs import encode
from in_comfyui.shipped.blueprints import interleaved_keyframes
from in_comfyui.shipped.films import flux_wan_film
from in_comfyui.test_flux_native import headless_of

from anchorshot.comfyui.encode_text import LONGEST, embed_text, encode_caption, tokenize
from anchorshot.comfyui.frame_encoders import ComfyEncoders
from anchorshot.comfyui.keyframe_inputs import with_queries
from anchorshot.comfyui.keyframes import Sampling, make_keyframes, plan_keyframes
from anchorshot.comfyui.memory import memory_of
from anchorshot.comfyui.mixing_similarity import action_gamma
from anchorshot.comfyui.similarity import embed_parts, embed_query
from anchorshot.memory.frame_memory import ContextFrame, FrameMemory, MemoryFrame
from anchorshot.memory.golden_mem import GoldenMem
from anchorshot.memory.retrieval import mean_pool, rank_clip, rank_together
from anchorshot.models.backbones.flux.native import sample_native
from anchorshot.models.backbones.native_models import keyframes_on
from anchorshot.models.encoders.prompt_text import from_prompt, literal, to_prompt
from anchorshot.models.encoders.tokenizer import ClipTokenizer
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.layouts.pairs import PairSettings
from anchorshot.models.studio import load_studio
from anchorshot.nodes.story import Shot, Storyboard
from anchorshot.sampling.flow import dynamic_shift, flow_sigmas
from anchorshot.sampling.keyframes import KeyframeSettings, sample_keyframes
from anchorshot.story.storyboard import parse_storyboard

NAMES = {"Mira": "a girl (twelve)", "Émile": "an old man", "李雷": "a tall boy", "mira": "a small cat"}
BITS = [
    *(f"<{name}>" for name in NAMES), "<Mira>'s hat", "(smiling)", "(red:1.4)", "((", ")", "\\", "\\(a\\)",
    "“No,” she said", "’s", "don't", "&amp; &lt;b&gt;", "\n", "\r\n", "   ", "\t", "\u00a0", "\u3000", "\x85", "\u2028",
    "李雷走了。", "😀", "👩\u200d👧", "{a|b}", "~ ^ `", "</s>", "<pad>", "<unk>", "<extra_id_3>", "<|endoftext|>",
    "<|startoftext|>", "embedding:foo", "embedding:", "[x]", "e\u0301", "ﬁ", "½ ①", "İ", "--", "…", "walks",
    "waves on the left", "\0", "\ud800", "1.4:", "▁",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(BITS), st.text(max_size=6)), max_size=12).map(" ".join) | st.lists(
    st.sampled_from(BITS), max_size=8
).map("".join)
KINDS = ("flux", "mochi", "wan")


@pytest.fixture(scope="module")
def clips() -> dict[str, Any]:
    """Native text encoders of all three classes. They look for embeddings, as a server's do."""
    made = {kind: tiny_text.native(kind) for kind in KINDS}
    words = made["flux"].tokenizer
    for part in (words.t5xxl, words.clip_l, made["mochi"].tokenizer.clip_t5xxl, made["wan"].tokenizer.clip_umt5xxl):
        part.embedding_directory = ["/nowhere"]
    return made


@pytest.fixture(scope="module")
def encoders(clips: dict[str, Any]) -> dict[str, Any]:
    return {kind: tiny_text.headless(kind, clips[kind]) for kind in KINDS}


def ids_of(rows: Any) -> list[int]:
    """Ids of one row, whose weights must all be 1."""
    ((*row,),) = rows
    assert all(weight == 1.0 for _, weight in row)
    return [token for token, _ in row]


def captions(count: int) -> list[str]:
    """Captions with tags and all that people write, the same every time."""
    drawn = random.Random(0)
    return [
        " ".join(["wide shot, static.", f"<{drawn.choice(list(NAMES))}>", *drawn.choices(BITS, k=drawn.randint(1, 9))])
        for _ in range(count)
    ]


# --- ids -------------------------------------------------------------------------------------------------------------


@given(text=TEXTS)
def test_the_same_ids_from_the_real_tokenizers(clips: dict[str, Any], text: str) -> None:
    """T5's, UMT5's (SentencePiece) and CLIP's, each by core and by the command line's."""
    found = tokenize(clips["flux"], text)
    t5 = tiny_text.t5_words().ids([literal(text)])[0]
    assert ids_of(found["t5xxl"]) == t5 == ids_of(tokenize(clips["mochi"], text)["t5xxl"])
    assert ids_of(tokenize(clips["wan"], text)["umt5xxl"]) == tiny_text.umt5_words().ids([literal(text)])[0]
    ours = ClipTokenizer()([text])[0].tolist()
    theirs = [token for token, _ in found["l"][0]]  # filled up with the end token, where ours has zeros
    end = theirs.index(49407)
    assert ours[: end + 1] == theirs[: end + 1] and not any(ours[end + 1 :])


@given(text=TEXTS)
def test_a_prompt_for_comfyui_and_back(text: str) -> None:
    assert from_prompt(to_prompt(text)) == literal(text) == literal(literal(text))


def test_two_hundred_captions_through_the_nodes(clips: dict[str, Any]) -> None:
    """From a story by the Storyboard node and core's tokenizer with T5 Tokenizer Options, as the film graph has it."""
    told = [re.sub(r"<(?!Mira|Émile|李雷|mira)[^>]*>|[\0\ud800]", "x", text) for text in captions(200)]  # names only
    shots = [{"id": f"s{i}", "scene": text, "frames": 5} for i, text in enumerate(told)]
    story = json.dumps({"title": "T", "characters": NAMES, "shots": shots})
    board = parse_storyboard(story, "json")
    expected = [literal(caption.prompt) for caption in board.captions()]
    assert sum("(" in text and "<" in text for text in expected) > 50
    prompts = Storyboard.execute(story).args[1]
    (clip,) = T5TokenizerOptions.execute(clips["flux"], 0, 0).args
    found = [clip.tokenize(prompt) for prompt in prompts]
    assert [ids_of(tokens["t5xxl"]) for tokens in found] == tiny_text.t5_words().ids(expected)
    ours = ClipTokenizer()(expected)
    theirs = torch.tensor([[token for token, _ in tokens["l"][0]] for tokens in found])
    ends = (theirs == 49407).int().argmax(1)
    assert torch.equal(ours.argmax(1), ends)  # the end token has the highest id
    real = torch.arange(77)[None] <= ends[:, None]
    assert torch.equal(ours[real], theirs[real])


def test_every_text_that_leaves_or_enters_a_node_is_spelled_alike(studio: dict[str, Any], pictures: Any) -> None:
    """Storyboard and Shot escape, and what takes a text reads that back; nothing else about it changes."""
    odd = r"<Mira> (smiling, {x}) points \(there\) at a (red:1.4) hat"
    keyframes = [{"at": 0, "text": odd}]
    shot = {"id": "s1", "scene": odd, "action": "<Mira> waves.", "frames": 5, "keyframes": keyframes}
    story = json.dumps({"title": "T", "characters": {"Mira": "a girl (twelve)"}, "shots": [shot]})
    outputs = [output.id or output.display_name for output in Storyboard.define_schema().outputs]
    given = dict(zip(outputs, Storyboard.execute(story).args, strict=True))
    board = given["storyboard"]
    caption = board.captions()[0]
    assert given["prompts"] == [to_prompt(caption.prompt)] and given["queries"] == [to_prompt(caption.query)]
    one = Shot.execute(board, "s1").args
    assert one[:2] == (given["prompts"][0], given["queries"][0])
    texts = [*given["prompts"], *given["queries"], *given["keyframe_prompts"], *given["keyframe_queries"]]
    assert all(r"\(smiling, {x}\)" in text and r"\\(there\\)" in text for text in [*texts, given["tiled_prompt"]])
    encoders = {"vae": [studio["vae"]], "clip": [studio["clip"]], "groups": [1], "images": [1], "first_tier": [0]}
    frames = {"frame_0": [pictures[:1]]}
    typed = memory_of(
        frames=frames, retrieval=["text"], captions=given["keyframe_prompts"], query=given["queries"], **encoders
    )
    told = memory_of(frames=frames, retrieval=["text"], captions=[""], query=[""], storyboard=[board], **encoders)
    assert typed.frames[0].text == from_prompt(given["keyframe_prompts"][0]) and typed.query == caption.query
    ours, wanted = (made.encoders.caption(made.frames[0])[0][0] for made in (typed, told))
    assert relative(ours, wanted) < 1e-6
    (task,) = with_queries(plan_keyframes(1, 0, None, (80, 160)), given["queries"], 1)
    assert task.query == caption.query
    gamma, same = action_gamma(studio["clip"], to_prompt(odd), to_prompt(odd), 0.25, "tokens")
    other = action_gamma(studio["clip"], to_prompt(odd), odd.replace("(", "").replace(")", ""), 0.25, "tokens")[1]
    assert same == pytest.approx(1, abs=1e-5) and gamma == pytest.approx(0, abs=1e-5) and other < 0.999


@pytest.mark.parametrize("sketch", [flux_wan_film, interleaved_keyframes])
def test_shipped_graphs_encode_captions_unpadded(sketch: Any) -> None:
    """Every FLUX prompt and every memory reads its CLIP through T5 Tokenizer Options without padding."""
    nodes = sketch().nodes
    (options,) = [number for number, node in enumerate(nodes) if node["kind"] == "T5TokenizerOptions"]
    assert nodes[options]["values"] == {"min_padding": 0, "min_length": 0}
    kinds = ["CLIPTextEncode", "AnchorshotGoldenMemContext"]
    assert [node["kind"] for node in nodes if node["links"].get("clip") == [options, 0]] == kinds
    assert not [node for node in nodes if node["kind"] == kinds[1] and node["links"].get("clip") != [options, 0]]


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_states_at_real_length(clips: dict[str, Any], encoders: dict[str, Any], kind: str) -> None:
    for text in captions(6):
        states, entry = encode_caption(clips[kind], text)[0]
        expected = encoders[kind].encode([text])
        assert states.shape == expected.tokens.shape and relative(states, expected.tokens) < 1e-5
        if kind == "flux":
            assert relative(entry["pooled_output"], expected.pooled) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [(0, 0), (7, 300)])
def test_text_similarity_never_pools_padding(
    clips: dict[str, Any], encoders: dict[str, Any], kind: str, options: tuple[int, int]
) -> None:
    """One pooling for both hosts, whatever padding the CLIP has been told to use."""
    (clip,) = T5TokenizerOptions.execute(clips[kind], *options).args
    for text in captions(3):
        expected = encoders[kind].encode([text])
        assert relative(embed_text(clip, text), mean_pool(expected.tokens, expected.mask)[0]) < 1e-5
    assert len(tokenize(clip, "a desert")["umt5xxl" if kind == "wan" else "t5xxl"][0]) < 12


def test_clips_own_padding_is_not_pooled_either() -> None:
    """SD 1.5's encoder fills rows of 77 up and gives no mask; of a long text every row has its padding."""
    clip = tiny.clip_l()
    for text in ("a desert", "a small desert at night " * 20):
        rows = tokenize(clip, text)["l"]
        states = clip.encode_from_tokens(tokenize(clip, text))
        ids = [token for row in rows for token, _ in row]
        real = [i for i, token in enumerate(ids) if token != 49407 or i % 77 == 0 or ids[i - 1] != 49407]
        assert len(rows) == (1 if text == "a desert" else 2) and len(real) < len(ids)
        assert relative(embed_text(clip, text), states[0, real].mean(0)) < 1e-5


def test_long_captions_are_cut_alike(clips: dict[str, Any], encoders: dict[str, Any], caplog: Any) -> None:
    text = "a long walk over the dunes, " * 90
    with caplog.at_level(logging.WARNING):
        states = encode_caption(clips["flux"], text)[0][0]
    assert states.shape[1] == LONGEST and "cut to 512" in caplog.text
    assert relative(states, encoders["flux"].encode([text]).tokens) < 1e-5


# --- keyframes -------------------------------------------------------------------------------------------------------


def test_the_same_keyframes_from_texts(clips: dict[str, Any], encoders: dict[str, Any]) -> None:
    """Four captions with tags and brackets: two remembered frames, two new ones, real tokenizers in both hosts."""
    network = tiny.strong_(headless_of(tiny.FLUX), seed=1)
    model = tiny.flux(tiny.FLUX, to_public("flux", network.state_dict()))
    scale = model.model.latent_format
    texts = [
        "wide shot. <Mira> (smiling) waves at <Émile>.",
        "“No,” says <李雷> (red:1.4) \\(aside\\) & walks off 😀",
        "<mira>   sits\non the {left}.",
        "close-up. <Mira> — <Émile>; </s> 走了。",
    ]
    remembered = [tiny.latent(60 + i, *size) for i, size in enumerate([(4, 6), (8, 12)])]
    (clip,) = T5TokenizerOptions.execute(clips["flux"], 0, 0).args
    new = [
        [[tokens, entry | {"guidance": 3.5}]] for tokens, entry in (encode(clip, to_prompt(t))[0] for t in texts[:2])
    ]
    memory = [MemoryFrame(torch.zeros(1, 3, 16, 16), text=text) for text in texts[2:]]
    past = [ComfyEncoders(None, clips["flux"]).caption(frame) for frame in memory]
    past = [[[tokens, entry | {"guidance": 3.5}]] for ((tokens, entry),) in past]
    pairs = [ContextFrame(latent, text) for latent, text in zip(remembered, past, strict=True)]
    sigmas = flow_sigmas(3, 1.9)
    found = sample_native(
        model, new, [torch.zeros(1, 16, *SIZE)] * 2, pairs, None, PairSettings("causal", 0.1), sigmas=sigmas, seed=7,
        disable_pbar=True,
    )  # fmt: skip
    rows = encoders["flux"].encode(texts).rows()
    expected = sample_keyframes(
        network,
        rows[:2],
        (16, *SIZE),
        [ContextFrame(scale.process_in(latent), row) for latent, row in zip(remembered, rows[2:], strict=True)],
        KeyframeSettings(steps=3, shift=1.9, context_noise=0.1, mode="causal", guidance=3.5),
        torch.Generator().manual_seed(7),
    )
    worst = max(relative(scale.process_in(ours), theirs) for ours, theirs in zip(found, expected, strict=True))
    print(f"keyframe latents: relative error {worst:.1e}")
    assert worst < 1e-5


def test_padded_captions_are_remarked_upon(clips: dict[str, Any]) -> None:
    padded, short = encode(clips["flux"], "a desert"), encode_caption(clips["flux"], "a desert")
    assert padded[0][0].shape[1] == 256
    advice = keyframes_on(tiny.flux()).caption_advice
    assert advice([short, padded]) is None
    assert "2 of 3 captions have exactly 256 tokens" in (advice([padded, short, padded]) or "")


@pytest.mark.parametrize("steps", [20, 25, 28])
@pytest.mark.parametrize("size", [(400, 800), (704, 1280), (1024, 1024)])
def test_the_shift_of_a_size(size: tuple[int, int], steps: int) -> None:
    """The film graph's ModelSamplingFlux gives the noise levels that the command computes for that size.

    Core's `simple` takes them from a table of 10,000 times: where the steps do not divide that, time is rounded.
    """
    height, width = size
    (model,) = ModelSamplingFlux().patch(tiny.flux(), 1.15, 0.5, width, height)
    found = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    shift = dynamic_shift(height * width // 256)
    rounding = 0.0 if 10_000 % steps == 0 else 1e-4 * shift  # the schedule's steepest slope is the shift, at its end
    assert (found - flow_sigmas(steps, shift)).abs().max() < 1e-6 + rounding
    fixed = comfy.samplers.calculate_sigmas(tiny.flux().get_model_object("model_sampling"), "simple", steps)
    assert ((found - fixed).abs().max() > 0.02) == (size != (1024, 1024))


# --- queries ---------------------------------------------------------------------------------------------------------


def test_a_long_query_counts_to_its_last_word(studio: dict[str, Any]) -> None:
    """CLIP reads 77 tokens: two places that are told after them are still two queries, the same as headless."""
    start = "a yellow square with a crown waves on the left. " * 8
    texts = [f"{start} in the desert.", f"{start} on the moon."]
    scorer = load_studio("pocket").clip
    found = torch.stack([embed_parts(studio["retrieval_clip"], text, scorer.dim) for text in texts])
    found = torch.nn.functional.normalize(found, dim=-1)
    assert found.shape[1] == 2 and relative(found, torch.stack([scorer.embed_query(t) for t in texts])) < 1e-4
    assert (found[0] - found[1]).norm() > 1e-2
    cut = [embed_query(studio["retrieval_clip"], text, scorer.dim) for text in texts]
    assert relative(cut[0], cut[1]) < 1e-5
    assert relative(torch.nn.functional.normalize(cut[0], dim=0), scorer.embed_texts(texts)[0]) < 1e-4


def test_a_window_is_ranked_by_all_its_prompts(studio: dict[str, Any], pictures: Any, monkeypatch: Any) -> None:
    """Two keyframes made together look back by both texts; each gets its best memories first."""
    encoders = ComfyEncoders(studio["vae"], studio["clip"], studio["clip_vision"], studio["retrieval_clip"])
    frames = tuple(MemoryFrame(picture[None].movedim(-1, 1), text=f"frame {i}") for i, picture in enumerate(pictures))
    memory = FrameMemory(encoders, GoldenMem(3, 2), "clip", frames=frames)
    words = ["a red triangle with a hat, on the moon", "a blue circle with a scarf, in the forest"]
    keys = torch.cat([frame.embedding("clip", encoders) for frame in frames])
    orders = [rank_clip(embed_query(studio["retrieval_clip"], text, keys.shape[1]), keys) for text in words]
    order = [rank.indices[0] for rank in memory.recall([*words, ""])]
    assert order == rank_together(orders)[: len(order)] and {orders[0][0], orders[1][0]} <= set(order[:2])
    assert order != [rank.indices[0] for rank in memory.recall(words[:1])]
    asked: list[tuple[list[str], ...]] = []
    monkeypatch.setattr(FrameMemory, "recall", lambda self, *rows: (asked.append(rows), [])[1])
    jobs = with_queries(plan_keyframes(2, 1, None, (80, 160)), words, 2)
    prompts = [encode(studio["clip"], text) for text in words]
    sampler = comfy.samplers.sampler_object("euler")
    sampling = Sampling(studio["keyframe_model"], studio["vae"], sampler, flow_sigmas(1), 1.0, PairSettings(), 2)
    make_keyframes(jobs, prompts, None, torch.zeros(1, 16, 10, 20), sampling, memory)
    assert asked == [(words,)]


def test_padding_is_logged_once_for_all_keyframes(studio: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    tokens, entry = encode(studio["clip"], "a red triangle")[0]
    prompt = [[torch.nn.functional.pad(tokens, (0, 0, 0, 256 - tokens.shape[1])), entry]]
    sampler = comfy.samplers.sampler_object("euler")
    sampling = Sampling(studio["keyframe_model"], studio["vae"], sampler, flow_sigmas(1), 1.0, PairSettings())
    with caplog.at_level(logging.WARNING, "anchorshot"):
        make_keyframes(plan_keyframes(2, 1, None, (80, 160)), [prompt] * 2, None, torch.zeros(1, 16, 10, 20), sampling)
    said = [message for message in caplog.messages if "captions have exactly" in message]
    assert said == [said[0]] and said[0].startswith("Interleaved Keyframe Sampler: 2 of 2 captions")

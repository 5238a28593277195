"""The nodes: schemas that only grow, help in two languages, and what each node gives for good and for bad inputs."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import folder_paths
import pytest
import torch
from comfyui.server import COMFYUI, ROOT
from comfyui.tiny import FLUX, flux_clip
from torch import Tensor

import nodes as comfy_nodes
from anchorshot import comfy_entrypoint
from anchorshot.media.contact_sheet import SHOTS_PER_PAGE
from anchorshot.memory.golden_mem import GoldenMem, token_report
from anchorshot.models import text as headless_text
from anchorshot.models.pocket.bank import picture_bank, to_tensor
from anchorshot.models.studio import load_studio
from anchorshot.nodes import NODES, film, film_run, keyframes, memory, pocket, story, timeline, video
from anchorshot.nodes.similarity import embed_picture, embed_query
from anchorshot.nodes.story_input import guess_kind
from anchorshot.pipelines import job as headless_job
from anchorshot.sampling import video as headless_video
from anchorshot.story import stages
from anchorshot.story.errors import InputError
from anchorshot.story.storyboard import Storyboard, load_storyboard, parse_storyboard
from anchorshot.story.timeline import Timeline

SNAPSHOT = Path(__file__).with_name("snapshots") / "schemas.json"
LANGUAGES = ("en", "zh")

STORY = """
title: Two friends
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown, Pip: a pink circle with a bow}
places: {dunes: the desert, town: the town}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., frames: 5}
  - id: s02
    place: town
    action: <Pip> jumps on the right.
    frames: 9
    transition: blend
    keyframes: [{at: 0}, {at: 0.5}]
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> Path:
    """ComfyUI's folders for this test: nothing is written to the checkout."""
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(tmp_path / name))
    return tmp_path


@pytest.fixture(scope="module")
def board() -> Storyboard:
    return parse_storyboard(STORY)


@pytest.fixture(scope="module")
def studio() -> dict[str, Any]:
    """The Pocket Studio's outputs by their ids: real weights."""
    ids = [output.id for output in pocket.PocketStudio.define_schema().outputs]
    return dict(zip(ids, pocket.PocketStudio.execute().args, strict=True))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """IMAGE [6, 80, 160, 3] of the pocket world."""
    return to_tensor(picture_bank(6, "test")).movedim(1, -1)


def encode(clip: Any, text: str) -> list[Any]:
    return comfy_nodes.CLIPTextEncode().encode(clip, text)[0]


# --- schemas ---------------------------------------------------------------------------------------------------------


def schema_of(node: Any) -> dict[str, Any]:
    """What a saved workflow depends on: ids, order and types."""
    schema = node.GET_SCHEMA()
    inputs = [[i.id, i.get_io_type(), bool(i.optional)] for i in schema.inputs]
    outputs = [[o.id, o.io_type, bool(o.is_output_list)] for o in schema.outputs]
    return {"inputs": inputs, "outputs": outputs, "takes_lists": schema.is_input_list}


def updated(path: Path, data: dict[str, Any]) -> None:
    """Write `data` if the environment asks for it."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def broken(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of `old` a workflow saved with it would miss in `new`; what is appended breaks nothing."""
    faults = [f"{name}: the node is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        was, now = old[name], new[name]
        if was["takes_lists"] != now["takes_lists"]:
            faults.append(f"{name}: takes lists is {now['takes_lists']}, was {was['takes_lists']}")
        for part in ("inputs", "outputs"):
            kept = now[part][: len(was[part])]
            if kept != was[part]:
                faults.append(f"{name}: its first {part} are {kept}, were {was[part]}")
        # A new input must not be missing in workflows that were saved before there was one.
        added = now["inputs"][len(was["inputs"]) :]
        faults += [f"{name}: the new input {i} must be optional" for i, _, optional in added if not optional]
    return faults


def test_schemas_only_grow() -> None:
    """Removed, renamed, reordered or retyped inputs and outputs break saved workflows.

    After adding a node or an input, run once with UPDATE_SNAPSHOTS=1.
    """
    now = {node.GET_SCHEMA().node_id: schema_of(node) for node in NODES}
    old = json.loads(SNAPSHOT.read_text("utf-8")) if SNAPSHOT.exists() else {}
    assert broken(old, now) == []
    updated(SNAPSHOT, now)
    assert now == json.loads(SNAPSHOT.read_text("utf-8")), "new parts are not in the snapshot yet"


def test_the_snapshot_test_sees_faults() -> None:
    old = {"N": {"inputs": [["a", "INT", False], ["b", "INT", False]], "outputs": [["o", "INT", False]],
                 "takes_lists": False}}  # fmt: skip

    def changed(**parts: Any) -> dict[str, Any]:
        return {"N": old["N"] | parts}

    appended = [*old["N"]["inputs"], ["c", "INT", True]]
    assert broken(old, changed(inputs=appended)) == []
    assert broken(old, changed(inputs=[*old["N"]["inputs"], ["c", "INT", False]]))  # required
    assert broken(old, changed(inputs=appended[::-1]))  # reordered
    assert broken(old, changed(inputs=appended[:1]))  # removed
    assert broken(old, changed(inputs=[["a", "FLOAT", False], ["b", "INT", False]]))  # retyped
    assert broken(old, changed(outputs=[["o", "INT", True]]))
    assert broken(old, {"M": old["N"]})  # renamed


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_tells_what_it_is(node: Any) -> None:
    """Ids, categories, search words; every tooltip names its default, numbers have bounds."""
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Anchorshot") and schema.category.split("/")[0] == "Anchorshot"
    assert len(schema.description) > 40 and len(schema.search_aliases) >= 3 and schema.display_name
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip and part.tooltip.endswith("."), part.id
    for part in schema.inputs:
        kind = part.get_io_type().split(",")[0]
        assert "efault" in part.tooltip or kind not in {"INT", "FLOAT", "COMBO", "STRING", "BOOLEAN"}, part.id
        if part.get_io_type() in {"INT", "FLOAT"}:
            assert part.min is not None and part.max is not None and part.default is not None, part.id
            assert part.min <= part.default <= part.max


def test_node_files_are_readable_by_scanners() -> None:
    """ComfyUI Manager reads the syntax tree: classes derive from io.ComfyNode directly, node ids are literals."""
    found = {}
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in node.bases):
                ids = [k.value for call in ast.walk(node) if isinstance(call, ast.Call) for k in call.keywords
                       if k.arg == "node_id"]  # fmt: skip
                assert len(ids) == 1 and isinstance(ids[0], ast.Constant), node.name
                found[node.name] = ids[0].value
    assert sorted(found.values()) == sorted(node.GET_SCHEMA().node_id for node in NODES)


def test_entrypoint_gives_all_nodes() -> None:
    extension = asyncio.run(comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == NODES


def test_nodes_need_nothing_that_comfyui_lacks() -> None:
    """All node code, also what is imported when a node runs, does without the libraries of the headless side."""
    modules = sorted(path.stem for path in (ROOT / "nodes").glob("*.py") if path.stem != "__init__")
    code = f"""
import sys, importlib
sys.path.insert(0, {str(COMFYUI)!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
for name in ("diffusers", "open_clip", "accelerate", "peft", "rich", "matplotlib"):
    sys.modules[name] = None  # importing it fails
import anchorshot
assert "torch" not in vars(anchorshot) and not [m for m in sys.modules if m.startswith("anchorshot.")]
import anchorshot.nodes
heavy = [m for m in sys.modules if m.startswith(("anchorshot.models", "anchorshot.sampling", "anchorshot.story.story"))]
assert not heavy, heavy
for name in {modules!r}:
    importlib.import_module("anchorshot.nodes." + name)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=COMFYUI)
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


def locale(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def definition(node: Any) -> dict[str, Any]:
    """A node's entry in locales/en/nodeDefs.json."""
    schema = node.GET_SCHEMA()
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    outputs = {str(k): {"name": o.display_name, "tooltip": o.tooltip} for k, o in enumerate(schema.outputs)}
    return {"display_name": schema.display_name, "description": schema.description} | (
        {"inputs": inputs, "outputs": outputs} if inputs else {"outputs": outputs}
    )


def test_english_locale_is_what_the_nodes_say() -> None:
    """After changing a text, run once with UPDATE_SNAPSHOTS=1."""
    texts = {node.GET_SCHEMA().node_id: definition(node) for node in NODES}
    updated(ROOT / "locales" / "en" / "nodeDefs.json", texts)
    assert locale("en") == texts


def test_chinese_locale_is_complete() -> None:
    english, chinese = locale("en"), locale("zh")
    assert chinese.keys() == english.keys()
    for name, entry in english.items():
        for part in ("inputs", "outputs"):
            assert chinese[name].get(part, {}).keys() == entry.get(part, {}).keys(), name
            for key, texts in chinese[name].get(part, {}).items():
                assert texts["name"] and any("\u4e00" <= c <= "\u9fff" for c in texts["tooltip"]), (name, key)
        assert any("\u4e00" <= c <= "\u9fff" for c in chinese[name]["description"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page(language: str) -> None:
    """And the page speaks of every input and output by its name."""
    for node in NODES:
        schema = node.GET_SCHEMA()
        page = (ROOT / "web" / "docs" / schema.node_id / f"{language}.md").read_text("utf-8")
        names = [i.id for i in schema.inputs] + [o.display_name for o in schema.outputs]
        assert not [name for name in names if f"`{name}`" not in page], schema.node_id


# --- story -----------------------------------------------------------------------------------------------------------


def test_storyboard_gives_one_entry_for_each_shot(board: Storyboard) -> None:
    out = story.Storyboard.execute(STORY).args
    assert out[0].to_dict() == board.to_dict()
    prompts, queries, timelines, seeds, tiled, width, height, fps, count = out[1:]
    assert prompts == [caption.prompt for caption in board.captions()]
    assert queries[1] == board.captions()[1].query and "<" not in queries[1]
    assert [t.frames for t in timelines] == [5, 10] and timelines[1].keyframe_frames == [0, 5]
    assert seeds == [headless_job.stage_seed(shot, 1, "clip") for shot in board.shots]
    assert tiled == f"{prompts[0]} {prompts[1]}" and (width, height, fps, count) == (160, 80, 8.0, 2)


def test_storyboard_from_a_file_of_the_input_folder(folders: Path) -> None:
    (folders / "input" / "film").mkdir()
    (folders / "input" / "film" / "story.yaml").write_text(STORY)
    assert story.Storyboard.execute("film/story.yaml\n").args[9] == 2
    assert story.Storyboard.validate_inputs("film/story.yaml") is True
    before = story.Storyboard.fingerprint_inputs("film/story.yaml")
    (folders / "input" / "film" / "story.yaml").write_text(STORY.replace("waves", "jumps"))
    assert story.Storyboard.fingerprint_inputs("film/story.yaml") != before
    (folders / "secret.yaml").write_text(STORY)
    for outside in ("../secret.yaml", str(folders / "secret.yaml")):
        assert "must lie in ComfyUI's input folder" in str(story.Storyboard.validate_inputs(outside))
    assert "does not exist" in str(story.Storyboard.validate_inputs("film/other.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shots: []", "shots: must hold at least 1"),
        (STORY.replace("<Pip> jumps", "<Pipp> jumps"), "did you mean <Pip>?"),
        ("shots: [", "is not valid YAML"),
        ("", "is empty"),
    ],
)
def test_bad_storyboards_are_refused_before_the_queue(text: str, said: str) -> None:
    answer = story.Storyboard.validate_inputs(text)
    assert isinstance(answer, str) and said in answer and "\n" not in answer
    assert story.Storyboard.validate_inputs(None) is True  # linked: known when the graph runs


def test_formats_are_told_apart() -> None:
    examples = ROOT / "stories"
    for path in sorted(examples.iterdir()):
        text = path.read_text("utf-8")
        assert guess_kind(text) == path.suffix[1:]
        assert story.Storyboard.execute(text).args[9] == 6, path.name
    assert {path.suffix for path in examples.iterdir()} == {".yaml", ".csv", ".txt"}
    plain = json.dumps(load_storyboard(examples / "two_friends.yaml").to_dict())
    assert guess_kind(plain) == "json" and guess_kind("{title: x, shots: []}") == "yaml"
    assert guess_kind("A cat sits, and waits.") == "txt"


def test_small_text_encoders_get_names_that_they_know(board: Storyboard, studio: dict[str, Any]) -> None:
    strange = STORY.replace("Mira", "Grzegorz")
    prompts = story.Storyboard.execute(strange, clip=studio["clip"]).args[1]
    assert "Grzegorz" not in " ".join(prompts) and "<Pip>" in prompts[1]
    names = studio["clip"].tokenizer.names
    captions = [caption.prompt for caption in parse_storyboard(strange).captions()]
    assert prompts == headless_text.alias_names(captions, names)
    assert story.Shot.execute(parse_storyboard(strange), "1", clip=studio["clip"]).args[0] == prompts[0]


def test_shot_by_number_and_by_id(board: Storyboard) -> None:
    by_id, by_number, by_int = (story.Shot.execute(board, name).args for name in ("s02", "2", 2))
    assert by_id == by_number == by_int
    prompt, query, planned, seconds, seed, count, name, number = by_id
    assert prompt == board.captions()[1].prompt and query == board.captions()[1].query
    assert (planned.frames, seconds, count, name, number) == (10, 1.25, 2, "s02", 2)
    assert seed == stages.stage_seed(board.shots[1], 1, "clip")
    with pytest.raises(InputError, match="did you mean s01"):
        story.Shot.execute(board, "s1")


def test_what_both_hosts_take_from_a_storyboard_is_the_same(board: Storyboard) -> None:
    for shot in board.shots:
        assert stages.stage_seed(shot, 3, "keyframe-1") == headless_job.stage_seed(shot, 3, "keyframe-1")
    texts = ["<Zoe> waves.", "<Mira> and <Zoe> stand"]
    assert stages.tile_captions(texts) == headless_video.tile_captions(texts)
    assert stages.alias_names(texts, ["Pip", "Mira"]) == headless_text.alias_names(texts, ["Pip", "Mira"])


# --- memory ----------------------------------------------------------------------------------------------------------


def context(studio: dict[str, Any], frames: Any, **inputs: Any) -> tuple[Any, Tensor, int]:
    """GoldenMem Context as ComfyUI calls it: every input is a list."""
    given = {"retrieval": "clip", "groups": 3, "images": 1, "first_tier": 0, "query": "", "captions": "",
             "clip": studio["clip"], "clip_vision": studio["clip_vision"],
             "retrieval_clip": studio["retrieval_clip"]}  # fmt: skip
    lists = {name: [value] for name, value in (given | inputs).items() if value is not None}
    return memory.GoldenMemContext.execute(vae=[studio["vae"]], frames=frames, **lists).args


def test_context_ranks_as_the_headless_side_does(studio: dict[str, Any], pictures: Tensor) -> None:
    """CLIP retrieval with CLIP_VISION and CLIP on the same pictures gives the same order."""
    query = "a red triangle with a hat, on the moon"
    made, picture, tokens = context(studio, {"frame_0": [pictures[:4]], "frame_1": [pictures[4:]]}, query=query)
    recalled = [frame.picture.movedim(0, -1) for frame, _ in made.recall()]
    order = [next(i for i, p in enumerate(pictures) if torch.equal(p, picture)) for picture in recalled]
    scorer = load_studio("pocket").clip
    scores = scorer.embed_images(pictures.movedim(-1, 1)) @ scorer.embed_texts([query])[0]
    assert order == scores.argsort(descending=True)[:3].tolist()
    assert tokens == token_report(GoldenMem(3, 1, 0).plan(6, (5, 10)), (5, 10))["context_image"]
    assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.shape[2] == 1280


def test_context_encodes_each_frame_at_its_size(studio: dict[str, Any], pictures: Tensor) -> None:
    made, _, tokens = context(studio, {"frame_0": [pictures[:3]]}, retrieval="recency")
    latents = [frame.latent(slot.size, made.encoders) for frame, slot in made.recall()]
    assert [tuple(latent.shape) for latent in latents] == [(1, 16, 10, 20), (1, 16, 6, 12), (1, 16, 2, 4)]
    assert tokens == 50 + 18 + 2
    newest = studio["vae"].encode(pictures[2:3])
    assert torch.allclose(latents[0], newest, atol=1e-5)


def test_context_takes_captions_and_query_from_the_storyboard(
    studio: dict[str, Any], pictures: Tensor, board: Storyboard
) -> None:
    made, _, _ = context(studio, {"frame_0": [pictures[:1]]}, storyboard=board)
    assert made.query == board.captions()[1].query and made.frames[0].text == board.captions()[0].prompt
    assert made.frames[0].caption(made.encoders)[0][0].shape[-1] == 128
    written, _, _ = context(studio, {"frame_0": [pictures[:1]]}, captions="first frame\nnext frame", retrieval="text")
    assert written.query == "next frame" and written.frames[0].words == "first frame"
    empty, picture, tokens = context(studio, {}, storyboard=board)
    assert empty.recall("anything") == [] and tokens == 0 and picture.shape[-1] == 3


def test_context_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor, board: Storyboard) -> None:
    mixed = {"frame_0": [pictures[:1]], "frame_1": [pictures[:1, :64]]}
    for frames, inputs, said in [
        (mixed, {}, r"^frames: all pictures must have one size \(got \"160x80, 160x64\"\)"),
        ({"frame_0": [pictures[:1, :72]]}, {}, "frames: width and height must divide by 16"),
        ({"frame_0": [pictures]}, {"captions": "one"}, "captions: must be 6, one for each frame"),
        ({"frame_0": [pictures]}, {"storyboard": board}, "frames: must be at most 3, the storyboard's keyframes"),
        ({}, {"clip_vision": None}, "clip_vision: is needed to rank frames by clip"),
        ({}, {"retrieval": "text", "clip": None}, "clip: is needed to rank frames by text"),
        (
            {"frame_0": [pictures]},
            {"retrieval_clip": studio["video_clip"], "query": "x"},
            r"got \"no CLIP text model\"",
        ),
    ]:
        with pytest.raises(InputError, match=said):
            context(studio, frames, **inputs)
    with pytest.raises(InputError, match="query: is needed to rank frames by clip"):
        context(studio, {"frame_0": [pictures[:2]]})[0].recall()


def test_clip_text_must_be_projected_into_the_space_of_pictures(studio: dict[str, Any], pictures: Tensor) -> None:
    """Common loaders give CLIP text without a projection; ranking by it would mean nothing, and look fine."""
    embedding = embed_picture(studio["clip_vision"], pictures[0].movedim(-1, 0))
    by_pair, by_keyframe_clip = (
        embed_query(studio[name], "a red circle", len(embedding)) for name in ("retrieval_clip", "clip")
    )
    assert torch.allclose(by_pair, by_keyframe_clip, atol=1e-5)
    narrow, unfilled = flux_clip(), flux_clip(FLUX | {"vec_in_dim": len(embedding)})
    assert embed_query(unfilled, "a red circle", len(embedding)).shape == embedding.shape
    torch.nn.init.zeros_(unfilled.cond_stage_model.clip_l.transformer.text_projection.weight)
    for clip in (narrow, unfilled):
        with pytest.raises(InputError, match="retrieval_clip: must have a text model projected to the 64 dimensions"):
            embed_query(clip, "a red circle", len(embedding))


def test_references_join_the_conditioning(studio: dict[str, Any], pictures: Tensor) -> None:
    made, _, tokens = context(studio, {"frame_0": [pictures[:3]]}, retrieval="recency")
    before = encode(studio["clip"], "a yellow square")
    after, count, used = memory.GoldenMemReferences.execute(before, made).args
    references = after[0][1]["reference_latents"]
    assert count == 3 and used == tokens and [r.shape[-1] for r in references] == [20, 12, 4]
    assert "reference_latents" not in before[0][1]
    twice = memory.GoldenMemReferences.execute(after, made).args[0]
    assert len(twice[0][1]["reference_latents"]) == 6
    # Qwen-Image's VAE is a video VAE: its references keep their frame axis
    as_video, _, _ = context(studio | {"vae": studio["video_vae"]}, {"frame_0": [pictures[:1]]}, retrieval="recency")
    assert memory.GoldenMemReferences.execute(before, as_video).args[0][0][1]["reference_latents"][0].ndim == 5


# --- timeline --------------------------------------------------------------------------------------------------------


def test_timeline_from_widgets_json_and_storyboard(board: Storyboard, pictures: Tensor) -> None:
    node = timeline.KeyframeTimeline
    assert node.execute(8, 2.0, "").args[0] == Timeline.plan(8, 2.0, [0.0])
    assert node.execute(8, 2.0, "[0, 1.0]").args[0] == Timeline.plan(8, 2.0, [0.0, 1.0])
    planned = Timeline.plan(8, 2.0, [0.0, 0.7, 1.5])
    again = node.execute(8, 2.0, planned.to_json())
    assert again.args[0] == planned and json.loads(again.args[4]) == planned.to_dict()
    assert again.args[2:4] == (planned.frames, 8.0) and again.ui["timeline"] == [planned.to_json()]
    two = node.execute(8, 9.0, '{"durations": [1.0, 2.0]}').args[0]
    assert two == Timeline.plan(8, 3.0, [0.0, 1.0])
    assert node.execute(24, 9.0, "", board, "s02").args[0] == board.shots[1].timeline(8)
    assert node.execute(24, 9.0, "[0]", board, "2").args[0].keyframe_frames == [0]
    film_long = node.execute(24, 9.0, "", board).args[0]
    assert film_long.fps == 8 and [k.requested.seconds for k in film_long.keyframes] == [0.0, 0.625, 1.125]
    shown = node.execute(8, 2.0, "[0, 1.0]", keyframes=pictures[:2])
    assert torch.equal(shown.args[1], pictures[:2]) and len(shown.ui["thumbnails"]) == 2


def test_timeline_errors_say_what_to_do(pictures: Tensor, board: Storyboard) -> None:
    node = timeline.KeyframeTimeline
    for inputs, said in [
        ((8, 2.0, "[0, 5.0]"), r"keyframes\[1\].at: must not lie beyond the shot's last frame at 1.875 s"),
        ((8, 2.0, "[1.0, 0.0]"), "must be in order of time"),
        ((8, 2.0, '{"keyframes": ["x"]}'), r"keyframes\[0\]: must be a number of seconds"),
        ((8, 2.0, '{"durations": [1, 0]}'), r"durations\[1\]: must be greater than 0"),
        ((8, 2.0, "[0, 1.0]", None, "", pictures[:1]), "keyframes: must be 2 pictures"),
        ((8, 2.0, "", board, "s9"), "shot: must be a number from 1 to 2, or the id of a shot"),
    ]:
        with pytest.raises(InputError, match=said):
            node.execute(*inputs)
    assert "is not valid JSON" in str(node.validate_inputs("[0, "))
    assert node.validate_inputs("[0]") is True and node.validate_inputs(None) is True


# --- keyframes -------------------------------------------------------------------------------------------------------


def sample(studio: dict[str, Any], positive: list[Any], **inputs: Any) -> Any:
    """The Interleaved Keyframe Sampler as ComfyUI calls it, in two steps."""
    latent = {"samples": torch.zeros(1, 16, 10, 20), "downscale_ratio_spacial": 8}
    given = {"model": studio["keyframe_model"], "latent": latent, "vae": studio["vae"], "seed": 0, "steps": 2,
             "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "attention": "causal",
             "context_noise": 0.1, "window": 1}  # fmt: skip
    lists = {name: [value] for name, value in (given | inputs).items() if value is not None}
    return keyframes.InterleavedKeyframeSampler.execute(positive=positive, **lists)


def test_a_film_of_keyframes_remembers_as_it_goes(studio: dict[str, Any], board: Storyboard) -> None:
    prompts = [encode(studio["clip"], prompt) for prompt in story.Storyboard.execute(STORY).args[1]]
    empty, _, _ = context(studio, {})
    out = sample(studio, prompts, context=empty, storyboard=board)
    images, latents, grown = out.args
    assert [tuple(i.shape) for i in images] == [(1, 80, 160, 3), (2, 80, 160, 3)]
    assert [tuple(x["samples"].shape) for x in latents] == [(1, 16, 10, 20), (2, 16, 10, 20)]
    assert len(grown.frames) == 3 and len(empty.frames) == 0 and len(out.ui.as_dict()["images"]) == 3
    assert grown.frames[2].label == "s02, keyframe 2"
    # the second keyframe looks back at the first: without a memory it comes out otherwise, the first does not
    alone = sample(studio, prompts, storyboard=board).args[0]
    assert torch.equal(alone[0], images[0]) and not torch.allclose(alone[1], images[1], atol=0.02)
    # a graph may chain samplers instead: the second shot from the context that the first one grew
    first = sample(studio, prompts[:1], context=empty, seed=stages.stage_seed(board.shots[0], 1, "keyframe-0")).args
    seed = stages.stage_seed(board.shots[1], 1, "keyframe-0")
    second = sample(studio, prompts[1:], context=first[2], seed=seed).args[0]
    assert torch.allclose(first[0][0], images[0], atol=1e-5) and torch.allclose(second[0], images[1][:1], atol=1e-4)


def test_own_pictures_are_taken_as_they_are(studio: dict[str, Any], pictures: Tensor, folders: Path) -> None:
    from anchorshot.media.picture import write_picture

    write_picture(folders / "input" / "mira.png", pictures[0].movedim(-1, 0))
    text = STORY.replace("frames: 5}", "frames: 5, keyframes: [{at: 0, image: mira.png}]}")
    board, prompts = story.Storyboard.execute(text).args[:2]
    out = sample(studio, [encode(studio["clip"], p) for p in prompts], storyboard=board, context=context(studio, {})[0])
    assert torch.allclose(out.args[0][0], pictures[:1], atol=1 / 255)
    before = story.Storyboard.fingerprint_inputs(text)
    write_picture(folders / "input" / "mira.png", torch.rand(3, 80, 160))
    assert story.Storyboard.fingerprint_inputs(text) != before


def test_frames_of_a_window_see_each_other(studio: dict[str, Any]) -> None:
    prompts = [encode(studio["clip"], "wide shot, static, in the desert."), encode(studio["clip"], "close-up, static.")]
    apart, together = (sample(studio, prompts, window=w).args[0] for w in (1, 2))
    assert [i.shape[0] for i in together] == [1, 1] and not torch.allclose(apart[1], together[1], atol=0.01)


def test_keyframe_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor, board: Storyboard) -> None:
    prompt = encode(studio["clip"], "wide shot")
    small, _, _ = context(studio, {"frame_0": [pictures[:1, :64]]}, captions="a")
    batch = {"samples": torch.zeros(2, 16, 10, 20)}
    for positive, inputs, said in [
        ([], {}, r"^positive: at least one keyframe is needed \(got 0\)"),
        ([prompt], {"storyboard": board}, "positive: must be 2 prompts, one for each shot"),
        ([prompt], {"latent": batch}, "latent: must be of one picture"),
        ([prompt], {"context": small}, "context: must have the size of the new frames, 160x80"),
        ([prompt] * 3, {"context": context(studio, {})[0]}, "query: is needed to rank frames by clip"),
        ([prompt], {"model": studio["video_model"]}, "^model: "),
    ]:
        with pytest.raises(InputError, match=said):
            sample(studio, positive, **inputs)
    with pytest.raises(InputError, match="captions: every context frame needs a caption"):
        sample(studio, [prompt], context=context(studio, {"frame_0": [pictures[:1]]})[0])


def test_out_of_memory_is_one_sentence(studio: dict[str, Any]) -> None:
    """An error of the device itself, raised where it comes up: inside the model."""

    def full(executor: Any, *args: Any, **kwargs: Any) -> Any:
        raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 90.00 GiB")

    model = studio["keyframe_model"].clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", full)
    with pytest.raises(InputError, match="needs more memory than the device has") as caught:
        sample(studio, [encode(studio["clip"], "wide shot")], model=model)
    assert "1 new and 0 remembered frames of 160x80" in str(caught.value) and "\n" not in str(caught.value)


def test_interrupt_leaves_nothing_behind(studio: dict[str, Any]) -> None:
    prompt = encode(studio["clip"], "wide shot")
    before = sample(studio, [prompt]).args[0][0]

    def cancel(executor: Any, *args: Any, **kwargs: Any) -> Any:
        comfy.model_management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    model = studio["keyframe_model"].clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(studio, [prompt], model=model)
    assert torch.equal(sample(studio, [prompt]).args[0][0], before)


# --- video -----------------------------------------------------------------------------------------------------------

PLAN = Timeline.plan(8, 1.25, [0.0, 0.7])


def shoot(studio: dict[str, Any], planned: Timeline, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
    given: dict[str, Any] = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                             "method": "multi_chunk"}  # fmt: skip
    positive = encode(studio["video_clip"], "wide shot, static, in the desert.")
    models = (studio["video_model"], studio["video_vae"], planned)
    return video.MultiChunkVideoSampler.execute(*models, positive=positive, **(given | inputs)).args


def test_keyframes_land_on_their_frames(studio: dict[str, Any], pictures: Tensor) -> None:
    images, latent = shoot(studio, PLAN, keyframes=pictures[:2])
    assert images.shape == (PLAN.frames, 80, 160, 3) and PLAN.keyframe_frames == [0, 5]
    through_the_vae = studio["vae"].decode(studio["vae"].encode(pictures[:2]))
    assert torch.allclose(images[PLAN.keyframe_frames], through_the_vae, atol=1e-4)
    assert torch.equal(video.MultiChunkDecode.execute(latent, studio["video_vae"]).args[0], images)


def test_core_sampler_on_the_model_gives_the_same_video(studio: dict[str, Any], pictures: Tensor) -> None:
    images, _ = shoot(studio, PLAN, keyframes=pictures[:2])
    model, latent = video.MultiChunkModel.execute(
        studio["video_model"], studio["video_vae"], PLAN, "multi_chunk", pictures[:2]
    ).args
    prompt = encode(studio["video_clip"], "wide shot, static, in the desert.")
    out = comfy_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", prompt, prompt, latent)[0]
    assert torch.allclose(video.MultiChunkDecode.execute(out, studio["video_vae"]).args[0], images, atol=1e-4)
    moved = {**out, "samples": out["samples"] + 1}
    pinned = video.RepinKeyframes.execute(moved, latent).args[0]["samples"]
    keep = latent["noise_mask"][:, 0, :, 0, 0][0] == 0
    assert torch.equal(pinned[:, :, keep], latent["samples"][:, :, keep])
    assert torch.equal(pinned[:, :, ~keep], moved["samples"][:, :, ~keep])


def test_two_experts_of_one_model_are_one_model(studio: dict[str, Any], pictures: Tensor) -> None:
    one, _ = shoot(studio, PLAN, keyframes=pictures[:2])
    two, _ = shoot(studio, PLAN, keyframes=pictures[:2], model_low=studio["video_model"], boundary=0.9)
    assert torch.allclose(one, two, atol=1e-3)


def test_extension_starts_where_the_clip_ends(studio: dict[str, Any], pictures: Tensor) -> None:
    clip = pictures[:1].expand(5, -1, -1, -1)
    more = Timeline.plan(8, 0.6, [])
    model, latent = video.ExtendVideo.execute(studio["video_model"], studio["video_vae"], clip, more, 0).args
    assert latent["samples"].shape[2] == 3 and latent["noise_mask"][0, 0, :, 0, 0].tolist() == [0, 0, 1]
    prompt = encode(studio["video_clip"], "wide shot, static, in the desert.")
    out = comfy_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", prompt, prompt, latent)[0]
    assert video.MultiChunkDecode.execute(out, studio["video_vae"]).args[0].shape[0] == more.frames - 1


def test_video_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor) -> None:
    none = Timeline.plan(8, 0.6, [])
    for planned, inputs, said in [
        (PLAN, {}, "keyframes: must be 2 images, the timeline's keyframes"),
        (none, {"keyframes": pictures[:1]}, "keyframes: must be 0 images"),
        (none, {}, "size: is needed for a video without keyframes"),
        (PLAN, {"keyframes": [pictures[0], pictures[1, :64]]}, "keyframes: must all have one size"),
        (PLAN, {"keyframes": pictures[:2], "cfg": 4.0}, "negative: is needed when cfg is not 1"),
        (PLAN, {"keyframes": pictures[:2], "sampler_name": "euler_ancestral"}, "sampler: must be deterministic"),
    ]:
        with pytest.raises(InputError, match=said):
            shoot(studio, planned, **inputs)
    check = video.MultiChunkVideoSampler.validate_inputs
    assert check("euler") is True and check(None) is True
    for name in ("euler_ancestral", "dpmpp_2m_sde", "lcm", "no such sampler"):
        assert "sampler_name: must be a core sampler that adds no noise" in str(check(name))
    with pytest.raises(InputError, match="vae: must be a video VAE"):
        shoot(studio | {"video_vae": studio["vae"]}, PLAN, keyframes=pictures[:2])
    images, _ = shoot(studio, none, width=160, height=80)
    assert images.shape == (none.frames, 80, 160, 3)


# --- film ------------------------------------------------------------------------------------------------------------


def join(clips: Any, **inputs: Any) -> tuple[Any, Tensor, int]:
    given = {"fps": 8.0, "transition": "cut"} | inputs
    return film.Film.execute(clips=clips, **{name: [value] for name, value in given.items()}).args


def test_film_cuts_and_dissolves(board: Storyboard, folders: Path) -> None:
    first, second = torch.zeros(5, 16, 32, 3), torch.ones(10, 16, 32, 3)
    made, images, frames = join({"clip_0": [first, second]})
    assert frames == 15 and torch.equal(images, torch.cat([first, second]))
    _, images, frames = join({"clip_0": [first], "clip_1": [second]}, storyboard=board)
    assert frames == 13  # two frames of five dissolve
    assert torch.allclose(images[2:6, 0, 0, 0], torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    made.save_to(str(folders / "film.mp4"))
    assert made.get_components().frame_rate == Fraction(8) and (folders / "film.mp4").stat().st_size > 500


def test_film_errors_say_what_to_do(board: Storyboard) -> None:
    one, other = torch.zeros(5, 16, 32, 3), torch.zeros(5, 32, 32, 3)
    with pytest.raises(InputError, match=r"clips: all pictures must have one size \(got \"32x16, 32x32\"\)"):
        join({"clip_0": [one], "clip_1": [other]})
    with pytest.raises(InputError, match="clips: must be 2, one for each shot"):
        join({"clip_0": [one]}, storyboard=board)
    with pytest.raises(InputError, match="clips: must hold at least one frame"):
        join({})


def test_contact_sheet_has_a_card_for_every_shot(board: Storyboard, pictures: Tensor) -> None:
    sheet = film.ContactSheet.execute([board], {"shot_0": [pictures[:1], pictures[1:3]]}).args[0]
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[2] > 1000
    with pytest.raises(InputError, match="keyframes: must be 3, the storyboard's keyframes"):
        film.ContactSheet.execute([board], {"shot_0": [pictures[:2]]})


def test_long_contact_sheets_are_a_batch_of_equal_pages(pictures: Tensor) -> None:
    shots = [{"id": f"s{i:02d}", "action": "It rains."} for i in range(SHOTS_PER_PAGE + 1)]
    long = Storyboard.parse({"title": "Long", "shots": shots})
    sheet = film_run.contact_sheet(long, [pictures[:1]] * len(shots))
    assert sheet.shape[0] == 2 and torch.isfinite(sheet).all()

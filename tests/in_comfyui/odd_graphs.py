"""Odd graphs through one real server: wrong types, shapes and numbers, mixed models, extremes of every widget.

The same seed makes the same graphs. Each must succeed with finite numbers, or end in an error that names node, input
and rule; and after every batch stock sampling must give what it gave before, to the last bit.

    COMFYUI_PATH=… PYTHONPATH=tests python -m in_comfyui.odd_graphs --count 400
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from in_comfyui.prompts import STORY, node
from in_comfyui.server import PACK, ROOT, ComfyServer, running

from anchorshot.benchmarks.odd_outcome import OURS, outcome, tensors_of

Prompt = dict[str, Any]

VALUES = Path(__file__).with_name("odd_values")
"""The pack whose nodes give odd values: link it into custom_nodes."""

_SAMPLE = {"seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
_LONG_RUNS = {"steps", "width", "height", "groups", "images", "window", "score_every"}
"""Widgets whose upper end would only take time."""


def made(name: str) -> Prompt:
    return node("OddValue", name=name)


def bases() -> dict[str, Prompt]:
    """Small graphs that run, which together hold every node of the pack."""
    common = {
        "studio": node("AnchorshotPocketStudio"),
        "story": node("AnchorshotStoryboard", story=STORY, clip=["studio", 2]),
        "text": node("CLIPTextEncode", text="wide shot, static, in the desert.", clip=["studio", 2]),
        "words": node("CLIPTextEncode", text="wide shot, static, in the desert.", clip=["studio", 3]),
        "against": node("CLIPTextEncode", text="a star", clip=["studio", 3]),
        "pictures": made("pictures"),
        "clip": made("clip"),
        "plan": node("AnchorshotKeyframeTimeline", fps=8.0, seconds=0.6, timeline="[0, 0.25]", shot="",
                     keyframes=["pictures", 0]),
        "levels": node("BasicScheduler", model=["studio", 1], scheduler="simple", steps=2, denoise=1.0),
        "video": node("EmptyHunyuanLatentVideo", width=160, height=80, length=9, batch_size=1),
        "noise": node("RandomNoise", noise_seed=5),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
    }  # fmt: skip
    laid = node("AnchorshotMultiChunkModel", model=["studio", 1], vae=["studio", 5], timeline=["plan", 0],
                method="multi_chunk", keyframes=["pictures", 0], width=0, height=0)  # fmt: skip
    look = {"clip": ["studio", 7], "clip_vision": ["studio", 6], "vae": ["studio", 5], "scene_text": "a desert",
            "action_text": "a circle jumps", "lambda_picture": 1.0, "lambda_previous": 1.0, "lambda_progress": 1.0,
            "temperature": 0.5, "score_every": 1, "start_percent": 0.0, "end_percent": 1.0, "preview": "latent_rgb",
            "progress_shift": 1.0, "schedule": ["levels", 0]}  # fmt: skip

    def ksampler(model: list[Any], latent: list[Any]) -> Prompt:
        given = {"model": model, "latent_image": latent, "positive": ["words", 0], "negative": ["against", 0]}
        return node("KSampler", **given, **_SAMPLE, denoise=1.0)

    made_of: dict[str, Prompt] = {
        "story": {
            "shot": node("AnchorshotShot", storyboard=["story", 0], shot="2", clip=["studio", 2]),
            "look": node("OddLook", value=["shot", 3]),
        },
        "agents": {
            "director": node("AnchorshotDirector", theme="two friends dance", shots=2, width=160, height=80, fps=8.0,
                             seed=1, url="", model="", max_length=64, timeout=5),
            "refiner": node("AnchorshotShotRefiner", storyboard=["director", 0], start=["pictures", 0],
                            end=["pictures", 0], shot="1", seed=0, url="", model="", max_length=64, timeout=5),
            "look": node("OddLook", value=["refiner", 0]),
        },
        "timeline": {"look": node("OddLook", value=["plan", 1])},
        "memory": {
            "memory": node(
                "AnchorshotGoldenMemContext", vae=["studio", 4], retrieval="clip", groups=2, images=1, first_tier=1,
                query="a circle", captions="one\ntwo", clip=["studio", 2], clip_vision=["studio", 6],
                retrieval_clip=["studio", 7], storyboard=["story", 0], **{"frames.frame_0": ["pictures", 0]},
            ),
            "references": node("AnchorshotGoldenMemReferences", conditioning=["text", 0], context=["memory", 0],
                               query=""),
            "look": node("OddLook", value=["memory", 1]),
            "look2": node("OddLook", value=["references", 0]),
        },
        "keyframes": {
            "memory": node(
                "AnchorshotGoldenMemContext", vae=["studio", 4], retrieval="clip", groups=2, images=1, first_tier=1,
                query="a circle", captions="one\ntwo", clip=["studio", 2], clip_vision=["studio", 6],
                retrieval_clip=["studio", 7], **{"frames.frame_0": ["pictures", 0]},
            ),
            "empty": node("EmptySD3LatentImage", width=160, height=80, batch_size=1),
            "steps": node("BasicScheduler", model=["studio", 0], scheduler="simple", steps=2, denoise=1.0),
            "keyframes": node(
                "AnchorshotInterleavedKeyframeSampler", model=["studio", 0], positive=["text", 0],
                latent=["empty", 0], vae=["studio", 4], **_SAMPLE, attention="causal", context_noise=0.1, window=1,
                negative=["text", 0], context=["memory", 0], sigmas=["steps", 0], queries="a circle",
            ),
            "look": node("OddLook", value=["keyframes", 0]),
            "look2": node("OddLook", value=["keyframes", 1]),
        },
        "video": {
            "clips": node(
                "AnchorshotMultiChunkVideoSampler", model=["studio", 1], positive=["words", 0], vae=["studio", 5],
                timeline=["plan", 0], **_SAMPLE, method="multi_chunk", keyframes=["pictures", 0],
                negative=["against", 0], model_low=["studio", 1], boundary=0.9, cfg_low=0.0, width=0, height=0,
                sigmas=["levels", 0],
            ),
            "look": node("OddLook", value=["clips", 0]),
            "look2": node("OddLook", value=["clips", 1]),
        },
        "model": {
            "laid": laid, "sample": ksampler(["laid", 0], ["laid", 1]),
            "pinned": node("AnchorshotRepinKeyframes", latent=["sample", 0], clean=["laid", 1]),
            "decoded": node("AnchorshotMultiChunkDecode", latent=["pinned", 0], vae=["studio", 5]),
            "look": node("OddLook", value=["decoded", 0]),
        },
        "extend": {
            "laid": node("AnchorshotExtendVideo", model=["studio", 1], vae=["studio", 5], clip=["clip", 0],
                         timeline=["plan", 0], context_frames=0, keyframes=["pictures", 0]),
            "sample": ksampler(["laid", 0], ["laid", 1]),
            "decoded": node("AnchorshotMultiChunkDecode", latent=["sample", 0], vae=["studio", 5]),
            "both": node("AnchorshotExtendedVideo", latent=["sample", 0], vae=["studio", 5], clip=["clip", 0]),
            "look": node("OddLook", value=["decoded", 0]),
            "look2": node("OddLook", value=["both", 1]),
        },
        "larger": {
            "large": node(
                "AnchorshotKeyframeSR", model=["studio", 10], vae=["studio", 11], video=["clip", 0], mode="auto",
                scale=1.5, steps=1, strength=0.4, seed=3, sampler_name="euler", window=16, overlap=4, near=0, tile=0,
                tile_overlap=32, cuts="auto", keep_colour=True, positive=["words", 0], storyboard=["story", 0],
                keyframe_times="", width=0, height=0, fit="cover",
            ),
            "look": node("OddLook", value=["large", 1]),
        },
        "film": {
            "film": node("AnchorshotFilm", fps=8.0, transition="blend", storyboard=["story", 0],
                         **{"clips.clip_0": ["clip", 0], "clips.clip_1": ["clip", 0]}),
            "sheet": node("AnchorshotContactSheet", storyboard=["story", 0],
                          **{"keyframes.shot_0": ["pictures", 0]}),
            "save": node("SaveVideo", video=["film", 0], filename_prefix="odd", format="auto", codec="auto"),
            "look": node("OddLook", value=["film", 1]),
            "look2": node("OddLook", value=["sheet", 0]),
        },
        "pairs": {
            "tiny": node("TinyPairModels", folder=""),
            "lora": node("AnchorshotPairLora", model=["tiny", 0], clip=["tiny", 1],
                         lora_name="odd_pair_lora.safetensors", strength_model=1.0, strength_clip=1.0),
            "one": made("one picture"),
            "pack": node(
                "AnchorshotMemoryPack", vae=["studio", 4], rank_by="clip", packing="canvas", pyramid=False,
                aspect="squeeze", level="latent", limit=0, area=1.0, query="a circle", clip_vision=["studio", 6],
                retrieval_clip=["studio", 7], **{"frames.frame_0": ["pictures", 0]},
            ),
            "steps": node("BasicScheduler", model=["tiny", 0], scheduler="simple", steps=2, denoise=1.0),
            "pairs": node(
                "AnchorshotStartEndPairPredictor", model=["lora", 0], clip=["lora", 1], vae=["studio", 4], **_SAMPLE,
                width=160, height=80, layout="stacked", match_cut=False, reference_timestep="auto", rescale=True,
                storyboard=["story", 0], prompts=["story", 1], queries=["story", 2], negative=" ",
                context=["pack", 0], end_frames=["one", 0], sigmas=["steps", 0],
                system_prompt="", drop_tokens=-1, template="", last_level=0.0,
            ),
            "timed": node("AnchorshotPairsToTimeline", start=["pairs", 0], end=["pairs", 1], timeline=["story", 3]),
            "look": node("OddLook", value=["timed", 1]),
            "look2": node("OddLook", value=["pack", 1]),
        },
        "pairs encoded": {
            "tiny": node("TinyPairModels", folder=""),
            "one": made("one picture"),
            "asked": node("CLIPTextEncode", text="a circle", clip=["tiny", 1]),
            "pairs": node(
                "AnchorshotStartEndPairPredictor", model=["tiny", 0], clip=["tiny", 1], vae=["studio", 4], **_SAMPLE,
                width=160, height=80, layout="sequence", match_cut=False, reference_timestep="zero", rescale=False,
                positive=["asked", 0], start_frames=["one", 0],
            ),
            "look": node("OddLook", value=["pairs", 0]),
        },
        "guider": {
            "guider": node("AnchorshotDIPWGuider", model=["studio", 1], scene=["words", 0], action=["against", 0],
                           negative=["against", 0], cfg=1.0, **look),
            "sample": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
                           sigmas=["levels", 0], latent_image=["video", 0]),
            "weights": node("AnchorshotDIPWWeights", mixed=["guider", 0], latent=["sample", 0]),
            "look": node("OddLook", value=["weights", 0]),
            "look2": node("OddLook", value=["sample", 0]),
        },
        "patch": {
            "patch": node("AnchorshotDIPWModelPatch", model=["studio", 1], action=["against", 0],
                          **(look | {"preview": "decoded_frame", "schedule": ["levels", 0]})),
            "before": ksampler(["studio", 1], ["video", 0]),
            "likeness": node("AnchorshotSAR", clip=["studio", 3], previous_action="a circle jumps",
                             action="a circle waves", gamma=0.3, encoding="tokens"),
            "blend": node("AnchorshotTWBBlend", model=["patch", 0], gamma=["likeness", 0], when="every_step",
                          end_percent=1.0, end="first", decay=0.9, previous=["before", 0]),
            "sample": ksampler(["blend", 0], ["video", 0]),
            "look": node("OddLook", value=["sample", 0]),
        },
    }  # fmt: skip
    return {name: _needed({**common, **parts}) for name, parts in made_of.items()}


def _needed(prompt: Prompt) -> Prompt:
    """Without nodes that no output asks for."""
    kept: Prompt = {}
    waiting = [name for name, entry in prompt.items() if entry["class_type"] in ("OddLook", "SaveVideo")]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = prompt[name]
            waiting += [v[0] for v in prompt[name]["inputs"].values() if isinstance(v, list)]
    return {name: kept[name] for name in prompt if name in kept}


# --- changes ---------------------------------------------------------------------------------------------------------

_LITERALS: list[Any] = [None, "", "a word", "x" * 9000, -1, 0, 10**12, -1e300, float("nan"), True, {"a": 1}, {}, [],
                        [1, 2, 3], ["nobody", 0]]  # fmt: skip
_WORDS = {
    "IMAGE": ("picture", "channels"), "LATENT": ("latent", "mask"), "CONDITIONING": ("prompt", "pooled", "guidance",
    "references"), "SIGMAS": ("level",), "AUDIO": ("silence", "sound"), "STRING": ("text", "number"),
}  # fmt: skip


class Maker:
    """Makes graphs: every input of every node in turn, with changes drawn by the seed."""

    def __init__(self, info: Prompt, seed: int) -> None:
        self.info, self.random, self.bases = info, random.Random(seed), bases()
        names = (VALUES / "__init__.py").read_text("utf-8")
        self.changed = re.findall(r'^    "([\w ]+)": lambda v:', names, re.M)
        self.made = re.findall(r'^    "([\w ]+)": (?:lambda:|list|object)', names, re.M)
        self.places = [
            (base, name, field)
            for base, prompt in self.bases.items()
            for name, entry in prompt.items()
            if entry["class_type"].startswith(OURS)
            for field in entry["inputs"]
        ]

    def __iter__(self) -> Iterator[tuple[str, Prompt]]:
        """What was changed, and the graph; without end."""
        while True:
            places = self.places.copy()
            self.random.shuffle(places)
            for base, name, field in places:
                prompt = deepcopy(self.bases[base])
                said = [self._change(prompt, name, field)]
                if self.random.random() < 0.2:
                    _, other, second = self.random.choice([place for place in self.places if place[0] == base])
                    if second in prompt[other]["inputs"]:
                        said.append(self._change(prompt, other, second))
                yield f"{base}: " + "; ".join(said), prompt

    def _change(self, prompt: Prompt, name: str, field: str) -> str:
        entry, draw = prompt[name], self.random
        kind, options = self._input(entry["class_type"], field)
        value = entry["inputs"][field]
        if isinstance(value, list):
            choices = ["made"] * 3 + ["changed"] * 4 + ["foreign"] * 2 + ["other", "literal", "list", "left out"]
        else:
            choices = ["literal", "end", "end", "made", "left out"]
        choice = draw.choice(choices)
        new: Any = None
        if choice == "end" and kind == "COMBO":
            new = draw.choice([*options.get("options", ["x"]), "no such option"])
        elif choice == "end" and "min" in options and field not in _LONG_RUNS:
            low, high = options["min"], options["max"]
            new = draw.choice([low, high, low - 1, high + 1, low - 0.5])
        elif choice == "left out":
            del entry["inputs"][field]
            return f"{name}.{field} left out"
        elif choice in ("other", "foreign"):
            links = [["studio", k] for k in range(8)] + [[other, 0] for other in prompt if other != name]
            before = {other for other in links_before(prompt, name)}
            new = draw.choice([link for link in links if link[0] in before] or [["studio", 0]])
            if choice == "foreign":  # as other packs' sockets of any type let it through
                new = self._odd(prompt, kind, new, "one")
        elif choice in ("made", "changed", "list"):
            new = self._odd(prompt, kind, value, choice)
        if choice in ("literal", "end") and new is None:
            new = draw.choice(_LITERALS)
        entry["inputs"][field] = new
        odd = isinstance(new, list) and bool(new) and str(new[0]).startswith("odd")
        shown = prompt[new[0]]["inputs"] if odd else new
        return f"{name}.{field} = {str(shown)[:90]}"

    def _odd(self, prompt: Prompt, kind: str, value: Any, choice: str) -> list[Any]:
        """A link to an odd value, whose node is added to the graph."""
        odd = f"odd{len(prompt)}"
        if choice == "changed":
            prompt[odd] = node("OddValue", name=self.random.choice(self.changed), given=value)
        elif choice in ("list", "one"):
            count = 1 if choice == "one" else self.random.choice([0, 1, 2, 3])
            prompt[odd] = node("OddList", given=value, count=count)
        else:
            own = [name for name in self.made if any(word in name for word in _WORDS.get(kind, ()))]
            usual = own if own and self.random.random() < 0.75 else self.made
            prompt[odd] = made(self.random.choice(usual))
        return [odd, 0]

    def _input(self, kind: str, field: str) -> tuple[str, Prompt]:
        for part in self.info[kind]["input"].values():
            for name, entry in part.items():
                if name == field.split(".")[0]:
                    template = entry[1].get("template") if len(entry) > 1 else None
                    if template:
                        ((_, entry),) = template["input"]["required"].items()
                    options = dict(entry[1]) if len(entry) > 1 else {}
                    if isinstance(entry[0], list):
                        return "COMBO", {"options": entry[0]}
                    return entry[0], options
        raise KeyError(f"{kind}.{field}")


def links_before(prompt: Prompt, name: str) -> set[str]:
    """Nodes that do not wait for `name`: links to others would make a ring."""
    after = {name}
    while True:
        more = {
            other for other, entry in prompt.items()
            if any(isinstance(v, list) and v and v[0] in after for v in entry["inputs"].values())
        } - after  # fmt: skip
        if not more:
            return set(prompt) - after
        after |= more


def attack(
    server: ComfyServer, count: int, seed: int = 0, batch: int = 25, tell: bool = False
) -> tuple[Counter[str], list[str]]:
    """Run `count` graphs; what became of them by kind, and the faults in words."""
    info = server.get("/object_info")
    for name, prompt in bases().items():  # the plain graphs must run, or nothing is tried
        found = outcome(server, prompt, info, 300)
        assert found.kind == "success", f"{name}: {found}"
    sound = tensors_of(server, 0)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for number, (said, prompt) in enumerate(Maker(info, seed), 1):
        found = outcome(server, prompt, info, 120)
        counts[found.kind] += 1
        if found.fault or found.kind == "endless":
            faults.append(f"{number}. {said}\n    {found.kind}: {found.text}")
        if tell:
            print(f"{number}. {said}\n    {found.kind}: {found.text}", flush=True)
        if number % batch == 0 or number == count:
            counts["health runs"] += 1
            if tensors_of(server, number) != sound:
                faults.append(f"{number}. stock sampling has changed")
        if number == count:
            return counts, faults
    raise AssertionError("the generator ends")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder), {PACK: ROOT, "odd-values": VALUES}, timeout=900) as server:
            counts, faults = attack(server, given.count, given.seed, tell=True)
    print(json.dumps(counts, indent=1), *faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

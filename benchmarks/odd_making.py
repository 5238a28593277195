"""What `odd_graphs` is made of: prompts wired at random, odd values and files, hostile texts."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["STORY", "Maker", "Prompt", "hostile_texts", "node", "odd_files"]

Prompt = dict[str, Any]

STORY = """fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown}
places: {dunes: the desert}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., frames: 5}
  - {id: s02, place: dunes, action: <Mira> jumps on the right., frames: 9, keyframes: [{at: 0}, {at: 0.5}]}
"""
CORE = """EmptyImage LoadImage ImageScale ImageBatch ImageFromBatch RepeatImageBatch ImageInvert RebatchImages VAEDecode
VAEEncode ImageCrop JoinImageWithAlpha MaskToImage ImagePadForOutpaint SolidMask ImageToMask LoadLatent
EmptyLatentImage EmptySD3LatentImage EmptyHunyuanLatentVideo EmptyMochiLatentVideo EmptyLTXVLatentVideo LatentFromBatch
RepeatLatentBatch LatentUpscale LatentCut LatentConcat LatentBatch LatentMultiply LatentInterpolate SetLatentNoiseMask
RebatchLatents KSampler CLIPTextEncode CLIPTextEncodeFlux ConditioningZeroOut ConditioningAverage ConditioningConcat
ConditioningCombine ConditioningSetArea ConditioningSetMask ConditioningSetTimestepRange FluxGuidance ReferenceLatent
WanImageToVideo CLIPVisionEncode BasicScheduler KarrasScheduler ManualSigmas FlipSigmas SplitSigmas SplitSigmasDenoise
SetFirstSigma BetaSamplingScheduler ModelSamplingFlux ModelSamplingSD3 ModelSamplingDiscrete DifferentialDiffusion
RescaleCFG FreeU PerturbedAttentionGuidance SkipLayerGuidanceDiT ModelMergeSimple ContextWindowsManual EasyCache
TomePatchModel NAGuidance CLIPSetLastLayer T5TokenizerOptions EmptyAudio CreateVideo GetVideoComponents RandomNoise
DisableNoise BasicGuider CFGGuider KSamplerSelect SamplerCustomAdvanced StringConcatenate""".split()
"""Core's nodes that take part."""

PLAIN: dict[str, Any] = {
    "width": 160, "height": 80, "length": 5, "batch_size": 1, "amount": 2, "steps": 2, "story": STORY, "fps": 8.0,
    "seconds": 0.6, "timeline": "[0, 0.25]", "sampler_name": "euler", "scheduler": "simple", "cfg": 1.0,
    "text": "wide shot, static, in the desert.", "clip_l": "a star", "t5xxl": "a star", "sigmas": "1.0, 0.6, 0.0",
    "query": "a circle", "captions": "one\ntwo", "action_text": "a circle jumps", "scene_text": "a desert",
    "previous_action": "a circle waves", "action": "a circle jumps", "duration": 1.0, "context_length": 16, "shot": "1",
    "image": "plain.png", "latent": "video.latent", "double_layers": "0", "single_layers": "0", "x": 0, "y": 0,
    "left": 0, "top": 0, "right": 16, "bottom": 16, "context_overlap": 2, "backend": "eager", "score_every": 1,
}  # fmt: skip
"""Values with which nodes run on the pocket studio; for the rest their own defaults."""

ODD: dict[str, list[Any]] = {
    "INT": [0, -1, 1, 2, 3, 7, 15, 16, 17, 47, 49, 64, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 2**64, "3", "x", None, 1.5,
            True, [1], {}],
    "FLOAT": [0, -1.0, 0.01, 0.5, 1.0, 1.5, 8.0, 23.976, 100.0, 1e9, -1e300, float("nan"), float("inf"), "0.5", "x",
              None, True, [0.5]],
    "STRING": ["", " ", "\n", "<Mira>", "<<Mira>>", "(((x:9e9)", "embedding:none", "a" * 4100, "\0\ud800\u202e",
    "é" * 50,
               "</s>", "one\n\n\nfour", "{a|b}", "../../etc/passwd", "/etc/passwd", "C:\\x.yaml", "nan", "-1", "99",
               "s02", None, 3, 1.5, [], {"a": 1}],
    "BOOLEAN": [True, False, None, "yes", 0],
    "COMBO": ["no such option", "", None, 0, [], "../x"],
}  # fmt: skip
TIMELINES: list[Any] = [
    "", "[]", "[0]", "[0, 0]", "[0.25, 0]", "[-1]", "[1e9]", "[1e308]", "[NaN]", "[true]", "{}", "null", "3", "x", "[",
    "[" * 60, '{"keyframes": [{"requested": 0}]}', '{"keyframes": [{"at": 0.3}, 5]}', '{"keyframes": 3}',
    '{"durations": [0.5, 0.5]}', '{"durations": [0, 1]}', '{"durations": [1e300, 1]}',
    '{"durations": [], "keyframes": []}',
    '{"keyframes": [{"requested": "0"}]}', json.dumps([0.001 * i for i in range(600)]), [0, 0.25], {"keyframes": [0]},
    {"durations": [0.6, 0.6]}, "{'keyframes': [{'requested': 0.0}]}", '{"keyframes": [], "keyframes": [0]}',
]  # fmt: skip
STORIES: list[Any] = [
    "", "x", "gone.yaml", "odd.yaml", "../x.yaml", "/etc/x.yaml", "//host/x.yaml", "plain.png", "shots: []",
    "shots: [{frames: 5}]", "shots: [{scene: <Nobody> waits., frames: 5}]", "fps: 0\nshots: [{scene: a}]", "[]", "{}",
    "a,b\n1,2", "INT. A - DAY\n\nRain.", "[1s: a fox] [3s: a hen]", "A fox.\n\nA hen.",
    "shots: [{scene: a, seconds: 1e9}]",
    "size: [16384, 16384]\nshots: [{scene: a, frames: 5}]", "size: [161, 81]\nshots: [{scene: a, frames: 5}]",
    "fps: 120\nsize: [16, 16]\nshots: [{scene: a, frames: 1}]", "shots: [{scene: a, image: gone.png}]",
    "shots: [{scene: a, frames: 5, keyframes: [{at: 0, image: plain.png}]}]",
    "shots: [{scene: a, frames: 5, keyframes: [{at: 0, image: text.png}]}]",
    "shots: [" + ", ".join(["{scene: a, frames: 5}"] * 60) + "]", "&a [*a]", "!!python/object:os.system {}",
    "title: '[/b]'\nshots: [{scene: '\\(a\\) {x}', frames: 5}]",
]  # fmt: skip
SIGMAS = [
    "",
    "1",
    "0",
    "1, 0",
    "0, 1",
    "1, 1, 1",
    "nan, 0",
    "inf, 0",
    "14.6, 0.03, 0",
    "-1, -2",
    "1e-9, 0",
    "x",
    "1,0.5",
]
FILES = {
    "image": ["plain.png", "tiny.png", "odd.png", "alpha.png", "grey16.png", "gif.png", "text.png", "gone.png",
    "odd.yaml"],
    "latent": ["video.latent", "picture.latent", "nan.latent", "four.latent", "empty.latent", "flat.latent",
               "half.latent", "gone.latent", "text.png"],
}  # fmt: skip


def node(kind: str, **inputs: Any) -> Prompt:
    """A node of a prompt in the API's format."""
    return {"class_type": kind, "inputs": inputs}


class Maker:
    """Makes prompts out of what a server offers (its ``/object_info``)."""

    def __init__(self, info: Prompt, seed: int) -> None:
        self._info, self._random = info, random.Random(seed)
        self._ours = sorted(name for name in info if name.startswith("Anchorshot"))
        self._sources: dict[str, list[tuple[str, int]]] = {}
        for name in (*CORE, *self._ours):
            for slot, kind in enumerate(info[name]["output"] if name in info else ()):
                self._sources.setdefault(kind, []).append((name, slot))
        self._next = 0

    def graph(self) -> tuple[str, Prompt]:
        """The next prompt, and what it is, in a line."""
        draw = self._random
        self._rate = draw.choice([0.0, 0.01, 0.03, 0.03, 0.08, 0.3])
        self._prompt: Prompt = {"studio": node("AnchorshotPocketStudio")}
        self._count = 0
        self._said: list[str] = []
        wanted = self._ours[self._next % len(self._ours)]  # each as often as the others
        self._next += 1
        made = [self._add(wanted, 0)]
        if draw.random() < 0.3:
            made.append(self._add(draw.choice(self._ours), 1))
        for name in made:
            self._show(name)
        for name in list(self._prompt):
            if self._prompt[name]["class_type"] in ("AnchorshotDIPWGuider", "AnchorshotDIPWModelPatch"):
                self._sampled(name)
        if draw.random() < 0.05:
            self._break()
        said = f"{wanted.removeprefix('Anchorshot')}: {len(self._prompt)} nodes; " + "; ".join(self._said)
        return said[:1500], self._prompt

    def _add(self, kind: str, depth: int) -> str:
        name = f"{kind.removeprefix('Anchorshot').lower()}{self._count}"
        self._count += 1
        inputs: Prompt = {}
        for part in ("required", "optional"):
            for field, entry in self._info[kind]["input"].get(part, {}).items():
                odd = self._odd()
                present = self._random.random() < (0.55 if part == "optional" else 1.0)
                if (not present) != (odd and self._random.random() < 0.15):
                    if part == "required":
                        self._said.append(f"{name}.{field} left out")
                    continue
                options = entry[1] if len(entry) > 1 else {}
                for slot, value in self._values(name, field, entry[0], options, depth, odd):
                    inputs[slot] = value
                    if odd:
                        self._said.append(f"{name}.{slot} = {self._brief(value)}")
        self._prompt[name] = node(kind, **inputs)
        return name

    def _odd(self) -> bool:
        return self._random.random() < self._rate

    def _brief(self, value: Any) -> str:
        linked = isinstance(value, list) and len(value) == 2 and value[0] in self._prompt
        return f"{self._prompt[value[0]]['class_type']}[{value[1]}]" if linked else repr(value)[:70]

    def _values(
        self, name: str, field: str, kind: Any, options: Prompt, depth: int, odd: bool
    ) -> Iterator[tuple[str, Any]]:
        draw = self._random
        if kind == "COMFY_AUTOGROW_V3":
            ((slot, inner),) = options["template"]["input"]["required"].items()
            count = draw.choice([0, 1, 1, 2, 2, 3])
            numbers = [*range(count)] if not odd else draw.sample(range(60), count)
            for number in numbers:
                yield f"{field}.{slot}_{number}", self._link(inner[0], depth)
            return
        if isinstance(kind, list):
            kind, options = "COMBO", {**options, "options": kind}
        first = kind.split(",")[0]
        if first in ODD:
            yield field, self._odd_widget(field, first, options, depth) if odd else self._widget(field, first, options)
        elif odd and draw.random() < 0.4:
            other = draw.choice(sorted(self._sources)) if draw.random() < 0.5 else first
            yield field, draw.choice([None, [], "x", 3, {}, ["nobody", 0], self._link(other, depth)])
        else:
            yield field, self._link(draw.choice(kind.split(",")), depth)

    def _widget(self, field: str, kind: str, options: Prompt) -> Any:
        """A value that the node takes: mostly the plain one."""
        if field in FILES:
            return self._random.choice([FILES[field][0]] * 4 + FILES[field][:-2])
        if kind == "COMBO" and self._random.random() < 0.3 and options.get("options"):
            return self._random.choice(options["options"])
        if field in PLAIN:
            return PLAIN[field]
        plain = {"INT": 1, "FLOAT": 1.0, "STRING": "x", "BOOLEAN": False}.get(kind)
        return options.get("default", options["options"][0] if options.get("options") else plain)

    def _odd_widget(self, field: str, kind: str, options: Prompt, depth: int) -> Any:
        draw = self._random
        if field in FILES:
            return draw.choice(FILES[field])
        own = {"timeline": TIMELINES, "story": STORIES, "sigmas": SIGMAS}.get(field, ODD[kind])
        value = draw.choice(own)
        if "min" in options and draw.random() < 0.5 and field not in ("steps", "width", "height", "length"):
            low, high = options["min"], options.get("max", 10**6)
            value = draw.choice([low, high, low - 1, high + 1])
        if field in ("width", "height") and draw.random() < 0.5:
            value = draw.choice([8, 24, 161, 320, 1024, 8192, 16384])
        if draw.random() < 0.4:  # along a link core looks at the type alone
            if kind == "COMBO" or not isinstance(value, int | float | str) or isinstance(value, bool):
                return self._link(draw.choice(["STRING", "INT", "FLOAT", "IMAGE"]), depth)
            plain = {"INT": "PrimitiveInt", "FLOAT": "PrimitiveFloat", "STRING": "PrimitiveStringMultiline"}
            self._prompt[f"value{self._count}"] = node(plain.get(kind, "PrimitiveInt"), value=value)
            self._count += 1
            return [f"value{self._count - 1}", 0]
        return value

    def _link(self, kind: str, depth: int) -> list[Any]:
        """A link to an output of the type: of a node that is there, or of a new one."""
        draw = self._random
        there = [
            [name, slot]
            for name, entry in self._prompt.items()
            for slot, found in enumerate(self._info[entry["class_type"]]["output"])
            if found == kind
        ]
        right = {  # the studio's outputs that mostly fit
            "MODEL": [0, 1], "CLIP": [2, 3, 7], "VAE": [4, 5], "CLIP_VISION": [6],
        }.get(kind)  # fmt: skip
        if right and draw.random() < 0.75:
            return ["studio", draw.choice(right)]
        sources = self._sources.get(kind, [])
        if there and (not sources or depth > 4 or draw.random() < 0.4):
            return list(draw.choice(there))
        if not sources or depth > 7:
            return ["studio", 0] if not there else list(there[0])
        small = [source for source in sources if source[0] in _LEAVES]
        name, slot = draw.choice(small if small and depth > 2 else sources)
        return [self._add(name, depth + 1), slot]

    def _show(self, name: str) -> None:
        for slot, kind in enumerate(self._info[self._prompt[name]["class_type"]]["output"]):
            show = "PreviewImage" if kind == "IMAGE" and self._random.random() < 0.5 else "PreviewAny"
            field = "images" if show == "PreviewImage" else "source"
            self._prompt[f"show_{name}_{slot}"] = node(show, **{field: [name, slot]})

    def _sampled(self, name: str) -> None:
        """Sample with a guider or a patched model: only then it works."""
        empty = f"empty{self._count}"
        self._prompt[empty] = node("EmptyHunyuanLatentVideo", width=160, height=80, length=5, batch_size=1)
        sample = f"sample{self._count}"
        self._count += 1
        if self._prompt[name]["class_type"].endswith("Guider"):
            self._prompt[sample] = node(
                "SamplerCustomAdvanced", noise=self._link("NOISE", 5), guider=[name, 0], sigmas=self._link("SIGMAS", 5),
                sampler=self._link("SAMPLER", 5), latent_image=[empty, 0],
            )  # fmt: skip
        else:
            self._prompt[sample] = node(
                "KSampler", model=[name, 0], positive=self._link("CONDITIONING", 5), seed=1, steps=2, cfg=1.0,
                negative=self._link("CONDITIONING", 5), latent_image=[empty, 0], sampler_name="euler",
                scheduler="simple", denoise=1.0,
            )  # fmt: skip
        self._prompt[f"show_{sample}"] = node("PreviewAny", source=[sample, 0])

    def _break(self) -> None:
        """Break what is no node's matter: a link's form, a ring, a class."""
        name = self._random.choice([n for n, entry in self._prompt.items() if entry["inputs"]])
        inputs = self._prompt[name]["inputs"]
        field = self._random.choice(sorted(inputs))
        bad = [
            ["studio", 99],
            ["studio", -1],
            ["studio", "0"],
            ["studio", 0.5],
            [name, 0],
            ["studio"],
            ["studio", 0, 1],
        ]
        inputs[field] = self._random.choice(bad)
        self._said.append(f"broken: {name}.{field} = {inputs[field]}")


_LEAVES = {
    "EmptyImage", "LoadImage", "LoadLatent", "EmptySD3LatentImage", "EmptyHunyuanLatentVideo", "CLIPTextEncode",
    "ManualSigmas", "BasicScheduler", "EmptyAudio", "SolidMask", "RandomNoise", "KSamplerSelect", "CreateVideo",
    "AnchorshotStoryboard", "AnchorshotKeyframeTimeline", "BasicGuider", "AnchorshotGoldenMemContext",
    "CLIPVisionEncode",
}  # fmt: skip


def hostile_texts() -> dict[str, Prompt]:
    """Prompts whose texts are heavy to read: what a server must look at before it refuses or queues them."""
    million = 1_000_000
    stories = {
        "values": "shots: [" + "a," * 500_000 + "a]",
        "places": "place,scene\n" + "".join(f"p{i},x\n" for i in range(90_000)),
        "depth": "a: " + "[" * 900_000,
        "stems": "place,scene\n" + "".join(f"{'a' * 60} {i},x\n" for i in range(15_000)),
        "tags": '{"characters":{"a":"b"},"shots":[' + ",".join(['{"scene":"%s"}' % ("<a>" * 330)] * 1000) + "]}",
        "huge": "x" * (20 << 20), "fences in a line": "~~~* a" * 170_000 + "```\n", "marks": "~" * million + "`",
        "brackets": "[" * million, "timed": "[1s: " * (million // 5), "rows": "a\n\n" * 16_000,
        "quotes": 'a,b\n"' + "x\n" * 40_000,
        "elements": "<FinalDraft>" + "<a/>" * 250_000, "anchors": "shots: [" + "&a b," * 200_000 + "]",
        "merges": "a: &a {b: c}\nd: " + "{<<: " * 20 + "*a" + "}" * 20, "digits": "title: " + "9" * million,
        "accents": "shots: [{scene: a" + "\u0301\u0327" * 250_000 + "}]",
        "screenplay": "INT. A - DAY\n\nb.\n\n" * 12_000,
        "bars": "|scene|id|\n" + "|-" * (million // 2), "spaces": "a" + " " * million + "b",
        "long film": "scene\n" + "A fox.\n" * 1000,
    }  # fmt: skip
    made: dict[str, Prompt] = {}
    for name, text in stories.items():
        made[name] = {"s": node("AnchorshotStoryboard", story=text), "p": node("PreviewAny", source=["s", 9])}
    many = {f"s{i}": node("AnchorshotStoryboard", story=stories["values"][: 999_000 - i] + "a]") for i in range(8)}
    made["eight nodes"] = many | {f"p{i}": node("PreviewAny", source=[f"s{i}", 9]) for i in range(8)}
    timelines = {
        "open strings": "{'" + "\\'" * 99_000, "python": "{'a': " + "[" * 90_000, "lists": "[" * 199_000,
        "numbers": "[" + "0," * 99_000 + "0]", "digits": "[" + "9" * 190_000 + "]",
        "huge": "[" + "1," * (8 << 20) + "1]",
        "object": {"keyframes": [{"requested": 0.001 * i} for i in range(100_000)]},
        "durations": json.dumps({"durations": [1 / (3 + i) for i in range(500)]}),
    }  # fmt: skip
    for name, told in timelines.items():
        plan = node("AnchorshotKeyframeTimeline", fps=8.0, seconds=2.0, timeline=told)
        made[f"timeline of {name}"] = {"t": plan, "p": node("PreviewAny", source=["t", 4])}
    return made


def odd_files(folder: Path) -> None:
    """Write the pictures, latents and stories that the graphs name."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (80, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "plain.png")
    Image.fromarray(noise[:1, :1]).save(folder / "tiny.png")
    Image.fromarray(noise[:75, :155]).save(folder / "odd.png")
    Image.fromarray(noise).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.fromarray(noise).save(folder / "gif.png", "GIF")
    (folder / "text.png").write_text("no picture")
    (folder / "odd.yaml").write_text(STORY)
    random_state = np.random.default_rng(1)
    for name, shape, kind in (
        ("video", (1, 16, 3, 10, 20), "F32"), ("picture", (1, 16, 10, 20), "F32"), ("nan", (1, 16, 3, 10, 20), "F32"),
        ("four", (1, 4, 10, 20), "F32"), ("empty", (0, 16, 3, 10, 20), "F32"), ("flat", (16, 20), "F32"),
        ("half", (1, 16, 3, 10, 20), "F16"),
    ):  # fmt: skip
        values = random_state.standard_normal(shape).astype(np.float16 if kind == "F16" else np.float32)
        raw = (np.full_like(values, np.nan) if name == "nan" else values).tobytes()
        entries = {"latent_tensor": {"dtype": kind, "shape": list(shape), "data_offsets": [0, len(raw)]}}
        entries["latent_format_version_0"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(raw), len(raw)]}
        head = json.dumps(entries).encode()
        (folder / f"{name}.latent").write_bytes(struct.pack("<Q", len(head)) + head + raw)

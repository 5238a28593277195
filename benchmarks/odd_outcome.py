"""What a ComfyUI server made of an odd graph, and whether stock sampling is still what it was."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from .comfy_server import ComfyServer
from .odd_making import Prompt, node

__all__ = ["OURS", "SECONDS", "Outcome", "judge", "outcome", "refusal", "stock", "tensors_of"]

OURS = "Anchorshot"
"""What the classes of this pack's nodes begin with."""
PACK = "anchorshot"
"""What the pack's folder among custom nodes begins with."""
SECONDS = 90.0
"""How long a graph may run before it is interrupted."""
_STOP = 45.0
_SENTENCE = re.compile(r"^(?P<field>[^\n]{1,200}?): [^\n]+ \(got [^\n]*\); [^\n]+$", re.DOTALL)
_FOREIGN = re.compile(r"Traceback|torch\.\w+|\bat 0x[0-9a-f]{6}|\w+Error\b|NoneType|object has no attribute|DefaultCPU")


@dataclass
class Outcome:
    """What a server made of a graph.

    Attributes:
        kind: ``success``; ``refused``, before anything runs; ``clear``, an error of ours as it should be; ``core``, an
            error of a core node that never came to us; ``endless``, not finished in time, but it heard the interrupt;
            or a fault: ``raw`` (an error in our code that is not ours), ``unnamed`` (a sentence without an input of
            the node), ``path`` (with a path of the server's), ``silent`` (NaN in what was made), ``stuck``.
        text: what was said.
    """

    kind: str
    text: str

    @property
    def fault(self) -> bool:
        return self.kind in ("raw", "unnamed", "path", "silent", "stuck", "dead")


def judge(kind: str, fields: set[str], error: Prompt, base: str) -> Outcome:
    """Judge an ``execution_error`` of the node class `kind`, whose inputs are `fields`."""
    said = error["exception_message"].strip()
    text = f"{kind}: {error['exception_type']}: {said}"[:600]
    if error["exception_type"] != "anchorshot.InputError":
        through = any(
            f"custom_nodes/{PACK}" in line or "/nodes/" in line and PACK in line for line in error["traceback"]
        )
        # an empty list: ComfyUI fails on it before the node that it runs for is called
        early = not through and any("slice_dict" in line for line in error["traceback"])
        return Outcome("raw" if through or kind.startswith(OURS) and not early else "core", text)
    found = _SENTENCE.match(said)
    if found is None or _FOREIGN.search(said):
        return Outcome("raw", text)
    if base in said or re.search(r"(?:/root|/home|/tmp|/work|/usr)/", said):
        return Outcome("path", text)
    if kind.startswith(OURS) and not _names(found["field"], fields):
        return Outcome("unnamed", text)
    return Outcome("clear", text)


def _names(field: str, fields: set[str]) -> bool:
    """Whether a field's first word is an input of the node, or a slot of one that grows: ``clip_0`` of ``clips``."""
    words = re.split(r"[\[. ,]", field)
    root = re.sub(r"_\d+$", "", words[0])
    slots = {"clip": "clips", "shot": "keyframes", "frame": "frames", "keyframe": "keyframes"}
    inside = root in {"shots", "characters", "places", "fps", "size", "title", "durations", "keyframes", "line"}
    return root in fields or slots.get(root) in fields or (inside and bool({"story", "timeline"} & fields))


def outcome(server: ComfyServer, prompt: Prompt, info: Prompt, seconds: float = SECONDS) -> Outcome:
    """Run a graph and judge what came of it.

    Args:
        server: runs it.
        prompt: the graph in the API's format.
        info: of the nodes, ``/object_info``.
        seconds: how long it may run before it is interrupted.
    """
    status, answer = server.ask("/prompt", {"prompt": prompt})
    if status != 200:
        return refusal(status, answer, str(server.base))
    begin = time.monotonic()
    history = server.finished(answer["prompt_id"], seconds)
    if history is None:
        server.ask("/interrupt", {})
        if server.finished(answer["prompt_id"], _STOP) is None:
            return Outcome("stuck", f"not finished, and hears no interrupt, after {time.monotonic() - begin:.0f} s")
        return Outcome("endless", f"not finished after {seconds:.0f} s; it heard the interrupt")
    for kind, data in history["status"]["messages"]:
        if kind == "execution_error":
            name = data["node_type"]
            fields = {field for part in info.get(name, {"input": {}})["input"].values() for field in part}
            return judge(name, fields, data, str(server.base))
    shown = " ".join(str(text) for out in history["outputs"].values() for text in out.get("text", []))
    silent = "not finite" in shown or (re.search(r"\bnan\b", shown) and "tensor" in shown)
    return Outcome("silent" if silent else "success", shown[:200])


def refusal(status: int, answer: Any, base: str) -> Outcome:
    """Judge an answer that is no 200: core's words on links and ranges, and ours on texts."""
    if not isinstance(answer, dict):
        return Outcome("core", f"HTTP {status}: {str(answer)[:200]}")
    parts = []
    for found in (answer.get("node_errors") or {}).values():
        for error in found["errors"]:
            text = f"{found['class_type']}: {error['message']}: {error['details']}"[:600]
            ours = found["class_type"].startswith(OURS)
            if ours and (error["type"] == "exception_during_validation" or "Traceback" in text):
                return Outcome("raw", text)
            if ours and error["type"] == "custom_validation_failed":
                if base in text or _FOREIGN.search(text):
                    return Outcome("path" if base in text else "raw", text)
            parts.append(text)
    return Outcome("refused", " | ".join(parts)[:600] or str(answer.get("error"))[:300])


def stock(again: int) -> Prompt:
    """Core's sampling and our keyframes on the pocket studio's models; another number makes them run once more."""
    prompt: Prompt = {"studio": node("AnchorshotPocketStudio")}
    for model, clip, empty in (
        (0, 2, node("EmptySD3LatentImage", width=160, height=80, batch_size=1)),
        (1, 3, node("EmptyHunyuanLatentVideo", width=160, height=80, length=9, batch_size=1)),
    ):
        prompt |= {
            f"text{model}": node("CLIPTextEncode", text="wide shot, static, in the desert.", clip=["studio", clip]),
            f"against{model}": node("CLIPTextEncode", text=f"a star {again}", clip=["studio", clip]),
            f"empty{model}": empty,
            f"sample{model}": node(
                "KSampler", model=["studio", model], positive=[f"text{model}", 0], negative=[f"against{model}", 0],
                latent_image=[f"empty{model}", 0], seed=3, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
                denoise=1.0,
            ),
            f"save{model}": node("SaveLatent", samples=[f"sample{model}", 0], filename_prefix="stock"),
        }  # fmt: skip
    return prompt


def tensors_of(server: ComfyServer, again: int) -> list[bytes]:
    """What stock sampling gives: the data of the saved latents."""
    history = server.run(stock(again), timeout=300)
    if history["status"]["status_str"] != "success":
        raise RuntimeError(f"stock sampling fails: {history['status']['messages'][-1]}")
    found = []
    for _, out in sorted(history["outputs"].items()):
        place = out["latents"][0]
        raw = (server.base / "output" / place["subfolder"] / place["filename"]).read_bytes()
        found.append(raw[8 + int.from_bytes(raw[:8], "little") :])
    return found

"""Odd graphs by the hundred through a real ComfyUI: each must run, or end in a sentence. For developers.

    python -m anchorshot.benchmarks.odd_graphs --comfyui ~/comfy/ComfyUI [--graphs 250] [--seed 0] [--tell]

Nodes of this pack are wired at random to one another and to core's, in right and in wrong ways, with odd files, odd
numbers and odd texts. An error of ours must name its input, the rule, the value seen and the way out, and hold no path
of the server's. While hostile texts are validated and while graphs run, other requests are timed. At the end, and now
and then, stock sampling must give what it gave at first, to the last bit. The same seed makes the same graphs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .odd_making import Maker, Prompt, hostile_texts, node, odd_files
from .odd_server import PACK, Clock, OddServer, running, slowest

__all__ = ["Outcome", "judge", "main", "outcome"]

ANSWER = 1.0
"""Seconds in which any other request must be answered while a text is validated."""
_RUN = 90.0
_STOP = 45.0
_BATCH = 25
_OURS = "Anchorshot"
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
    if error["exception_type"] != f"{PACK}.InputError":
        through = any(
            f"custom_nodes/{PACK}" in line or "/nodes/" in line and PACK in line for line in error["traceback"]
        )
        return Outcome("raw" if kind.startswith(_OURS) or through else "core", text)
    found = _SENTENCE.match(said)
    if found is None or _FOREIGN.search(said):
        return Outcome("raw", text)
    if base in said or re.search(r"(?:/root|/home|/tmp|/work|/usr)/", said):
        return Outcome("path", text)
    if kind.startswith(_OURS) and not _names(found["field"], fields):
        return Outcome("unnamed", text)
    return Outcome("clear", text)


def _names(field: str, fields: set[str]) -> bool:
    """Whether a field's first word is an input of the node, or a slot of one that grows: ``clip_0`` of ``clips``."""
    words = re.split(r"[\[. ,]", field)
    root = re.sub(r"_\d+$", "", words[0])
    slots = {"clip": "clips", "shot": "keyframes", "frame": "frames", "keyframe": "keyframes"}
    inside = root in {"shots", "characters", "places", "fps", "size", "title", "durations", "keyframes", "line"}
    return root in fields or slots.get(root) in fields or (inside and bool({"story", "timeline"} & fields))


def outcome(server: OddServer, prompt: Prompt, info: Prompt) -> Outcome:
    """Run a graph and judge what came of it."""
    status, answer = server.ask("/prompt", {"prompt": prompt})
    if status != 200:
        return _refused(status, answer, str(server.base))
    begin = time.monotonic()
    history = server.finished(answer["prompt_id"], _RUN)
    if history is None:
        server.ask("/interrupt", {})
        if server.finished(answer["prompt_id"], _STOP) is None:
            return Outcome("stuck", f"not finished, and hears no interrupt, after {time.monotonic() - begin:.0f} s")
        return Outcome("endless", f"not finished after {_RUN:.0f} s; it heard the interrupt")
    for kind, data in history["status"]["messages"]:
        if kind == "execution_error":
            name = data["node_type"]
            fields = {field for part in info.get(name, {"input": {}})["input"].values() for field in part}
            return judge(name, fields, data, str(server.base))
    shown = " ".join(str(text) for out in history["outputs"].values() for text in out.get("text", []))
    return Outcome("silent" if re.search(r"\bnan\b", shown) and "tensor" in shown else "success", shown[:200])


def _refused(status: int, answer: Any, base: str) -> Outcome:
    """Judge an answer that is no 200: core's words on links and ranges, and ours on texts."""
    if not isinstance(answer, dict):
        return Outcome("core", f"HTTP {status}: {str(answer)[:200]}")
    parts = []
    for found in (answer.get("node_errors") or {}).values():
        for error in found["errors"]:
            text = f"{found['class_type']}: {error['message']}: {error['details']}"[:600]
            ours = found["class_type"].startswith(_OURS)
            if ours and (error["type"] == "exception_during_validation" or "Traceback" in text):
                return Outcome("raw", text)
            if ours and error["type"] == "custom_validation_failed":
                if base in text or _FOREIGN.search(text):
                    return Outcome("path" if base in text else "raw", text)
            parts.append(text)
    return Outcome("refused", " | ".join(parts)[:600] or str(answer.get("error"))[:300])


# --- what others notice ----------------------------------------------------------------------------------------------


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


def tensors_of(server: OddServer, again: int) -> list[bytes]:
    """What stock sampling gives: the data of the saved latents."""
    history = server.run(stock(again))
    if history["status"]["status_str"] != "success":
        raise RuntimeError(f"stock sampling fails: {history['status']['messages'][-1]}")
    found = []
    for _, out in sorted(history["outputs"].items()):
        place = out["latents"][0]
        raw = (server.base / "output" / place["subfolder"] / place["filename"]).read_bytes()
        found.append(raw[8 + int.from_bytes(raw[:8], "little") :])
    return found


def answers(server: OddServer, rounds: int) -> list[str]:
    """Time other requests while hostile texts are validated, and print them; what took too long, in words."""
    faults = []
    clock = Clock(server)
    time.sleep(3)
    spans: dict[str, tuple[float, float]] = {}
    for turn in range(rounds):
        for name, prompt in hostile_texts().items():
            begin = time.monotonic()
            status, answer = server.ask("/prompt", {"prompt": prompt}, timeout=600)
            spans[f"{name} ({turn})"] = begin, time.monotonic()
            if status == 200:
                history = server.finished(answer["prompt_id"], _RUN)
                spans[f"running {name} ({turn})"] = spans[f"{name} ({turn})"][1], time.monotonic()
                if history is None:
                    server.ask("/interrupt", {})
                    faults.append(f"{name}: runs longer than {_RUN:.0f} s")
            else:
                found = _refused(status, answer, str(server.base))
                if found.fault or not isinstance(answer, dict):
                    faults.append(f"{name}: {found.kind}: {found.text}")
    asked = clock.stop()
    rows = sorted(((slowest(asked, [span]), span[1] - span[0], name) for name, span in spans.items()), reverse=True)
    for wait, took, name in rows[:8]:
        print(f"  others waited {wait:.2f} s: {name}, which took {took:.1f} s")
    best: dict[str, float] = {}
    for wait, _, name in rows:
        text = name.rpartition(" (")[0]
        best[text] = min(best.get(text, wait), wait)  # another process may hold the machine up once
    faults += [f"others wait {wait:.2f} s for {name}" for name, wait in best.items() if wait >= ANSWER]
    validated = max(wait for wait, _, name in rows if not name.startswith("running"))
    print(
        f"hostile texts: {len(best)} kinds, {len(asked)} other requests; slowest answer {validated:.2f} s", flush=True
    )
    return faults


def main(arguments: list[str] | None = None) -> int:
    """Run everything and print what became of it; 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--comfyui", type=Path, required=True, help="a checkout of ComfyUI")
    parser.add_argument("--graphs", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=2, help="rounds of hostile texts (2)")
    parser.add_argument("--first", type=int, default=1, help="skip the graphs before this one")
    parser.add_argument("--keep", type=Path, help="a folder for the graphs that show a fault")
    parser.add_argument("--tell", action="store_true", help="print every graph's outcome")
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        odd_files(base / "input")
        with running(options.comfyui, base) as server:
            info = server.ask("/object_info")[1]
            sound = tensors_of(server, 0)
            print(f"{sum(name.startswith(_OURS) for name in info)} nodes of ours, {len(info)} in all", flush=True)
            faults += answers(server, options.texts)
            maker = Maker(info, options.seed)
            clock, spans = Clock(server), []
            for number in range(1, options.graphs + 1):
                said, prompt = maker.graph()
                if number < options.first:
                    continue
                begin = time.monotonic()
                try:
                    found = outcome(server, prompt, info)
                except OSError as error:
                    found = Outcome("dead", f"{type(error).__name__}: {error}\n{server.log[-1500:]}")
                spans.append((begin, time.monotonic()))
                counts[found.kind] += 1
                counts["with " + said.split(":")[0]] += 1
                if found.fault:
                    faults.append(f"graph {number}. {said}\n    {found.kind}: {found.text}")
                if found.fault or options.tell:
                    seconds = spans[-1][1] - begin
                    print(f"{number}. ({seconds:.1f} s) {said}\n    {found.kind}: {found.text}", flush=True)
                if found.fault and options.keep:
                    kept = options.keep / f"{options.seed}-{number}.json"
                    kept.write_text(json.dumps({"prompt": prompt}, indent=1), encoding="utf-8")
                if found.kind in ("stuck", "dead"):
                    break
                if (number % _BATCH == 0 or number == options.graphs) and tensors_of(server, number) != sound:
                    faults.append(f"after graph {number}: stock sampling has changed")
                    print(faults[-1], flush=True)
                    sound = tensors_of(server, -number)
            wait = slowest(clock.stop(), spans) if server.process.poll() is None else float("nan")
    kinds = ("success", "refused", "clear", "core", "endless", "raw", "unnamed", "path", "silent", "stuck", "dead")
    print(", ".join(f"{kind} {counts[kind]}" for kind in kinds if counts[kind]))
    print(", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if name.startswith("with ")))
    print(f"{sum(counts[k] for k in kinds)} graphs; others waited at most {wait:.2f} s while they ran")
    print(f"{len(faults)} faults", *faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

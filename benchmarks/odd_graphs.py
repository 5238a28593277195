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
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .comfy_server import ROOT, ComfyServer, running
from .odd_making import Maker, hostile_texts, odd_files
from .odd_outcome import OURS, SECONDS, Outcome, outcome, refusal, tensors_of
from .server_clock import Clock, slowest

__all__ = ["main"]

ANSWER = 1.0
"""Seconds in which any other request must be answered while a text is validated."""
_BATCH = 25
_MEMORY = 14 << 30
"""Bytes of address space for the server: an odd graph must not take the machine along."""


# --- what others notice ----------------------------------------------------------------------------------------------


def answers(server: ComfyServer, rounds: int) -> list[str]:
    """Time other requests while hostile texts are validated, and print them; what took too long, in words."""
    faults = []
    clock = Clock(server.url, server.base)
    time.sleep(3)
    spans: dict[str, tuple[float, float]] = {}
    for turn in range(rounds):
        for name, prompt in hostile_texts().items():
            begin = time.monotonic()
            status, answer = server.ask("/prompt", {"prompt": prompt}, timeout=600)
            spans[f"{name} ({turn})"] = begin, time.monotonic()
            if status == 200:
                history = server.finished(answer["prompt_id"], SECONDS)
                spans[f"running {name} ({turn})"] = spans[f"{name} ({turn})"][1], time.monotonic()
                if history is None:
                    server.ask("/interrupt", {})
                    faults.append(f"{name}: runs longer than {SECONDS:.0f} s")
            else:
                found = refusal(status, answer, str(server.base))
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
        with running(options.comfyui, base, {"anchorshot": ROOT}, memory=_MEMORY) as server:
            info = server.ask("/object_info")[1]
            sound = tensors_of(server, 0)
            print(f"{sum(name.startswith(OURS) for name in info)} nodes of ours, {len(info)} in all", flush=True)
            faults += answers(server, options.texts)
            maker = Maker(info, options.seed)
            clock, spans = Clock(server.url, server.base), []
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

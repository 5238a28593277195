"""The commands of `anchorshot` and their options; one of them is found, loaded and run."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..core.errors import InputError, printable
from .streams import Stop, guarded_streams, reason_of, stoppable

__all__ = ["run"]

DONE, FAILED, BAD_INPUT = 0, 1, 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `main`."""
    _quiet_libraries()
    with guarded_streams() as (out, _), stoppable(last=arguments is None) as stop:
        code = _run(arguments, stop)
        out.flush()
        if out.error is not None and code == DONE:
            reason = " ".join(str(out.error).split())
            _say(f"the work is done, but not everything could be printed ({reason})")
            code = FAILED
    return code


def _run(arguments: Sequence[str] | None, stop: Stop) -> int:
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:  # the command's own help has its options
            _Parser(prog=options.prog).error(f"unrecognized arguments: {' '.join(unknown)}")
        with stop.at_once():
            command = getattr(import_module(f".{options.module}", __package__), options.function)
        command(options)
        return DONE
    except InputError as error:
        _say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as how:
        _say(f"{stop.word}{f'; {how}' if str(how) else ''}")
        return stop.code
    except SystemExit as end:  # argparse, after --help or a usage error
        return int(end.code or 0)
    except Exception as error:
        reason = reason_of(error)
        if reason is None:  # a fault of ours
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        _say(f"failed: {reason}")
        return FAILED


def _say(line: str) -> None:
    print(f"anchorshot: {printable(' '.join(line.split()))}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A usage error is one line; argparse would print the usage above it.

    Attributes:
        fill: adds the options of a command whose modules take a moment to import, once the command is called.
    """

    fill: Callable[[_Parser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse."""
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {printable(' '.join(message.split()))}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="anchorshot", description="A storyboard in, a multi-shot film out.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"anchorshot {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _direct(commands)
    _film(commands)
    _tell(commands)
    _upscale(commands)
    _extend(commands)
    _evaluate(commands)
    _bench(commands)
    _train(commands)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, runs: str, text: str) -> _Parser:
    """A subcommand that calls `runs`, a module of this package and a function in it."""
    command: _Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    module, _, function = runs.partition(":")
    command.set_defaults(module=module, function=function, prog=command.prog)
    return command


def _direct(commands: argparse._SubParsersAction) -> None:
    direct = _command(commands, "direct", "direct:run", "Write a storyboard about a theme.")
    direct.add_argument("theme", metavar="THEME", help="what the film is about, e.g. 'Two friends meet in the desert'")
    direct.add_argument(
        "--out", metavar="FILE", type=_path, default=Path("story.yaml"), help="the storyboard (default: story.yaml)"
    )
    direct.add_argument("--shots", metavar="N", type=_whole(1, 100), help="number of shots (default: as it fits)")
    _studio(direct)
    size = "pixels of the film, WIDTHxHEIGHT (default: the studio's, else 1280x720)"
    direct.add_argument("--size", metavar="SIZE", help=size)
    direct.add_argument("--fps", metavar="N", help="frames per second (default: the studio's, else 16)")
    direct.add_argument("--seed", metavar="N", type=_whole(0, 2**63 - 1), help="another seed, another story")
    own = direct.add_argument_group("who writes (default: rules that know the pocket studio; no language model)")
    own.add_argument("--client", choices=("rules", "transformers", "endpoint"), help="told by the options below")
    own.add_argument("--model", metavar="NAME", help="folder of a model of transformers; with --url the model's name")
    own.add_argument("--url", metavar="URL", help="an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8080/v1")
    own.add_argument(
        "--key-env", metavar="VARIABLE", help="environment variable with the key (default: ANCHORSHOT_API_KEY, if set)"
    )
    own.add_argument("--cache", metavar="DIR", type=_path, help="keep answers here; the same question is free then")
    own.add_argument("--timeout", metavar="S", type=_whole(1, 86400), default=300, help="seconds in all (300)")
    own.add_argument("--device", help="for a model of transformers: cpu, cuda, … (default: the fastest there is)")
    _json(direct, "write a summary here, too")


def _film(commands: argparse._SubParsersAction) -> None:
    film = _command(commands, "film", "film:run", "Render a storyboard: keyframes, a video per shot, the film.")
    film.add_argument("story", metavar="STORY", type=_path, help="storyboard (YAML, JSON, CSV or text)")
    _studio(film)
    film.add_argument("--out", metavar="DIR", type=_path, help="folder of the film (default: output/<name of STORY>)")
    film.add_argument("--shots", metavar="IDS", help="render only these shots, e.g. s02,s04-s06")
    film.add_argument("--resume", action="store_true", help="go on with what DIR holds; make only what is missing")
    film.add_argument("--redo", metavar="IDS", help="a new take of these shots, the others stay (implies --resume)")
    film.add_argument(
        "--dependents", action="store_true", help="with --redo: also remake the later shots that remember these"
    )
    check = (
        "compare every generated keyframe with its caption (who is there, on which side, with which colour, shape and "
        "accessory, and the place) and make it again, up to 3 times in all, while something is missing; your own "
        "pictures stay, and of --joint all that are made together are made again"
    )
    film.add_argument("--check", action="store_true", help=check)
    pairs = "make every shot from a start and an end frame (default: as the storyboard's mode says)"
    film.add_argument("--pairs", action=argparse.BooleanOptionalAction, default=None, help=pairs)
    _film_upscale(film)
    _keyframes(film)
    _refiner(film)
    _device(film)
    _json(film, "write the summary here, too")
    _workers(film)


def _film_upscale(film: argparse.ArgumentParser) -> None:
    factor = "make the finished clips F times as large, too: upscaled.mp4"
    film.add_argument("--upscale", metavar="F", type=float, nargs="?", const=2.0, help=factor)
    method = "with --upscale: the studio's model, or interpolation to compare it with (model)"
    film.add_argument("--upscale-method", choices=("model", "bicubic", "lanczos"), help=method)
    sharp = "with --upscale: make the keyframes at the large size; the clips' model gets them smaller"
    film.add_argument("--sharp-keyframes", action="store_true", help=sharp)


def _keyframes(film: argparse.ArgumentParser) -> None:
    own = film.add_argument_group("keyframes, in place of the studio's settings")
    own.add_argument(
        "--joint",
        metavar="N",
        nargs="?",
        type=_whole(2, 32),
        const=32,
        help="make up to N (32) in a row together, each seeing all others",
    )
    noise = "noise on remembered frames, 0…1, or a range that each draws its own from, e.g. 0.001-0.25"
    own.add_argument("--context-noise", metavar="T", help=noise)
    own.add_argument("--cfg", metavar="W", type=float, help="classifier-free guidance; 1 is off")
    own.add_argument("--negative", metavar="TEXT", help="with --cfg: what guidance leads away from")
    own.add_argument("--sampler", choices=("euler", "heun", "dpmpp_2m"), help="solver of the flow")
    own.add_argument("--level", choices=("pixel", "latent"), help="shrink remembered frames before or after the VAE")
    kept = "precision that remembered frames' keys and values are kept in; fp8 takes half of bf16"
    own.add_argument("--cache", choices=("model", "bf16", "fp8"), help=kept)


def _refiner(film: argparse.ArgumentParser) -> None:
    own = film.add_argument_group("with --pairs: the prompt of every shot's video, in place of its caption")
    who = "who writes it from both frames: rules that know the pocket studio, or a language model that sees"
    own.add_argument("--refine", nargs="?", const="rules", choices=("rules", "transformers", "endpoint"), help=who)
    model = "folder of a model of transformers; with --refiner-url the model's name"
    own.add_argument("--refiner-model", metavar="NAME", help=model)
    own.add_argument("--refiner-url", metavar="URL", help="an OpenAI-compatible endpoint")
    own.add_argument("--refiner-key-env", metavar="VARIABLE", help="environment variable with the key")
    own.add_argument("--refiner-cache", metavar="DIR", type=_path, help="keep answers here")
    own.add_argument(
        "--refiner-timeout", metavar="S", type=_whole(1, 86400), default=300, help="seconds a prompt in all (300)"
    )


def _tell(commands: argparse._SubParsersAction) -> None:
    tell = _command(commands, "tell", "tell:run", "Tell a storyboard from its texts alone, without keyframes.")
    tell.add_argument("story", metavar="STORY", type=_path, help="storyboard (YAML, JSON, CSV or text)")
    _studio(tell)
    tell.add_argument(
        "--out", metavar="DIR", type=_path, help="folder of the film (default: output/<name of STORY>_told)"
    )
    tell.add_argument("--resume", action="store_true", help="go on with what DIR holds; make only what is missing")
    tell.add_argument("--gamma", metavar="G", type=float, default=0.25, help="how much segments blend, 0…0.5 (0.25)")
    tell.add_argument(
        "--backward", metavar="G", type=float, default=0.0, help="also blend ends towards the next segment, 0…0.5 (0)"
    )
    tell.add_argument("--cut", action="store_true", help="cut where the place changes: blend only within a place")
    tell.add_argument(
        "--preview",
        choices=("latent_rgb", "decoded_frame", "decoded_video"),
        default="latent_rgb",
        help="what CLIP is shown at a step, from cheap to dear (latent_rgb)",
    )
    tell.add_argument("--every", metavar="N", type=_whole(1, 1000), default=4, help="score every N steps (4)")
    clock = "what the prior of the prompts goes by: the noise that is gone, or steps as in the paper (noise)"
    tell.add_argument("--prior-clock", choices=("noise", "steps"), default="noise", help=clock)
    shift = "when the action takes over: higher is sooner (300; with the clock steps 1, the paper's)"
    tell.add_argument("--prior-shift", metavar="S", type=float, help=shift)
    prompt = "mix the scene with the whole of both prompts, or with the action alone (whole)"
    tell.add_argument("--action-prompt", choices=("whole", "alone"), default="whole", help=prompt)
    encoder = "whose text encoder tells how alike segments are: the video model's or CLIP's (text)"
    tell.add_argument("--sar-encoder", choices=("text", "clip"), default="text", help=encoder)
    pair = "what is compared: two actions, scene and action of one segment, or all of two segments (actions)"
    tell.add_argument("--sar-pair", choices=("actions", "within", "adjacent"), default="actions", help=pair)
    tell.add_argument("--sar-centred", action="store_true", help="compare without what all texts of the story share")
    tell.add_argument("--sar-bounded", action="store_true", help="never blend more than --gamma")
    tell.add_argument("--without", metavar="LIST", help="leave out parts: dipw, twb, sar")
    _device(tell)
    _json(tell, "write the summary here, too")
    _workers(tell)


def _upscale(commands: argparse._SubParsersAction) -> None:
    text = "Make a video, or a finished film, larger: sharp where keyframes show how."
    upscale = _command(commands, "upscale", "upscale:run", text)
    upscale.add_argument(
        "video", metavar="VIDEO|RUN", type=_path, help="a video file, or the folder of a finished film"
    )
    upscale.add_argument("--scale", metavar="F", type=float, help="factor from 1 to 8 (default: 2)")
    upscale.add_argument("--size", metavar="SIZE", help="pixels of the result, WIDTHxHEIGHT, in place of --scale")
    keyframes = (
        "sharp pictures of some frames: a folder (0012.png is frame 12, 1.5s.png a time, 00-00-01-12.png a timecode; "
        "or a keyframes.yaml), auto: a film's own where they are larger than it, or none (auto)"
    )
    upscale.add_argument("--keyframes", metavar="DIR", default="auto", help=keyframes)
    cuts = "where shots begin: auto finds it, none, or frames from 0, e.g. 48,97 (auto; a film knows its own)"
    upscale.add_argument("--cuts", metavar="LIST", default="auto", help=cuts)
    method = "the studio's model, or interpolation to compare it with (model)"
    upscale.add_argument("--method", choices=("model", "bicubic", "lanczos"), default="model", help=method)
    _studio(upscale)
    upscale.add_argument("--out", metavar="DIR", type=_path, help="folder of the run (default: output/<name>_upscaled)")
    upscale.add_argument("--resume", action="store_true", help="go on with what DIR holds; make only what is missing")
    own = upscale.add_argument_group("memory, in place of the studio's settings")
    own.add_argument("--window", metavar="N", type=_whole(0, 10**5), help="frames made at once; 0: a whole shot")
    own.add_argument("--overlap", metavar="N", type=_whole(0, 10**4), help="frames that windows share and blend")
    own.add_argument(
        "--tile", metavar="N", type=_whole(0, 16384), help="longest side of a tile in pixels of VIDEO; 0: whole frames"
    )
    own.add_argument(
        "--tile-overlap", metavar="N", type=_whole(0, 4096), help="pixels of VIDEO that tiles share and blend"
    )
    colour = "leave the model's colours as they are; else those of VIDEO stay, in areas of some pixels"
    upscale.add_argument("--no-colour-fix", action="store_true", help=colour)
    upscale.add_argument("--keep-windows", action="store_true", help="keep the lossless windows in DIR")
    _device(upscale)
    _json(upscale, "write the summary here, too")


def _extend(commands: argparse._SubParsersAction) -> None:
    extend = _command(commands, "extend", "extend:run", "Let a video go on: new frames after its own, without a seam.")
    extend.add_argument(
        "video", metavar="VIDEO", type=_path, help="the video; its frames and its sound stay as they are"
    )
    extend.add_argument("--story", metavar="FILE", type=_path, help="storyboard of what follows, shot by shot")
    extend.add_argument("--prompt", metavar="TEXT", help="or: what follows, in words")
    extend.add_argument("--seconds", metavar="S", type=float, help="with --prompt: how long it shall last")
    pictures = "with --prompt: your own pictures, by seconds after the video's end; one at 0 is the first new frame"
    extend.add_argument("--keyframes", metavar="S=PICTURE", nargs="+", help=pictures)
    extend.add_argument("--seed", metavar="N", type=_whole(0, 2**63 - 1), help="with --prompt: another seed (0)")
    context = "how far the model looks back (default: half of what it makes in one go); bounds time and memory"
    extend.add_argument("--context", metavar="S", type=float, help=context)
    size = "size that the model works in (default: the video's, or its shape in the model's own size)"
    extend.add_argument("--size", metavar="WxH", help=size)
    fps = "rate that the model works at, of a video with more frames (default: the model's own, or nearly)"
    extend.add_argument("--fps", metavar="N", type=_rate, help=fps)
    _studio(extend)
    extend.add_argument("--out", metavar="DIR", type=_path, help="folder (default: output/<name of VIDEO>_extended)")
    extend.add_argument("--resume", action="store_true", help="go on with what DIR holds; make only what is missing")
    redo = "a new take of these shots, and all after them made again (implies --resume)"
    extend.add_argument("--redo", metavar="IDS", help=redo)
    _device(extend)
    _json(extend, "write the summary here, too")
    _workers(extend)


def _evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = _command(commands, "evaluate", "suites:run_evaluate", "Measure a studio on stories it has never seen.")
    evaluate.fill = _evaluate_options


def _evaluate_options(evaluate: _Parser) -> None:
    from ..evaluation.suites import SUITES
    from .suite_flags import add_flags, suite_names

    evaluate.add_argument("suite", metavar="SUITE", help=suite_names(SUITES))
    _studio(evaluate)
    add_flags(evaluate, SUITES, _whole)
    evaluate.add_argument("--out", metavar="DIR", type=_path, help="plots and pictures (default: output/evaluation)")
    _device(evaluate)
    _json(evaluate, "write the rows here, too")


def _bench(commands: argparse._SubParsersAction) -> None:
    bench = _command(commands, "bench", "suites:run_bench", "Compare speed, memory and FLOPs with stock code.")
    bench.fill = _bench_options


def _bench_options(bench: _Parser) -> None:
    from ..benchmarks.suites import SUITES
    from .suite_flags import add_flags, suite_names

    bench.add_argument("suite", metavar="SUITE", help=suite_names(SUITES))
    bench.add_argument(
        "--full-size", action="store_true", help="random FLUX.1-dev or Wan 2.2 A14B on a GPU, not the studio's models"
    )
    _studio(bench)
    add_flags(bench, SUITES, _whole)
    _device(bench)
    _json(bench, "write the rows here")


def _train(commands: argparse._SubParsersAction) -> None:
    train = _command(
        commands, "train", "train:run", "Train a model of the pocket studio from nothing, or LoRAs by a recipe file."
    )
    train.add_argument(
        "recipe",
        metavar="RECIPE",
        help="vae, clip, text, recogniser, keyframes, video, or pocket for all; pair_text, pairs, pair_dpo; a YAML",
    )
    train.add_argument("--out", metavar="DIR", type=_path, help="checkpoints, curves, weights (default: runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    train.add_argument(
        "--warm", action="store_true", help="start text, clip, keyframes or video from the shipped weights"
    )
    steps = "only so many steps, as a trial: no weight file is written"
    train.add_argument("--steps", metavar="N", type=_whole(1, 10**9), help=steps)
    _device(train)
    several = "train in N processes that share every batch, each on a GPU of its own or all on the CPU (default: 1)"
    train.add_argument("--processes", metavar="N", type=_whole(1, 1024), default=1, help=several)
    train.add_argument("--shard", action="store_true", help="processes share out the weights, too (FSDP2)")


def _studio(command: argparse.ArgumentParser) -> None:
    command.add_argument("--studio", default="pocket", help="name or YAML file of a studio (default: pocket)")


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps … (default: the fastest there is)")
    threads = "CPU threads (default: 1 for tiny models, else as many as torch takes)"
    command.add_argument("--threads", metavar="N", type=_whole(1, 1024), help=threads)


def _workers(command: argparse.ArgumentParser) -> None:
    own = command.add_argument_group("several workers (the film stays the same, byte for byte)")
    own.add_argument("--workers", metavar="N", type=_whole(1, 1024), help="make shots in N processes at once")
    own.add_argument("--devices", metavar="LIST", help="one process on each of these, e.g. cuda:0,cuda:1")
    ray = "make shots on a Ray cluster: without an ADDRESS, on one that is started here for this film"
    own.add_argument("--ray", metavar="ADDRESS", nargs="?", const="local", help=ray)


def _json(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--json", metavar="FILE", type=_path, help=text)


def _path(text: str) -> Path:
    """A path; nothing at all would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def _whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in a range, refused in words that people understand."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


def _rate(text: str) -> float:
    """Frames per second; 24000/1001 may be written so."""
    above, _, below = text.partition("/")
    try:
        rate = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if not 0.1 <= rate <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number from 0.1 to 1000, got {text!r}")
    return rate


def _quiet_libraries() -> None:
    """Keep notes of the libraries off stderr, where our one line must stand alone; problems reach us as exceptions."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports a missing GPU as an error
    if not sys.warnoptions:
        warnings.simplefilter("ignore")

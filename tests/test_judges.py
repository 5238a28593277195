"""MetricModels from files: LPIPS against the `lpips` package, DINO against transformers, and faults in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from tiny_judges import TINY_VIT
from transformers import BertConfig, BertModel, BitImageProcessor, Dinov2Model, ViTConfig, ViTModel

from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.dino import Preprocess, load_dino
from anchorshot.evaluation.metrics.lpips import load_lpips
from anchorshot.evaluation.metrics.networks import MetricModels
from anchorshot.pocket.configs import CLIP

# The package asks torchvision for its networks in an old way.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision.models.*")


def pictures(count: int, height: int = 80, width: int = 160) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_package(net: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    package = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    for part in package.lins:  # the trained ones are positive
        torch.nn.init.uniform_(part.model[1].weight, 0, 1)
    save_model(package, str(tmp_path / "lpips.safetensors"))
    random_state = torch.get_rng_state()
    ours = load_lpips(tmp_path / "lpips.safetensors")
    assert torch.equal(torch.get_rng_state(), random_state)
    a, b = pictures(2, 64, 96), pictures(3, 64, 96)[:2]
    with torch.no_grad():
        expected = package(a, b, normalize=True).flatten()
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-5, atol=1e-7)
    assert expected.min() > 1e-3 and ours(a, a).abs().max() == 0


def test_lpips_is_read_with_its_linear_layers_twice(judge_files: Path, tmp_path: Path) -> None:
    """As `save_file` leaves the whole state dict, where the package registers them under two names."""
    state = load_file(judge_files / "alex.safetensors")
    twice = {f"lins.{key[3:]}": value.clone() for key, value in state.items() if key.startswith("lin")}
    save_file(state | twice, tmp_path / "twice.safetensors")
    a, b = pictures(1), pictures(2)[:1]
    one, two = load_lpips(judge_files / "alex.safetensors"), load_lpips(tmp_path / "twice.safetensors")
    assert torch.equal(one(a, b), two(a, b))


def test_dino_is_the_class_token_of_what_its_processor_makes(judge_files: Path, tmp_path: Path) -> None:
    frames = (pictures(3) * 255).round() / 255
    processor = BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 28, "width": 28}, do_center_crop=True, resample=3,
        image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4],
    )  # fmt: skip
    model = Dinov2Model.from_pretrained(judge_files / "dinov2").eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    made = processor((frames * 255).round().byte().unbind(), return_tensors="pt")["pixel_values"]
    dino = load_dino(tmp_path)
    # The processor rounds to 8 bits after each of the resize's two passes.
    level = 1 / 255 / 0.2
    torch.testing.assert_close(dino.preprocess(frames), made, atol=1.5 * level, rtol=0)
    assert (dino.preprocess(frames) - made).abs().mean() < 0.3 * level
    with torch.no_grad():
        expected = model(pixel_values=dino.preprocess(frames)).last_hidden_state[:, 0]
    assert torch.equal(dino(frames), expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(dino(frames, batch=2), expected)
    assert load_dino(judge_files / "dinov2").preprocess == Preprocess()  # none in the folder: 256, then the middle 224


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 50.0, 40.0]},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False, "do_rescale": False},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 48, "width": 64}},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_what_the_preprocessor_leaves_out_is_left_out(changes: dict[str, object]) -> None:
    """Against transformers' own, on frames whose size stays, so that nothing is rounded on the way."""
    size = {"size": {"height": 80, "width": 160}, "do_center_crop": False}
    data = size | {"image_mean": [0.4] * 3, "image_std": [0.2] * 3} | changes
    frames = (pictures(2) * 255).round() / 255
    made = BitImageProcessor(**data)((frames * 255).round().byte().unbind(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Preprocess.parse(data)(frames), made.float(), rtol=1e-5, atol=1e-5)


def test_the_first_dino_takes_frames_of_any_size(tmp_path: Path) -> None:
    """A ViT with its pooler, and the preprocessor of old: one number is both sides."""
    model = ViTModel(ViTConfig(image_size=32, patch_size=16, **TINY_VIT)).eval()
    model.save_pretrained(tmp_path)
    data = {"do_resize": True, "size": 64, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    random_state = torch.get_rng_state()
    dino = load_dino(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert dino.preprocess(pictures(1)).shape == (1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values=dino.preprocess(pictures(2)), interpolate_pos_encoding=True)
    torch.testing.assert_close(dino(pictures(2)), expected.last_hidden_state[:, 0])


def test_judges_are_read_from_their_files(judge_files: Path, tmp_path: Path) -> None:
    assert MetricModels.load() == MetricModels()
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    judges = MetricModels.load(judge_files / "clip.safetensors", tmp_path / "config.json", judge_files / "dinov2")
    assert judges.lpips is None and judges.names == {"clip": "clip.safetensors", "dino": "dinov2"}
    assert judges.clip is not None and judges.clip.embed_images(pictures(2)).shape == (2, CLIP["embed_dim"])


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    state = load_file(source)
    change(state)
    save_file(state, target)
    return target


def with_nan(key: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: state[key].view(-1)[:1].fill_(float("nan"))


def test_faults_name_the_judge(judge_files: Path, tmp_path: Path) -> None:
    alex, clip = judge_files / "alex.safetensors", judge_files / "clip.safetensors"
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({}))
    (tmp_path / "hidden.safetensors").write_bytes(pickle.dumps({"net.slice1.0.weight": 1}))
    (tmp_path / "short.safetensors").write_bytes(alex.read_bytes()[:-100])
    short = changed(alex, tmp_path / "a.safetensors", lambda state: state.pop("lin3.model.1.weight"))
    spoilt = changed(alex, tmp_path / "b.safetensors", with_nan("net.slice3.6.bias"))
    faults: list[tuple[dict[str, Path | str], str]] = [
        ({"lpips": tmp_path / "gone.safetensors"}, "lpips.*must exist"),
        ({"lpips": tmp_path / "pickle.pth"}, "lpips.*pickles can run code"),
        ({"lpips": tmp_path / "hidden.safetensors"}, "lpips.*a pickle"),
        ({"lpips": tmp_path / "short.safetensors"}, "lpips.*whole and valid"),
        ({"lpips": clip}, "lpips.*must hold all of LPIPS.*save_model"),
        ({"lpips": short}, "lpips a.*no lin3"),
        ({"lpips": spoilt}, "lpips b.*finite.*slice3"),
        ({"clip": tmp_path / "gone.safetensors"}, "clip, .*file must exist"),
        ({"clip": tmp_path / "hidden.safetensors"}, "clip, .*a pickle"),
        ({"clip": alex}, "clip, .*config"),
        ({"clip": clip, "clip_config": "ViT-Z-14"}, "clip, .*open_clip knows.*ViT-Z-14"),
        ({"clip": clip, "clip_config": tmp_path / "gone.json"}, "clip, config: file must exist"),
        ({"clip_config": "ViT-L-14"}, "clip_config: is for a CLIP file"),
        ({"clip": changed(clip, tmp_path / "c.safetensors", with_nan("ln_final.weight")),
          "clip_config": _json(tmp_path / "clip.json", CLIP)}, "clip, .*finite.*ln_final"),
    ]  # fmt: skip
    for given, words in faults:
        with pytest.raises(InputError, match=words):
            MetricModels.load(**given)  # type: ignore[arg-type]


def _json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_faults_of_a_dino_folder(judge_files: Path, tmp_path: Path) -> None:
    good = judge_files / "dinov2"
    config = json.loads((good / "config.json").read_text())
    weights = good / "model.safetensors"

    def copy(name: str, changes: dict | None = None, preprocess: object = None, state: Callable | None = None) -> Path:
        made = tmp_path / name
        made.mkdir()
        _json(made / "config.json", config | (changes or {}))
        changed(weights, made / "model.safetensors", state or (lambda s: None))
        if preprocess is not None:
            _json(made / "preprocessor_config.json", preprocess)
        return made

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (tmp_path / "bare").mkdir()
    changed(weights, tmp_path / "bare" / "model.safetensors", lambda s: None)
    BertModel(BertConfig(vocab_size=8, **TINY_VIT)).save_pretrained(tmp_path / "bert")
    key = "encoder.layer.1.norm1.weight"
    for path, words in (
        (weights, "dino: must be a folder"),
        (tmp_path / "gone", "dino: must be a folder"),
        (tmp_path / "bin", "dino.*safetensors.*pickles"),
        (tmp_path / "bare", "dino.*config.json"),
        (tmp_path / "bert", "dino: model_type must be one of vit, dinov2.*bert"),
        (copy("missing", state=lambda s: s.pop(key)), "dino missing: tensors must be complete.*no " + key),
        (copy("nan", state=with_nan(key)), "dino nan: weights must be finite.*" + key),
        (copy("wider", {"hidden_size": 48}), "dino wider: transformers must be able to load"),
        (copy("words", {"hidden_size": "wide"}), "dino words: transformers must be able to load"),
        (copy("list", preprocess=[1]), "preprocessor_config.json: must be a JSON object"),
        (copy("size", preprocess={"size": {"shortest_edge": "big"}}), "preprocessor_config.json: size: must be sides"),
        (copy("lanczos", preprocess={"resample": 1}), "resample: must be 2"),
        (copy("mean", preprocess={"image_mean": [0.5]}), "image_mean: must be three"),
        (copy("flag", preprocess={"do_normalize": "no"}), "do_normalize: must be true or false.*no"),
        (copy("factor", preprocess={"rescale_factor": 0}), "rescale_factor: must be a number greater"),
        (copy("std", preprocess={"image_std": [0.5, 0, 1]}), "image_std: must be greater"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_dino(path)
        assert "\n" not in str(caught.value)
    assert load_dino(copy("good", preprocess={"do_resize": False})).preprocess.size is None

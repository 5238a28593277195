"""Data sets for the training of pairs: records, the cache, and what is drawn from it."""

import json
import os

import pytest
import torch

from anchorshot.core.errors import InputError
from anchorshot.media.video import open_writer
from anchorshot.memory.memory_pack import MemoryPack
from anchorshot.models.studio import load_studio
from anchorshot.training.pairs.cache import CacheSettings, Ranker, encode_movies
from anchorshot.training.pairs.draws import Chances, PairDraws
from anchorshot.training.pairs.records import held_out, read_records
from tests.pair_shots import INNER, SIZE, picture, write_shots

SETTINGS = CacheSettings(sizes=(SIZE, (32, 64)), seen_area=64 * 64, seen_multiple=8)
ALWAYS = Chances(text=0.0, history=0.0)


@pytest.fixture(scope="module")
def encoders():
    studio = load_studio("pocket")
    return lambda: (studio.video_vae, Ranker(studio.clip.embed_images, studio.clip.embed_query))


@pytest.fixture(scope="module")
def cache(tmp_path_factory, encoders):
    folder = tmp_path_factory.mktemp("shots")
    file = write_shots(folder, still={("b", 2)})
    return encode_movies(read_records(file), folder / "cache", SETTINGS, encoders)


def draws(cache, **changes):
    settings = {"pack": MemoryPack("canvas"), "rank_by": "clip", "batch": 6, "chances": ALWAYS} | changes
    return PairDraws(cache, list(cache.records), prompt=lambda text, s, f: f"{text}\n{s} {f}", **settings)


# --- records --------------------------------------------------------------------------------------------------------


def test_both_spellings_are_read(tmp_path):
    ours = {"movie": "m", "shot": 3, "text": "D", "attributes": {"scale": "close-up", "angle": "low"}, "start": "a.png",
            "end": "b.png", "inner": ["c.png"], "more": 1}  # fmt: skip
    theirs = {"idx": 2, "prompt": "P", "control_img_list": ["x.png"], "start": "/s.png", "end": "e.png", "seed": 4}
    (tmp_path / "l.jsonl").write_text("\n\n".join(json.dumps(x) for x in (ours, theirs)))
    (tmp_path / "l.json").write_text(json.dumps([ours, theirs]))
    for name in ("l.jsonl", "l.json"):
        movies = read_records(tmp_path / name)
        (first,), (second,) = movies["m"], movies[""]
        assert first.told == "D close-up, low" and first.inner == (tmp_path / "c.png",) and first.control is None
        assert second.whole and second.shot == 2 and second.control == (tmp_path / "x.png",)
        assert str(second.start) == "/s.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 7}, "text: must be a text"),
        ({"text": None, "drop": "text"}, "text: is required"),
        ({"end": None}, "end: is required without clip"),
        ({"clip": "v.mp4"}, "clip: must not stand beside"),
        ({"inner": "c.png"}, "inner: must be a JSON list"),
        ({"shot": -1}, "shot: must be a whole number"),
        ({"attributes": {"scale": 3}}, r"attributes\.scale: must be a text"),
    ],
)
def test_a_faulty_record_is_named_with_its_line(tmp_path, change, message):
    good = {"movie": "m", "shot": 1, "text": "D", "start": "a.png", "end": "b.png"}
    bad = {**good, "shot": 2, **change}
    if drop := bad.pop("drop", None):
        bad.pop(drop)
    (tmp_path / "l.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(bad))
    with pytest.raises(InputError, match=message) as error:
        read_records(tmp_path / "l.jsonl")
    assert "l.jsonl line 2" in str(error.value)


def test_a_shot_is_not_there_twice(tmp_path):
    line = json.dumps({"movie": "m", "shot": 1, "text": "D", "start": "a.png", "end": "b.png"})
    (tmp_path / "l.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(InputError, match="shots of m must differ.*see l.jsonl line 1"):
        read_records(tmp_path / "l.jsonl")


def test_movies_are_split_by_name():
    movies = [f"movie {i}" for i in range(2000)]
    some = held_out(movies, 0.1)
    assert 150 < len(some) < 250
    assert held_out(movies[:500], 0.1) == some & set(movies[:500])
    assert held_out(movies, 0.05) < some
    assert not held_out(movies, 0)


# --- the cache ------------------------------------------------------------------------------------------------------


def test_it_is_kept_until_a_picture_changes(tmp_path, encoders):
    file = write_shots(tmp_path, shots=2)
    asked = []

    def models():
        asked.append(1)
        return encoders()

    def encode(settings=SETTINGS):
        return encode_movies(read_records(file), tmp_path / "cache", settings, models)

    first = encode()
    before = {movie: path.stat().st_mtime_ns for movie, path in first.files.items()}
    encode()
    assert len(asked) == 1
    changed = tmp_path / "b" / "1_end.png"
    os.utime(changed, ns=(1, 1))
    second = encode()
    assert len(asked) == 2
    after = {movie: path.stat().st_mtime_ns for movie, path in second.files.items()}
    assert after["a"] == before["a"] and after["b"] != before["b"]
    with pytest.raises(InputError, match="must hold every movie"):
        encode_movies(read_records(file), tmp_path / "other", SETTINGS, models, write=False)
    changed.unlink()
    with pytest.raises(InputError, match="shots.jsonl line 4, picture: must be an existing file"):
        encode()


def test_frames_of_a_clip(tmp_path, encoders):
    with open_writer(tmp_path / "v.mp4", 8) as writer:
        for i in range(13):
            writer.write(picture(i))
    line = {"movie": "m", "shot": 1, "text": "D", "clip": "v.mp4"}
    (tmp_path / "l.jsonl").write_text(json.dumps(line))
    movies = read_records(tmp_path / "l.jsonl")
    cache = encode_movies(movies, tmp_path / "cache", SETTINGS, encoders)
    assert cache.distances["m"][0].shape == (7, 7)  # 13 frames without 2 at either end and the frames next to those
    with pytest.raises(InputError, match="clip: must have at least 22 frames"):
        encode_movies(movies, tmp_path / "cache", CacheSettings((SIZE,), inset=10), encoders)


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_the_same_step_draws_the_same(cache):
    data = draws(cache, min_distance=0.05, chances=Chances(memory_noise=0.2))
    a, b = data.draw(3), data.draw(3)
    assert torch.equal(a.winner, b.winner) and torch.equal(a.loser, b.loser) and a.prompts == b.prompts
    assert all(torch.equal(x, y) for x, y in zip(a.memory, b.memory, strict=True)) and a.seed == b.seed
    assert not torch.equal(a.winner, data.draw(4).winner)


def test_shots_remember_earlier_ones_of_their_movie(cache):
    data = draws(cache, rank_by="recency", pack=MemoryPack("references"), batch=40)
    batch = data.draw(0)
    assert batch.winner.shape == (40, 2, 16, 4, 8)
    shots = [int(prompt.split()[7]) for prompt in batch.prompts]
    assert batch.there.sum(1).tolist() == [2 * shot for shot in shots], "two frames of every earlier shot"
    assert [picture is None for picture in batch.pictures] == [shot == 0 for shot in shots]
    by_shot = {}
    for row, shot in enumerate(shots):
        by_shot.setdefault(shot, []).append(row)
    for row in by_shot[1]:
        match = [r for r in by_shot[0] if torch.equal(batch.winner[r, 1], batch.memory[0][row])]
        assert match, "the newest memory is the end of the shot before"
        assert torch.equal(batch.winner[match[0], 0], batch.memory[1][row])
    assert batch.prompts[0].endswith("close-up\n2.75 66")


def test_rows_have_the_places_of_the_longest_history(cache):
    batch = draws(cache, batch=40).draw(0)
    sizes = [tuple(x.shape[-2:]) for x in batch.memory]
    pack, grid = MemoryPack("canvas"), (2, 4)
    assert sizes == [(2 * t.rows, 2 * t.cols) for t in pack.tiles(len(sizes), grid)]
    for rank, latents in enumerate(batch.memory):
        assert torch.equal(latents.abs().flatten(1).sum(1) > 0, batch.there[:, rank])


def test_losers_are_two_inner_frames_in_order_and_no_near_duplicates(cache):
    data = draws(cache, min_distance=0.05, batch=64)
    assert data.left_out == 1, "the still shot"
    assert len(data) == 7
    batch = data.draw(0)
    assert batch.loser is not None
    apart = (batch.loser - batch.winner).square().flatten(1).mean(1)
    assert float(apart.min()) >= 0.05 - 1e-3
    pairs = {tuple(pair) for movie, i in (("a", 0), ("b", 3)) for pair in data._losers(movie, i).tolist()}
    assert pairs and all(i < j < INNER for i, j in pairs)
    with pytest.raises(InputError, match="must hold shots whose inner frames differ"):
        draws(cache, min_distance=1e6)


def test_what_is_left_out(cache):
    def batch(**chances):
        return draws(cache, batch=40, chances=Chances(**{"text": 0.0, "history": 0.0} | chances)).draw(0)

    assert set(batch(text=1.0).prompts) == {" "}
    first = batch(history=1.0)
    assert not first.memory and first.pictures == [None] * 40 and first.there.shape == (40, 0)
    alone = batch(memory=1.0)
    assert not alone.memory and any(p is not None for p in alone.pictures)
    unseen = batch(picture=1.0)
    assert unseen.memory and unseen.pictures == [None] * 40


def test_given_memories_take_the_place_of_earlier_shots(tmp_path, encoders):
    file = write_shots(tmp_path, movies=("a",), shots=3)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[2]["control_img_list"] = ["a/0_end.png"]
    file.write_text("\n".join(map(json.dumps, lines)))
    cache = encode_movies(read_records(file), tmp_path / "cache", SETTINGS, encoders)
    batch = draws(cache, pack=MemoryPack("references"), batch=30).draw(0)
    shots = [int(prompt.split()[7]) for prompt in batch.prompts]
    row, first = shots.index(2), shots.index(0)
    assert batch.there[row].sum() == 1
    assert torch.allclose(batch.memory[0][row], batch.winner[first, 1], atol=1e-2)


def test_memories_are_shrunk_as_latents(cache):
    with pytest.raises(InputError, match=r"pair\.level: must be latent for training"):
        draws(cache, pack=MemoryPack(level="pixel"))

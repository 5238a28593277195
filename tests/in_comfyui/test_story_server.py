"""Storyboard texts through a real server: what is linked is looked at again, and no text holds up other requests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from in_comfyui.prompts import node, text_of
from in_comfyui.server import ComfyServer
from PIL import Image

from anchorshot.comfyui import story_route
from anchorshot.comfyui.host import input_path, relative_paths
from anchorshot.comfyui.story_files import LinkedFiles, identity, read_story
from anchorshot.core.errors import InputError
from anchorshot.core.limits import MAX_BYTES
from anchorshot.nodes import story
from anchorshot.story.storyboard import load_storyboard

TEXT = "shots:\n- {id: s01, scene: A fox WORD., frames: 5, keyframes: [{at: 0, image: fox.png}]}\n"


# --- in the test's own process ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    "name",
    ["//host/share/x.yaml", r"\\host\share\x.yaml", r"C:\x.yaml", "C:x.yaml", "/etc/x.yaml", "~/x.yaml",
     "a/../../x.yaml", r"a\x.yaml", "n" * 1500 + ".yaml"],
)  # fmt: skip
def test_names_outside_the_input_folder_are_refused_by_their_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: Any, **__: Any) -> Any:
        raise AssertionError("the file system was asked")

    monkeypatch.setattr(Path, "resolve", touched)
    with pytest.raises(InputError, match="must lie in ComfyUI's input folder"):
        input_path(name, "story")


def test_a_text_is_parsed_once_until_a_file_changes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anchorshot.comfyui import story_files

    Image.new("RGB", (32, 32)).save(folders / "input" / "fox.png")
    (folders / "input" / "a.yaml").write_text(TEXT)
    calls = []
    real = story_files.load_storyboard
    monkeypatch.setattr(story_files, "load_storyboard", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert asyncio.run(story.Storyboard.validate_inputs("a.yaml")) is True
    first = story.Storyboard.fingerprint_inputs("a.yaml")
    assert read_story("a.yaml") is read_story("a.yaml\n") and len(calls) == 1
    (folders / "input" / "a.yaml").write_text(TEXT.replace("WORD", "runs"))
    assert read_story("a.yaml").shots[0].scene == "A fox runs." and len(calls) == 2
    second = story.Storyboard.fingerprint_inputs("a.yaml")
    (folders / "input" / "fox.png").unlink()
    assert "is a picture that does not exist" in str(asyncio.run(story.Storyboard.validate_inputs("a.yaml")))
    assert len({first, second, story.Storyboard.fingerprint_inputs("a.yaml")}) == 3


def test_files_of_linked_texts(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("shots: [a]")
    linked = LinkedFiles()
    assert linked.version("5") == 0
    linked.note("5", {first: identity(first), second: identity(second)})
    assert linked.version("5") == linked.version("6") == 0
    first.write_text("shots: [b]")  # the same size, in the same moment
    assert linked.version("5") == linked.version("5") == 1 and linked.version("6") == 0
    second.write_text("x")
    assert linked.version("5") == 2
    first.unlink()
    assert linked.version("5") == 3


def test_paths_of_the_server_stay_its_own(folders: Path) -> None:
    (folders / "input" / "a.yaml").write_text(TEXT)
    (folders / "input" / "fox.png").write_bytes(b"not a picture")
    for text in ("a.yaml", "gone.yaml", "x/y.yaml", TEXT.replace("fox.png", "gone.png"), "input.yaml"):
        answer = asyncio.run(story.Storyboard.validate_inputs(text))
        assert answer is True or str(folders) not in str(answer)
    with pytest.raises(InputError) as caught, relative_paths():
        raise InputError("image", "must be a picture", str(folders / "input" / "fox.png"), "save it again")
    assert caught.value.value == "fox.png"


# --- on a server -----------------------------------------------------------------------------------------------------


def linked(server: ComfyServer) -> tuple[str, set[str]]:
    """The first prompt that a linked text gives, and the nodes that were not run again."""
    prompt = {
        "t": node("PrimitiveStringMultiline", value="linked.yaml"),
        "story": node("AnchorshotStoryboard", story=["t", 0]),
        "p": node("PreviewAny", source=["story", 1]),
    }
    history = server.run(prompt)
    assert history["status"]["status_str"] == "success", history["status"]
    (cached,) = (data["nodes"] for kind, data in history["status"]["messages"] if kind == "execution_cached")
    return str(history["outputs"].get("p", {}).get("text")), set(cached)


def test_edited_files_and_replaced_pictures_of_a_linked_text_are_noticed(server: ComfyServer) -> None:
    file, picture = server.base / "input" / "linked.yaml", server.base / "input" / "fox.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    file.write_text(TEXT)
    assert "A fox WORD." in linked(server)[0]
    assert {"story", "p"} <= linked(server)[1]
    file.write_text(TEXT.replace("WORD", "runs"))
    prompt, cached = linked(server)
    assert "A fox runs." in prompt and "story" not in cached
    assert "story" in linked(server)[1]
    Image.new("RGB", (32, 32), "blue").save(picture)
    assert "story" not in linked(server)[1]
    assert "story" in linked(server)[1]


NASTY = {
    "values": "shots: [" + "a," * 500_000 + "a]",
    "places": "place,scene\n" + "".join(f"p{i},x\n" for i in range(20_000)),
    "depth": "a: " + "[" * 900_000,
    "tags": '{"characters":{"a":"b"},"shots":[' + ",".join(['{"scene":"%s"}' % ("<a>" * 330)] * 1000) + "]}",
    "huge": "x" * (20 << 20),
}


def slowest_other(server: ComfyServer, story: str) -> float:
    """Seconds that the slowest small request takes while a text is validated, which must be refused."""
    slowest = 0.0
    done = threading.Event()

    def others() -> None:
        nonlocal slowest
        while not done.is_set():
            start = time.monotonic()
            server.get("/prompt")
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.01)

    watcher = threading.Thread(target=others)
    watcher.start()
    try:
        with pytest.raises(RuntimeError, match="HTTP 400"):
            server.post("/prompt", {"prompt": {"s": node("AnchorshotStoryboard", story=story), "p": text_of("s", 9)}})
    finally:
        done.set()
        watcher.join()
    return slowest


@pytest.mark.parametrize("name", NASTY)
def test_no_text_holds_up_other_requests(server: ComfyServer, name: str) -> None:
    # The best of three, because another process may hold the machine up for a second.
    assert any(slowest_other(server, NASTY[name]) < 1.0 for _ in range(3))


@pytest.mark.usefixtures("folders")
def test_node_and_command_read_the_same(tmp_path: Path) -> None:
    for suffix, text in {
        ".yaml": "shots: [{scene: A fox.}]", ".json": '[{"scene": "A fox."}]', ".csv": "Scene,Description\n1,A fox.\n",
        ".tsv": "Shot\tDescription\n1A\tA fox.\n", ".fountain": "INT. BARN - DAY\n\nA fox.\n",
        ".fdx": "<FinalDraft><Content><Paragraph Type='Action'><Text>A fox.</Text></Paragraph></Content></FinalDraft>",
        ".txt": "[1s: A fox] [3s: A hen]",
    }.items():  # fmt: skip
        (tmp_path / f"a{suffix}").write_text(text)
        (tmp_path / "input" / f"a{suffix}").write_text(text)
        command, pasted, named = load_storyboard(tmp_path / f"a{suffix}"), read_story(text), read_story(f"a{suffix}")
        assert command.to_dict() == named.to_dict() and command.notes == named.notes == pasted.notes
        assert command.shots == pasted.shots and command.places == pasted.places


def check(server: ComfyServer, body: bytes) -> tuple[int, Any]:
    """What the server answers to a text that is being typed: status, and the complaint of a good answer."""
    request = urllib.request.Request(f"{server.url}{story_route.PATH}", body, {"Content-Type": "text/plain"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)["complaint"]
    except urllib.error.HTTPError as error:
        return error.code, None


def test_a_text_is_checked_while_it_is_typed(server: ComfyServer) -> None:
    assert check(server, story.SAMPLE.encode()) == (200, "")
    bad = "shots:\n  - id: s01\n    action: hello\n    secnds: 3\n"
    status, complaint = check(server, bad.encode())
    assert status == 200 and complaint.startswith("line 4, shots[0].secnds: is not a known field")
    assert complaint == asyncio.run(story.Storyboard.validate_inputs(bad))
    assert "must lie in ComfyUI's input folder" in check(server, b"/etc/story.yaml")[1]
    assert check(server, b"\xff\xfe\x00")[0] == 200
    assert check(server, b"x" * (MAX_BYTES + 1))[1] == story_route.complaint("x" * (MAX_BYTES + 1)) != ""
    assert check(server, b"x" * (4 * MAX_BYTES + 1)) == (413, None)


def test_typing_holds_up_nobody(server: ComfyServer) -> None:
    """Large texts, several at once: another request is answered while they are read."""
    large = ("shots:\n" + "".join(f"- {{id: s{k}, action: A fox runs.}}\n" for k in range(900))).encode()
    threads = [threading.Thread(target=check, args=(server, large + b"\n" * k)) for k in range(4)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    server.get("/queue")
    alone, busy = time.monotonic() - start, any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert alone < (time.monotonic() - start) / 2 or not busy

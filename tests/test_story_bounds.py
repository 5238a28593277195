"""Whatever is written: reading takes time in proportion to its size, and ends in a storyboard or in one line."""

from __future__ import annotations

import gc
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.core.limits import MAX_BYTES, MAX_DEPTH, MAX_LINES, MAX_NAMED, MAX_SHOTS, MAX_TAGS, MAX_VALUES
from anchorshot.story.load import read_story_text
from anchorshot.story.storyboard import Storyboard, parse_storyboard

KINDS = ("auto", "yaml", "json", "csv", "txt", "timed", "fountain", "fdx")
TAGS = "<a>" * MAX_TAGS

# Each grows with n; none may cost more than its size. A number of characters for each, about 400 kB in all.
GROWING = {
    "values": lambda n: "shots: [" + "a," * n + "a]",
    "places": lambda n: "place,scene\n" + "".join(f"p{i},x\n" for i in range(n // 8)),
    "places of one stem": lambda n: "place,scene\n" + "".join(f"{'a' * 60} {i},x\n" for i in range(n // 60)),
    "characters": lambda n: "scene\n" + "".join(f"<{'n' * 30}{i}: x> y\n" for i in range(n // 40)),
    "characters of one shot": lambda n: "".join(f"<n{i}: x>" for i in range(n // 8)),
    "tags": lambda n: "characters: {a: b}\nshots:\n" + "".join(f"- {{scene: {TAGS}}}\n" for _ in range(n // 150)),
    "open tags": lambda n: "<a " * (n // 3),
    "open brackets": lambda n: "[" * n,
    "brackets": lambda n: "[a]" * (n // 3),
    "bracket items": lambda n: "[" + "CU," * (n // 3) + "] x",
    "timed brackets": lambda n: "".join(f"[{i}s: x] " for i in range(n // 9)),
    "open timed brackets": lambda n: "[1s: " * (n // 5),
    "paragraphs": lambda n: "a\n\n" * (n // 3),
    "lines": lambda n: "a\n" * (n // 2),
    "items": lambda n: "- a\n" * (n // 4),
    "settings": lambda n: "".join(f"# fps: {i}\n" for i in range(n // 10)),
    "headings": lambda n: "INT. A - DAY\n\nb.\n\n" * (n // 18),
    "notes": lambda n: "INT. A\n\n" + "[[" * (n // 2),
    "omissions": lambda n: "INT. A\n\n" + "/* */" * (n // 5),
    "title page": lambda n: "Title: x\n" + "   more\n" * (n // 8),
    "elements": lambda n: "<FinalDraft>" + "<a/>" * (n // 4) + "</FinalDraft>",
    "attributes": lambda n: "<FinalDraft " + " ".join(f'a{i}="1"' for i in range(n // 8)) + "/>",
    "fences": lambda n: "```\n" * (n // 4),
    "fences in a line": lambda n: "~~~* a" * (n // 6) + "```\n",
    "rules": lambda n: "|scene|id|\n" + "|-" * (n // 2),
    "columns": lambda n: "scene" + ",x" * (n // 2),
    "quotes": lambda n: 'scene,id\n"' + "a\n" * (n // 2),
    "unknown fields": lambda n: "{" + ",".join(f'"k{i}":1' for i in range(n // 10)) + "}",
    "empty shots": lambda n: '{"shots":[' + "{}," * (n // 3) + "{}]}",
    "sexagesimal": lambda n: "title: " + "1:" * (n // 2) + "1",
    "digits": lambda n: "title: " + "9" * n,
    "marks": lambda n: "shots: [{scene: a" + "\u0301\u0327" * (n // 4) + "}]",
    "deep lists": lambda n: "- " * (n // 2),
    "directives": lambda n: "".join(f"%TAG !a{i}! x\n" for i in range(n // 15)) + "--- a",
    "anchors": lambda n: "shots: [" + "&a b," * (n // 5) + "]",
}


def outcome(text: str, kind: str) -> Storyboard | str:
    try:
        board = parse_storyboard(text, kind)
    except InputError as error:
        message = str(error)
        assert message.isprintable() and "(got " in message and len(message) < 600
        return message
    assert len(board.captions()) == len(board.shots) >= 1
    return board


def cost(text: str, kind: str) -> float:
    """Processor time without the collector: it walks through all that other tests have left behind."""
    gc.disable()
    try:
        start = time.process_time()
        outcome(text, kind)
        return time.process_time() - start
    finally:
        gc.enable()


@pytest.mark.parametrize("name", GROWING)
def test_time_grows_with_the_size(name):
    """Four times the text may take four times as long, and noise: quadratic work would take sixteen times."""
    make = GROWING[name]
    small, large = make(15_000), make(60_000)
    first = min(cost(small, "auto") for _ in range(3))
    # the least of three: another process, or this one's own garbage, may double any one of them
    assert min(cost(large, "auto") for _ in range(3)) < 8 * first + 0.25


def test_a_megabyte_is_read_or_refused_at_once():
    for text in (
        GROWING[name](1_000_000)[: MAX_BYTES - 1] for name in ("values", "places", "paragraphs", "open brackets")
    ):
        assert cost(text, "auto") < 2.0  # half a second at most where it was measured
    assert "must be at most 1048576 bytes" in outcome("x" * (MAX_BYTES + 1), "auto")
    assert "must be at most 1048576 bytes" in outcome("ü" * (MAX_BYTES // 2 + 1), "yaml")
    assert f"must have at most {MAX_LINES} lines" in outcome("a\n\n" * MAX_LINES, "txt")


def test_limits_are_where_they_say():
    shots = "scene\n" + "A fox.\n" * MAX_SHOTS
    assert len(parse_storyboard(shots, "csv").shots) == MAX_SHOTS
    assert f"at most {MAX_SHOTS}" in outcome(shots + "One more.\n", "csv")
    assert f"at most {MAX_SHOTS}" in outcome("A fox.\n\n" * (MAX_SHOTS + 1), "txt")
    assert f"at most {MAX_SHOTS}" in outcome('{"shots": [' + '{"scene": "a"},' * MAX_SHOTS + '{"scene": "a"}]}', "json")
    places = "place,scene\n" + "".join(f"place {i}x,A fox.\n" for i in range(MAX_NAMED))
    assert len(parse_storyboard(places, "csv").places) == MAX_NAMED
    assert f"at most {MAX_NAMED}" in outcome(places + "another,A fox.\n", "csv")
    cast = "".join(f"<n{i}: a fox> runs.\n\n" for i in range(MAX_NAMED))
    assert len(parse_storyboard(cast, "txt").characters) == MAX_NAMED
    assert f"at most {MAX_NAMED}" in outcome(cast + "<another: a fox> runs.", "txt")
    assert len(parse_storyboard("<a: b>\n\n" + TAGS, "txt").captions()) == 2
    assert f"at most {MAX_TAGS} <Name> tags" in outcome("<a: b>\n\n<a>" + TAGS, "txt")
    deep = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert read_story_text(deep, "yaml").data and "must not nest deeper" in outcome(deep.replace("[", "[[", 2), "yaml")
    assert f"{MAX_VALUES} values" in outcome("a: [" + "1," * (3 * MAX_VALUES) + "1]", "yaml")
    flat = "a: [" + "1," * 20_000 + "1]"
    assert len(read_story_text(flat, "yaml").data["a"]) == 20_001


def test_digits_that_are_no_numbers():
    for text, kind in (
        ("characters: {'²': 'a <b>'}\nshots: [{scene: a}]", "yaml"),
        ("scene,seed\na,²", "csv"),
        ("scene,frames\na,٣", "csv"),
        ("scene,seconds\na," + "9" * 4000, "csv"),
        ("scene,seconds\na,²", "csv"),
        ("[² s] a fox", "txt"),
        ("# size: ²x²\na fox", "txt"),
        ("# fps: " + "9" * 4000 + "\na", "txt"),
        ('{"shots":[{"scene":"a","seed":1e400}]}', "json"),
        ("shots: [{scene: a, seed: " + "9" * 4000 + "}]", "yaml"),
        ("[" + "9" * 4000 + "s: a fox]", "timed"),
    ):
        assert isinstance(outcome(text, kind), str), text[:60]


def test_messages_are_short_whatever_is_named():
    long = "n" * 5000
    for text in (
        f"{long}: 1\nshots: [{{scene: a}}]",
        f"shots: [{{{long}: 1, scene: a}}]",
        f"characters: {{{long}: x}}\nshots: []",
        f"shots: [{{scene: a, place: {long}}}]",
        f"shots: [{{scene: <{long}>}}]",
        f"places: {{{long}: {long}}}\nshots: []",
        f"shots: [{{scene: a, camera: {{scale: {long}}}}}]",
        f"{{{long}",
    ):
        assert isinstance(outcome(text, "yaml"), str)
    assert "None" not in outcome("shots: []", "yaml")
    assert len(str(InputError(long, long, long, long, long))) < 600


SEEDS = (
    "title: T\ncharacters: {Mira: a fox}\nshots:\n- {id: s1, scene: <Mira> runs., keyframes: [{at: 0}]}\n",
    '{"shots": [{"scene": "a fox", "camera": {"scale": "CU"}}]}',
    "# fps: 24\nShot,Location,Description,Duration\n1A,the desert,<Mira: a fox> runs.,2s\n1B,the town,<Mira>,0:03\n",
    "[the desert; CU; 2,5 s] <Mira: a fox> runs.\n\n[MS] <Mira> waits.\n",
    "1. A fox.\n2. A hen.\n",
    "[1s: a fox] [3s: a hen]\n",
    "0:00 a fox\n0:03 a hen\n",
    '0: "a fox"\n16: "a hen"\n',
    "Title: T\n\nINT. BARN - DAY #1#\n\nA fox [[note]].\n\nFOX\nHm.\n\nCUT TO:\n\n> The end <\n",
    "<FinalDraft><Content><Paragraph Type='Action'><Text>A fox.</Text></Paragraph></Content></FinalDraft>",
    "Here:\n```csv\nscene;seconds\na;2\n```\n",
    "| scene | seconds |\n|---|---|\n| a | 2 |\n",
)
NOISE = st.text(max_size=6) | st.sampled_from(
    [
        "{",
        "[",
        "]",
        "[[",
        "/*",
        ":",
        "- ",
        "&a ",
        "*a",
        '"',
        "\t",
        "\n",
        "\n\n",
        "<",
        ">",
        "#",
        "%",
        "|",
        ";",
        "0:",
        "```",
        "²",
        "INT. ",
    ]
)


@settings(deadline=None, derandomize=True, max_examples=250)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), NOISE), min_size=1, max_size=3),
    st.sampled_from(KINDS),
)
def test_a_changed_text_is_read_or_refused_with_one_line(text, changes, kind):
    for where, cut, noise in changes:
        at = int(where * len(text))
        text = text[:at] + noise + text[at + cut :]
    outcome(text, kind)
    outcome(text, "auto")

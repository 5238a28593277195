"""Fountain and Final Draft: what is action becomes shots, all else is left out."""

from __future__ import annotations

import re

from story_texts import read, refused, told

from anchorshot.story.headings import heading_place

FOUNTAIN = """\
Title: _**The Lamp**_
Author: A. Person

FADE IN:

# Act one
= A keeper is alone.

12A INT. LIGHTHOUSE - NIGHT #12A#

A keeper climbs [[slowly?]] the *stairs*
with a lamp.

KEEPER (V.O.)
(whispering)
It still burns.

/* The storm
comes later. */

The lamp goes out. [[camera: close
on the lamp]]

DISSOLVE TO:

.the harbour

> THE NEXT DAY <

!BOATS rock.

EXT. BEACH - DAY

MIRA
Nothing here.

> FADE OUT.
"""


def test_fountain():
    board = read(FOUNTAIN)
    assert board.title == "The Lamp"
    assert [(s.scene, s.transition) for s in board.shots] == [
        ("A keeper climbs the stairs with a lamp.", "cut"),
        ("The lamp goes out.", "cut"),
        ("BOATS rock.", "blend"),
    ]
    assert [board.places[s.place] for s in board.shots] == ["inside the lighthouse at night"] * 2 + ["the harbour"]
    prompts = " ".join(caption.prompt for caption in board.captions())
    assert not re.search(r"12|KEEPER|burns|storm|camera|slowly|alone|Act", prompts)
    assert board.notes[0].startswith("2 speeches were left out") and board.notes[2].startswith("1 scene has no action")
    assert told("[[PANEL+]]A lazy afternoon.\n\n[[PANEL]]A man enters.") == ["A lazy afternoon.", "A man enters."]
    assert "at least one shot" in refused("INT. HOUSE - DAY\n\nMIRA\nHello.\n")
    assert read("# fps: 24\n\nINT. HOUSE - DAY\n\nA fox.").fps == 24


def test_scene_headings():
    for heading, place in {
        "INT. KITCHEN - DAY": "inside the kitchen by day",
        "EXT. JOHN'S HOUSE - LATER": "at john's house",
        "INT./EXT. Car - Dusk": "Car at dusk",
        "EXT. THE MOON": "at the moon",
        "3 INT. ROOM 12 - CONTINUOUS": "inside room 12",
        "EXT. PARK -- NIGHT": "at the park at night",
        "INT.": "",
    }.items():
        assert heading_place(heading) == place


FDX = """<?xml version="1.0" encoding="UTF-16"?>
<FinalDraft DocumentType="Script" Version="5"><Content>
<Paragraph Number="7" Type="Scene Heading">
<SceneProperties><Summary><Paragraph><Text>7 summary</Text></Paragraph></Summary></SceneProperties>
<Text>INT. BARN - NIGHT</Text></Paragraph>
<Paragraph Type="Action"><Text>A fox </Text><Text Style="Bold">runs</Text><Text> &amp; jumps.</Text></Paragraph>
<Paragraph Type="Character"><Text>FOX</Text></Paragraph><Paragraph Type="Dialogue"><Text>Hm.</Text></Paragraph>
<Paragraph Type="Transition"><Text>DISSOLVE TO:</Text></Paragraph>
<Paragraph Type="Shot"><Text>THE DOOR:</Text></Paragraph><Paragraph Type="Action"><Text>It opens.</Text></Paragraph>
</Content><TitlePage><Content><Paragraph><Text>No shot</Text></Paragraph></Content></TitlePage></FinalDraft>
"""


def test_final_draft():
    board = read(FDX)
    assert [(s.scene, s.transition) for s in board.shots] == [
        ("A fox runs & jumps.", "cut"),
        ("THE DOOR. It opens.", "blend"),
    ]
    assert set(board.places.values()) == {"inside the barn at night"} and board.notes[0].startswith("1 speech")
    assert "must not declare a document type" in refused('<!DOCTYPE x [<!ENTITY a "b">]>\n<FinalDraft/>')
    assert "must be a Final Draft document" in refused('<?xml version="1.0"?><Other/>')
    assert "fdx text line 2, column" in refused("<FinalDraft>\n<Content>")
    assert "must not nest deeper" in refused("<FinalDraft>" + "<a>" * 100)

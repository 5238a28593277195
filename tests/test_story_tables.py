"""Shot lists: tables and lists of objects, as people, tools and chat programs write them."""

from __future__ import annotations

import re
from fractions import Fraction

from story_texts import read, refused


def test_numbers_of_scenes_and_shots_stay_out_of_the_prompt():
    board = read(
        "Scene #,Shot #,Shot Size,Shot Type,Movement,Lens,Description,Cast,Location\n"
        "1,1,WS,Eye Level,Static,35mm,A fox runs,Fox,the desert\n"
        "1,2,CU,Low Angle / OTS,Pan Left,50mm,A fox stops,Fox,\n"
        "2,1,MS,Two Shot,,35mm,A hen sits,Hen,the barn\n"
    )
    assert [s.id for s in board.shots] == ["1-1", "1-2", "2-1"]
    assert not any(re.search(r"\d", caption.prompt) for caption in board.captions())
    assert board.shots[1].camera.model_dump() == {"scale": "close-up", "angle": "low angle", "movement": "pan left"}
    assert board.notes == ("left out the columns Lens, Cast", "line 4: “Two Shot” is no camera term and was left out")
    plain = read("Scene,Shot,Location,Action\n1,1A,the desert,A fox.\n1,1B,the desert,A hen.\n2,2A,the barn,A cow.\n")
    assert [s.id for s in plain.shots] == ["1A", "1B", "2A"] and not plain.notes
    assert [s.place for s in plain.shots] == ["desert", "desert", "barn"] and plain.shots[0].scene == ""
    assert "is only a number" in refused("scene,seconds\nA fox.,2\n12,2\n")
    assert "must be words" in refused("scene,place\nA fox.,12\n")
    assert "in words" in refused("scene,place\n1,the desert\n2,the barn\n")


def test_columns_of_words():
    one = read("Scene,Description\nA beach at dawn,A fox waves\n").shots[0]
    assert (one.scene, one.action) == ("A beach at dawn", "A fox waves")
    assert read("Description,Visual\nA fox,Red light\n").shots[0].scene == "A fox. Red light"
    assert read("Subject,Location\nA fox,the desert\n").shots[0].scene == "A fox"
    board = read("Location,Description\nINT. BARN - DAY,A fox\nEXT. FIELD - NIGHT,A hen\n")
    assert list(board.places.values()) == ["inside the barn by day", "at the field at night"]
    assert "did you mean `seconds`" in refused("scene,secnds\nA fox,2")
    assert read("scene,zzzz,,notes\nA fox,1,2,3\n").notes == ("left out the columns zzzz, no. 3 (no name), notes",)


def test_frames_of_production_trackers():
    text = "Sequence,Name,Description,Nb Frames,Frame In,Frame Out\nSQ1,SH10,A fox,48,1001,1048\n"
    board = read(text)
    assert board.shots[0].id == "SH10" and board.shots[0].seconds == 6.0 and "counted at 8 a second" in board.notes[0]
    board = read("# fps: 24\n" + text)
    assert board.shots[0].seconds == 2.0 and not board.notes
    assert read("Name,Description,FPS,Nb Frames\na,b,24,48\n").fps == 24
    assert read("description,frame in,frame out,fps\na,1001,1048,24\n").shots[0].seconds == 2.0
    assert read("description,TC In,TC Out\na,00:00:01:00,00:00:03:00\n").shots[0].seconds == 2.0
    assert "must be the same in all rows" in refused("scene,seconds,fps\na,1,24\nb,1,25\n")


def test_spreadsheets():
    semicolons = (
        "id;place;scene;seconds;keyframes\na1;die Wüste;<Mira: ein Fuchs> winkt.;2,125;\na2;;<Mira>;2,5;0; 1,0\n"
    )
    board = read("\ufeff" + semicolons)
    assert [s.seconds for s in board.shots] == [2.125, 2.5] and [k.at for k in board.shots[1].keyframes] == [0, 1.0]
    assert board.places == {"die-wuste": "die Wüste"}
    notes = read("My film,,\n,,\nShot,Description,Duration\n1,A fox,2\n").notes
    assert notes == ("left out the line before the header (line 1)",)
    trailing = read("id,scene,seconds,,\na1,A fox,2,,\na2,A hen,2,,\n,,,,\n")
    assert len(trailing.shots) == 2 and not trailing.notes
    assert read('"# title: A, B",,\nscene,seconds,seed\nA fox,2,1\n').title == "A, B"


def test_line_ends_of_old_macs_and_bars_within_cells():
    board = read("Shot,Description,Duration\r1A,a fox; red,2s\r1B,a hare,3s\r")
    assert [(s.id, s.scene, s.seconds) for s in board.shots] == [("1A", "a fox; red", 2), ("1B", "a hare", 3)]
    assert [s.scene for s in read("| Shot | Description |\n|---|---|\n| 1 | a fox \\| a hare |\n").shots] == [
        "a fox | a hare"
    ]


def test_timecodes_of_another_rate_tell_where_the_rate_is_written():
    rows = "Shot,Description,TC In,TC Out\n1,a fox,01:00:00:00,01:00:02:12\n"
    assert "`# fps: 24`" in refused(rows)
    assert read("# fps: 24\n" + rows).shots[0].seconds == 2.5


# --- as tools and chat programs write them ---------------------------------------------------------------------------


def cells(text: str) -> list[tuple[str, str, str, str, str, float | None]]:
    """What each shot shows, where, with which camera, and how long."""
    board = read(text)
    return [
        (s.scene or s.action, board.places.get(s.place or "", ""), s.camera.scale, s.camera.angle, s.camera.movement,
         s.seconds)
        for s in board.shots
    ]  # fmt: skip


def test_german_and_french_sheets() -> None:
    german = (
        "Einstellung;Szene;Ort;Beschreibung;Einstellungsgröße;Kamerawinkel;Kamerabewegung;Dauer (Sek.);Übergang\n"
        "1;1;Küche;Mira kommt herein.;Totale;Normalsicht;statisch;3,5;Schnitt\n"
        "2;2;Straße;Mira rennt.;Halbnah;Vogelperspektive;Schwenk links;4,25 Sek.;Überblendung\n"
    )
    assert cells(german) == [
        ("Mira kommt herein.", "Küche", "wide shot", "eye level", "static", 3.5),
        ("Mira rennt.", "Straße", "medium shot", "bird's-eye view", "pan left", 4.25),
    ]
    assert [s.transition for s in read(german).shots] == ["cut", "blend"] and not read(german).notes
    french = (
        "N° de plan\tLieu\tDescription\tValeur de plan\tAngle de prise de vue\tMouvement de caméra\tDurée (s)\n"
        "1\tla cuisine\tElle lit.\tGros plan\tContre-plongée\tTravelling avant\t2,5\n"
        "2\tla rue\tElle court.\tPlan américain\tPlongée\tPanoramique à gauche\t4 secondes\n"
    )
    assert cells(french) == [
        ("Elle lit.", "la cuisine", "close-up", "low angle", "dolly in", 2.5),
        ("Elle court.", "la rue", "medium wide shot", "high angle", "pan left", 4.0),
    ]


def test_a_column_of_shots_may_tell_their_framing() -> None:
    german = "Nr.;Bild;Inhalt;Einstellung;Kamera;Länge\n"
    german += "1;;Mira winkt.;Nahaufnahme;Schwenk rechts;2,5\n2;;Pip.;Totale;statisch;3\n"
    assert [c[2:5] for c in cells(german)] == [
        ("medium close-up", "eye level", "pan right"),
        ("wide shot", "eye level", "static"),
    ]
    french = "Séquence,Plan,Description,Cadrage,Mouvement,Durée\n"
    french += "1,1,Mira entre.,PM,fixe,3s\n1,2,Elle rit.,GP,travelling,2s\n"
    assert [(s.id, s.camera.scale, s.seconds) for s in read(french).shots] == [
        ("1", "medium shot", 3.0),
        ("2", "close-up", 2.0),
    ]
    assert read(french).notes == ("line 3: “travelling” is no camera term and was left out",)
    assert [s.camera.scale for s in read("#,Shot,Description\n1,CU,A fox.\n2,WS,A hen.\n").shots] == [
        "close-up",
        "wide shot",
    ]


def test_a_table_within_an_answer() -> None:
    text = (
        "Sure! Here is your shot list:\n\n| Shot | Time | Shot Type | Camera Movement | Description | Location |\n"
        "|---|---|---|---|---|---|\n"
        "| **1** | 0:00–0:03 | Wide shot | Slow push-in | A lighthouse stands. | Cliff |\n"
        "| **2** | 0:03–0:05 | Extreme close-up (hands) | Handheld, slight shake | He lights it. | N/A |\n\n"
        "Tell me what to change!\n"
    )
    assert cells(text) == [
        ("A lighthouse stands.", "Cliff", "wide shot", "eye level", "dolly in", 3.0),
        ("He lights it.", "", "extreme close-up", "eye level", "handheld", 2.0),
    ]
    assert read(text).notes == ("left out the text around the table",)
    two = "Scene 1\n\n| Shot | Description |\n|---|---|\n| 1 | A fox. |\n\nScene 2\n\n"
    two += "| Shot | Description |\n|---|---|\n| 2 | A hen. |\n"
    assert [s.scene for s in read(two).shots] == ["A fox.", "A hen."]
    assert "csv text line 11, scene: is only a number" in refused(two.replace("A hen.", "12"))
    assert "a second table with other columns" in refused("| Id | Action |\n|---|---|\n| 1 | A cow. |\n\n" + two)


def test_labelled_lines_under_headings() -> None:
    text = (
        "Here you go!\n\n### Shot 1: Night\n**Setting:** a kitchen\n**Camera:** close-up, slow push in\n"
        "**Action:** Mira opens\nthe letter.\n**Audio:** rain\n\n---\n\n### Shot 2\n- **Setting**: the street\n"
        "- Camera: wide shot\n- Action: She runs.\n- Duration: 4 seconds\n"
    )
    assert cells(text) == [
        ("Mira opens the letter.", "a kitchen", "close-up", "eye level", "dolly in", 2.125),
        ("She runs.", "the street", "wide shot", "eye level", "static", 4.0),
    ]
    assert read(text).notes == (
        "left out the column Audio",
        "left out the words of headings and lines without a label",
    )
    assert "has a label twice in one shot" in refused(text + "Action: She stops.\n")
    assert [s.scene for s in read("Shot 1: A fox.\nShot 2: CU: A hen.\n").shots] == ["A fox.", "A hen."]


def test_words_about_the_camera() -> None:
    head = "Description,Shot Size,Camera Movement,Camera Angle\nA fox,"
    camera = read(head + "Medium two-shot,Tracking shot following the fox,Low angle looking up\n").shots[0].camera
    assert camera.model_dump() == {"scale": "medium shot", "angle": "low angle", "movement": "tracking"}
    board = read(head + "CU,Pan,high\n")
    assert board.shots[0].camera.movement == "static" and "“Pan” is no camera term" in board.notes[0]
    assert "did you mean `pan left`" in refused(head + "CU,pan lft,high\n")
    assert "must be one of" in refused(head + "huge,,\n")
    board = read("Description,Transition\nA fox,\nA hen,Whip pan\n")
    assert board.shots[1].transition == "cut" and "the transition “Whip pan” is no cut or blend" in board.notes[0]
    assert "transition" in refused("Description,Transition\nA fox,\nA hen,blnd\n")
    assert read("Shot,Time,Description\n1,Day,A fox.\n2,Night,A hen.\n").notes == ("left out the column Time",)


# --- rates and frames ------------------------------------------------------------------------------------------------


def test_a_column_of_the_frame_rate() -> None:
    for values in (("24", "24"), ("24", "24.0"), ("24 fps", ""), ("24p", "24")):
        board = read("Description,Seconds,FPS\na,1,{}\nb,1,{}\n".format(*values))
        assert board.fps == 24 and not board.notes
    assert read("Description,Seconds,Frame Rate\na,1,23.98\nb,1,23.976\n").rate == Fraction(24_000, 1001)
    assert "must be the same in all rows" in refused("Description,FPS\na,24\nb,60\n")
    assert "line 2, fps: must be a number" in refused("Description,FPS\na,fast\nb,60\n")
    board = read("# fps: 25\nDescription,FPS\na,24\nb,60\n")
    assert board.fps == 25 and board.notes == ("left out the column FPS",)


def test_production_frame_counts_are_lengths() -> None:
    board = read("Shot,Description,Frames,FPS\n010,A fox,48,24\n020,A hen,33,24\n")
    assert [(s.frames, s.seconds) for s in board.shots] == [(None, 2.0), (None, 33 / 24)]
    assert [s.timeline(board.fps).frames for s in board.shots] == [49, 33]
    (note,) = board.notes
    assert note.startswith("Frames: counts that are no 4n+1 become the nearest length")
    board = read("Shot,Description,Frames\n010,A fox,49\n020,A hen,33\n")
    assert [s.frames for s in board.shots] == [49, 33] and not board.notes


# --- lists of objects ------------------------------------------------------------------------------------------------

FILM = """{
  "title": "The Lamp", "logline": "A keeper lights a lamp.", "fps": 24,
  "characters": [{"name": "Keeper", "description": "an old man"}],
  "shots": [
    {"shot_number": 1, "location": "a cliff", "shotType": "Wide shot", "camera_movement": "Slow push-in",
     "description": "A lighthouse stands.", "duration": "3s", "dialogue": null},
    {"shot_number": 2, "location": "the lamp room", "shotType": "Medium close-up", "camera_movement": "Handheld",
     "description": "<Keeper> lights the lamp.", "duration": 2.5, "dialogue": "Come on."}]}"""


def test_objects_are_read_by_the_names_of_tables() -> None:
    board = read(FILM)
    assert cells(FILM) == [
        ("A lighthouse stands.", "a cliff", "wide shot", "eye level", "dolly in", 3.0),
        ("<Keeper> lights the lamp.", "the lamp room", "medium close-up", "eye level", "handheld", 2.5),
    ]
    assert (board.title, board.fps, board.characters) == ("The Lamp", 24, {"Keeper": "an old man"})
    assert set(board.notes) == {"left out of the film: logline", "left out the column dialogue"}
    for shots in (
        '[{"shot": 1, "description": "A fox.", "camera": "CU, low angle", "duration": 4}]',
        '[{"shot": 1, "scene": "A fox.", "camera": {"shot": "CU", "angle": "low angle"}, "duration_seconds": 4.0}]',
        '{"film": {"scenes": [{"scene_number": 1, "description": "A fox.", "camera": ["CU", "low"], "length": 4}]}}',
        "- shot: 1\n  description: A fox.\n  camera: close-up, low angle\n  duration: 0:04\n",
    ):
        assert cells(shots)[0][0] == "A fox." and cells(shots)[0][2] == "close-up" and cells(shots)[0][5] == 4.0, shots


def test_scenes_that_hold_shots() -> None:
    text = """{"scenes": [
      {"scene_number": 1, "location": "INT. BARN - NIGHT", "summary": "x",
       "shots": [{"shot": 1, "description": "A fox."}, {"shot": 2, "description": "A hen."}]},
      {"scene_number": 2, "location": "the sea", "shots": [{"shot": 1, "description": "A boat.", "frames": 48}]}]}"""
    board = read(text)
    assert [(s.id, board.places[s.place or ""], s.scene) for s in board.shots] == [
        ("1-1", "inside the barn at night", "A fox."),
        ("1-2", "inside the barn at night", "A hen."),
        ("2-1", "the sea", "A boat."),
    ]
    assert board.shots[2].seconds == 6.0 and "left out of the scenes: summary" in board.notes


def test_objects_that_cannot_be_read_name_the_shot() -> None:
    assert "json text shot 2, seconds: must be a length of time" in refused(
        '[{"description": "a", "duration": 2}, {"description": "b", "duration": "long"}]'
    )
    assert "must be words or a number" in refused('[{"shot": 1, "description": {"a": 1}}]')
    assert "must be the same in all rows" in refused(
        '[{"description": "a", "fps": 24}, {"description": "b", "fps": 25}]'
    )
    assert "did you mean `seconds`" in refused('[{"description": "a", "secnds": 24}]')
    # In a storyboard's own words a misspelt field is a misspelt field.
    assert "shots[0].secs: is not a known field" in refused(
        "places: {a: the sea}\nshots: [{id: a, scene: b, secs: 2}]\n"
    )
    assert "did you mean `scene`" in refused('{"shots": [{"scnee": "a fox"}]}')
    assert "must be 4n+1" in refused('{"shots": [{"scene": "a fox", "frames": 48}]}')


def test_a_match_begins_with_the_frame_before_and_a_match_cut_is_a_cut() -> None:
    board = read("Description,Transition\nA fox,\nA hen,match\nA cow,match cut\n")
    assert [shot.transition for shot in board.shots] == ["cut", "match", "cut"] and not board.notes

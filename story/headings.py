"""Scene headings of screenplays, ``INT. LIGHTHOUSE - NIGHT #12#``, as the words of a place."""

from __future__ import annotations

import re

__all__ = ["heading_place", "is_heading"]

_SCENE_NUMBER = r"(?:\d{1,4}[A-Za-z]{0,2}[.)]?\s+)?"
# Small letters need the full stop: "est un chien" is a sentence.
_HEADING = re.compile(
    _SCENE_NUMBER
    + r"(?:(?:INT\.?\s?/\s?EXT|EXT\.?\s?/\s?INT|I/E|INT|EXT|EST)(?:\.|\s|$)|(?i:int\.?\s?/\s?ext|int|ext|i/e)\.)"
)
_NUMBER = re.compile(r"#[\w.\-]{1,12}#|(?:\s{2,}|\t)\d{1,4}[A-Za-z]{0,2}$")
_PREFIX = re.compile(
    _SCENE_NUMBER + r"(INT\.?\s?/\s?EXT|EXT\.?\s?/\s?INT|I/E|INT|EXT|EST)(?:\.\s*|\s+|$)", re.IGNORECASE
)
_PARTS = re.compile(r"\s+[-–—]+\s+|\s*[–—]\s*")
_TIMES = {
    "day": "by day", "night": "at night", "dawn": "at dawn", "sunrise": "at sunrise", "morning": "in the morning",
    "early morning": "in the early morning", "noon": "at noon", "midday": "at noon", "afternoon": "in the afternoon",
    "late afternoon": "in the late afternoon", "dusk": "at dusk", "sunset": "at sunset", "evening": "in the evening",
    "midnight": "at midnight", "magic hour": "at dusk", "golden hour": "at sunset",
}  # fmt: skip
# Said of the story, not of what is seen.
_UNSEEN = {
    "continuous", "cont'd", "later", "moments later", "same", "same time", "same day", "next day", "the next day",
    "present", "present day", "flashback", "days later", "hours later", "minutes later", "a moment later", "that night",
}  # fmt: skip
_OWN_ARTICLE = re.compile(
    r"(?:the|a|an|his|her|their|my|our|its|this|that)\b|.*['’]s?\b|.*\d|[^\W\d_]+s['’](?:\s|$)", re.I
)


def is_heading(line: str) -> bool:
    """Whether a line is a scene heading by its look; ``.FORCED`` ones are Fountain's and known there only."""
    return len(line) < 300 and _HEADING.match(line) is not None


def heading_place(line: str) -> str:
    """The words of a place that a heading tells: ``INT. LIGHTHOUSE - NIGHT`` → ``inside the lighthouse at night``.

    Scene numbers and words such as CONTINUOUS are left out. Capitals become small letters, because a heading's capitals
    say nothing; a heading in mixed case keeps its own. Empty if nothing is left.
    """
    line = " ".join(_NUMBER.sub("", line).split())
    found = _PREFIX.match(line)
    side = found[1].upper().replace(" ", "") if found else ""
    rest = line[found.end() :] if found else line
    shouted = rest.upper() == rest
    parts = [part.strip(" .") for part in _PARTS.split(rest)]
    time = ""
    words = []
    for part in filter(None, parts):
        plain = re.sub(r"\s*\(.*\)$", "", part.lower()) if len(part) < 80 else part.lower()
        if plain in _TIMES:
            time = f" {_TIMES[plain]}"
        elif plain not in _UNSEEN:
            words.append(part.lower() if shouted else part)
    if not words:
        return ""
    place = ", ".join(words)
    if shouted and not _OWN_ARTICLE.match(place[:80]):
        place = f"the {place}"
    lead = "inside " if side == "INT" else "at " if side in ("EXT", "EST") else ""
    return f"{lead}{place}{time}"

"""Times and the 4n+1 grid: the bound of 2 frames, order, round trips, refusals."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.story.timeline import MAX_FRAMES, Keyed, Time, Timeline, frame_rate

RATES = st.sampled_from([1, 8, 12, 12.5, 16, 23.976, 24, 25, 29.97, 30, 59.94, 60, 120])


@st.composite
def requests(draw):
    """Frame rate, seconds and keyframe times at least one frame apart and inside the shot."""
    fps = draw(RATES)
    rate = frame_rate(fps)
    length = draw(st.floats(0.3, 200.0))
    seconds = float(Fraction(length) / rate)
    gaps = draw(st.lists(st.floats(1.0, 30.0), max_size=12))
    positions, now = [], draw(st.floats(0.0, 20.0))
    last = max(Time.from_seconds(seconds, fps).position, Fraction(1)) - 1
    for gap in gaps:
        time = Time.from_seconds(float(Fraction(now) / rate), fps)
        if time.position > last:
            break
        if not positions or time.position >= positions[-1].position + 1:
            positions.append(time)
        now += gap
    return fps, seconds, positions


@settings(deadline=None, derandomize=True, max_examples=300)
@given(requests())
def test_every_chunk_is_4n_plus_1_and_nothing_moves_more_than_two_frames(request_):
    fps, seconds, times = request_
    timeline = Timeline.plan(fps, seconds, times)
    assert all(n >= 1 and n % 4 == 1 for n in timeline.chunks)
    assert all(start % 4 == k % 4 for k, start in enumerate(timeline.chunk_starts))
    assert [k.requested for k in timeline.keyframes] == times  # what was asked is kept, exactly
    for key in timeline.keyframes:
        assert key.error <= 2
        assert key.snapped.position == key.frame
        assert key.frame in timeline.chunk_starts
    frames = timeline.keyframe_frames
    assert frames == sorted(set(frames)) and all(0 <= f < timeline.frames for f in frames)
    assert abs(timeline.length.position - timeline.requested.position) <= 2
    assert len(timeline.chunks) - len(frames) in (0, 1)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(requests())
def test_json_round_trip_is_equal(request_):
    timeline = Timeline.plan(*request_)
    assert Timeline.from_json(timeline.to_json()) == timeline
    assert Timeline.from_json(json.loads(timeline.to_json())) == timeline


@settings(deadline=None, derandomize=True, max_examples=200)
@given(RATES, st.integers(0, 200_000))
def test_time_converts_frames_seconds_and_timecode_without_loss(fps, frame):
    time = Time.from_frames(frame, fps)
    assert time.frame == frame and time.position == frame
    assert Time.from_timecode(time.timecode, fps) == time
    assert Time.from_seconds(time.seconds, fps).frame == frame
    if time.seconds < 1000:
        assert Time.from_seconds(time.seconds, fps) == time


def test_latents_count_and_keyframe_latents():
    timeline = Timeline.plan(8, 2.125, [0.0, 1.0])
    assert timeline.chunks == [9, 9] and timeline.frames == 18
    assert timeline.latent_chunks == [3, 3] and timeline.latents == 6
    assert timeline.keyframe_frames == [0, 9] and timeline.keyframe_latents == [0, 3]
    assert timeline.keyframes[1].requested.seconds == 1.0 and timeline.keyframes[1].snapped.seconds == 1.125
    assert timeline.requested.seconds == 2.125 and timeline.length.seconds == 2.25
    assert timeline.describe() == (
        "18 frames at 8 fps (2.250 s, asked 2.125 s); "
        "keyframes 0.000 s → 0.000 s (frame 0), 1.000 s → 1.125 s (frame 9)"
    )


def test_a_length_on_the_grid_with_one_keyframe_is_left_alone():
    for n in range(1, 82, 4):
        assert Timeline.plan(24, Fraction(n, 24)).chunks == [n]


def test_first_keyframe_near_the_start_is_frame_zero_and_a_later_one_leaves_a_free_chunk():
    near = Timeline.plan(8, 2.125, [0.25])
    assert near.keyframe_frames == [0] and near.chunks == [17]
    last = Timeline.plan(8, 2.125, [2.0])
    assert last.keyframe_frames == [17] and last.chunks == [17, 1] and last.keyframe_latents == [5]
    assert last.chunk_starts == [0, 17]
    assert Timeline.plan(8, 2.125, []).keyframes == []


def _glued(timeline):
    """Chunks of one frame whose bounds were asked for two frames apart or more."""
    asked = [key.requested.position for key in timeline.keyframes]
    starts = asked if timeline.keyframe_frames[:1] == [0] else [Fraction(0), *asked]
    ends = [*starts[1:], timeline.requested.position]
    return sum(n == 1 and b - a >= 2 for n, a, b in zip(timeline.chunks, starts, ends, strict=True))


def _all_ways(fps, seconds, times):
    """Every timeline within the bound: each bound on any frame of its grid at most two from where it was asked for."""
    end = max(Time.from_seconds(seconds, fps).position, Fraction(1))
    opens = bool(times) and times[0] <= 2
    marks = [*times[opens:], end]
    near = [
        [f for f in range(int(p) - 3, int(p) + 4) if f > 0 and f % 4 == k % 4 and abs(f - p) <= 2]
        for k, p in enumerate(marks, 1)
    ]
    for frames in itertools.product(*near):
        bounds = [0, *frames]
        if all(a < b for a, b in itertools.pairwise(bounds)):
            chunks = [b - a for a, b in itertools.pairwise(bounds)]
            starts = bounds[:-1] if opens else bounds[1:-1]
            keys = [
                Keyed.at_frame(Time(p / frame_rate(fps), frame_rate(fps)), f)
                for p, f in zip(times, starts, strict=True)
            ]
            yield Timeline(fps, chunks, keys, Time.from_seconds(seconds, fps))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.sampled_from([8, 16, 24]), st.lists(st.integers(2, 14), min_size=1, max_size=6), st.integers(4, 20))
def test_keyframes_are_glued_only_where_the_bound_leaves_no_choice(fps, gaps, rest):
    """Half frames: every choice that the bound leaves is tried."""
    times = [Fraction(sum(gaps[:k]), 2) for k in range(len(gaps))]
    times = [t for k, t in enumerate(times) if k == 0 or t - times[k - 1] >= 1]
    seconds = (times[-1] + Fraction(rest, 2)) / fps
    planned = Timeline.plan(fps, seconds, [t / fps for t in times])
    assert _glued(planned) == min(map(_glued, _all_ways(fps, seconds, times)))


def test_a_half_goes_down_where_that_keeps_keyframes_apart():
    apart = Timeline.plan(8, 2.125, [0.0, 7 / 8, 9 / 8])
    assert apart.keyframe_frames == [0, 5, 10] and apart.chunks[:2] == [5, 5]
    near = Timeline.plan(8, 2.125, [0.0, 7 / 8, 1.0])
    assert near.keyframe_frames == [0, 9, 10]  # neighbours on purpose


@pytest.mark.parametrize(("fps", "seconds", "at"), [(24, 4.958, 4.9167), (16, 5.1875, 5.156), (23.976, 4.963, 4.93)])
def test_half_a_frame_beyond_the_last_is_the_last(fps, seconds, at):
    """People write rounded seconds."""
    timeline = Timeline.plan(fps, seconds, [0, at])
    (_, last), length = timeline.keyframes, timeline.requested.position
    assert length - 1 - Fraction(1, 1000) <= last.requested.position <= length - 1
    assert last.error <= 2
    again = Timeline.plan(fps, seconds, [k.requested.seconds for k in timeline.keyframes])
    assert again == timeline == Timeline.from_json(timeline.to_json())
    beyond = float((length - 1 + Fraction(51, 100)) / timeline.rate)
    with pytest.raises(InputError, match="last frame"):
        Timeline.plan(fps, seconds, [0, beyond])


def test_neighbouring_frames_keep_their_order_at_every_offset():
    for first in range(0, 40):
        timeline = Timeline.plan(8, 10.0, [Fraction(first + k, 8) for k in range(12)])
        frames = timeline.keyframe_frames
        assert frames == sorted(set(frames))


def test_ntsc_rates_are_exact():
    assert frame_rate(23.976) == Fraction(24000, 1001)
    assert frame_rate(29.97) == Fraction(30000, 1001)
    assert frame_rate(59.94) == Fraction(60000, 1001)
    assert frame_rate(24) == 24 and frame_rate(12.5) == Fraction(25, 2) and frame_rate(120) == 120
    assert Timeline.plan(23.976, 2.0).rate == Fraction(24000, 1001)
    assert Timeline.plan(8.0, 2.0).fps == 8 and isinstance(Timeline.plan(8.0, 2.0).fps, int)


def test_timecode_reads_as_editors_write_it():
    time = Time.from_timecode("00:01:02:03", 24)
    assert time.frame == 62 * 24 + 3 and time.timecode == "00:01:02:03"
    assert Time.from_frames(6340, 120).timecode == "00:00:52:100"
    assert Time.from_timecode("00:00:52:100", 120).frame == 6340


@pytest.mark.parametrize(
    "timecode", ["", "1:2", "00:00:61:00", "00:60:00:00", "00:00:00:24", "a:b:c:d", "-1:00:00:00", "100:00:00:00"]
)
def test_bad_timecodes_are_refused(timecode):
    with pytest.raises(InputError, match="^timecode: "):
        Time.from_timecode(timecode, 24)


@pytest.mark.parametrize(
    ("fps", "seconds", "times", "field"),
    [
        (8, 0, [0], "seconds"),
        (8, -1, [0], "seconds"),
        (8, math.nan, [0], "seconds"),
        (8, math.inf, [0], "seconds"),
        (8, True, [0], "seconds"),
        (8, "2", [0], "seconds"),
        (8, 1e300, [0], "seconds"),
        (8, MAX_FRAMES, [0], "seconds"),
        (0, 2, [0], "fps"),
        (-8, 2, [0], "fps"),
        (121, 2, [0], "fps"),
        (math.nan, 2, [0], "fps"),
        (8, 2, [-0.1], "keyframes[0].at"),
        (8, 2, [math.nan], "keyframes[0].at"),
        (8, 2, [0, 2.0], "keyframes[1].at"),
        (8, 2, [0, 99], "keyframes[1].at"),
        (8, 2, [0, 1.0, 0.5], "keyframes[2].at"),
        (8, 2, [0, 1.0, 1.0], "keyframes[2].at"),
        (8, 2, [0, 1.0, 1.05], "keyframes[2].at"),
    ],
)
def test_plan_refuses_by_name(fps, seconds, times, field):
    with pytest.raises(InputError) as caught:
        Timeline.plan(fps, seconds, times)
    assert caught.value.field == field and "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        Timeline.plan(fps, seconds, times, where="shots[3]")
    assert caught.value.field == f"shots[3].{field}"


@pytest.mark.parametrize("chunks", [[], [0], [16], [17, 4], [5.0], [True], [-3], [MAX_FRAMES, 5]])
def test_timeline_refuses_lengths_off_the_grid(chunks):
    with pytest.raises(InputError, match=r"^timeline\.chunks"):
        Timeline(8, chunks)


def test_timeline_refuses_keyframes_off_the_chunk_starts():
    zero = Time.from_frames(0, 8)
    with pytest.raises(InputError, match=r"keyframes\[0\]\.frame"):
        Timeline(8, [9, 9], [Keyed.at_frame(zero, 4)])
    with pytest.raises(InputError, match=r"keyframes\[1\]\.frame"):
        Timeline(8, [9, 9], [Keyed.at_frame(zero, 9), Keyed.at_frame(zero, 0)])
    with pytest.raises(InputError, match=r"keyframes\[0\]\.snapped"):
        Timeline(8, [9, 9], [Keyed(zero, Time.from_frames(1, 8), 9)])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"fps": 8}', '{"fps": 8, "requested": 2, "chunks": 5, "keyframes": []}', "{" * 9,
     '{"fps": 8, "requested": 2.125, "chunks": [17], "frames": 18, "keyframes": []}',
     '{"fps": 8, "requested": 2.125, "chunks": [17], "keyframes": [{"requested": 0, "frame": 3}]}',
     '{"fps": 8, "requested": 2.125, "chunks": [17], "keyframes": [{"requested": 0, "frame": "0"}]}'],
)  # fmt: skip
def test_from_json_refuses_what_is_not_a_timeline(text):
    with pytest.raises(InputError):
        Timeline.from_json(text)

/**
 * What the widget edits, its JSON text, and every edit as a function from one state to the next.
 *
 * A score is an object of:
 *   rate    frames per second (exact fraction)
 *   keys    [{ seconds }] keyframes in order, as asked for; with `exact` where the start of a shot implies them
 *   cuts    positions in frames where a new shot begins, inside the video
 *   end     length in frames, as asked for
 *   lengths seconds of each shot (exact fractions); their sum is the video's
 *   source  where the length stands: 'seconds' (the node's own field), 'durations' (the text), 'outside' (a storyboard
 *           or a linked input)
 *   ownSeconds  whether the node's own `seconds` field counts
 *   problem why this cannot be, an InputError; null where it can
 *   guessed whether the rate or the length are only known after a run: a storyboard or a link gives them
 *   free    the text is empty, so a storyboard may still set the keyframes
 *
 * Edits never leave an illegal state: they move as far as the neighbours allow. Edited times are whole frames, so that
 * they survive the way through seconds exactly; times that nobody touched keep the digits they came with.
 */

import { InputError, MAX_FRAMES, framesAt, secondsAt, timeOf } from './timeline_grid.js'
import { singleChunks, opened, planOf, positionAt, positionsOf, toMilliseconds } from './timeline_text.js'

export { fieldSeconds, parse, planOf, read, write } from './timeline_text.js'

/** The longest length to ask for, in frames: the grid may add two. */
const LONGEST = MAX_FRAMES - 3

/** The position of a keyframe in frames, not snapped. */
export const keyPosition = (score, k) => positionsOf(score)[k]

/** The cut that keyframe `k` opens, or -1. A keyframe that opens a shot and its cut are one thing and move together. */
export const cutOf = (score, k) => opened(score).byKey[k] ?? -1

/** The keyframe that opens cut `c`, or -1. */
export const keyOf = (score, c) => opened(score).byCut[c] ?? -1

// Editing

/** A copy with some parts replaced and its lengths worked out anew. */
function edited(score, changes) {
  const next = { ...score, ...changes, free: false, problem: null }
  const implied = next.keys.some((key) => key.exact)
  if (!(implied || 'end' in changes || 'cuts' in changes)) return next
  next.keys = next.keys.map((key) => (key.exact ? at(next, Math.round(positionAt(key, next.rate))) : key))
  // Whole frames, rising: a sum of rounded durations could otherwise fall short of the last keyframe by a hair.
  const cuts = []
  for (const cut of next.cuts) {
    if (cut >= 0.5) cuts.push(Math.max(Math.round(cut), (cuts.at(-1) ?? 0) + 1))
  }
  next.cuts = cuts
  if (cuts.length) next.end = Math.max(Math.ceil(next.end), cuts.at(-1) + 1)
  if (cuts.length || (!score.ownSeconds && next.end !== score.end)) next.source = 'durations'
  else if (score.ownSeconds) next.source = 'seconds'
  const bounds = [0, ...cuts, next.end]
  const lengths = bounds.slice(1).map((bound, k) => secondsAt(bound - bounds[k], next.rate))
  next.lengths = lengths.map((seconds) => timeOf(seconds))
  if (next.source === 'seconds') next.lengths = [timeOf(toMilliseconds(lengths[0]))]
  return next
}

const at = (score, frame) => ({ seconds: secondsAt(frame, score.rate) })
const clamp = (value, low, high) => Math.min(Math.max(value, low), high)

/** The whole frames that keyframe `k` may be asked for: [first, last]; last < first where there is none. */
export function keyLimits(score, k, ripple = false) {
  const cut = cutOf(score, k)
  const low = [k ? keyPosition(score, k - 1) + 1 : 0]
  if (cut > 0) low.push(score.cuts[cut - 1] + 1)
  if (cut === 0) low.push(1)
  const first = Math.ceil(Math.max(...low))
  if (ripple) return [first, Math.round(keyPosition(score, k)) + LONGEST - Math.ceil(score.end)]
  const high = [score.end - 1]
  if (k + 1 < score.keys.length) high.push(keyPosition(score, k + 1) - 1)
  if (cut >= 0 && cut + 1 < score.cuts.length) high.push(score.cuts[cut + 1] - 1)
  return [first, Math.floor(Math.min(...high))]
}

/** Everything from keyframe `fromKey` and cut `fromCut` on, and the end, `frames` later. */
function shifted(score, fromKey, fromCut, frames) {
  return edited(score, {
    keys: score.keys.map((key, k) => (k < fromKey ? key : at(score, Math.round(keyPosition(score, k)) + frames))),
    cuts: score.cuts.map((cut, c) => (c < fromCut ? cut : Math.round(cut) + frames)),
    end: Math.ceil(score.end) + frames
  })
}

/** Keyframe `k` asked for at `frame`; with `ripple` all that follows moves by as much, and the video's end too. */
export function moveKey(score, k, frame, ripple = false) {
  const [first, last] = keyLimits(score, k, ripple)
  if (last < first) return score
  const target = clamp(Math.round(frame), first, last)
  const from = keyPosition(score, k)
  if (target === from) return score
  const cut = cutOf(score, k)
  if (ripple) {
    const later = cut >= 0 ? cut : score.cuts.filter((position) => position <= from).length
    return shifted(score, k, later, target - Math.round(from))
  }
  const keys = score.keys.map((key, i) => (i === k ? at(score, target) : key))
  if (cut < 0) return edited(score, { keys })
  return edited(score, { keys, cuts: score.cuts.map((position, c) => (c === cut ? target : position)) })
}

/** Keyframe `k` at a typed time: seconds as typed, kept to the digit. Throws InputError where it cannot be. */
export function placeKey(score, k, seconds, ripple = false) {
  const typed = framesAt(seconds, score.rate)
  // People type few digits: 0.067 means frame 1 at 15 frames per second.
  const position = Math.abs(typed - Math.round(typed)) < 0.02 ? Math.round(typed) : typed
  const [first, last] = keyLimits(score, k, ripple)
  if (position < first || position > last) {
    const range = [first, last].map((frame) => secondsAt(frame, score.rate).toFixed(3))
    throw new InputError('time', `must be between ${range[0]} and ${range[1]} s`, seconds, 'move its neighbours first')
  }
  if (ripple || cutOf(score, k) >= 0 || Number.isInteger(position)) {
    return moveKey(score, k, position, ripple)
  }
  return edited(score, { keys: score.keys.map((key, i) => (i === k ? { seconds } : key)) })
}

/** The whole frames where shot `c` + 1 may begin: [first, last]. */
export function cutLimits(score, c, ripple = false) {
  const key = keyOf(score, c)
  if (key >= 0) return keyLimits(score, key, ripple)
  const from = score.cuts[c]
  const first = Math.ceil((score.cuts[c - 1] ?? 0) + 1)
  if (!ripple) return [first, Math.floor((score.cuts[c + 1] ?? score.end) - 1)]
  const before = score.keys.map((_, k) => keyPosition(score, k)).filter((position) => position < from)
  const nextKey = score.keys[before.length] ? Math.round(keyPosition(score, before.length)) : Infinity
  const room = before.length ? Math.ceil(before.at(-1) + 1) - nextKey : -nextKey
  return [Math.max(first, Math.round(from) + room), Math.round(from) + LONGEST - Math.ceil(score.end)]
}

/** The border before shot `c` + 1 at `frame`, with the keyframe that opens the shot. */
export function moveCut(score, c, frame, ripple = false) {
  const key = keyOf(score, c)
  if (key >= 0) return moveKey(score, key, frame, ripple)
  const [first, last] = cutLimits(score, c, ripple)
  if (last < first) return score
  const from = score.cuts[c]
  const target = clamp(Math.round(frame), first, last)
  if (target === from) return score
  if (!ripple) return edited(score, { cuts: score.cuts.map((cut, i) => (i === c ? target : cut)) })
  const before = score.keys.filter((_, k) => keyPosition(score, k) < from).length
  return shifted(score, before, c, target - Math.round(from))
}

/** The shortest and longest length in frames. */
export function endLimits(score) {
  const last = score.keys.length ? keyPosition(score, score.keys.length - 1) : 0
  return [Math.ceil(Math.max(last, score.cuts.at(-1) ?? 0) + 1), LONGEST]
}

/** The video's end at `frame`: the last shot's duration changes. */
export function moveEnd(score, frame) {
  const [shortest, longest] = endLimits(score)
  const end = clamp(Math.round(frame), shortest, longest)
  return end === score.end ? score : edited(score, { end })
}

/** How far from where it was wanted a new keyframe may go to stand clear of its neighbours. */
const CLEAR = 4

/**
 * A new keyframe as near to `frame` as there is room for, not glued to another where that can be helped;
 * { score, index }, or null where none fits.
 */
export function addKey(score, frame) {
  const bounds = [-1, ...positionsOf(score), score.end]
  const gaps = bounds.slice(1).map((after, k) => [Math.ceil(bounds[k] + 1), Math.floor(after - 1)])
  let best = null
  gaps.forEach(([first, last], index) => {
    if (last < first) return
    const place = clamp(Math.round(frame), first, last)
    const distance = Math.abs(place - frame)
    if (!best || distance < best.distance) best = { index, place, distance, first, last }
  })
  if (!best) return null
  const { index, place, first, last } = best
  const put = (base, where) => edited(base, { keys: base.keys.toSpliced(index, 0, at(base, where)) })
  const near = []
  for (let by = 0; by <= CLEAR; by++) near.push(place + by, place - by)
  const clear = (base) =>
    near
      .filter((where) => where >= first && where <= last)
      .map((where) => put(base, where))
      .find((state) => singleChunks(state) <= singleChunks(score))
  const found = clear(score) ?? clear(asSeen(score, index, (moved) => moved > 1)) ?? put(score, place)
  return { score: found, index }
}

/**
 * The keyframes from `k` on asked for where they are seen, if `which` says so of how far the grid moved them. A chunk
 * more or less shifts the grid of all that follow: those asked for anew move on with it by one frame, others may jump
 * by three.
 */
function asSeen(score, k, which) {
  const { keyframes } = planOf(score)
  let seen = score
  for (let i = score.keys.length - 1; i >= k; i--) {
    if (which(keyframes[i].frame - keyPosition(score, i))) seen = moveKey(seen, i, keyframes[i].frame)
  }
  return seen
}

/** Where `addKey` without a pointer puts a keyframe: in the middle after keyframe `k`, or of the longest gap. */
export function roomAfter(score, k = -1) {
  const bounds = [...score.keys.map((_, i) => keyPosition(score, i)), score.end]
  const gaps = bounds.slice(1).map((bound, i) => bound - bounds[i])
  const i = k >= 0 ? k : gaps.indexOf(Math.max(...gaps))
  return score.keys.length ? bounds[i] + Math.floor(gaps[i] / 2) : 0
}

/**
 * Without keyframe `k`, and without the border of the shot it opens; with `ripple` what follows closes the gap. A
 * timeline keeps its last keyframe.
 */
export function removeKey(score, k, ripple = false) {
  if (score.keys.length < 2) return score
  const cut = cutOf(score, k)
  const position = keyPosition(score, k)
  const next = k + 1 < score.keys.length ? keyPosition(score, k + 1) : score.end
  const later = score.cuts.filter((c) => c <= position + 0.5).length
  const without = (base) => {
    const left = base.keys.filter((_, i) => i !== k)
    return edited(base, cut < 0 ? { keys: left } : { keys: left, cuts: base.cuts.filter((_, c) => c !== cut) })
  }
  const plain = without(score)
  const clear = singleChunks(plain) <= singleChunks(score)
  const rest = clear ? plain : without(asSeen(score, k + 1, (moved) => moved < -1))
  const gap = Math.round(next) - Math.round(position)
  if (!ripple || gap < 1 || Math.ceil(score.end) - gap < 1) return rest
  return shifted(rest, k, cut < 0 ? later : later - 1, -gap)
}

/** Whether keyframe `k` can open a shot. */
export const canCut = (score, k) => k >= 0 && k < score.keys.length && keyPosition(score, k) >= 1

/** Keyframe `k` begins a new shot, or no longer does. */
export function toggleCut(score, k) {
  if (!canCut(score, k)) return score
  const cut = cutOf(score, k)
  if (cut >= 0) return edited(score, { cuts: score.cuts.filter((_, c) => c !== cut) })
  const position = keyPosition(score, k)
  return edited(score, { cuts: [...score.cuts, position].sort((a, b) => a - b) })
}

/** A legal score close to an illegal one: times in order, a frame apart, inside the video; what has no room goes. */
export function repaired(score) {
  const end = clamp(Math.ceil(score.end), 1, LONGEST)
  const keys = []
  const sorted = [...positionsOf(score)].sort((a, b) => a - b)
  for (const position of sorted) {
    const place = Math.max(Math.round(position), keys.length ? keys.at(-1) + 1 : 0)
    if (place <= end - 1) keys.push(place)
  }
  const cuts = score.cuts.filter((cut) => cut < end - 0.5)
  return edited(score, { keys: (keys.length ? keys : [0]).map((frame) => at(score, frame)), cuts, end })
}

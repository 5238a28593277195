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
 *   guessed whether the rate or the length are only known after a run: a storyboard or a link gives them
 *   free    the text is empty, so a storyboard may still set the keyframes
 *
 * Edits never leave an illegal state: they move as far as the neighbours allow. Edited times are whole frames, so that
 * they survive the way through seconds exactly; times that nobody touched keep the digits they came with.
 */

import {
  InputError,
  MAX_FRAMES,
  frameRate,
  framesAt,
  plan,
  positionOf,
  secondsAt,
  sum,
  timeOf,
  toNumber
} from './timeline_grid.js'

const LONGEST = MAX_FRAMES - 1

/** The position of a keyframe in frames, not snapped. */
export const keyPosition = (score, k) => positionAt(score.keys[k], score.rate)
const timeAt = (key, field) => key.exact ?? timeOf(key.seconds, field)
const positionAt = (key, rate) => toNumber(positionOf(timeAt(key), rate))

/** The cut that keyframe `k` opens, or -1. A keyframe that opens a shot and its cut are one thing and move together. */
export function cutOf(score, k) {
  const position = keyPosition(score, k)
  return score.cuts.findIndex((cut) => Math.abs(cut - position) < 0.5)
}

/** The keyframe that opens cut `c`, or -1. */
export const keyOf = (score, c) => score.keys.findIndex((_, k) => cutOf(score, k) === c)

// Reading

function numbers(values, field) {
  if (!Array.isArray(values)) throw new InputError(field, 'must be a list of seconds', values, 'write e.g. [0, 1.5]')
  return values.map((value, k) => {
    const record = value !== null && typeof value === 'object' && !Array.isArray(value)
    const plain = record ? ('requested' in value ? value.requested : value.at) : value
    if (typeof plain !== 'number') {
      throw new InputError(`${field}[${k}]`, 'must be a number of seconds', value, 'write e.g. 1.5')
    }
    return plain
  })
}

const said = (value) => Boolean(value) && (typeof value !== 'object' || Object.keys(value).length > 0)

/** The widget's text as { times, durations, fps, requested }, each null if not said. */
export function parse(text) {
  const edit = { times: null, durations: null, fps: null, requested: null }
  if (!text.trim()) return edit
  let data
  try {
    data = JSON.parse(text)
  } catch (error) {
    throw new InputError('timeline', `is not valid JSON (${error.message})`, text, 'write e.g. {"keyframes": [0]}')
  }
  if (Array.isArray(data)) return { ...edit, times: numbers(data, 'timeline') }
  if (data === null || typeof data !== 'object') {
    throw new InputError('timeline', 'must be an object or a list of seconds', data, 'write e.g. [0, 1.5]')
  }
  return {
    times: data.keyframes == null ? null : numbers(data.keyframes, 'keyframes'),
    durations: said(data.durations) ? numbers(data.durations, 'durations') : null,
    fps: typeof data.fps === 'number' ? data.fps : null,
    requested: typeof data.requested === 'number' ? data.requested : null
  }
}

/**
 * The score of a text.
 *
 * @param text the widget's value
 * @param node what the node's other inputs say: { fps, seconds } from its own fields (null where they are linked or a
 *   storyboard decides), and `planned`, the timeline that the last run used (null before one)
 * @throws InputError
 */
export function read(text, { fps = null, seconds = null, planned = null } = {}) {
  const edit = parse(text)
  const rate = frameRate(fps ?? planned?.fps ?? edit.fps ?? 16)
  const unsure = (fps ?? planned?.fps ?? edit.fps) === null
  const free = !text.trim()
  const ownSeconds = seconds !== null
  if (edit.durations) {
    const lengths = edit.durations.map((value, k) => {
      const length = timeOf(value, `durations[${k}]`)
      if (length.n) return length
      throw new InputError(`durations[${k}]`, 'must be greater than 0', value, 'give the shot a length such as 2.5')
    })
    const starts = lengths.map((_, k) => sum(lengths.slice(0, k)))
    const cuts = starts.slice(1).map((start) => toNumber(positionOf(start, rate)))
    const keys = edit.times
      ? edit.times.map((time) => ({ seconds: time }))
      : starts.map((start) => ({ seconds: toNumber(start), exact: start }))
    const end = toNumber(positionOf(sum(lengths), rate))
    return { rate, keys, cuts, end, lengths, source: 'durations', ownSeconds, guessed: unsure, free }
  }
  const length = seconds ?? planned?.requested ?? edit.requested ?? 5
  const outside = fps === null || seconds === null ? planned?.keyframes.map((key) => key.requested) : null
  const times = edit.times ?? outside ?? [0]
  return {
    rate,
    keys: times.map((time) => ({ seconds: time })),
    cuts: [],
    end: framesAt(length, rate),
    lengths: [timeOf(length)],
    source: ownSeconds ? 'seconds' : 'outside',
    ownSeconds,
    guessed: unsure || (seconds ?? planned?.requested ?? edit.requested) === null,
    free
  }
}

/** The timeline on the grid, as `Timeline.to_dict` has it. Throws InputError where Python would. */
export function planOf(score) {
  const keys = score.keys.map((key, k) => timeAt(key, `keyframes[${k}].at`))
  return plan(score.rate, sum(score.lengths), keys, score.source === 'durations' ? 'durations' : 'seconds')
}

/**
 * The widget's text: the TIMELINE socket's JSON, with `durations` where the text itself says how long shots are. Where
 * rate or length are only guessed it holds what was asked for and no more.
 */
export function write(score) {
  const planned = planOf(score)
  const data = score.guessed ? { keyframes: planned.keyframes.map(({ requested }) => ({ requested })) } : planned
  if (score.source === 'durations') data.durations = score.lengths.map(toNumber)
  return JSON.stringify(data)
}

// Upwards, because a hair less than asked would put the last frame out of reach.
const toMilliseconds = (seconds) => Math.ceil(seconds * 1000 - 1e-6) / 1000

/** Seconds of the whole video as the node's `seconds` field holds them: to the millisecond, unless typed finer. */
export function fieldSeconds(score) {
  const seconds = toNumber(sum(score.lengths))
  return score.source === 'seconds' ? seconds : toMilliseconds(seconds)
}

// Editing

/** A copy with some parts replaced and its lengths worked out anew. */
function edited(score, changes) {
  const next = { ...score, ...changes, free: false }
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

/** A new keyframe as near to `frame` as there is room for; { score, index }, or null where none fits. */
export function addKey(score, frame) {
  const positions = score.keys.map((_, k) => keyPosition(score, k))
  const bounds = [-1, ...positions, score.end]
  const gaps = bounds.slice(1).map((after, k) => [Math.ceil(bounds[k] + 1), Math.floor(after - 1)])
  let best = null
  gaps.forEach(([first, last], index) => {
    if (last < first) return
    const place = clamp(Math.round(frame), first, last)
    const distance = Math.abs(place - frame)
    if (!best || distance < best.distance) best = { index, place, distance }
  })
  if (!best) return null
  const keys = [...score.keys]
  keys.splice(best.index, 0, at(score, best.place))
  return { score: edited(score, { keys }), index: best.index }
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
  const keys = score.keys.filter((_, i) => i !== k)
  const cuts = score.cuts.filter((_, c) => c !== cut)
  const rest = edited(score, cut < 0 ? { keys } : { keys, cuts })
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
  const sorted = score.keys.map((key) => framesAt(Math.abs(key.seconds), score.rate)).sort((a, b) => a - b)
  for (const position of sorted) {
    const place = Math.max(Math.round(position), keys.length ? keys.at(-1) + 1 : 0)
    if (place <= end - 1) keys.push(place)
  }
  const cuts = score.cuts.filter((cut) => cut < end)
  return edited(score, { keys: (keys.length ? keys : [0]).map((frame) => at(score, frame)), cuts, end })
}

/**
 * The widget's JSON text, read as a score and written from one; what a score is stands in timeline_score.js.
 *
 * A text may come with somebody else's workflow, so it is measured and checked before anything is drawn from it.
 */

import {
  GRID,
  InputError,
  LONGEST,
  frameRate,
  meantTime,
  plan,
  positionOf,
  startsOf,
  timeOf,
  toNumber
} from './timeline_grid.js'

// The same limits as in comfyui/timeline.py.
export const MAX_MARKS = 500
export const MAX_TEXT = 200_000
const MAX_DEPTH = 8

const EXAMPLE = 'write e.g. {"keyframes": [{"requested": 0}]}'

/** Refuses what is too deep, and numbers that are none. */
function measure(value, depth) {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new InputError('timeline', 'must hold finite numbers only', String(value), 'write a smaller number')
  }
  if (value === null || typeof value !== 'object') return
  if (depth >= MAX_DEPTH) throw new InputError('timeline', `must not nest deeper than ${MAX_DEPTH}`, 'more', 'flatten it')
  for (const inner of Object.values(value)) measure(inner, depth + 1)
}

function numbers(values, field) {
  if (!Array.isArray(values)) throw new InputError(field, 'must be a list of seconds', values, 'write e.g. [0, 1.5]')
  if (values.length > MAX_MARKS) {
    throw new InputError(field, `must be at most ${MAX_MARKS}`, values.length, 'split the video')
  }
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

/** The widget's text as { times, durations, fps, requested }, each null if not said. Throws InputError. */
export function parse(text) {
  const edit = { times: null, durations: null, fps: null, requested: null }
  if (!text.trim()) return edit
  if (text.length > MAX_TEXT) {
    throw new InputError('timeline', `must be at most ${MAX_TEXT} characters`, text.length, 'write times only')
  }
  let data
  try {
    data = JSON.parse(text)
  } catch (error) {
    throw new InputError('timeline', `is not valid JSON (${error.message.slice(0, 120)})`, text, EXAMPLE)
  }
  measure(data, 0)
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

/** What the last run planned as { fps, requested, times }; null for none. Throws InputError where it is no timeline. */
function told(planned) {
  if (planned == null) return null
  const { fps, requested, keyframes } = planned
  if (typeof fps !== 'number' || typeof requested !== 'number' || !Array.isArray(keyframes)) {
    throw new InputError('planned', 'must be a timeline', planned, 'run the graph again')
  }
  const times = numbers(keyframes, 'planned')
  frameRate(fps, 'planned')
  for (const time of [requested, ...times]) timeOf(time, 'planned')
  return { fps, requested, times }
}

/** Runs checks one after the other; the first complaint is kept, and what could not be is replaced by a fallback. */
class Complaints {
  first = null

  attempt(check, fallback) {
    try {
      return check()
    } catch (error) {
      if (!error.field) throw error
      this.first ??= error
      return fallback(error)
    }
  }
}

const within = (seconds) => Math.min(Math.max(seconds, 0), LONGEST)

/**
 * The score of a text. What it says may still be impossible: then `problem` is the InputError, and the score is near
 * what was said, so that it can be drawn and mended; `planOf` throws the problem.
 *
 * @param text the widget's value
 * @param node what the node's other inputs say: { fps, seconds } from its own fields (null where they are linked or a
 *   storyboard decides), and `planned`, the timeline that the last run used (null before one)
 * @throws InputError the text is no JSON of this form
 */
export function read(text, { fps = null, seconds = null, planned = null } = {}) {
  const edit = parse(text)
  const complaints = new Complaints()
  const last = complaints.attempt(() => told(planned), () => null)
  const given = fps ?? last?.fps ?? edit.fps
  const rate = complaints.attempt(() => frameRate(given ?? 16), () => frameRate(16))
  const common = { rate, ownSeconds: seconds !== null, free: !text.trim() }
  const score = edit.durations
    ? ofShots(edit, rate, complaints)
    : ofOneShot(edit, rate, complaints, { fps, seconds, last })
  const length = startsOf(score.lengths).at(-1)
  const keys = score.keys.map((key) => {
    if (key.exact) return key
    const time = timeOf(key.seconds)
    const meant = meantTime(time, length, rate)
    return meant === time ? key : { seconds: toNumber(meant) }
  })
  const guessed = given === null || Boolean(score.guessed)
  return { ...score, ...common, keys, guessed, problem: complaints.first }
}

const keysAt = (times, complaints) =>
  times.map((time, k) => {
    complaints.attempt(() => timeOf(time, `keyframes[${k}].at`), () => null)
    return { seconds: within(time) }
  })

function ofShots(edit, rate, complaints) {
  const length = (value, k) => {
    const exact = timeOf(value, `durations[${k}]`)
    if (exact.n) return exact
    throw new InputError(`durations[${k}]`, 'must be greater than 0', value, 'give the shot a length such as 2.5')
  }
  let lengths = edit.durations.map((value, k) => complaints.attempt(() => length(value, k), () => null))
  lengths = lengths.filter(Boolean)
  const fallback = () => {
    lengths = [timeOf(5)]
    return startsOf(lengths)
  }
  const starts = lengths.length ? complaints.attempt(() => startsOf(lengths), fallback) : fallback()
  const end = starts[starts.length - 1]
  const opening = starts.slice(0, -1)
  return {
    keys: edit.times
      ? keysAt(edit.times, complaints)
      : opening.map((start) => ({ seconds: toNumber(start), exact: start })),
    cuts: opening.slice(1).map((start) => toNumber(positionOf(start, rate))),
    end: toNumber(positionOf(end, rate)),
    lengths,
    source: 'durations'
  }
}

function ofOneShot(edit, rate, complaints, { fps, seconds, last }) {
  const wish = seconds ?? last?.requested ?? edit.requested
  const length = complaints.attempt(() => timeOf(wish ?? 5), () => timeOf(5))
  const outside = fps === null || seconds === null ? last?.times : null
  return {
    keys: keysAt(edit.times ?? outside ?? [0], complaints),
    cuts: [],
    end: toNumber(positionOf(length, rate)),
    lengths: [length],
    source: seconds === null ? 'outside' : 'seconds',
    guessed: wish === null
  }
}

const worked = new WeakMap()

/** What is worked out from a score once, for it never changes. */
function onceFor(score, name, work) {
  if (!worked.has(score)) worked.set(score, {})
  const known = worked.get(score)
  if (!(name in known)) known[name] = work()
  return known[name]
}

const timeAt = (key, field) => key.exact ?? timeOf(key.seconds, field)

/** The position of a keyframe in frames, not snapped. */
export const positionAt = (key, rate) => toNumber(positionOf(timeAt(key), rate))

/** The positions of all keyframes in frames, not snapped. */
export const positionsOf = (score) =>
  onceFor(score, 'positions', () => score.keys.map((key) => positionAt(key, score.rate)))

/** For each keyframe the cut that it opens, or -1; and for each cut the keyframe, or -1. */
export function opened(score) {
  return onceFor(score, 'opened', () => {
    const near = new Map()
    score.cuts.forEach((cut, c) => near.set(Math.floor(cut), [...(near.get(Math.floor(cut)) ?? []), c]))
    const byCut = score.cuts.map(() => -1)
    const byKey = positionsOf(score).map((position, k) => {
      const frame = Math.floor(position)
      const close = [frame - 1, frame, frame + 1].flatMap((each) => near.get(each) ?? [])
      const cut = Math.min(...close.filter((c) => Math.abs(score.cuts[c] - position) < 0.5))
      if (!Number.isFinite(cut)) return -1
      if (byCut[cut] < 0) byCut[cut] = k
      return cut
    })
    return { byKey, byCut }
  })
}

/** Length of the video in seconds, exact. */
export const lengthOf = (score) => startsOf(score.lengths).at(-1)

/** The timeline on the grid, as `Timeline.to_dict` has it. Throws InputError where Python would. */
export function planOf(score) {
  const result = onceFor(score, 'plan', () => {
    try {
      if (score.problem) throw score.problem
      const keys = score.keys.map((key, k) => timeAt(key, `keyframes[${k}].at`))
      return plan(score.rate, lengthOf(score), keys, score.source === 'durations' ? 'durations' : 'seconds')
    } catch (error) {
      return error
    }
  })
  if (result instanceof Error) throw result
  return result
}

/** The grid to draw: of a score that cannot be planned, as asked, inside a time axis of a usual length. */
export function drawnGrid(score) {
  try {
    return planOf(score)
  } catch (error) {
    if (!error.field) throw error
    const frames = Math.max(1, Math.round(score.end))
    const furthest = frames * 2 + GRID
    const keyframes = positionsOf(score).map((position, k) => {
      return { requested: score.keys[k].seconds, frame: Math.min(Math.round(position), furthest) }
    })
    return { frames, chunks: [frames], keyframes }
  }
}

/**
 * The widget's text: the TIMELINE socket's JSON, with `durations` where the text itself says how long shots are. Where
 * rate or length are only guessed it holds what was asked for and no more.
 */
export function write(score) {
  const planned = planOf(score)
  const data = score.guessed ? { keyframes: planned.keyframes.map(({ requested }) => ({ requested })) } : { ...planned }
  if (score.source === 'durations') data.durations = score.lengths.map(toNumber)
  return JSON.stringify(data)
}

// Upwards, because a hair less than asked would put the last frame out of reach.
export const toMilliseconds = (seconds) => Math.ceil(seconds * 1000 - 1e-6) / 1000

/** Seconds of the whole video as the node's `seconds` field holds them: to the millisecond, unless typed finer. */
export function fieldSeconds(score) {
  const seconds = toNumber(lengthOf(score))
  return score.source === 'seconds' ? seconds : toMilliseconds(seconds)
}

/** How many chunks have a single frame: two keyframes on neighbouring frames, that look glued together. */
export const singleChunks = (score) => planOf(score).chunks.filter((chunk) => chunk === 1).length

/**
 * The grid of a causal video VAE, exactly as story/timeline.py has it (SmartDirector §3.2, Multi-Chunk VAE).
 *
 * Chunks hold 4n+1 frames and chunk k starts at a frame ≡ k (mod 4), so a wished-for time moves by at most 2 frames.
 * Times are exact fractions here too: with rounded numbers a keyframe half-way between two frames of its grid could
 * land elsewhere in the browser than in Python. A property test holds the two against each other.
 *
 * Nothing here knows the browser or ComfyUI.
 */

export const GRID = 4
export const MIN_FPS = 1
export const MAX_FPS = 120
export const MAX_FRAMES = 4 * 1200 + 1

/** Latest time in seconds. */
export const LONGEST = 100 * 3600 - 1

const RESOLUTION = 240_000n
const NTSC = [24n, 30n, 48n, 60n, 120n]

/** Bad input: which field, the rule, the value seen and the fix, as in Python. */
export class InputError extends Error {
  constructor(field, rule, value, fix) {
    super(`${field}: ${rule} (got ${show(value)}); ${fix}`.replace(/\s+/g, ' '))
    this.name = 'InputError'
    this.field = field
  }
}

function show(value) {
  const text = typeof value === 'string' ? `"${value}"` : (JSON.stringify(value) ?? String(value))
  return text.length > 80 ? `${text.slice(0, 79)}…` : text
}

// Fractions: {n, d}, both BigInt, d > 0, in lowest terms.

function gcd(a, b) {
  while (b) [a, b] = [b, a % b]
  return a < 0n ? -a : a
}

function fraction(n, d = 1n) {
  const common = gcd(n, d) || 1n
  return { n: n / common, d: d / common }
}

/** The exact value of a finite number. */
function exactly(number) {
  let denominator = 1n
  while (!Number.isInteger(number)) {
    number *= 2
    denominator *= 2n
  }
  return fraction(BigInt(number), denominator)
}

const add = (a, b) => fraction(a.n * b.d + b.n * a.d, a.d * b.d)
const subtract = (a, b) => fraction(a.n * b.d - b.n * a.d, a.d * b.d)
const times = (a, b) => fraction(a.n * b.n, a.d * b.d)
const over = (a, b) => fraction(a.n * b.d, a.d * b.n)
const less = (a, b) => a.n * b.d < b.n * a.d
const same = (a, b) => a.n === b.n && a.d === b.d
const whole = (frames) => fraction(BigInt(frames))

function floorDivide(n, d) {
  const quotient = n / d
  return n % d < 0n ? quotient - 1n : quotient
}

const floor = (a) => Number(floorDivide(a.n, a.d))

/** The double nearest to a fraction that is not negative. */
export function toNumber({ n, d }) {
  const exact = BigInt(Number.MAX_SAFE_INTEGER)
  if (n <= exact && d <= exact) return Number(n) / Number(d)
  // Sums of durations outgrow doubles: divide with bits to spare, and let the last one tell whether more follow.
  const bits = 64 + Math.max(0, d.toString(2).length - n.toString(2).length)
  const scaled = n << BigInt(bits)
  return Number((scaled / d) | (scaled % d ? 1n : 0n)) / 2 ** bits
}

/** The closest fraction with a denominator of at most `limit` (as Python's Fraction.limit_denominator). */
function limitDenominator(value, limit) {
  if (value.d <= limit) return value
  let [p0, q0, p1, q1] = [0n, 1n, 1n, 0n]
  let { n, d } = value
  for (;;) {
    const a = floorDivide(n, d)
    const q2 = q0 + a * q1
    if (q2 > limit) break
    ;[p0, q0, p1, q1] = [p1, q1, p0 + a * p1, q2]
    ;[n, d] = [d, n - a * d]
  }
  const k = (limit - q0) / q1
  const near = fraction(p1, q1)
  const far = fraction(p0 + k * p1, q0 + k * q1)
  const distance = (a) => {
    const gap = subtract(a, value)
    return gap.n < 0n ? fraction(-gap.n, gap.d) : gap
  }
  return less(distance(far), distance(near)) ? far : near
}

function numberAt(value, field) {
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new InputError(field, 'must be a finite number', value, 'write a plain number such as 2.125')
  }
  return exactly(value)
}

/** The exact rate in frames per second, a fraction; 23.976, 29.97, … become n·1000/1001. */
export function frameRate(fps, field = 'fps') {
  const rate = numberAt(fps, field)
  if (fps < MIN_FPS || fps > MAX_FPS) {
    const rule = `must be between ${MIN_FPS} and ${MAX_FPS}`
    throw new InputError(field, rule, fps, 'use a usual rate such as 8, 16 or 24')
  }
  for (const nominal of NTSC) {
    const ntsc = fraction(nominal * 1000n, 1001n)
    const gap = subtract(rate, ntsc)
    if (less(gap.n < 0n ? fraction(-gap.n, gap.d) : gap, fraction(1n, 200n))) return ntsc
  }
  return limitDenominator(rate, 1000n)
}

const withinResolution = (seconds) => limitDenominator(seconds, RESOLUTION)

/** Seconds as an exact fraction that resolves every frame of every rate. */
export function timeOf(seconds, field = 'seconds') {
  const exact = withinResolution(numberAt(seconds, field))
  if (exact.n < 0n || less(whole(LONGEST), exact)) {
    throw new InputError(field, `must be between 0 and ${LONGEST} seconds`, seconds, 'use a time inside the shot')
  }
  return exact
}

/** Position in frames of a time in seconds, as a fraction. */
export const positionOf = (time, rate) => times(time, rate)

/** Position in frames, as a number: good for drawing and dragging, not for snapping. */
export const framesAt = (seconds, rate) => toNumber(times(timeOf(seconds), rate))

/** Seconds at which frame `frame` starts: the double nearest to it, from which `timeOf` gets the exact time back. */
export const secondsAt = (frame, rate) => toNumber(over(exactly(frame), rate))

/** The frame ≡ chunk (mod 4) nearest to a position; halves go up, always, so that order is kept. */
function snap(position, chunk) {
  const steps = over(subtract(position, whole(chunk)), whole(GRID))
  return GRID * floor(add(steps, fraction(1n, 2n))) + chunk
}

/** A time, or the next earlier one that survives the way through JSON exactly. */
const atMost = (time) => (time.d <= RESOLUTION ? time : fraction(floorDivide(time.n * RESOLUTION, time.d), RESOLUTION))

const better = (a, b) => (b.glued - a.glued || b.down - a.down) > 0
const best = (ways) => ways.reduce((found, way) => (better(way, found) ? way : found))

/**
 * Bounds of the chunks, from 0 to the length. A bound half-way between two frames of its grid may go to either: up,
 * except where down leaves fewer chunks of one frame between keyframes that were asked for two frames apart or more.
 */
function snapAll(positions, end) {
  // A first keyframe within the bound belongs to frame 0: a one-frame chunk of nothing before it would serve nobody.
  const opens = positions.length > 0 && !less(whole(GRID / 2), positions[0])
  const asked = [opens ? positions[0] : whole(0), ...positions.slice(opens ? 1 : 0), end]
  let ways = [{ frame: 0, glued: 0, down: 0, before: null }]
  for (let chunk = 1; chunk < asked.length; chunk++) {
    const up = snap(asked[chunk], chunk)
    const half = same(subtract(whole(up), asked[chunk]), whole(GRID / 2))
    const apart = !less(subtract(asked[chunk], asked[chunk - 1]), whole(2))
    const reached = (half ? [up, up - GRID] : [up]).map((frame) =>
      ways
        .filter((way) => way.frame < frame)
        .map((way) => ({
          frame,
          glued: way.glued + (apart && frame - way.frame === 1 ? 1 : 0),
          down: way.down + (frame < up ? 1 : 0),
          before: way
        }))
    )
    ways = reached.filter((each) => each.length).map(best)
  }
  const bounds = []
  for (let way = best(ways); way; way = way.before) bounds.push(way.frame)
  return bounds.reverse()
}

/** A keyframe's time: what lies beyond the last frame by half a frame or less was meant as the last frame. */
export function meantTime(time, length, rate) {
  const asked = times(length, rate)
  const last = less(asked, whole(1)) ? whole(0) : subtract(asked, whole(1))
  const position = times(time, rate)
  const beyond = less(last, position) && !less(add(last, fraction(1n, 2n)), position)
  return beyond ? atMost(over(last, rate)) : time
}

/** The length as people read it in an error: few digits. */
const brief = (value) => String(Number(toNumber(value).toPrecision(6)))

/**
 * Put a length and keyframe times on the grid.
 *
 * @param rate frames per second, a fraction from `frameRate`
 * @param length seconds, a fraction
 * @param keyTimes seconds of the keyframes, fractions, in order and at least a frame apart; half a frame beyond the last
 *   frame is taken as the last frame
 * @param lengthField what the length is called in errors
 * @returns the timeline as `Timeline.to_dict` has it
 */
export function plan(rate, length, keyTimes, lengthField = 'seconds') {
  const asked = times(length, rate)
  const shown = toNumber(length)
  if (length.n <= 0n) {
    throw new InputError(lengthField, 'must be greater than 0', shown, 'give the shot a length such as 2.125')
  }
  if (less(whole(MAX_FRAMES), asked)) {
    throw new InputError(lengthField, `must be at most ${MAX_FRAMES} frames`, shown, 'split the shot in two')
  }
  const end = less(asked, whole(1)) ? whole(1) : asked
  const last = subtract(end, whole(1))
  const positions = []
  const requested = keyTimes.map((wish, k) => {
    const field = `keyframes[${k}].at`
    const time = meantTime(wish, length, rate)
    const position = times(time, rate)
    if (less(last, position)) {
      const latest = brief(over(last, rate))
      const rule = `must not lie beyond the shot's last frame at ${latest} s`
      throw new InputError(field, rule, toNumber(time), `use at most ${latest} or make the shot longer`)
    }
    const before = positions[k - 1]
    if (before && less(position, add(before, whole(1)))) {
      if (less(position, before)) {
        throw new InputError(field, 'must be in order of time', toNumber(time), 'sort the keyframes')
      }
      const rule = `must be at least one frame (${brief(over(whole(1), rate))} s) after the keyframe before it`
      throw new InputError(field, rule, toNumber(time), 'move it or remove it')
    }
    positions.push(position)
    return time
  })
  const bounds = snapAll(positions, end)
  const starts = bounds.slice(0, -1)
  const frames = starts.slice(starts.length - positions.length)
  const frameCount = bounds[bounds.length - 1]
  if (frameCount > MAX_FRAMES) {
    throw new InputError('timeline.chunks', `must sum to at most ${MAX_FRAMES}`, frameCount, 'split the shot')
  }
  return {
    fps: toNumber(rate),
    requested: shown,
    frames: frameCount,
    chunks: starts.map((start, k) => bounds[k + 1] - start),
    keyframes: frames.map((frame, k) => ({
      requested: toNumber(requested[k]),
      snapped: secondsAt(frame, rate),
      frame
    }))
  }
}

/**
 * Where each of several shots starts, and the end, from their lengths in seconds (fractions). A sum of many odd fractions
 * would grow digits without end, so what no frame rate can tell apart is let go.
 *
 * @throws InputError longer than any time may be
 */
export function startsOf(lengths) {
  const starts = [whole(0)]
  for (const length of lengths) {
    const end = withinResolution(add(starts[starts.length - 1], length))
    if (less(whole(LONGEST), end)) {
      throw new InputError('durations', `must sum to at most ${LONGEST} seconds`, toNumber(end), 'split the video')
    }
    starts.push(end)
  }
  return starts
}

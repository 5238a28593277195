// Texts that nobody would write, as a shared workflow may bring them: each is answered at once, with a score or one error.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { rulerStep } from '../../web/js/timeline_dom.js'
import { MAX_FRAMES, toNumber } from '../../web/js/timeline_grid.js'
import * as edit from '../../web/js/timeline_score.js'
import { MAX_MARKS, drawnGrid, opened, positionsOf } from '../../web/js/timeline_text.js'

/** The same numbers on every machine (mulberry32). */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const draw = random(7)
const among = (values) => values[Math.floor(draw() * values.length)]
const several = (make, most) => Array.from({ length: Math.floor(draw() * (most + 1)) }, make)

const NUMBERS = [0, -0, 1, 0.5, -1, 1e-9, 5e-324, 1e9, 4e5, 1e7, 359999, 359999.5, 1e21, 1e308, 0.1 + 0.2, 1 / 3, 79 / 16]
const time = () => (draw() < 0.6 ? draw() * 6 : among(NUMBERS))
const value = (depth = 0) =>
  among([
    time,
    () => null,
    () => true,
    () => 'text\n"',
    () => ({ requested: time() }),
    () => ({ at: time() }),
    () => (depth < 12 ? [value(depth + 1)] : 0),
    () => ({ __proto__: null, requested: value(depth + 3), constructor: 1 })
  ])()

function text() {
  const plain = among([
    () => several(time, 9),
    () => several(value, 9),
    () => ({ keyframes: several(time, 9), durations: several(time, 5) }),
    () => ({ keyframes: among([several(value, 6), value()]), durations: among([several(value, 6), value()]) }),
    () => ({ fps: value(), requested: value(), keyframes: several(time, 3) }),
    value
  ])()
  const written = JSON.stringify(plain) ?? ''
  return draw() < 0.1 ? written.slice(0, Math.floor(draw() * written.length)) : written.replace(/"text[^,\]}]*/, '1e999')
}

const planned = () =>
  among([
    () => null,
    () => ({}),
    () => ({ fps: value(), requested: value(), keyframes: value() }),
    () => ({ fps: 8, requested: time(), keyframes: several(() => ({ requested: time() }), 4) }),
    () => ({ fps: 8, requested: 2 }),
    value
  ])()
const node = () => ({
  fps: among([8, 16, 23.976, 120, null, 0, 1e9]),
  seconds: among([5, 0.01, 4801, null, 1e6, time()]),
  planned: planned()
})

/** What a call gives, or undefined where it is refused as input must be: with a field, and one short line. */
function refusedOr(call) {
  try {
    return call()
  } catch (error) {
    assert.ok(error.field, error.stack)
    assert.ok(error.message.length < 400 && !error.message.includes('\n'), error.message)
    return undefined
  }
}

/** All that the view asks of a score to draw it. */
function look(score) {
  const grid = drawnGrid(score)
  const span = Math.max(grid.frames, score.end, ...grid.keyframes.map((key) => key.frame + 1)) * 1.06
  assert.ok(Number.isFinite(span) && span > 0, String(span))
  const rate = toNumber(score.rate)
  assert.ok(span / (rulerStep(600 / span * rate, rate) * rate) < 60)
  assert.ok(grid.keyframes.every(({ frame }) => Number.isFinite(frame) && frame <= span))
  assert.equal(positionsOf(score).length, grid.keyframes.length)
  opened(score)
}

test('a text is read, drawn, mended and written, or refused', () => {
  const start = performance.now()
  let planned = 0
  let mended = 0
  for (let i = 0; i < 1500; i++) {
    const score = refusedOr(() => edit.read(text(), node()))
    if (!score) continue
    look(score)
    if (refusedOr(() => edit.planOf(score))) planned += 1
    else {
      const whole = edit.repaired(score)
      assert.ok(edit.planOf(whole).frames <= MAX_FRAMES)
      look(whole)
      edit.read(edit.write(whole), { fps: 16, seconds: edit.fieldSeconds(whole) })
      mended += 1
    }
  }
  assert.ok(planned > 20 && mended > 100, `${planned} planned, ${mended} mended`)
  assert.ok(performance.now() - start < 20_000)
})

test('as many marks as are taken are drawn at once, and more are refused', () => {
  const odd = Array.from({ length: MAX_MARKS }, (_, k) => 0.3 + ((k * 7919) % 1009) / 10_007)
  const start = performance.now()
  const shots = edit.read(JSON.stringify({ durations: odd }), { fps: 23.976, seconds: 5 })
  look(shots)
  assert.equal(edit.planOf(shots).keyframes.length, MAX_MARKS)
  look(edit.read(JSON.stringify(odd.map((_, k) => k * 0.37)), { fps: 25, seconds: 190 }))
  assert.ok(performance.now() - start < 2_000)
  for (const name of ['durations', 'keyframes']) {
    const many = JSON.stringify({ [name]: Array(MAX_MARKS + 1).fill(0.01) })
    assert.throws(() => edit.read(many, node()), { field: name })
  }
  assert.throws(() => edit.read(`[${' '.repeat(300_000)}]`, node()), { field: 'timeline' })
})

test('what the last run told is not believed unseen', () => {
  for (const told of [{}, { fps: 8 }, { fps: 8, requested: 2 }, { fps: 8, requested: 2, keyframes: 3 }, [], 'x', 7]) {
    const score = edit.read('[0, 1]', { fps: null, seconds: null, planned: told })
    assert.equal(score.problem.field, 'planned')
    look(score)
    assert.deepEqual(edit.repaired(score).keys.map(({ seconds }) => seconds), [0, 1])
  }
})

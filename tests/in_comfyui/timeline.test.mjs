// The widget's edits, one rule a test: `node --test tests/in_comfyui/timeline.test.mjs`.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { HANDLES } from '../../web/js/timeline_handles.js'
import * as edit from '../../web/js/timeline_score.js'

const node = { fps: 16, seconds: 5 }
const score = (times = [0, 2, 3], more = {}) => edit.read(JSON.stringify({ keyframes: times, ...more }), node)
const frames = (state) => edit.planOf(state).keyframes.map((key) => key.frame)
const asked = (state) => state.keys.map((_, k) => edit.keyPosition(state, k))

test('an empty text is one keyframe at the start, and free for a storyboard', () => {
  const state = edit.read('', node)
  assert.deepEqual([asked(state), state.end, state.free], [[0], 80, true])
  assert.equal(edit.moveEnd(state, 90).free, false)
})

test('chunk k starts at a frame that leaves k when divided by 4', () => {
  assert.deepEqual(frames(score()), [0, 33, 50])
  assert.deepEqual(frames(edit.moveKey(score(), 1, 34)), [0, 33, 50])
  assert.deepEqual(frames(edit.moveKey(score(), 1, 35)), [0, 37, 50])
})

test('a keyframe stops a frame before the next, and the last one on the last frame', () => {
  assert.deepEqual(asked(edit.moveKey(score(), 1, 500)), [0, 47, 48])
  assert.deepEqual(asked(edit.moveKey(score(), 2, 500)), [0, 32, 79])
  assert.deepEqual(asked(edit.moveKey(score(), 1, -5)), [0, 1, 48])
})

test('ripple moves what follows, and the end', () => {
  const state = edit.moveKey(score(), 1, 40, true)
  assert.deepEqual([asked(state), state.end], [[0, 40, 56], 88])
  assert.equal(edit.fieldSeconds(state), 5.5)
})

test('an untouched time keeps its digits', () => {
  const state = edit.moveKey(score([0, 1.37, 3]), 2, 60)
  assert.equal(JSON.parse(edit.write(state)).keyframes[1].requested, 1.37)
})

test('a typed time is kept to the digit, and refused beyond the neighbours', () => {
  assert.equal(edit.placeKey(score(), 1, 1.99).keys[1].seconds, 1.99)
  assert.throws(() => edit.placeKey(score(), 1, 3.5), { field: 'time' })
})

test('a keyframe that opens a shot moves with its border', () => {
  const cut = edit.toggleCut(score(), 1)
  assert.deepEqual(JSON.parse(edit.write(cut)).durations, [2, 3])
  assert.deepEqual(edit.moveKey(cut, 1, 24).cuts, [24])
  const dragged = edit.moveCut(cut, 0, 40)
  assert.deepEqual([asked(dragged), dragged.cuts, dragged.end], [[0, 40, 48], [40], 80])
})

test('a shot border with ripple changes one duration and keeps the others', () => {
  const shots = edit.toggleCut(edit.toggleCut(score(), 1), 2)
  const longer = JSON.parse(edit.write(edit.moveCut(shots, 0, 48, true)))
  assert.deepEqual(longer.durations, [3, 1, 2])
})

test('the end changes the last duration only', () => {
  const shots = edit.toggleCut(score(), 1)
  assert.deepEqual(JSON.parse(edit.write(edit.moveEnd(shots, 96))).durations, [2, 4])
  assert.equal(edit.moveEnd(score(), 0).end, 49)
})

test('without borders the length goes back to the node’s field', () => {
  const once = edit.toggleCut(score(), 1)
  assert.equal('durations' in JSON.parse(edit.write(edit.toggleCut(once, 1))), false)
})

test('a length from outside is kept as durations once it is edited', () => {
  const outside = { fps: null, seconds: null, planned: { fps: 8, requested: 2.125, keyframes: [{ requested: 0.5 }] } }
  const state = edit.read('', outside)
  assert.deepEqual([asked(state), state.end, 'durations' in JSON.parse(edit.write(state))], [[4], 17, false])
  assert.deepEqual(JSON.parse(edit.write(edit.moveEnd(state, 24))).durations, [3])
})

test('a rate or length that only a run will tell is not written down', () => {
  const unknown = edit.read('', { fps: null, seconds: null, planned: null })
  const moved = edit.moveKey(edit.addKey(unknown, 20).score, 1, 32)
  assert.deepEqual(JSON.parse(edit.write(moved)), { keyframes: [{ requested: 0 }, { requested: 2 }] })
  assert.equal(edit.read(edit.write(moved), { fps: null, seconds: null }).guessed, true)
  assert.equal(edit.read(edit.write(moved), node).guessed, false)
})

test('adding takes the nearest frame that stands clear, removing leaves one', () => {
  assert.deepEqual(asked(edit.addKey(score(), 20).score), [0, 20, 32, 48])
  const beside = edit.addKey(score(), 32).score
  assert.ok(edit.planOf(beside).chunks.every((chunk) => chunk > 1), JSON.stringify(edit.planOf(beside)))
  const full = edit.read('[0, 0.0625]', { fps: 16, seconds: 0.125 })
  assert.equal(edit.addKey(full, 1), null)
  assert.deepEqual(asked(edit.removeKey(score(), 1)), [0, 48])
  assert.deepEqual(asked(edit.removeKey(score([0]), 0)), [0])
})

test('removing with ripple closes the gap, and takes the shot out', () => {
  const shots = edit.toggleCut(edit.toggleCut(score(), 1), 2)
  const state = edit.removeKey(shots, 1, true)
  assert.deepEqual([asked(state), state.cuts, state.end], [[0, 32], [32], 64])
})

test('an illegal text can be mended', () => {
  const broken = score([0, 3, 3, 9])
  assert.throws(() => edit.write(broken), { field: 'keyframes[2].at' })
  assert.deepEqual(asked(edit.repaired(broken)), [0, 48, 49])
})

test('NTSC rates come back exactly', () => {
  const ntsc = edit.read('[0]', { fps: 23.976, seconds: 5 })
  const state = edit.moveEnd(edit.addKey(ntsc, 47).score, 48)
  const again = edit.read(edit.write(state), { fps: 23.976, seconds: edit.fieldSeconds(state) })
  assert.deepEqual([asked(again), frames(again)], [[0, 47], [0, 49]])
})

const chunks = (state) => edit.planOf(state).chunks

test('a keyframe more or less glues no others together, and what is removed again leaves all as it was', () => {
  const close = edit.read('[0, 0.625, 1.5]', { fps: 8, seconds: 2.375 })
  const { score: more, index } = edit.addKey(close, 9)
  assert.deepEqual([frames(more), chunks(more)], [[0, 5, 10, 15], [5, 5, 5, 5]])
  assert.deepEqual(frames(edit.removeKey(more, index)), frames(close))
  const single = (state) => chunks(state).filter((chunk) => chunk === 1).length
  for (let frame = 0; frame < 80; frame++) {
    const added = edit.addKey(score(), frame)
    assert.equal(single(added.score), 0, `added at ${frame}: ${chunks(added.score)}`)
    assert.ok(Math.abs(edit.keyPosition(added.score, added.index) - frame) <= 5)
    assert.equal(single(edit.removeKey(added.score, 1)), 0)
  }
})

test('the length moves by what the grid must, whatever is added or removed', () => {
  let state = edit.read('[0]', { fps: 24, seconds: 5 })
  for (let k = 1; k < 12; k++) {
    state = edit.addKey(state, edit.roomAfter(state)).score
    const { frames: length, keyframes } = edit.planOf(state)
    assert.equal(length % 4, keyframes.length % 4)  // chunks of 4n+1 frames
    assert.ok(Math.abs(length - 120) <= 2)
    assert.equal(state.end, 120)
  }
})

test('half a frame beyond the last frame is the last frame', () => {
  const state = edit.read('[0, 4.9167]', { fps: 24, seconds: 4.958 })
  const last = edit.planOf(state).keyframes[1].requested
  assert.ok(last <= 4.958 - 1 / 24 && last > 4.9167 - 0.5 / 24)
  assert.equal(edit.planOf(edit.read(edit.write(state), { fps: 24, seconds: 4.958 })).keyframes[1].requested, last)
  assert.throws(() => edit.planOf(edit.read('[0, 4.95]', { fps: 24, seconds: 4.958 })), { field: 'keyframes[1].at' })
})

test('what is taken hold of is where it is seen', () => {
  const close = edit.read('[0, 0.625, 1.5]', { fps: 8, seconds: 2.375 })
  const grid = edit.planOf(close)
  assert.deepEqual([HANDLES.key.at(close, 2), HANDLES.key.seen(close, 2, grid)], [12, 14])
  assert.equal(HANDLES.end.seen(close, 0, grid), grid.frames)
})

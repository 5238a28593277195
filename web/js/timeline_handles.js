/**
 * What can be taken hold of, by kind: `at`, where it is (in frames, as asked); `seen`, where the grid puts it, and where it
 * is drawn; `limits`, how far it may go; `move` to a frame, as far as there is room; `put` at typed seconds, an InputError
 * where it cannot be.
 */

import { InputError, framesAt } from './timeline_grid.js'
import {
  cutLimits,
  endLimits,
  keyLimits,
  keyOf,
  keyPosition,
  moveCut,
  moveEnd,
  moveKey,
  placeKey
} from './timeline_score.js'

/** Borders and the end stand on whole frames. */
const putOnFrame = (limits, move) => (score, index, seconds, ripple) => {
  const frame = Math.round(framesAt(seconds, score.rate))
  const [first, last] = limits(score, index, ripple)
  if (frame < first || frame > last) throw new InputError('time', 'must be within reach', seconds, 'move others first')
  return move(score, index, frame, ripple)
}

const end = (score) => endLimits(score)
const moveLast = (score, _, frame) => moveEnd(score, frame)

const seenKey = (_, k, grid) => grid.keyframes[k].frame
const seenCut = (score, c, grid) => grid.keyframes[keyOf(score, c)]?.frame ?? Math.round(score.cuts[c])

const key = { at: keyPosition, seen: seenKey, limits: keyLimits, move: moveKey, put: placeKey }
const cut = { at: (score, c) => score.cuts[c], seen: seenCut, limits: cutLimits, move: moveCut }
const last = { at: (score) => score.end, seen: (_, index, grid) => grid.frames, limits: end, move: moveLast }

export const HANDLES = {
  key,
  cut: { ...cut, put: putOnFrame(cutLimits, moveCut) },
  end: { ...last, put: putOnFrame(end, moveLast) }
}

/**
 * What can be taken hold of, by kind: `at`, where it is (in frames, as asked); `limits`, how far it may go; `move` to a
 * frame, as far as there is room; `put` at typed seconds, an InputError where it cannot be.
 */

import { InputError, framesAt } from './timeline_grid.js'
import { cutLimits, endLimits, keyLimits, keyPosition, moveCut, moveEnd, moveKey, placeKey } from './timeline_score.js'

/** Borders and the end stand on whole frames. */
const putOnFrame = (limits, move) => (score, index, seconds, ripple) => {
  const frame = Math.round(framesAt(seconds, score.rate))
  const [first, last] = limits(score, index, ripple)
  if (frame < first || frame > last) throw new InputError('time', 'must be within reach', seconds, 'move others first')
  return move(score, index, frame, ripple)
}

const end = (score) => endLimits(score)
const moveLast = (score, _, frame) => moveEnd(score, frame)

export const HANDLES = {
  key: { at: keyPosition, limits: keyLimits, move: moveKey, put: placeKey },
  cut: { at: (score, c) => score.cuts[c], limits: cutLimits, move: moveCut, put: putOnFrame(cutLimits, moveCut) },
  end: { at: (score) => score.end, limits: end, move: moveLast, put: putOnFrame(end, moveLast) }
}

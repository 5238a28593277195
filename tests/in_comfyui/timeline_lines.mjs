// Reads one JSON request a line and answers each with one line: the widget's logic, for tests in Python.
//   {text, node: {fps, seconds}, edits: [[name, ...arguments], ...]}
//   → [{text, seconds}, ...] after reading and after each edit, or {error: {field, message}}
import { createInterface } from 'node:readline'

import * as score from '../../web/js/timeline_score.js'

const edits = {
  moveKey: score.moveKey,
  moveCut: score.moveCut,
  moveEnd: score.moveEnd,
  placeKey: score.placeKey,
  removeKey: score.removeKey,
  toggleCut: score.toggleCut,
  addKey: (state, frame) => score.addKey(state, frame)?.score ?? state
}

function answer({ text, node, edits: wanted = [] }) {
  let state = score.read(text, node)
  const states = [state]
  for (const [name, ...rest] of wanted) {
    try {
      state = edits[name](state, ...rest)
    } catch (error) {
      // A typed time out of range is refused and leaves the state as it was; anything else is a bug.
      if (name !== 'placeKey' || error.field !== 'time') throw error
    }
    states.push(state)
  }
  return states.map((each) => ({ text: score.write(each), seconds: score.fieldSeconds(each), source: each.source }))
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply
  try {
    reply = answer(JSON.parse(line))
  } catch (error) {
    reply = { error: { field: error.field ?? null, message: String(error.message) } }
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`)
}

/**
 * The Storyboard node: tall enough to read a film in it when it is new (nodes of saved graphs keep their size: a graph
 * sets it after the node is made), and it says what is wrong with its text on a pause of typing, and after a run what the
 * run had to say: who is in which shot, words that the connected encoder was not taught.
 */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { isLinked } from './graph_links.js'
import { hush, say } from './node_complaint.js'

const WIDTH = 420
const HEIGHT = 560
/** Milliseconds without a key: long enough not to complain of half a word. */
const PAUSE = 700
/** Longer texts are only read when the graph runs; it would refuse them. */
const LONGEST = 1 << 20

/** What a run would say to a text, empty if nothing; null if the server does not tell. */
async function complaintOf(text) {
  const headers = { 'Content-Type': 'text/plain; charset=utf-8' }
  try {
    const answer = await api.fetchApi('/anchorshot/story', { method: 'POST', body: text, headers })
    const { complaint } = answer.ok ? await answer.json() : {}
    return typeof complaint === 'string' ? complaint : null
  } catch {
    return null // no server: the frontend says so itself
  }
}

/** Checks a node's text on a pause of typing; one request at a time, and only the newest text counts. */
function checkWhileTyping(node, field) {
  let timer = 0
  let asking = false
  const wait = (time = PAUSE) => {
    clearTimeout(timer)
    timer = setTimeout(check, time)
  }
  const current = () => (isLinked(node, 'story') ? '' : String(field.value ?? ''))

  async function check() {
    if (asking) return wait()
    const text = current()
    if (!node.graph || !text.trim() || text.length > LONGEST) return
    asking = true
    const complaint = await complaintOf(text)
    asking = false
    if (complaint === null || !node.graph) return
    if (text !== current()) return wait(0)
    if (complaint) say(node, complaint, { grow: false })
    else hush(node)
  }

  const before = field.callback
  field.callback = function (...rest) {
    wait()
    return before?.apply(this, rest)
  }
}

/** Shows what a run had to say. */
function tellAfterRun(node) {
  const before = node.onExecuted
  node.onExecuted = function (output, ...rest) {
    const lines = (output?.text ?? []).filter((line) => typeof line === 'string' && line)
    if (lines.length) say(node, lines.join('\n'), { grow: false, role: 'status' })
    return before?.call(this, output, ...rest)
  }
}

app.registerExtension({
  name: 'anchorshot.storyboard',
  nodeCreated(node) {
    if (node.comfyClass !== 'AnchorshotStoryboard') return
    node.setSize?.([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT)])
    const field = node.widgets?.find((widget) => widget.name === 'story')
    if (field) checkWhileTyping(node, field)
    tellAfterRun(node)
  }
})

/**
 * Says in the node itself why it was refused or stopped. The frontend has the sentence three clicks away; ours names the
 * input, the rule, the value and the fix, so it belongs where people look.
 */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'

const OURS = /^Anchorshot/
const WIDGET = 'anchorshot_complaint'
const HEIGHT = 64
const LONGEST = 600

/** Nodes that say something now, with what they say it in and the size that they had before. */
const saying = new Map()

/** The node of an execution id: `5`, or `12:5` for node 5 inside subgraph node 12; and the nodes around it. */
function pathOf(id) {
  const path = []
  let graph = app.rootGraph ?? app.graph
  for (const part of String(id).split(':')) {
    const node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part))
    if (!node) return []
    path.push(node)
    graph = node.subgraph
  }
  return path
}

/** Our sentence, without the class and the input that the server puts before it. */
function sentenceOf(text, input) {
  const plain = String(text ?? '').trim()
  const start = input && plain.startsWith(`${input} - `) ? plain.slice(input.length + 3) : plain
  return start.length > LONGEST ? `${start.slice(0, LONGEST - 1)}…` : start
}

function say(id, text) {
  const path = pathOf(id)
  const node = path.at(-1)
  if (!node || !text || !OURS.test(node.type)) return
  show(node, text)
  // Who does not see the node sees the subgraph that it is in.
  if (path.length > 1) show(path[0], `${node.title}: ${text}`)
}

function show(node, text) {
  hush(node)
  if (typeof node.addDOMWidget !== 'function') return
  const element = document.createElement('div')
  element.className = 'anchorshot-complaint'
  element.setAttribute('role', 'alert')
  element.textContent = text
  const size = [...node.size]
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT, getValue: () => '', setValue() {} }
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, options)
  widget.serialize = false
  element.style.setProperty('--comfy-widget-min-height', String(HEIGHT))
  saying.set(node, { widget, size })
  const least = node.computeSize()
  node.setSize([Math.max(size[0], least[0]), Math.max(size[1] + HEIGHT + 8, least[1])])
  app.canvas?.setDirty(true, true)
}

function hush(node) {
  const { widget, size } = saying.get(node) ?? {}
  if (!widget) return
  saying.delete(node)
  if (!node.widgets?.includes(widget)) return
  const grown = node.size[1] - size[1]
  node.removeWidget(widget)
  if (grown > 0 && grown <= HEIGHT + 8) node.setSize([node.size[0], size[1]])
  app.canvas?.setDirty(true, true)
}

const hushAll = () => [...saying.keys()].forEach(hush)

/** The answer to a prompt that was not taken: { node_errors: { id: { errors: [{ details, extra_info }] } } }. */
function refused(answer) {
  for (const [id, { errors }] of Object.entries(answer?.node_errors ?? {})) {
    const { details, message, extra_info: info } = errors?.[0] ?? {}
    say(id, sentenceOf(details || message, info?.input_name))
  }
}

/** The frontend tells nobody else what the server answered. */
function listenToAnswers() {
  const ask = api.queuePrompt
  api.queuePrompt = async function (...rest) {
    hushAll()
    try {
      const answer = await ask.apply(this, rest)
      refused(answer)
      return answer
    } catch (error) {
      refused(error?.response)
      throw error
    }
  }
}

app.registerExtension({
  name: 'anchorshot.errors',

  setup() {
    listenToAnswers()
    api.addEventListener('execution_error', ({ detail }) => say(detail.node_id, sentenceOf(detail.exception_message)))
    api.addEventListener('executed', ({ detail }) => {
      const node = pathOf(detail.display_node ?? detail.node).at(-1)
      if (node) hush(node)
    })
  },

  /** Words that somebody else's undo or paste took along stay behind. */
  beforeConfigureGraph: hushAll
})

/**
 * Says in the node itself why it was refused or stopped. The frontend has the sentence three clicks away; ours names the
 * input, the rule, the value and the fix, so it belongs where people look.
 */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { hush, hushAll, say } from './node_complaint.js'

const OURS = /^Anchorshot/
const LONGEST = 600

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

function blame(id, text) {
  const path = pathOf(id)
  const node = path.at(-1)
  if (!node || !text || !OURS.test(node.type)) return
  say(node, text)
  // Who does not see the node sees the subgraph that it is in.
  if (path.length > 1) say(path[0], `${node.title}: ${text}`)
}

/** The answer to a prompt that was not taken: { node_errors: { id: { errors: [{ details, extra_info }] } } }. */
function refused(answer) {
  for (const [id, { errors }] of Object.entries(answer?.node_errors ?? {})) {
    const { details, message, extra_info: info } = errors?.[0] ?? {}
    blame(id, sentenceOf(details || message, info?.input_name))
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
    api.addEventListener('execution_error', ({ detail }) => blame(detail.node_id, sentenceOf(detail.exception_message)))
    api.addEventListener('executed', ({ detail }) => {
      const node = pathOf(detail.display_node ?? detail.node).at(-1)
      if (node) hush(node)
    })
  },

  /** Words that somebody else's undo or paste took along stay behind. */
  beforeConfigureGraph: hushAll
})

/**
 * The pack's templates in the frontend's language: the frontend translates nodes, but not what stands in a graph. Only
 * texts that are as they were shipped are changed; whoever wrote something else keeps it.
 */

import { HEADINGS, LINES, TITLES } from './template_words_zh.js'

const NOTE = 'MarkdownNote'

function lineIn(line) {
  if (Object.hasOwn(HEADINGS, line)) return HEADINGS[line]
  const start = Object.keys(LINES).find((each) => line.startsWith(each))
  return start === undefined ? line : LINES[start]
}

const listOf = (value) => (Array.isArray(value) ? value : [])
const noteOf = (node) => (node.type === NOTE ? String(node.widgets_values?.[0] ?? '') : '')

/** A note's text: by its place, and by its name, as newer frontends save it, too. */
function setNote(node, text) {
  const named = node.widgets_values_named
  if (named?.text === node.widgets_values[0]) named.text = text
  node.widgets_values[0] = text
}

/** Puts Chinese in a workflow's JSON, in place, if it is a template of ours. */
export function translateTemplate(workflow) {
  if (!listOf(workflow?.nodes).some((node) => Object.hasOwn(HEADINGS, noteOf(node).split('\n')[0]))) return
  for (const graph of [workflow, ...listOf(workflow.definitions?.subgraphs)]) {
    for (const part of [...listOf(graph.nodes), ...listOf(graph.groups)]) {
      if (typeof part.title === 'string' && Object.hasOwn(TITLES, part.title)) part.title = TITLES[part.title]
      const note = noteOf(part)
      if (note) setNote(part, note.split('\n').map(lineIn).join('\n'))
    }
  }
}

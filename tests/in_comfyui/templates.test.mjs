// The templates in Chinese: `node --test tests/in_comfyui/templates.test.mjs`.
import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'

import { translateTemplate } from '../../web/js/template_words.js'
import { HEADINGS, LINES, TITLES } from '../../web/js/template_words_zh.js'

const folder = new URL('../../workflows/', import.meta.url)
const files = readdirSync(folder).filter((name) => name.endsWith('.json'))
const load = (name) => JSON.parse(readFileSync(new URL(encodeURIComponent(name), folder), 'utf8'))
const chinese = /[\u4e00-\u9fff]/
// Names of models
const NAMES = /^(Mochi 1|Mochi VAE|T5|FLUX\.[12]-dev|FLUX(\.2)? VAE|Wan 2\.\d.*|Qwen.*|Mistral 3 Small|\d · (Qwen|FLUX).*)$/

test('every title and every line of a note is Chinese', () => {
  assert.equal(files.length, 16)
  const used = new Set()
  for (const name of files) {
    const before = load(name)
    const after = structuredClone(before)
    translateTemplate(after)
    const parts = (flow) => [flow, ...(flow.definitions?.subgraphs ?? [])].flatMap((g) => [...g.nodes, ...(g.groups ?? [])])
    for (const { title } of parts(after)) {
      assert.ok(!title || chinese.test(title) || NAMES.test(title), `${name}: ${title}`)
    }
    for (const [k, node] of after.nodes.entries()) {
      if (node.type !== 'MarkdownNote') {
        assert.deepEqual(node.widgets_values, before.nodes[k].widgets_values) // prompts and stories stay as they are
        continue
      }
      const [english, lines] = [before.nodes[k], node].map((each) => each.widgets_values[0].split('\n'))
      assert.equal(lines.length, english.length)
      assert.equal(node.widgets_values_named.text, node.widgets_values[0])
      for (const [i, line] of lines.entries()) {
        assert.ok(!/[a-z]/.test(line) || line.startsWith('| `') || line.startsWith('| ---') || chinese.test(line), line)
        const starts = Object.keys(LINES).filter((each) => english[i].startsWith(each))
        assert.ok(starts.length <= 1, english[i])
        for (const each of [...starts, english[i]]) used.add(each)
      }
    }
    for (const each of parts(before)) used.add(each.title)
  }
  for (const words of [HEADINGS, LINES, TITLES]) for (const key of Object.keys(words)) assert.ok(used.has(key), key)
})

test('what is not a template, or is no longer as it was, stays', () => {
  const own = { nodes: [{ type: 'MarkdownNote', title: 'Read me', widgets_values: ['# Mine'] }], groups: [{ title: 'Film' }] }
  const same = structuredClone(own)
  translateTemplate(same)
  assert.deepEqual(same, own)
  for (const odd of [null, 3, {}, { nodes: 5 }, { nodes: [{ type: 'MarkdownNote' }], groups: 7 }]) translateTemplate(odd)
  const edited = load(files[0])
  const note = edited.nodes.find((node) => node.type === 'MarkdownNote')
  note.widgets_values[0] += '\nMy own words'
  translateTemplate(edited)
  assert.ok(note.widgets_values[0].endsWith('\nMy own words'))
})

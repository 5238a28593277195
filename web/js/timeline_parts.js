/** The widget's elements, built once. */

import { button, make } from './timeline_dom.js'

let count = 0

/** A keyframe's element: a diamond, or its picture from its frame on; `onPicture` is called when that is known. */
export function makeKey(k, helpId, onPicture) {
  const number = make('span', 'ast-number', {}, String(k + 1))
  const image = make('img', 'ast-image', { alt: '', draggable: 'false' })
  const roles = { role: 'slider', tabindex: '0', 'aria-describedby': helpId, 'aria-keyshortcuts': 'Delete Enter' }
  const parts = [make('span', 'ast-stem'), image, make('span', 'ast-diamond'), number]
  const element = hold(make('div', 'ast-key', roles, ...parts), 'key', k)
  element.ratio = 16 / 9
  image.addEventListener('load', () => {
    element.ratio = image.naturalWidth / Math.max(1, image.naturalHeight)
    onPicture()
  })
  image.addEventListener('error', () => {
    element.dataset.failed = image.getAttribute('src')
    onPicture()
  })
  return element
}

/** The border before shot `c` + 1. */
export const makeBorder = (c, helpId) => hold(make('div', 'ast-border', { 'aria-describedby': helpId }), 'cut', c)

/** Marks an element as a handle (see timeline_handles.js). */
function hold(element, kind, index) {
  Object.assign(element.dataset, { handle: kind, index: String(index) })
  return element
}

/**
 * All elements by name; `element` holds the others.
 *
 * @param words from timeline_words.js
 * @param actions what the buttons do: add, remove, cut, ripple, mend, startOver
 */
export function buildParts(words, actions) {
  const helpId = `ast-help-${++count}`
  const word = (name) => button(name, words[name], words[`${name}Hint`], actions[name])
  const unheard = (className, ...children) => make('div', className, { 'aria-hidden': 'true' }, ...children)

  const buttons = Object.fromEntries(['add', 'remove', 'cut', 'ripple', 'mend'].map((name) => [name, word(name)]))
  const total = make('span', 'ast-total')
  const badge = make('span', 'ast-badge', { role: 'status', hidden: '', title: words.miscountHint })
  const bar = make('div', 'ast-bar', {}, buttons.add, buttons.remove, buttons.cut, buttons.ripple, badge, total)

  const ruler = unheard('ast-ruler')
  const guides = unheard('ast-guides')
  const bands = unheard('ast-bands')
  const lane = make('div', 'ast-lane', {}, bands, guides)
  const blocks = unheard('ast-blocks')
  const roles = { role: 'slider', tabindex: '0', 'aria-label': words.end, 'aria-describedby': helpId }
  const end = hold(make('div', 'ast-end', roles), 'end', 0)
  const shots = make('div', 'ast-shots', {}, blocks, end)
  const asks = unheard('ast-asks')
  const bubble = unheard('ast-bubble')
  const axis = make('div', 'ast-axis', {}, ruler, lane, shots, asks, bubble)

  const label = make('span', 'ast-label')
  const typing = { type: 'text', title: words.typeTime, autocomplete: 'off', spellcheck: 'false' }
  const input = make('input', 'ast-input', typing)
  const outcome = make('span', 'ast-outcome')
  const asked = make('label', 'ast-asked', {}, label, input)
  const line = make('div', 'ast-line', {}, asked, outcome)

  const complaint = make('span', 'ast-complaint')
  const alert = make('div', 'ast-alert', { role: 'alert', hidden: '' }, complaint, buttons.mend, word('startOver'))
  const status = make('div', 'ast-unseen', { role: 'status' })
  const help = make('div', 'ast-unseen', { id: helpId }, words.help)
  const whole = { role: 'group', 'aria-label': words.timeline }
  const stage = make('div', 'ast-stage', { title: words.hint }, axis)
  const element = make('div', 'anchorshot-timeline', whole, bar, stage, line, alert, status, help)
  const named = { element, buttons, badge, total, ruler, guides, bands, lane, blocks, end, shots, asks, bubble, axis }
  return { ...named, asked, label, input, outcome, complaint, alert, status, helpId }
}

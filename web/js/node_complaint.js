/** A sentence in a node about what is wrong with it, or what its run had to say: one at a time, never saved. */

import { app } from '../../../scripts/app.js'

const WIDGET = 'anchorshot_complaint'
const HEIGHT = 64

const PLAIN = { getMinHeight: () => HEIGHT, getMaxHeight: () => HEIGHT, getValue: () => '', setValue() {} }

/** Nodes that say something now, with what they say it in and the size that they had before. */
const saying = new Map()

/**
 * Say something in a node, in the place of what it said before.
 *
 * @param grow make the node taller by what the sentence takes; else its other widgets get less, down to their least
 * @param role `alert` for a complaint, `status` for a remark
 */
export function say(node, text, { grow = true, role = 'alert' } = {}) {
  const known = saying.get(node)
  if (known && node.widgets?.includes(known.widget)) {
    if (known.element.textContent !== text) known.element.textContent = text
    known.element.setAttribute('role', role)
    return
  }
  if (typeof node.addDOMWidget !== 'function') return
  const element = document.createElement('div')
  element.className = 'anchorshot-complaint'
  element.setAttribute('role', role)
  element.textContent = text
  const size = [...node.size]
  const options = { serialize: false, hideOnZoom: false, ...PLAIN }
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, options)
  widget.serialize = false
  for (const end of ['min', 'max']) element.style.setProperty(`--comfy-widget-${end}-height`, String(HEIGHT))
  saying.set(node, { widget, element, size })
  const least = node.computeSize()
  const height = grow ? size[1] + HEIGHT + 8 : size[1]
  node.setSize([Math.max(size[0], least[0]), Math.max(height, least[1])])
  app.canvas?.setDirty(true, true)
}

/** Say nothing any more; the node gets back its size, unless somebody has changed it meanwhile. */
export function hush(node) {
  const { widget, size } = saying.get(node) ?? {}
  if (!widget) return
  saying.delete(node)
  if (!node.widgets?.includes(widget)) return
  const grown = node.size[1] - size[1]
  node.removeWidget(widget)
  if (grown > 0 && grown <= HEIGHT + 8) node.setSize([node.size[0], size[1]])
  app.canvas?.setDirty(true, true)
}

export const hushAll = () => [...saying.keys()].forEach(hush)

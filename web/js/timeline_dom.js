/** Small helpers of the view: elements, icons, times as people write them. */

const SVG = 'http://www.w3.org/2000/svg'

const ICONS = {
  add: 'M8 3v10M3 8h10',
  remove: 'M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5',
  cut: 'M8 2v12M3 5h2.5M3 11h2.5M10.5 5H13M10.5 11H13',
  ripple: 'M3 4v8M6 8h7M10.5 5.5 13 8l-2.5 2.5'
}

/** An element with a class, attributes and children. */
export function make(tag, className, attributes = {}, ...children) {
  const element = document.createElement(tag)
  element.className = className
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

function icon(name) {
  const svg = document.createElementNS(SVG, 'svg')
  const path = document.createElementNS(SVG, 'path')
  svg.setAttribute('viewBox', '0 0 16 16')
  svg.setAttribute('aria-hidden', 'true')
  path.setAttribute('d', ICONS[name])
  svg.append(path)
  return svg
}

/** A button with an icon and a word. */
export function button(name, word, hint, onClick) {
  const element = make('button', `ast-button ast-${name}`, { type: 'button', title: hint, 'aria-label': word })
  if (ICONS[name]) element.append(icon(name))
  element.append(make('span', 'ast-word', {}, word))
  element.addEventListener('click', onClick)
  return element
}

/** Brings a pool of elements in `parent` to `count`; those that stay keep focus and pointer capture. */
export function pool(parent, elements, count, create) {
  while (elements.length < count) {
    const element = create(elements.length)
    elements.push(element)
    parent.append(element)
  }
  while (elements.length > count) elements.pop().remove()
}

/** Sets text and attributes only where they differ, so that a screen reader is not told the same again. */
export function set(element, attributes, text) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) element.removeAttribute(name)
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value))
  }
  if (text !== undefined && element.textContent !== text) element.textContent = text
}

/** Puts an element at a share of its parent's width. */
export const place = (element, share, width) => {
  element.style.left = `${(share * 100).toFixed(4)}%`
  if (width !== undefined) element.style.width = `${(width * 100).toFixed(4)}%`
}

/** Seconds with three decimals: enough to tell frames apart at 120 frames per second. */
export const shown = (seconds) => seconds.toFixed(3)

/**
 * Seconds from what a person typed: `1.25` or `1,25`, `20f`, or a timecode `00:00:01:04`; NaN for anything else.
 *
 * @param rate frames per second, a number
 */
export function typedSeconds(text, rate) {
  const plain = text.trim().toLowerCase().replace(',', '.')
  const frames = /^(\d+(?:\.\d+)?)\s*(?:f|帧)$/.exec(plain)
  if (frames) return Number(frames[1]) / rate
  const code = /^(\d{1,3}):(\d{1,2}):(\d{1,2}):(\d{1,3})$/.exec(plain)
  if (code) {
    const [hours, minutes, seconds, last] = code.slice(1).map(Number)
    const whole = Math.ceil(rate)
    if (minutes > 59 || seconds > 59 || last >= whole) return NaN
    return (((hours * 60 + minutes) * 60 + seconds) * whole + last) / rate
  }
  const seconds = /^(\d+(?:\.\d*)?|\.\d+)\s*s?$/.exec(plain)
  return seconds ? Number(seconds[1]) : NaN
}

/** Seconds or frames between ruler labels, so that labels stand at least `gap` pixels apart. */
export function rulerStep(pixelsPerSecond, rate, gap = 46) {
  const steps = [1 / rate, 2 / rate, 4 / rate, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600]
  const rising = steps.filter((step, i) => i < 3 || step > 4 / rate)
  return rising.find((step) => step * pixelsPerSecond >= gap) ?? Math.ceil(gap / pixelsPerSecond / 1200) * 1200
}

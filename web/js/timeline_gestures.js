/**
 * Mouse, pen, touch and keyboard on a timeline view. A gesture shows a draft while it lasts and is committed once, when
 * the button or the key is let go, so that one gesture is one step to undo.
 */

import { HANDLES } from './timeline_handles.js'
import { drawnGrid } from './timeline_text.js'

/** Pixels that a pointer moves before a press becomes a drag: a click only selects. */
const SLACK = 3
const LATENT_STEP = 4

/** Connects a view; returns { active, span, cancel() }: the handle being moved, the axis' scale meanwhile. */
export function attachGestures(view) {
  const state = { active: null, span: null, cancel: () => finish(false) }
  let press = null

  const handleOf = (target) => target.closest?.('[data-handle]')
  const frameAt = (x) => {
    const box = view.axis.getBoundingClientRect()
    return ((x - box.left) / (box.width || 1)) * view.span
  }
  const ripples = (event) => Boolean(view.host.ripple) !== event.altKey

  function begin(kind, index) {
    state.active = { kind, index }
    state.span = view.span
  }

  function finish(keep) {
    const draft = view.draft
    press = null
    if (!state.active) return
    state.active = null
    state.span = null
    view.draft = null
    if (keep) view.commit(draft)
    else view.render()
  }

  // Pointer

  view.axis.addEventListener('pointerdown', (event) => {
    const element = handleOf(event.target)
    if (!element || event.button !== 0 || view.problem || state.active) return
    view.input.blur() // what is typed there belongs to the handle selected before
    const { handle: kind, index } = element.dataset
    const start = HANDLES[kind].seen(view.score, Number(index), drawnGrid(view.score))
    press = { element, kind, index: Number(index), x: event.clientX, from: frameAt(event.clientX), start }
    element.setPointerCapture(event.pointerId)
    view.select(kind, Number(index))
    element.focus({ preventScroll: true })
  })

  view.axis.addEventListener('pointermove', (event) => {
    if (!press) return
    if (!state.active) {
      if (Math.abs(event.clientX - press.x) < SLACK) return
      begin(press.kind, press.index)
    }
    const frame = press.start + frameAt(event.clientX) - press.from
    view.draft = HANDLES[press.kind].move(view.score, press.index, frame, ripples(event))
    view.render()
  })

  view.axis.addEventListener('pointerup', () => finish(true))
  view.axis.addEventListener('pointercancel', () => finish(false))
  view.axis.addEventListener('lostpointercapture', () => finish(false))

  view.axis.addEventListener('dblclick', (event) => {
    event.stopPropagation()
    event.preventDefault()
    const element = handleOf(event.target)
    if (element) view.input.select()
    else if (!view.shots.contains(event.target)) view.addKey(frameAt(event.clientX))
  })

  view.element.addEventListener('focusin', (event) => {
    const { handle, index } = handleOf(event.target)?.dataset ?? {}
    if (handle && !state.active) view.select(handle, Number(index))
  })

  // Keyboard

  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: LATENT_STEP, PageDown: -LATENT_STEP }

  /** The frame that a key press leads to, or null for another key. */
  function target(event, score, kind, index) {
    const [first, last] = HANDLES[kind].limits(score, index, ripples(event))
    if (event.key === 'Home') return first
    if (event.key === 'End') return last
    const step = steps[event.key]
    if (!step) return null
    const at = HANDLES[kind].at(score, index)
    const by = event.shiftKey && Math.abs(step) === 1 ? step * LATENT_STEP : step
    return by > 0 ? Math.floor(at) + by : Math.ceil(at) + by
  }

  function onHandleKey(event, kind, index) {
    if (event.ctrlKey || event.metaKey || view.problem) return false
    if (event.key === 'Escape' && (state.active || press)) finish(false)
    else if (event.key === 'Enter') view.input.select()
    else if (event.key === 'Delete' || event.key === 'Backspace') {
      if (kind === 'key') view.removeKey(index, event.altKey)
    } else if (event.key === 'Insert' || event.key === '+') view.addKey()
    else {
      const score = view.current
      const frame = target(event, score, kind, index)
      if (frame === null) return false
      if (press) return true
      if (!state.active) begin(kind, index)
      view.draft = HANDLES[kind].move(score, index, frame, ripples(event))
      view.render()
    }
    return true
  }

  view.element.addEventListener('keydown', (event) => {
    const { handle, index } = handleOf(event.target)?.dataset ?? {}
    let taken = false
    if (handle) taken = onHandleKey(event, handle, Number(index))
    else if (event.target === view.input) taken = onInputKey(event)
    // The frontend's own shortcuts (Delete removes nodes) must not see what was meant for the timeline.
    if (!taken) return
    event.preventDefault()
    event.stopPropagation()
  })

  view.element.addEventListener('keyup', (event) => {
    if (!press && state.active && (event.key in steps || event.key === 'Home' || event.key === 'End')) finish(true)
  })
  view.element.addEventListener('focusout', () => {
    if (!press) finish(true)
  })

  // The field of the asked time

  function back() {
    const { kind, index } = view.selected ?? { kind: 'end', index: 0 }
    view.giveUp()
    view.render()
    const element = view.handle(kind, index)
    if (element?.tabIndex >= 0) element.focus({ preventScroll: true })
    else view.input.blur()
  }

  function onInputKey(event) {
    if (event.key === 'Escape' || (event.key === 'Enter' && view.enter())) back()
    return event.key === 'Escape' || event.key === 'Enter'
  }

  view.input.addEventListener('input', () => {
    view.giveUp()
    view.typing = true
  })
  view.input.addEventListener('blur', () => {
    if (view.enter()) return
    view.giveUp()
    view.render()
  })

  return state
}

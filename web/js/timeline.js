/**
 * The timeline widget in ComfyUI's frontend: replaces the text field of the Keyframe Timeline node. Its value is that
 * text, so workflows, the API and undo see an ordinary string widget.
 */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { isLinked } from './graph_links.js'
import { locatorOf, picturesOf } from './timeline_pictures.js'
import { fieldSeconds, moveEnd, planOf, read, write } from './timeline_score.js'
import { framesAt } from './timeline_grid.js'
import { attachDrops } from './timeline_drop.js'
import { TimelineView } from './timeline_view.js'
import { wordsFor } from './timeline_words.js'

const NODE = 'AnchorshotKeyframeTimeline'
const INPUT = 'timeline'
const WIDGET = 'ANCHORSHOT_TIMELINE_WIDGET'
const RIPPLE = 'anchorshot_ripple'
const SIZE = { minWidth: 560, minHeight: 340 }
const HEIGHT = 186

const hosts = new Set()
/** Hosts whose node has gone, by the node's locator: undo and loading make the nodes anew. */
const gone = new Map()

/** One node's widget: knows the node's other fields, and keeps text and picture in step. */
class TimelineHost {
  constructor(node, text) {
    this.node = node
    this.text = text
    this.view = new TimelineView(this, wordsFor(app.extensionManager?.setting?.get('Comfy.Locale')))
    attachDrops(this.view, () => this.node, { app, api })
    // The frontend may take the element out of the page, and the focus with it, before it removes the node.
    const { element } = this.view
    element.addEventListener('focusout', () => {
      queueMicrotask(() => {
        this.torn = !element.isConnected
      })
    })
    this.refresh()
  }

  get ripple() {
    return Boolean(this.node.properties?.[RIPPLE])
  }

  set ripple(on) {
    this.#asOneChange(() => {
      this.node.properties[RIPPLE] = on
    })
  }

  /** The node is in a graph now. */
  added() {
    hosts.add(this)
    for (const name of ['fps', 'seconds']) {
      const field = this.field(name)
      if (!field || field.anchorshotFollowed) continue
      field.anchorshotFollowed = true
      chain(field, 'callback', () => this.follow(name))
    }
  }

  removed() {
    const { element, selected } = this.view
    hosts.delete(this)
    gone.set(this.locator, { element, selected, focused: this.torn || element.contains(document.activeElement) })
  }

  /**
   * Takes the place of the widget that the node had before an undo: whoever works with the keyboard goes on where they
   * were.
   */
  succeed() {
    const old = gone.get(this.locator)
    const { element } = this.view
    if (!old) return
    const active = document.activeElement
    const focused = old.focused && (active === document.body || old.element.contains(active))
    this.#mount()
    if (!element.offsetWidth) return // not yet shown
    gone.delete(this.locator)
    if (!old.selected) return
    this.view.select(old.selected.kind, old.selected.index)
    if (focused) this.view.handle(old.selected.kind, old.selected.index)?.focus({ preventScroll: true })
  }

  /**
   * Nodes drawn by Vue keep their component, and with it the element of the widget that they had, when another node
   * takes their id: after undo, and in a subgraph. What is shown then would be deaf: its node is not there.
   */
  #mount() {
    const { element } = this.view
    if (element.isConnected || !this.node.graph || this.node.graph !== app.canvas?.graph) return
    const id = CSS.escape(String(this.node.id))
    document.querySelector(`[data-node-id="${id}"] .anchorshot-timeline`)?.replaceWith(element)
  }

  isLinked(name) {
    return isLinked(this.node, name)
  }

  field(name) {
    return this.node.widgets?.find((widget) => widget.name === name)
  }

  /** `shot` chooses from a storyboard: without one, and with nothing in it, it is only in the way. */
  #foldShot() {
    const field = this.field('shot')
    if (!field) return
    const hidden = !field.value && !this.isLinked('storyboard') && !this.isLinked('shot')
    if (Boolean(field.hidden) === hidden) return
    field.hidden = hidden
    field.options = { ...field.options, hidden }
    app.canvas?.setDirty(true, true)
  }

  /** What the node's other inputs say; null where a link or a storyboard decides. */
  get context() {
    const board = this.isLinked('storyboard')
    const own = (name) => (board || this.isLinked(name) ? null : Number(this.field(name)?.value ?? NaN))
    const [fps, seconds] = [own('fps'), own('seconds')].map((value) => (Number.isFinite(value) ? value : null))
    return { fps, seconds, planned: this.#lastRun() }
  }

  /** The timeline of the last run, which knows what a storyboard said. */
  #lastRun() {
    const told = app.nodeOutputs?.[locatorOf(this.node)]?.timeline?.[0] ?? null
    if (typeof told !== 'string' || told === this.distrusted) return null
    try {
      return JSON.parse(told)
    } catch {
      return null
    }
  }

  /** What an edit starts from no longer is what the last run told, if that was no timeline. */
  #distrust() {
    if (this.problem?.field === 'planned') this.distrusted = app.nodeOutputs?.[locatorOf(this.node)]?.timeline?.[0]
  }

  /** Shows the text as it is now, if anything that it depends on has changed. */
  refresh() {
    this.#mount()
    this.#foldShot()
    const { context, text } = this
    const locked = this.isLinked(INPUT)
    this.locator = locatorOf(this.node)
    const state = JSON.stringify([text, context, locked])
    if (state !== this.shown) {
      this.shown = state
      const read = this.#read(context)
      this.problem = read.problem
      this.view.show({ ...read, locked })
    }
    this.view.setPictures(picturesOf(this.node, { app, api }))
  }

  #read(context) {
    let score = null
    try {
      score = read(this.text, context)
      planOf(score)
      return { score, problem: null }
    } catch (problem) {
      if (!problem.field) throw problem
      return { score, problem }
    }
  }

  /** An edit in the widget. */
  commit(score) {
    this.#distrust()
    this.#set(write(score), score)
  }

  startOver() {
    this.#distrust()
    this.#set('', null)
  }

  #set(text, score) {
    this.#asOneChange(() => {
      if (score?.ownSeconds) this.#setSeconds(fieldSeconds(score))
      this.widget.value = text
    })
    this.refresh()
  }

  /** One undo step: the change tracker looks at the graph after the last change, not in between. */
  #asOneChange(change) {
    app.canvas?.emitBeforeChange?.()
    try {
      change()
    } finally {
      app.canvas?.emitAfterChange?.()
    }
    app.canvas?.setDirty(true, true)
  }

  #setSeconds(seconds) {
    const field = this.field('seconds')
    if (!field || field.value === seconds) return
    this.setting = true
    try {
      field.value = seconds
      field.callback?.(seconds, app.canvas, this.node)
    } finally {
      this.setting = false
    }
  }

  /** Somebody set the node's `fps` or `seconds`: the text follows, so that it stays the timeline that will be used. */
  follow(name) {
    if (this.setting) return
    let { score, problem } = this.#read(this.context)
    if (this.text.trim() && score && !problem) {
      if (name === 'seconds' && score.source === 'durations') {
        score = moveEnd(score, framesAt(this.context.seconds, score.rate))
        this.#setSeconds(fieldSeconds(score))
      }
      this.widget.value = write(score)
    }
    this.refresh()
  }
}

/** Calls `also` after a method of `object`. */
function chain(object, method, also) {
  const before = object[method]
  object[method] = function (...rest) {
    const result = before?.apply(this, rest)
    also.apply(this, rest)
    return result
  }
}

/** What lies over the canvas must not stop it from zooming and panning. */
function handOnToCanvas(element) {
  element.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault()
      event.stopPropagation()
      app.canvas.processMouseWheel(event)
    },
    { passive: false }
  )
  const isMiddle = (event) => (event.type === 'pointermove' ? event.buttons & 4 : event.button === 1)
  const methods = { pointerdown: 'processMouseDown', pointermove: 'processMouseMove', pointerup: 'processMouseUp' }
  for (const [type, method] of Object.entries(methods)) {
    element.addEventListener(type, (event) => {
      if (isMiddle(event)) app.canvas[method](event)
    })
  }
}

/** Widget constructor, as the frontend calls it for an input of type `WIDGET`. */
function timelineWidget(node, name, [, options = {}]) {
  const host = new TimelineHost(node, String(options.default ?? ''))
  const { element } = host.view
  host.widget = node.addDOMWidget(name, WIDGET, element, {
    getValue: () => host.text,
    setValue: (text) => {
      host.text = typeof text === 'string' ? text : JSON.stringify(text ?? '')
      host.refresh()
    },
    getMinHeight: () => HEIGHT,
    socketless: options.socketless
  })
  element.style.setProperty('--comfy-widget-min-height', String(HEIGHT))
  handOnToCanvas(element)

  // Other fields of the node do not exist yet when this one is made, and links come after the values.
  const later = () => requestAnimationFrame(() => host.refresh())
  chain(node, 'onAdded', () => {
    host.added()
    later()
  })
  chain(node, 'onRemoved', () => host.removed())
  chain(node, 'onConfigure', later)
  chain(node, 'onConnectionsChange', later)
  return { widget: host.widget, ...SIZE }
}

const refreshAll = () => requestAnimationFrame(() => hosts.forEach((host) => host.refresh()))

/** After a subgraph was entered or left: the frontend draws its nodes during the next frames. */
function entered(frames = 0) {
  hosts.forEach((host) => host.refresh())
  if (frames < 10) requestAnimationFrame(() => entered(frames + 1))
}

/** After loading or undo: the frontend mounts elements during the next frames, when it has drawn the nodes. */
function loaded() {
  refreshAll()
  let frames = 0
  const step = () => {
    if (++frames > 2) hosts.forEach((host) => host.succeed())
    if (gone.size && frames < 60) requestAnimationFrame(step)
    else gone.clear()
  }
  requestAnimationFrame(step)
}

app.registerExtension({
  name: 'anchorshot.timeline',

  init() {
    const href = new URL('../css/timeline.css', import.meta.url).href
    document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href }))
  },

  getCustomWidgets: () => ({ [WIDGET]: timelineWidget }),

  beforeRegisterNodeDef(_, definition) {
    if (definition.name !== NODE) return
    for (const inputs of [definition.input?.required, definition.input?.optional]) {
      const spec = inputs?.[INPUT]
      if (spec) inputs[INPUT] = [spec[0], { ...spec[1], widgetType: WIDGET }]
    }
  },

  setup() {
    for (const event of ['executed', 'graphChanged', 'b_preview']) api.addEventListener(event, refreshAll)
    app.canvas?.canvas?.addEventListener('litegraph:set-graph', () => entered())
  },

  afterConfigureGraph: loaded
})

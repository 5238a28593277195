/**
 * The widget's picture: draws a score and keeps its elements from one drawing to the next, so that focus and pointer
 * capture survive. Mouse and keyboard are in timeline_gestures.js. Nothing here knows ComfyUI; the host is an object:
 *
 *   commit(score)     an edit is finished: keep it (once per gesture)
 *   ripple, ripple = whether edits move what follows
 *   startOver()       empty the text
 */

import { make, place, pool, rulerStep, set, shown, typedSeconds } from './timeline_dom.js'
import { attachGestures } from './timeline_gestures.js'
import { HANDLES } from './timeline_handles.js'
import { secondsAt, toNumber } from './timeline_grid.js'
import { buildParts, makeBorder, makeKey } from './timeline_parts.js'
import * as edit from './timeline_score.js'
import { drawnGrid } from './timeline_text.js'

/** Free room after the end, as a share of the video: the end can be dragged to the right. */
const TAIL = 0.06
const NARROW = 18
/** More labels than any screen has room for. */
const MOST_TICKS = 400
/** Diamonds nearer than their width go to different heights. */
const DIAMOND = 30
const ROWS = ['50%', '24%', '76%']

export class TimelineView {
  constructor(host, words) {
    this.host = host
    this.words = words
    this.score = null
    this.draft = null
    this.problem = null
    this.selected = null
    this.pictures = []
    this.count = null
    this.typing = false
    const remove = () => this.removeKey(this.selectedKey)
    const actions = { add: () => this.addKey(), remove, cut: () => this.toggleCut(), ripple: () => this.toggleRipple() }
    const others = { mend: () => this.mend(), startOver: () => this.host.startOver() }
    Object.assign(this, buildParts(words, { ...actions, ...others }))
    this.drawn = { ticks: [], bands: [], keys: [], asks: [], blocks: [], borders: [] }
    this.gestures = attachGestures(this)
    new ResizeObserver(() => this.render()).observe(this.axis)
  }

  /** What the host has: a legal score, or one with a problem, or only the problem (the text cannot be read). */
  show({ score, problem, locked = false }) {
    this.gestures.cancel()
    this.giveUp()
    this.score = score
    this.problem = problem
    this.element.inert = locked
    this.element.classList.toggle('ast-locked', locked)
    set(this.element, { title: locked ? this.words.linked : null })
    const { kind, index } = this.selected ?? {}
    const most = { key: score?.keys.length, cut: score?.cuts.length, end: 1 }[kind] ?? 0
    if (!(index < most)) this.selected = null
    this.render()
  }

  /** What stands on the keyframes: addresses, and how many there will be (null where nobody knows). */
  setPictures({ pictures, count }) {
    const same = pictures.length === this.pictures.length && pictures.every((url, k) => url === this.pictures[k])
    if (same && count === this.count) return
    this.pictures = pictures
    this.count = count
    this.render()
  }

  get selectedKey() {
    return this.selected?.kind === 'key' ? this.selected.index : -1
  }

  get current() {
    return this.draft ?? this.score
  }

  select(kind, index) {
    this.selected = kind ? { kind, index } : null
    this.render()
  }

  /** The element of a handle, for focus. */
  handle(kind, index) {
    return { key: this.drawn.keys[index], cut: this.drawn.borders[index], end: this.end }[kind]
  }

  announce(text) {
    this.status.textContent = text
  }

  /** Says something to everybody, until the next drawing. */
  tell(text) {
    set(this.outcome, {}, text)
    this.announce(text)
  }

  commit(score) {
    this.draft = null
    if (score && score !== this.score) this.host.commit(score)
    else this.render()
  }

  // Edits without a drag

  addKey(frame) {
    if (this.problem || !this.score) return
    const wanted = frame ?? edit.roomAfter(this.score, this.selectedKey)
    const added = edit.addKey(this.score, wanted)
    if (!added) return this.announce(this.words.noRoom)
    this.commit(added.score)
    this.select('key', added.index)
    this.handle('key', added.index)?.focus({ preventScroll: true })
    this.announce(this.words.added(added.index + 1))
  }

  removeKey(k, invert = false) {
    if (this.problem || k < 0) return
    if (this.score.keys.length < 2) return this.announce(this.words.lastOne)
    const next = Math.min(k, this.score.keys.length - 2)
    this.commit(edit.removeKey(this.score, k, this.host.ripple !== invert))
    this.select('key', next)
    this.handle('key', next)?.focus({ preventScroll: true })
    this.announce(this.words.removed(k + 1))
  }

  toggleCut() {
    if (!this.problem && this.selectedKey >= 0) this.commit(edit.toggleCut(this.score, this.selectedKey))
  }

  toggleRipple() {
    this.host.ripple = !this.host.ripple
    this.render()
  }

  mend() {
    this.host.commit(edit.repaired(this.score))
  }

  /** Enters the typed time of the selected handle; complains in place, and returns false, where it cannot be. */
  enter() {
    if (!this.typing || !this.score || this.problem) return true
    const { kind, index } = this.selected ?? { kind: 'end', index: 0 }
    const { limits, put } = HANDLES[kind]
    const { rate } = this.score
    const seconds = typedSeconds(this.input.value, toNumber(rate))
    const range = limits(this.score, index, this.host.ripple).map((frame) => shown(secondsAt(frame, rate)))
    if (Number.isNaN(seconds)) return this.#complain(this.words.badTime)
    let next
    try {
      next = put(this.score, index, seconds, this.host.ripple)
    } catch (error) {
      if (!error.field) throw error
      return this.#complain(this.words.between(...range))
    }
    this.giveUp()
    this.commit(next)
    return true
  }

  #complain(text) {
    set(this.input, { 'aria-invalid': 'true' })
    set(this.outcome, {}, text)
    this.announce(text)
    return false
  }

  /** Forgets what is typed. */
  giveUp() {
    this.typing = false
    set(this.input, { 'aria-invalid': null })
  }

  // Drawing

  render() {
    const score = this.current
    this.element.classList.toggle('ast-broken', Boolean(this.problem))
    set(this.alert, { hidden: this.problem ? null : '' })
    set(this.complaint, {}, this.problem?.message ?? '')
    set(this.buttons.mend, { hidden: score ? null : '' })
    this.axis.hidden = !score
    this.#drawBar(score)
    if (!score) return
    const grid = drawnGrid(score)
    const furthest = Math.max(grid.frames, score.end, ...grid.keyframes.map((key) => key.frame + 1))
    // A drag keeps its scale: an axis that shrank under the mouse would run away from it.
    this.span = this.gestures.span ?? furthest * (1 + TAIL)
    this.pixels = this.axis.clientWidth || 1
    this.#drawRuler(score)
    this.#drawKeys(score, grid)
    this.#drawBands(grid)
    this.#drawShots(score, grid)
    this.#drawAsks(score, grid)
    this.#drawLine(score, grid)
    this.#drawGesture(score, grid)
  }

  #drawBar(score) {
    const { words } = this
    const fixed = Boolean(this.problem) || !score
    const key = this.selectedKey
    set(this.buttons.ripple, { 'aria-pressed': String(Boolean(this.host.ripple)) })
    this.buttons.add.disabled = fixed
    this.buttons.remove.disabled = fixed || key < 0 || score.keys.length < 2
    this.buttons.cut.disabled = fixed || !edit.canCut(score, key)
    set(this.buttons.cut, { 'aria-pressed': String(!fixed && key >= 0 && edit.cutOf(score, key) >= 0) })
    const grid = score && drawnGrid(score)
    const rate = score && Number(toNumber(score.rate).toFixed(3))
    const seconds = score && shown(secondsAt(grid.frames, score.rate))
    const total = score && `${words.frames(grid.frames)} · ${seconds} s · ${words.fps(rate)}`
    set(this.total, {}, score?.guessed ? words.guessed : (total ?? ''))
    // Keyframes that a storyboard may still set are not counted.
    const sure = score && !fixed && !(score.free && score.source === 'outside')
    const wrong = sure && this.count !== null && this.count !== score.keys.length
    set(this.badge, { hidden: wrong ? null : '' }, wrong ? words.miscount(this.count, score.keys.length) : '')
  }

  #drawRuler(score) {
    const perFrame = this.pixels / this.span
    const rate = toNumber(score.rate)
    const step = rulerStep(perFrame * rate, rate)
    const times = []
    const count = Math.min(MOST_TICKS, Math.floor(this.span / (step * rate)) + 1)
    for (let k = 0; k < count; k++) times.push(k * step)
    pool(this.ruler, this.drawn.ticks, times.length, () => make('span', 'ast-tick'))
    times.forEach((time, k) => {
      const room = this.pixels * (1 - (time * rate) / this.span)
      set(this.drawn.ticks[k], {}, room > 30 ? `${Number(time.toFixed(3))}s` : '')
      place(this.drawn.ticks[k], (time * rate) / this.span)
    })
    const small = [1, 4].find((frames) => frames * perFrame >= 4)
    this.ruler.style.setProperty('--ast-minor', small ? `${small * perFrame}px` : '0')
  }

  #drawBands(grid) {
    const { bands, keys } = this.drawn
    const keyed = new Map(grid.keyframes.map((key, k) => [key.frame, keys[k]]))
    pool(this.bands, bands, grid.chunks.length, () => make('div', 'ast-band'))
    let start = 0
    grid.chunks.forEach((chunk, k) => {
      place(bands[k], start / this.span, chunk / this.span)
      bands[k].classList.toggle('ast-empty', !keyed.has(start))
      // What the keyframe's picture leaves free
      const pictured = Number.parseFloat(keyed.get(start)?.querySelector('img').style.width) || 0
      const wide = (chunk / this.span) * this.pixels - pictured
      set(bands[k], { title: this.words.chunk(chunk) }, wide > 70 ? this.words.frames(chunk) : wide > 24 ? `${chunk}` : '')
      start += chunk
    })
    this.lane.style.setProperty('--ast-length', `${(grid.frames / this.span) * 100}%`)
  }

  #drawKeys(score, grid) {
    const { keys } = this.drawn
    pool(this.lane, keys, grid.keyframes.length, (k) => makeKey(k, this.helpId, () => this.render()))
    const height = this.lane.clientHeight || 60
    let row = 0
    grid.keyframes.forEach((key, k) => {
      const element = keys[k]
      const next = grid.keyframes[k + 1]?.frame ?? grid.frames
      const room = ((next - key.frame) / this.span) * this.pixels - 3
      place(element, key.frame / this.span)
      element.dataset.frame = String(key.frame)
      const near = k && ((key.frame - grid.keyframes[k - 1].frame) / this.span) * this.pixels < DIAMOND
      row = near ? (row + 1) % ROWS.length : 0
      element.style.setProperty('--ast-row', ROWS[row])
      this.#drawPicture(element, this.pictures[k], Math.min(room, height * element.ratio))
      element.classList.toggle('ast-selected', this.selectedKey === k)
      const opens = edit.cutOf(score, k)
      element.classList.toggle('ast-opens', opens >= 0)
      const name = this.words.keyOf(k + 1, grid.keyframes.length)
      const label = opens >= 0 ? `${name}, ${this.words.opens(opens + 2)}` : name
      this.#describe(element, 'key', k, label, this.#landing(score, key))
    })
  }

  #drawPicture(element, url, width) {
    const image = element.querySelector('img')
    if (url && image.getAttribute('src') !== url) image.src = url
    const there = Boolean(url) && element.dataset.failed !== url && width >= NARROW
    element.classList.toggle('ast-pictured', there)
    image.style.width = there ? `${width}px` : ''
  }

  /** Role, name and value of a handle for assistive technology. */
  #describe(element, kind, index, name, text) {
    const score = this.current
    const [first, last] = HANDLES[kind].limits(score, index, this.host.ripple)
    const now = Math.round(HANDLES[kind].at(score, index))
    set(element, {
      'aria-label': name,
      'aria-valuemin': Math.min(first, now),
      'aria-valuemax': Math.max(last, now),
      'aria-valuenow': now,
      'aria-valuetext': text
    })
  }

  #landing(score, { requested, frame }) {
    const asked = Math.round(requested * toNumber(score.rate))
    const lands = this.words.lands(shown(secondsAt(frame, score.rate)), frame)
    return `${this.words.asked(shown(requested), asked)}; ${lands}`
  }

  /** Frames where the shots begin and the video ends, as they are on the grid. */
  #bounds(score, grid) {
    const cuts = score.cuts.map((_, c) => HANDLES.cut.seen(score, c, grid))
    return [0, ...cuts, grid.frames]
  }

  #drawShots(score, grid) {
    const { blocks, borders } = this.drawn
    const bounds = this.#bounds(score, grid)
    pool(this.blocks, blocks, bounds.length - 1, () => make('div', 'ast-block'))
    pool(this.shots, borders, bounds.length - 2, (c) => makeBorder(c, this.helpId))
    blocks.forEach((block, k) => {
      const share = (bounds[k + 1] - bounds[k]) / this.span
      place(block, bounds[k] / this.span, share)
      const seconds = `${shown(secondsAt(bounds[k + 1] - bounds[k], score.rate))} s`
      const wide = share * this.pixels
      const name = this.words.shot(k + 1)
      set(block, {}, wide > 100 ? `${name} · ${seconds}` : wide > 50 ? seconds : '')
    })
    borders.forEach((border, c) => {
      place(border, bounds[c + 1] / this.span)
      // A border that moves with its keyframe is reached through it; two stops for one thing would only confuse.
      const alone = edit.keyOf(score, c) < 0
      const [role, stop, unheard] = alone ? ['slider', '0', null] : [null, null, 'true']
      set(border, { role, tabindex: stop, 'aria-hidden': unheard })
      if (alone) this.#describe(border, 'cut', c, this.words.border(c + 2), this.words.frame(bounds[c + 1]))
    })
    place(this.end, grid.frames / this.span)
    this.end.classList.toggle('ast-selected', this.selected?.kind === 'end')
    const length = this.words.lengthNow(grid.frames, shown(secondsAt(grid.frames, score.rate)))
    this.#describe(this.end, 'end', 0, this.words.end, length)
  }

  /** Hollow marks where a time was asked for and the grid put it elsewhere. */
  #drawAsks(score, grid) {
    const places = score.keys.map((_, k) => [edit.keyPosition(score, k), grid.keyframes[k].frame])
    places.push([score.end, grid.frames])
    const moved = places.filter(([asked, got]) => Math.abs(asked - got) > 0.01)
    pool(this.asks, this.drawn.asks, moved.length, () => make('span', 'ast-ask'))
    moved.forEach(([asked], k) => place(this.drawn.asks[k], asked / this.span))
  }

  #drawLine(score, grid) {
    const { words } = this
    const { kind, index } = this.selected ?? { kind: 'end', index: 0 }
    // With nothing selected there is nothing to say that the node's own fields do not say.
    set(this.asked, { hidden: this.selected ? null : '' })
    this.input.disabled = Boolean(this.problem)
    if (!this.selected) return set(this.outcome, {}, words.hint)
    const asked = HANDLES[kind].at(score, index)
    const [name, frame] = {
      key: () => [words.key(index + 1), grid.keyframes[index].frame],
      cut: () => [words.border(index + 2), this.#bounds(score, grid)[index + 1]],
      end: () => [words.length, grid.frames]
    }[kind]()
    set(this.label, {}, name)
    // What somebody is typing stays until it is entered or given up.
    if (this.typing) return
    const seconds = kind === 'key' ? grid.keyframes[index].requested : secondsAt(asked, score.rate)
    this.input.value = shown(seconds)
    // A rounded field is a hundredth of a frame off; only what can be seen is said.
    const offset = Number((frame - asked).toFixed(1))
    const landed = kind === 'end' ? words.frames(frame) : words.frame(frame)
    const moved = offset ? `, ${words[offset > 0 ? 'later' : 'sooner'](String(Math.abs(offset)))}` : ''
    set(this.outcome, {}, `→ ${landed} · ${shown(secondsAt(frame, score.rate))} s${moved}`)
  }

  /** While something is dragged: where it lands, and the frames that it can land on. */
  #drawGesture(score, grid) {
    const { kind, index } = this.gestures.active ?? {}
    set(this.bubble, { hidden: kind ? null : '' })
    const key = kind === 'cut' ? edit.keyOf(score, index) : kind === 'key' ? index : -1
    set(this.guides, { hidden: key >= 0 ? null : '' })
    if (!kind) return
    const frame = key >= 0 ? grid.keyframes[key].frame : kind === 'end' ? grid.frames : Math.round(score.cuts[index])
    const asked = shown(secondsAt(HANDLES[kind].at(score, index), score.rate))
    const landed = kind === 'end' ? this.words.frames(frame) : this.words.frame(frame)
    set(this.bubble, {}, `${asked} s → ${landed}`)
    const half = Math.min(0.5, (this.bubble.offsetWidth / 2 + 2) / this.pixels)
    place(this.bubble, Math.min(Math.max(frame / this.span, half), 1 - half))
    if (key < 0) return
    const chunk = key + (grid.keyframes[0].frame ? 1 : 0)
    const perFrame = this.pixels / this.span
    this.guides.style.backgroundSize = `${4 * perFrame}px 100%`
    this.guides.style.backgroundPositionX = `${(chunk % 4) * perFrame}px`
  }
}

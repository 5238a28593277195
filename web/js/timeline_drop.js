/**
 * Pictures dropped on a keyframe from the desktop: ComfyUI's own upload takes them, and the Load Image node that the
 * keyframe's picture comes from shows them. The timeline itself holds times only.
 */

import { loadersOf } from './timeline_pictures.js'
import { drawnGrid } from './timeline_text.js'

const TYPES = /^image\/(png|jpeg|webp)$/

/** Uploads a picture into ComfyUI's input folder; its name there. Throws where the server refuses. */
async function upload(file, api) {
  const body = new FormData()
  body.append('image', file)
  const answer = await api.fetchApi('/upload/image', { method: 'POST', body })
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`)
  const { name, subfolder } = await answer.json()
  return subfolder ? `${subfolder}/${name}` : name
}

/** Lets a Load Image node show another file: one step to undo. */
function choose(loader, name, app) {
  const field = loader.widgets.find((widget) => widget.name === 'image')
  const known = field.options?.values
  if (Array.isArray(known) && !known.includes(name)) known.push(name)
  app.canvas?.emitBeforeChange?.()
  try {
    field.value = name
    field.callback?.(name, app.canvas, loader)
  } finally {
    app.canvas?.emitAfterChange?.()
  }
  app.canvas?.setDirty(true, true)
}

/** The keyframe that stands at a place of the page, or before it. */
function keyAt(view, x) {
  const box = view.axis.getBoundingClientRect()
  const frame = ((x - box.left) / (box.width || 1)) * view.span
  return Math.max(0, drawnGrid(view.score).keyframes.findLastIndex((key) => key.frame <= frame))
}

/**
 * Connects a view.
 *
 * @param view the timeline's
 * @param nodeOf gives the timeline node, which is another one after undo
 * @param host the frontend: { app, api }
 */
export function attachDrops(view, nodeOf, { app, api }) {
  let over = -1
  const show = (k) => {
    if (k === over) return
    over = k
    view.drawn.keys.forEach((element, i) => element.classList.toggle('ast-drop', i === k))
  }
  const isFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files')

  view.axis.addEventListener('dragover', (event) => {
    if (!isFiles(event) || view.problem || !view.score) return
    event.preventDefault()
    event.stopPropagation()
    event.dataTransfer.dropEffect = 'copy'
    show(keyAt(view, event.clientX))
  })
  view.axis.addEventListener('dragleave', (event) => {
    if (!view.axis.contains(event.relatedTarget)) show(-1)
  })
  view.axis.addEventListener('drop', async (event) => {
    show(-1)
    if (!isFiles(event) || view.problem || !view.score) return
    // The frontend would open it as a workflow, or make a node of it.
    event.preventDefault()
    event.stopPropagation()
    const k = keyAt(view, event.clientX)
    const file = event.dataTransfer.files[0]
    const loader = loadersOf(nodeOf())?.[k]
    if (!TYPES.test(file?.type ?? '')) return view.tell(view.words.noPicture)
    if (!loader) return view.tell(view.words.noLoader)
    try {
      choose(loader, await upload(file, api), app)
    } catch (error) {
      return view.tell(view.words.noUpload(error.message))
    }
    view.select('key', k)
    view.announce(view.words.dropped(k + 1)) // everybody else sees it
  })
}

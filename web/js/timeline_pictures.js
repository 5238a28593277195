/**
 * Finds the pictures that will be keyframes, as far as the graph shows them: what the nodes behind the `keyframes`
 * input preview, and else the thumbnails of the last run.
 */

import { inputSlot, outputTargets, sourceOf } from './graph_links.js'

const DEPTH = 12
/** Their pictures are those of all their inputs, in order. */
const JOINERS = /^(ImageBatch|BatchImagesNode|ImageBatchMulti|MakeImageList|ImageListToImageBatch|RebatchImages)$/
/** They hand on, or change, each picture of their only image input; sizes and colours do not matter here. */
const CHANGERS = /reroute|scale|resize|crop|pad|flip|rotate|sharpen|blur|colou?r|invert|quantize|rebatch/i
const COLLECTORS = /batch|reroute|list|join|combine/i
/** Files that may hold many pictures. */
const MANY = /\.(gif|webp|apng|mp4|webm|mov|mkv)$/i
const BYPASSED = 4

/** The key under which the frontend keeps a node's outputs: its id, inside a subgraph with the subgraph's. */
export const locatorOf = (node) =>
  !node.graph || node.graph === node.graph.rootGraph ? String(node.id) : `${node.graph.id}:${node.id}`

/** Address of a stored picture { filename, subfolder, type } on ComfyUI's own server. */
function viewUrl(picture, { app, api }) {
  const { filename, subfolder = '', type = 'output' } = picture
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}${app.getPreviewFormatParam()}`)
}

const list = (value) => (Array.isArray(value) ? value : [])
const stored = (pictures, host) =>
  list(pictures)
    .filter((each) => each?.filename)
    .map((each) => viewUrl(each, host))

const nothing = { pictures: [], count: null }

/** Pictures that a node itself shows, and how many it gives if that is known. */
function shownBy(node, host) {
  const locator = locatorOf(node)
  const saved = stored(host.app.nodeOutputs?.[locator]?.images, host)
  if (node.type === 'LoadImage') {
    const name = String(node.widgets?.find((widget) => widget.name === 'image')?.value ?? '')
    const shown = saved.length ? saved : (node.imgs ?? []).map((image) => image.src).filter(Boolean)
    return { pictures: shown, count: MANY.test(name) ? null : 1 }
  }
  if (saved.length) return { pictures: saved, count: saved.length }
  const live = list(host.app.nodePreviewImages?.[locator])
  const pictures = live.length ? live : (node.imgs ?? []).map((image) => image.src).filter(Boolean)
  return { pictures, count: null }
}

const isImage = (input) => String(input.type) === 'IMAGE'

/** The linked image inputs of a node, as slots. */
const linkedImages = (node) =>
  (node.inputs ?? []).map((input, slot) => (isImage(input) && sourceOf(node, slot) ? slot : -1)).filter((s) => s >= 0)

function together(found) {
  const counts = found.map(({ count }) => count)
  return {
    pictures: found.every(({ pictures }) => pictures.length) ? found.flatMap(({ pictures }) => pictures) : [],
    count: counts.length && counts.every((count) => count !== null) ? counts.reduce((sum, each) => sum + each, 0) : null
  }
}

function picturesBehind(node, slot, host, depth) {
  const { node: source, slot: output } = sourceOf(node, slot) ?? {}
  if (!source || depth > DEPTH) return nothing
  const images = linkedImages(source)
  const all = () => together(images.map((each) => picturesBehind(source, each, host, depth + 1)))
  if (source.mode === BYPASSED) return images.length ? picturesBehind(source, images[0], host, depth + 1) : nothing
  if (JOINERS.test(source.type)) return all()
  if (CHANGERS.test(source.type) && images.length === 1) return all()
  const own = shownBy(source, host)
  if (own.pictures.length || own.count !== null) return own
  for (const beside of outputTargets(source, output)) {
    const shown = beside === node || COLLECTORS.test(beside.type) ? nothing : shownBy(beside, host)
    if (shown.pictures.length) return shown
  }
  // Any other node makes new pictures, which are not known before it runs.
  return COLLECTORS.test(source.type) ? { ...all(), count: null } : nothing
}

/**
 * The keyframes' pictures in order: { pictures: addresses, empty if none is known; count: how many there will be, null if
 * the graph does not tell }.
 *
 * @param node the timeline node
 * @param host the frontend: { app, api }
 */
export function picturesOf(node, host) {
  const slot = inputSlot(node, 'keyframes')
  if (!sourceOf(node, slot)) return nothing
  const behind = picturesBehind(node, slot, host, 0)
  if (behind.pictures.length) return behind
  const last = stored(host.app.nodeOutputs?.[locatorOf(node)]?.thumbnails, host)
  return { pictures: behind.count === null || behind.count === last.length ? last : [], count: behind.count }
}

function loadersBehind(node, slot, depth) {
  const { node: source } = sourceOf(node, slot) ?? {}
  if (!source || depth > DEPTH) return null
  const images = linkedImages(source)
  if (source.mode === BYPASSED) return images.length ? loadersBehind(source, images[0], depth + 1) : null
  if (JOINERS.test(source.type) || (CHANGERS.test(source.type) && images.length === 1)) {
    const found = images.map((each) => loadersBehind(source, each, depth + 1))
    return found.every(Boolean) ? found.flat() : null
  }
  const name = String(source.widgets?.find((widget) => widget.name === 'image')?.value ?? '')
  return source.type === 'LoadImage' && !MANY.test(name) ? [source] : null
}

/** The Load Image nodes of all keyframes in order, or null if they get their pictures from elsewhere. */
export const loadersOf = (node) => loadersBehind(node, inputSlot(node, 'keyframes'), 0)

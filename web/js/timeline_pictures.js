/**
 * Finds the pictures that will be keyframes, as far as the graph shows them: what the nodes behind the `keyframes`
 * input preview, and else the thumbnails of the last run.
 */

const DEPTH = 8
const COLLECTORS = /batch|reroute|list|join|combine/i

/** The key under which the frontend keeps a node's outputs: its id, inside a subgraph with the subgraph's. */
export const locatorOf = (node) =>
  !node.graph || node.graph === node.graph.rootGraph ? String(node.id) : `${node.graph.id}:${node.id}`

/** Address of a stored picture { filename, subfolder, type } on ComfyUI's own server. */
function viewUrl(picture, { app, api }) {
  const { filename, subfolder = '', type = 'output' } = picture
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}${app.getPreviewFormatParam()}`)
}

const stored = (pictures, host) => (pictures ?? []).filter((each) => each?.filename).map((each) => viewUrl(each, host))

/** Pictures that a node itself shows. */
function shownBy(node, host) {
  const locator = locatorOf(node)
  const saved = stored(host.app.nodeOutputs?.[locator]?.images, host)
  if (saved.length) return saved
  const live = host.app.nodePreviewImages?.[locator] ?? []
  return live.length ? [...live] : (node.imgs ?? []).map((image) => image.src).filter(Boolean)
}

/** Nodes that get the same output as `slot` of `node`: a preview beside us shows what we get. */
function besides(node, slot) {
  const links = node.outputs?.[slot]?.links ?? []
  return links.map((id) => node.graph.getNodeById(linkOf(node.graph, id)?.target_id)).filter(Boolean)
}

const linkOf = (graph, id) => graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id]

function picturesBehind(node, input, host, depth) {
  const link = input?.link == null ? null : linkOf(node.graph, input.link)
  const source = link && node.graph.getNodeById(link.origin_id)
  if (!source || depth > DEPTH) return []
  const own = shownBy(source, host)
  if (own.length) return own
  for (const beside of besides(source, link.origin_slot)) {
    const pictures = beside === node || COLLECTORS.test(beside.type) ? [] : shownBy(beside, host)
    if (pictures.length) return pictures
  }
  // A batch hands on its inputs in order; any other node makes new pictures, which are not known before it runs.
  if (!COLLECTORS.test(source.type)) return []
  const inputs = (source.inputs ?? []).filter((each) => each.link != null)
  return inputs.flatMap((each) => picturesBehind(source, each, host, depth + 1))
}

/**
 * Addresses of the keyframes' pictures in order; empty if none is known.
 *
 * @param node the timeline node
 * @param host the frontend: { app, api }
 */
export function picturesOf(node, host) {
  const input = node.inputs?.find((each) => each.name === 'keyframes')
  if (input?.link == null) return []
  const behind = picturesBehind(node, input, host, 0)
  return behind.length ? behind : stored(host.app.nodeOutputs?.[locatorOf(node)]?.thumbnails, host)
}

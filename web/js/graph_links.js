/** Who is connected to whom, by the calls that old and new frontends share: reading the links of slots is deprecated. */

/** The number of a node's input of that name, or -1. */
export const inputSlot = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1

/** Whether something is connected to a node's input. */
export const isLinked = (node, name) => {
  const slot = inputSlot(node, name)
  return slot >= 0 && Boolean(node.isInputConnected(slot))
}

/** The { node, slot } that an input gets its value from, or null. */
export function sourceOf(node, slot) {
  if (slot < 0 || !node.graph) return null
  const link = node.getInputLink(slot)
  const source = link && node.graph.getNodeById(link.origin_id)
  return source ? { node: source, slot: link.origin_slot } : null
}

/** The nodes that get an output of a node. */
export const outputTargets = (node, slot) => (node.graph && node.getOutputNodes(slot)) || []

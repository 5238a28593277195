/**
 * A new Storyboard node is tall enough to read a film in it. Nodes of saved graphs keep their size: a graph sets it after
 * the node is made.
 */

import { app } from '../../../scripts/app.js'

const WIDTH = 420
const HEIGHT = 560

app.registerExtension({
  name: 'anchorshot.storyboard',
  nodeCreated(node) {
    if (node.comfyClass !== 'AnchorshotStoryboard') return
    node.setSize?.([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT)])
  },
})

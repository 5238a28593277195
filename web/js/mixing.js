/**
 * Prompt mixing in saved workflows. Where a node's field came later than a workflow, the frontend fills in the default of
 * today; these fields then get what the node did before it had them.
 */

import { app } from '../../../scripts/app.js'

const DIPW = { progress_shift: 1, progress_clock: 'steps' }
const BEFORE = {
  AnchorshotDIPWGuider: DIPW,
  AnchorshotDIPWModelPatch: DIPW,
  AnchorshotSAR: { bounded: true },
}

app.registerExtension({
  name: 'anchorshot.mixing',

  beforeRegisterNodeDef(nodeType, nodeData) {
    const before = BEFORE[nodeData.name]
    if (!before) return
    const configured = nodeType.prototype.onConfigure
    nodeType.prototype.onConfigure = function (info) {
      const result = configured?.apply(this, arguments)
      const saved = info?.widgets_values
      if (Array.isArray(saved)) {
        const fields = (this.widgets ?? []).filter((widget) => widget.serialize !== false)
        for (const widget of fields.slice(saved.length)) {
          if (widget.name in before) widget.value = before[widget.name]
        }
      }
      return result
    }
  },
})

/** The pack's templates in their own order (the server lists files as the disk has them), and in the frontend's language. */

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { translateTemplate } from './template_words.js'
import { isChinese } from './timeline_words.js'

/** The folder that the pack lies in, as in this file's address: /extensions/FOLDER/js/templates.js. */
const folder = decodeURIComponent(new URL(import.meta.url).pathname.split('/').at(-3) ?? '')
const { compare } = new Intl.Collator('en', { numeric: true })

app.registerExtension({
  name: 'anchorshot.templates',

  init() {
    const ask = api.getWorkflowTemplates
    if (typeof ask !== 'function') return
    api.getWorkflowTemplates = async function (...rest) {
      const templates = await ask.apply(this, rest)
      if (!Array.isArray(templates?.[folder])) return templates
      return { ...templates, [folder]: [...templates[folder]].sort(compare) }
    }
  },

  beforeConfigureGraph(workflow) {
    if (isChinese(app.extensionManager?.setting?.get('Comfy.Locale'))) translateTemplate(workflow)
  }
})

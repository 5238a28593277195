/** The widget's words, English and Chinese; other languages of the frontend read English. */

const en = {
  timeline: 'Keyframe timeline',
  add: 'Add keyframe',
  addHint: 'Add a keyframe after the selected one, or in the longest gap (or double-click the axis)',
  remove: 'Remove',
  removeHint: 'Remove the selected keyframe (Delete)',
  cut: 'New shot',
  cutHint: 'The selected keyframe opens a new shot, or no longer does',
  ripple: 'Ripple',
  rippleHint: 'An edit moves everything after it, and the end (hold Alt for the other way)',
  key: (k) => `Keyframe ${k}`,
  keyOf: (k, n) => `Keyframe ${k} of ${n}`,
  opens: (shot) => `opens shot ${shot}`,
  shot: (k) => `Shot ${k}`,
  border: (k) => `Start of shot ${k}`,
  end: 'Length of the video',
  length: 'Length',
  frame: (f) => `frame ${f}`,
  frames: (n) => `${n} frames`,
  fps: (rate) => `${rate} fps`,
  later: (n) => `${n} frame${n === '1' ? '' : 's'} later`,
  sooner: (n) => `${n} frame${n === '1' ? '' : 's'} earlier`,
  chunk: (n) => `${n} frames that the video model makes as one chunk`,
  asked: (seconds, frame) => `asked ${seconds} s, frame ${frame}`,
  lands: (seconds, frame) => `lands on frame ${frame}, ${seconds} s`,
  lengthNow: (frames, seconds) => `${frames} frames, ${seconds} s`,
  hint: 'Drag a keyframe, a border or the end; double-click to add a keyframe',
  help:
    'Arrow keys move by one frame, with Shift by one latent step of four; Home and End as far as it goes; ' +
    'Enter types a time; Delete removes; Escape undoes a drag.',
  typeTime: 'Seconds, frames such as 20f, or a timecode 00:00:01:04',
  badTime: 'Write seconds such as 1.25, frames such as 20f, or 00:00:01:04',
  between: (first, last) => `Between ${first} and ${last} s here`,
  added: (k) => `Keyframe ${k} added`,
  removed: (k) => `Keyframe ${k} removed`,
  noRoom: 'No room for another keyframe',
  lastOne: 'A timeline keeps its last keyframe',
  miscount: (pictures, keys) =>
    `${pictures} picture${pictures === 1 ? '' : 's'} for ${keys} keyframe${keys === 1 ? '' : 's'}`,
  miscountHint: 'One picture for each keyframe, in order of time: add or remove pictures or keyframes',
  mend: 'Fix',
  mendHint: 'Move keyframes into the video, in order and a frame apart',
  startOver: 'Start over',
  startOverHint: 'Empty the text: one keyframe at the start, or those of the storyboard',
  guessed: 'length known after a run',
  linked: 'The timeline comes from a link'
}

const zh = {
  timeline: '关键帧时间线',
  add: '添加关键帧',
  addHint: '在所选关键帧之后或最长的空隙中添加关键帧（也可双击时间轴）',
  remove: '移除',
  removeHint: '移除所选关键帧（Delete）',
  cut: '新镜头',
  cutHint: '所选关键帧开始一个新镜头，再按一次取消',
  ripple: '波纹',
  rippleHint: '编辑会移动其后的所有内容和结尾（按住 Alt 则相反）',
  key: (k) => `关键帧 ${k}`,
  keyOf: (k, n) => `关键帧 ${k}，共 ${n} 个`,
  opens: (shot) => `镜头 ${shot} 的开头`,
  shot: (k) => `镜头 ${k}`,
  border: (k) => `镜头 ${k} 的开始`,
  end: '视频长度',
  length: '长度',
  frame: (f) => `第 ${f} 帧`,
  frames: (n) => `${n} 帧`,
  fps: (rate) => `${rate} 帧/秒`,
  later: (n) => `晚 ${n} 帧`,
  sooner: (n) => `早 ${n} 帧`,
  chunk: (n) => `视频模型作为一个分块生成的 ${n} 帧`,
  asked: (seconds, frame) => `要求 ${seconds} 秒，第 ${frame} 帧`,
  lands: (seconds, frame) => `落在第 ${frame} 帧，${seconds} 秒`,
  lengthNow: (frames, seconds) => `${frames} 帧，${seconds} 秒`,
  hint: '拖动关键帧、边界或结尾；双击添加关键帧',
  help:
    '方向键移动一帧，加 Shift 移动一个潜空间步（四帧）；Home 和 End 移到尽头；' +
    'Enter 输入时间；Delete 移除；Escape 取消拖动。',
  typeTime: '秒、帧（如 20f）或时间码 00:00:01:04',
  badTime: '请输入秒（如 1.25）、帧（如 20f）或 00:00:01:04',
  between: (first, last) => `此处应在 ${first} 与 ${last} 秒之间`,
  added: (k) => `已添加关键帧 ${k}`,
  removed: (k) => `已移除关键帧 ${k}`,
  noRoom: '没有空间再添加关键帧',
  lastOne: '时间线保留最后一个关键帧',
  miscount: (pictures, keys) => `${pictures} 张图片，${keys} 个关键帧`,
  miscountHint: '每个关键帧按时间顺序对应一张图片：请增减图片或关键帧',
  mend: '修正',
  mendHint: '把关键帧移入视频内，按顺序排列并至少相隔一帧',
  startOver: '重新开始',
  startOverHint: '清空文本：开头一个关键帧，或使用分镜脚本的关键帧',
  guessed: '长度在运行后可知',
  linked: '时间线来自连线'
}

/** Whether a locale of the frontend is Chinese, such as `zh` or `zh-TW`. */
export const isChinese = (locale) => String(locale ?? '').toLowerCase().startsWith('zh')

/** Words for a locale of the frontend. */
export const wordsFor = (locale) => (isChinese(locale) ? zh : en)

/** Chinese for the pack's templates: titles of groups and nodes, and the lines of their notes. */

export const TITLES = {
  'Start here': '从这里开始',
  'Read me': '说明',
  '1 · Story': '1 · 故事',
  '2 · Keyframes that remember': '2 · 有记忆的关键帧',
  '2 · Keyframes that remember: FLUX.1-dev': '2 · 有记忆的关键帧：FLUX.1-dev',
  '3 · Video through the keyframes': '3 · 经过关键帧的视频',
  '3 · Video through the keyframes: Wan 2.2 5B': '3 · 经过关键帧的视频：Wan 2.2 5B',
  '4 · Film': '4 · 影片',
  'Models and sampling': '模型与采样',
  'Segments, each out of the one before': '各段，每段从前一段出发',
  'Film': '影片',
  '1 · Keyframes': '1 · 关键帧',
  '2 · Timeline': '2 · 时间线',
  "3 · Video with core's sampler": '3 · 用核心采样器生成视频',
  '1 · Qwen-Image-Edit 2511': '1 · Qwen-Image-Edit 2511',
  '1 · FLUX.2-dev': '1 · FLUX.2-dev',
  '2 · Earlier frames, and the memory of them': '2 · 之前的画面及其记忆',
  '3 · Next shot': '3 · 下一个镜头',
  '3 · Model and prompt': '3 · 模型与提示词',
  '3 · Models and prompt': '3 · 模型与提示词',
  '4 · Video through the keyframes': '4 · 经过关键帧的视频',
  '4 · Two experts, keyframes pinned in both': '4 · 两个专家，关键帧在两者中都被固定',
  '5 · Film': '5 · 影片',
  'Pocket Studio: keyframes': '口袋工作室：关键帧',
  'Pocket Studio: video': '口袋工作室：视频',
  'Prompts': '提示词',
  'Prompt': '提示词',
  'Size': '尺寸',
  'Size and length': '尺寸与长度',
  'Save keyframes': '保存关键帧',
  'Negative prompt': '负面提示词',
  'Negative prompt (unused at cfg 1)': '负面提示词（cfg 为 1 时不使用）',
  'Mochi VAE': 'Mochi VAE',
  'CLIP: text half': 'CLIP：文本部分',
  'CLIP: picture half': 'CLIP：图像部分',
  'Segment 1': '第 1 段',
  'Segment 2': '第 2 段',
  'Segment 3': '第 3 段',
  'Weights': '权重',
  'Scene': '场景',
  'Action': '动作',
  'Scene prompt': '场景提示词',
  'Action prompt': '动作提示词',
  'Shift for this size': '此尺寸的 shift',
  'Captions unpadded': '字幕不填充',
  'Wan text encoder': 'Wan 文本编码器',
  'Your older frame': '你的较早的画面',
  'Your newest frame (picture 1)': '你的最新的画面（picture 1）',
  "Scale to the film's size": '缩放到影片尺寸',
  "Scale to the video's size": '缩放到视频尺寸',
  'Prompt of the next shot': '下一个镜头的提示词',
  'GoldenMem References (negative)': 'GoldenMem 参考（负面）',
  'Your first keyframe': '你的第一个关键帧',
  'Your middle keyframe': '你的中间的关键帧',
  'Your last keyframe': '你的最后一个关键帧',
  'Prompt of the whole video': '整个视频的提示词',
  'High-noise expert': '高噪声专家',
  'Low-noise expert': '低噪声专家',
  'LoRA, high noise': 'LoRA，高噪声',
  'LoRA, low noise': 'LoRA，低噪声',
  'Shift, high noise': 'shift，高噪声',
  'Shift, low noise': 'shift，低噪声',
  'Multi-Chunk Model, high noise': '多块模型，高噪声',
  'Multi-Chunk Model, low noise': '多块模型，低噪声',
  'Steps 0 to 10, high noise': '第 0 至 10 步，高噪声',
  'Steps 10 to 20, low noise': '第 10 至 20 步，低噪声',
  '2 · Start and end frames: Qwen-Image-Edit 2511': '2 · 首帧和尾帧：Qwen-Image-Edit 2511',
  '3 · Video from start to end: Wan 2.2 14B': '3 · 从首帧到尾帧的视频：Wan 2.2 14B',
  'Shift, high-noise expert': 'shift，高噪声专家',
  'Shift, low-noise expert': 'shift，低噪声专家',
  'Save start frames': '保存首帧',
  'Save end frames': '保存尾帧',
  'Pocket Studio: pairs': '口袋工作室：首尾帧',
  '2 · Start and end frames that remember': '2 · 有记忆的首帧和尾帧',
  '3 · Video from start to end': '3 · 从首帧到尾帧的视频',
  'Memory of the last shot': '最后一个镜头的记忆',
  Small: '小',
  Large: '大',
  '2 · Keyframes': '2 · 关键帧',
  '3 · Small video, large video': '3 · 小视频、大视频',
  '4 · Large video': '4 · 大视频',
  '3 · Small video': '3 · 小视频',
  '1 · Your video': '1 · 你的视频',
  'A large keyframe, if you have one': '一个大的关键帧（如果有）',
  '3 · Larger': '3 · 放大',
  'What was done': '做了什么',
  '4 · Saved': '4 · 保存',
  '2 · Model': '2 · 模型',
  '4 · Extended video': '4 · 延长后的视频',
  '2 · What follows': '2 · 之后发生什么',
  "3 · Sampling with core's sampler": '3 · 用核心采样器采样',
  '1 · The clip': '1 · 片段',
  'Prompts for video': '视频的提示词'
}

export const HEADINGS = {
  '# A film from a storyboard': '# 由分镜脚本生成影片',
  '# A story from its texts alone': '# 只用文本讲故事',
  '# A story from its texts alone: Mochi 1': '# 只用文本讲故事：Mochi 1',
  '# A story from its texts alone: Wan 2.2 5B': '# 只用文本讲故事：Wan 2.2 5B',
  '# Keyframes on a timeline': '# 时间线上的关键帧',
  '# A film with FLUX.1-dev and Wan 2.2 5B': '# 用 FLUX.1-dev 和 Wan 2.2 5B 生成影片',
  '# The next shot, with Qwen-Image-Edit 2511': '# 下一个镜头：Qwen-Image-Edit 2511',
  '# The next shot, with FLUX.2-dev': '# 下一个镜头：FLUX.2-dev',
  '# Keyframes at any times: Wan 2.2 5B': '# 任意时刻的关键帧：Wan 2.2 5B',
  '# Keyframes at any times: Wan 2.2 14B': '# 任意时刻的关键帧：Wan 2.2 14B',
  '# A film from start and end frames': '# 由首帧和尾帧生成影片',
  '# A film from start and end frames: pocket': '# 由首帧和尾帧生成影片：口袋模型',
  '# A larger video: pocket': '# 更大的视频：口袋模型',
  '# From keyframes to a large video: Wan 2.2 5B': '# 从关键帧到大视频：Wan 2.2 5B',
  '# Any video, larger: Wan 2.2 5B': '# 放大任意视频：Wan 2.2 5B',
  '# A video that goes on': '# 让视频继续'
}

/** By how a line begins: as much of it as no other line has. */
export const LINES = {
  'Press **Run**. No downloads and no GPU: the *Pocket Studio* brings its own tiny models, and the film':
    '按**运行**。无需下载，也不需要显卡：*口袋工作室*自带微型模型，六个镜头的影片几分钟就好，快的电脑只要一分钟。',
  'Press **Run**. No downloads and no GPU: the *Pocket Studio* brings its own tiny models, and three':
    '按**运行**。无需下载，也不需要显卡：*口袋工作室*自带微型模型，三段视频半分钟就好。没有关键帧：保持不变的，' +
    '是两个提示词都说到的内容，以及每一段从前一段继承的内容。',
  'Press **Run**. Everything comes along: no downloads, no GPU, half': '按**运行**。所需的一切都已自带：无需下载，不需要显卡，只要半分钟。',
  '1. **Story**: who plays':
    '1. **故事**：谁出场、在哪里、每个镜头发生什么。修改后再运行。口袋模型认识方形、圆形、三角形和星形，颜色有红、橙、' +
    '黄、绿、青、蓝、紫、粉，戴王冠、帽子、围巾或蝴蝶结；它们会站立、挥手、跳、走和跳舞，地点有沙漠、城镇、森林、海滩、' +
    '雪地和月球。故事文本请用英文写。',
  '2. **Keyframes**: each is made': '2. **关键帧**：生成每一帧时都参考之前的画面（GoldenMem），因此角色保持不变。',
  '3. **Video**: every shot is filmed':
    '3. **视频**：每个镜头都经过自己的关键帧；每个关键帧落在分镜脚本要求的帧上，相差不超过两帧。',
  '4. **Film**: the shots are joined': '4. **影片**：连接各个镜头。分镜总览显示要求了什么、生成了什么。',
  'Another `seed` in the keyframe sampler':
    '在关键帧采样器中换一个 `seed`，就是另一次拍摄。命令行生成同样的影片：`anchorshot film stories/two_friends.yaml`。',
  'Text2Story was published':
    'Text2Story 就是用这个模型和这些设置发表的：848x480、64 步、引导强度 4.5。Mochi 每秒 30 帧，共 6n+1 帧；163 帧为 5.4 秒。',
  '| file | folder | from |': '| 文件 | 文件夹 | 来源 |',
  '`clip-vit-large-patch14.safetensors` is':
    '`clip-vit-large-patch14.safetensors` 就是 OpenAI 的 `model.safetensors`，只是改了名字；它包含两个部分，要放进（或链接到）' +
    '两个文件夹。没有它时，请断开各段的 CLIP：提示词便按进度和上一步加权。',
  'Every segment has two prompts':
    '每一段有两个提示词：**场景**（在哪里、有谁）和**动作**（谁做什么，并再说一次在哪里）。两者都写外貌，不写名字：' +
    '它们被分别读取，而 CLIP 不认识名字。在*故事段落*里（双击打开）',
  '* *DIPW Guider* weighs': '* *DIPW 引导器*每一步都按画面已显示的内容重新给两个提示词加权；每段下方会画出权重。',
  '* *TWB Blend* starts':
    '* *TWB 混合*让一段从前一段结束的地方开始，强度为 `gamma`；两个动作相似时，*SAR* 会减少混合。',
  '**Another segment**':
    '**增加一段**：连同连线复制最后一段（Ctrl+C、Ctrl+Shift+V），接上前一段的 `latent` 和 `action`，并把它的 `images` ' +
    '接到*影片*。只有改动的部分及其后面的部分会重新采样。',
  '**Time**: the paper':
    '**时间**：论文每一步都解码整个视频来询问 CLIP，耗时是普通 Mochi 的 7 倍。`preview` 选 *latent_rgb* 时每四步询问一次，' +
    '给 CLIP 看潜变量的颜色，几乎不花时间。要按论文的方式，请选 *decoded_video*，并把 `score_every` 设为 1。',
  '**Memory**: choose an fp8':
    '**显存**：选择 fp8 的 `weight_dtype`，或减少帧数。最后用 *VAE 解码（分块）*代替 *VAE 解码*也有帮助。',
  '1. **Keyframes**: three moments': '1. **关键帧**：一个镜头的三个瞬间。换成*加载图像*即可使用自己的图片。',
  '2. **Timeline**: run once':
    '2. **时间线**：运行一次，图片就会出现在时间轴上。拖动图片改变节奏，拖动边界加长镜头；*波纹*会带动其后的内容。' +
    '每个关键帧实际落在哪一帧都会显示。全部操作也可以用键盘完成。',
  '3. **Video**: *Multi-Chunk Model* prepares':
    '3. **视频**：*多块模型*准备模型，以及固定了关键帧的潜变量；任何核心采样器都可以用来生成视频，*多块解码*得到画面。',
  "With Wan 2.1 or 2.2 it is the same graph with core's loaders.": '使用 Wan 2.1 或 2.2 时，图是一样的，只需换成核心加载器。',
  'The pocket models know squares':
    '口袋模型认识方形、圆形、三角形和星形，颜色有红、橙、黄、绿、青、蓝、紫、粉，戴王冠、帽子、围巾或蝴蝶结；它们会站立、' +
    '挥手、跳、走和跳舞，地点有沙漠、城镇、森林、海滩、雪地和月球。提示词请用英文写。`anchorshot tell` 这样讲述整个分镜脚本。',
  'The graph of *Pocket film*': '与*口袋影片*相同的图，使用公开模型：文件共约 52 GB。',
  '**Memory**: keyframes come first':
    '**显存**：先生成关键帧，再生成视频，因此每个模型都可以独占显卡。不够时，两者都用 fp8 加载（`weight_dtype`），' +
    '并减少记住的画面（`images`）。',
  '**Identity**: FLUX.1-dev':
    '**身份**：FLUX.1-dev 没有训练过在自己的序列中参考之前的画面。请在 *FLUX.1-dev* 之后接一个为此训练过的 LoRA' +
    '（交错图文对，或上下文影片 LoRA）。',
  '**Ranking**: earlier':
    '**排序**：之前的画面按字幕排序，不需要其他文件。要按画面内容排序，请把 CLIP 视觉模型和它自己的文本编码器接到 ' +
    '*GoldenMem 上下文*，并把 `retrieval` 设为 `clip`。',
  '**Captions** reach':
    '**字幕**以自身长度交给 FLUX.1（*T5 Tokenizer Options*）：否则 ComfyUI 会把每条填充到 256 个令牌，长记忆就大多是填充。' +
    '**shift** 随尺寸变化，与命令行一致。',
  '**Size**: 1280x704': '**尺寸**：1280x704，Wan 2.2 5B 要求 32 的倍数，每秒 24 帧；两者都写在故事里。',
  'Edit models take':
    '编辑模型接受参考图片：不需要 LoRA，也不需要微调。*GoldenMem* 把影片之前的画面交给它们，最相关的保持完整尺寸，' +
    '其余的按黄金比例依次缩小，因此长记忆只比短记忆略贵。',
  '1. **Models**: the edit model': '1. **模型**：编辑模型、它的文本编码器和 VAE。',
  '2. **Earlier frames**: choose':
    '2. **之前的画面**：换成你自己的图片（ComfyUI 的示例图只是占位），从最早的开始；*批量图像*可以继续增加。所有画面都缩放到影片尺寸。*GoldenMem 上下文*决定记住多少、' +
    '多大、什么顺序：它的图片按比例显示，`tokens` 是代价。`recency` 把最新的放在最前；`clip` 按画面内容排序，需要 CLIP 视觉模型。',
  '3. **Next shot**: write what happens. The':
    '3. **下一个镜头**：写出发生什么。文本编码器也看得到这些画面，按记忆的顺序，最新的在前：提示词中的 *picture 1* 是最新的画面，' +
    '*picture 2* 是它之前的那一个。',
  '3. **Next shot**: write what happens. Say': '3. **下一个镜头**：写出发生什么，并说明指的是之前画面中的谁。',
  'Feed the result back':
    '把结果作为最新的画面接回去，影片就可以继续；用 *Keyframes with Wan 2.2 5B* 或 *14B* 把关键帧变成视频。',
  'About 18 GB': '文件共约 18 GB。',
  'About 36 GB': '文件共约 36 GB。',
  "1. **Keyframes**: choose your own in the place of ComfyUI's example, one each, in order of time. One":
    '1. **关键帧**：换成你自己的图片（ComfyUI 的示例图只是占位），每个一张，按时间顺序。只有一张是图生视频，两张是首尾帧；*批量图像*可以继续增加。',
  "1. **Keyframes**: choose your own in the place of ComfyUI's example, one each, in order of time. *Batch":
    '1. **关键帧**：换成你自己的图片（ComfyUI 的示例图只是占位），每个一张，按时间顺序。*批量图像*可以继续增加。',
  '2. **Timeline**: drag':
    '2. **时间线**：把关键帧拖到所需的位置。每个关键帧落在显示的那一帧上，与你放的位置最多相差两帧。',
  '3. **Model**: one for all': '3. **模型**：一个模型用于所有噪声水平；每秒 24 帧，尺寸为 32 的倍数。',
  '4. **Video**: *Multi-Chunk Video Sampler* pins': '4. **视频**：*多块视频采样器*固定关键帧、采样并解码。',
  'To go on from a clip': '要接着一段视频往下生成，请把它交给*扩展视频*，再用 KSampler 采样其结果。',
  '3. **Models**: both experts':
    '3. **模型**：两个专家。LoRA 放进被绕过的加载器（Ctrl+B 启用），每个专家一个。其中写明的两个用于加速：使用时在两个采样器中' +
    '都把 `steps` 设为 4、`cfg` 设为 1，并在第 2 步切换。',
  '4. **Two samplers**':
    '4. **两个采样器**：高噪声专家完成第 0 至 10 步，低噪声专家完成其余步骤。两者都需要由*多块模型*为同一条时间线准备的模型，' +
    '它使关键帧保持干净。若某个阶段没有这个补丁，关键帧会漂移，*重新固定关键帧*会在两者之间放回它们。',
  '*Multi-Chunk Video Sampler* does all': '*多块视频采样器*在一个节点里完成这一切（`model_low`、`boundary` 0.9）。',
  'The speed-up LoRAs': '可选的加速 LoRA：',
  '**Size and length**: 1280x704':
    '**尺寸与长度**：1280x704，32 的倍数，每秒 24 帧，共 4n+1 帧；81 帧为 3.4 秒。`preview` 选 *latent_rgb* 时给 CLIP 看潜变量' +
    '的颜色，几乎不花时间；*decoded_frame* 更清晰。',
  'Wan 2.1 and 2.2 14B take':
    'Wan 2.1 和 2.2 14B 使用同样的图；有两个专家时，各用一个 *DIPW 模型补丁*，以及带起止步数的采样器。',
  'The first and the last picture of a shot':
    '一个镜头的第一张和最后一张图片是一次剪辑的两个锚点（STAGE）。*Qwen-Image-Edit 2511* 同时生成两者，并看到之前的所有镜头；' +
    '*Wan 2.2 14B* 从一张拍到另一张。',
  'About 70 GB': '文件共约 70 GB。',
  '1. **Shots**: who plays':
    '1. **镜头**：谁出场、在哪里、发生什么。`transition: match` 让一个镜头以前一个镜头结束的那张图片开始。你自己的图片放在镜头的' +
    '第一刻或最后一刻。',
  '2. **Start and end frames**: the memory pack':
    '2. **首帧和尾帧**：记忆包交出三张之前的图片，编辑模型认识这种形式（`references`）；为此训练过的模型可以在一张图片的空间里接受全部' +
    '（`canvas`）。`recency` 把最新的放在最前，`clip` 按画面内容排序，需要 CLIP 视觉模型。文本编码器也会看到前一张图片。',
  "3. **Video**: core's *Wan First Last": '3. **视频**：核心的 *Wan 首尾帧到视频*，用两个专家逐个镜头生成。',
  '4. **Film**: one shot after the other': '4. **影片**：镜头一个接一个，共用的图片只出现一次。',
  "**STAGE's own weights**":
    '**STAGE 自己的权重**是一个 LoRA：在模型和 CLIP 上都接*首尾帧 LoRA*，设为 20 步、`cfg` 4、shift 2.2、`packing` references、' +
    '`drop_tokens` 64，并填入作者的 `system_prompt`。没有它时，编辑模型会生成两张互相知道的图片，但没有学过什么是开始和结束。',
  'Press **Run**. No downloads and no GPU: the tiny models come along, and':
    '按**运行**。无需下载，也不需要显卡：微型模型已自带，五个镜头的影片几分钟就好。一个镜头的第一张和最后一张图片是一次剪辑的两个锚点（STAGE）。',
  '1. **Pocket story**':
    '1. **口袋故事**：谁出场、在哪里、发生什么。在口袋世界的词汇内修改后再运行；`transition: match` 让一个镜头以前一个镜头结束的图片开始。',
  '2. **Pairs**: both pictures':
    '2. **首尾帧**：一个镜头的两张图片同时生成，旁边是放在一张图片空间里的、对之前所有镜头的记忆。`pack` 显示最后一个镜头记住了什么。',
  '3. **Between them**': '3. **两者之间**：每个镜头从首帧拍到尾帧。',
  '4. **Joined**': '4. **连接**：镜头一个接一个。',
  'The command line makes the same pictures': '命令行生成同样的图片：`anchorshot film STORY --pairs`。',
  'Press **Run**. No downloads and no GPU: the tiny models come along. A shot is made': '按**运行**。无需下载，也不需要显卡：微型模型已自带。镜头先以 160x80 生成，再放大到 320x160（SmartDirector 的两个阶段）。',
  "1. **Story**: change it and run again, within the pocket world's words.": '1. **故事**：在口袋世界的词汇内修改后再运行。',
  '2. **Keyframes and video**, as in': '2. **关键帧和视频**，与*口袋影片*相同。',
  "3. **Keyframe SR**: goes from the small video's": '3. **关键帧超分**：从小视频的潜变量走到大视频的潜变量，没有噪声，只需几步。输入是列表时，每个镜头运行一次。',
  '4. **Film**: *Small* and *Large*': '4. **影片**：*小*和*大*，便于比较。',
  'The pocket keyframe model makes no larger': '口袋关键帧模型只能生成 160x80 的图片。把 320x160 的图片接到 `keyframes`，时间线上的每个关键帧一张，它们的细节就会贯穿整个镜头。',
  'The command line does the same: `anchorshot film STORY --upscale': '命令行做同样的事：`anchorshot film STORY --upscale 2`。',
  "SmartDirector's two stages: a small video": 'SmartDirector 的两个阶段：先生成经过你的关键帧的小视频，快，便于挑选；再生成大视频，同样的关键帧以原尺寸给出细节。',
  "1. **Keyframes**: choose your own in the place of ComfyUI's example, in order of time, at least": '1. **关键帧**：用你自己的图片替换 ComfyUI 的示例，按时间顺序，至少 1280x704。',
  '3. **Small video**: 640x352.': '3. **小视频**：640x352。换一个 `seed` 就是另一次拍摄；满意后再继续。',
  '4. **Large video**: 1280x704': '4. **大视频**：1280x704，大的关键帧固定在各自的画面上。Wan 2.2 5B 没有为此训练过：`training_free` 是我们的方法，不是论文的。为此训练过的模型（`recipes/sr_full.yaml`）用 `bridge` 和四步。',
  'About 11 GB of files.': '文件共约 11 GB。',
  '1. **Video**: choose yours.': '1. **视频**：选择你的视频。它被逐段读取、放大和写出，所以长视频不需要更多内存。时间、声音、旋转和颜色保持不变。',
  '2. **Model**: Wan 2.2 5B was not': '2. **模型**：Wan 2.2 5B 没有为此训练过。`training_free` 在放大的潜变量上加噪声，再由模型去掉：`strength` 低则锐化，高则会添加细节。',
  '3. **Keyframe SR**: cuts are found': '3. **关键帧超分**：会找到切换点，前后场景互不影响。内存不足时先缩短 `window`，再把 `tile` 设为 320。',
  '**Keyframes**: if you have large, sharp': '**关键帧**：如果你有某些画面的大而清晰的图片（由其他模型放大或绘制），启用*加载图像*（Ctrl+B），并在 `keyframe_times` 中写明它们的时刻。它们的细节会贯穿视频。',
  'Press **Run**. Everything comes along: no downloads, no GPU, a minute.': '按**运行**。一切都已自带：无需下载，也不需要显卡，一分钟就好。',
  '1. **The clip** to go on from': '1. **片段**：要延长的片段在这里生成。要用你自己的视频，请删除这一组，并把*加载视频*接到*延长视频*和*延长后的视频*的 `clip`。',
  '2. **What follows**: a prompt, and': '2. **之后发生什么**：一个提示词，以及从片段最后一帧开始计时的时间线。时间线上的关键帧是视频要经过的图片；位于 0 的关键帧开始一个新镜头。',
  '3. **Sampling**: the model looks back': '3. **采样**：模型回看最后 9 帧（`context_frames`），它们都没有噪声。其余部分可用任意核心采样器生成。',
  '4. **Extended video**: the new frames': '4. **延长后的视频**：新的画面接在片段之后，颜色没有跳变。视频文件的画面和声音保持不变。',
  "With Wan 2.1 or 2.2 it is the same graph with core's loaders: set": '用 Wan 2.1 或 2.2 时，换成核心的加载器，图是一样的：把时间线的 `fps` 设为视频的帧率，回看 17 到 33 帧。命令行可以对整个故事这样做：`anchorshot extend`。'
}

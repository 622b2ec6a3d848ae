// The page's own words, in English and Chinese. A node that shows some remembers which, so that the language can be
// changed at any time, in the middle of an answer too.

export const WORDS = {
  en: {
    answer: "Answer",
    answering: "answering",
    apiKey: "API key",
    apiKeyHint: "Kept until this tab is closed.",
    busy: "The server is full and took no more questions.",
    busyHint: "Try again in about {seconds} s.",
    busyHintSoon: "Try again in a moment.",
    broken: "The connection broke before the answer was whole.",
    brokenHint: "What arrived is kept. See that the server runs, then try again.",
    cancel: "Cancel",
    composer: "Message",
    contextOf: "{used} of {all} tokens",
    contextAll: "context of {all} tokens",
    conversation: "Conversation",
    conversations: "Conversations",
    copied: "Copied",
    copy: "Copy",
    copyFailed: "Not copied",
    cut: "Cut short: the limit of tokens was reached.",
    dark: "Use dark",
    decode: "decode",
    delete: "Delete",
    deleted: "Deleted “{title}”.",
    done: "Done",
    edit: "Edit",
    editHint: "Sending again removes what follows.",
    editMessage: "Edit the message",
    emptyHint: "Answers are computed by this server. Conversations stay in this browser.",
    enterKey: "Enter the key",
    failed: "The server failed.",
    failedHint: "Try again; its log says more.",
    firstToken: "first token",
    flush: "flush",
    interrupted: "The page was left before the answer was whole.",
    keyAgain: "comes back to the message",
    keyBreak: "breaks the line",
    keyEdit: "edits the last message",
    keySend: "sends",
    keyStop: "stops an answer",
    language: "中文",
    latest: "To the end",
    light: "Use light",
    maxTokens: "Longest answer, in tokens",
    maxTokensHint: "Empty: as long as the context allows.",
    menu: "Conversations",
    model: "Model",
    newConversation: "New conversation",
    noKey: "The server wants an API key.",
    noKeyHint: "Enter the one it was started with, then try again.",
    placeholder: "Ask something",
    prefill: "prefill",
    preprocess: "preprocess",
    queue: "queue",
    refused: "The server refused the question.",
    refusedHint: "Change it, or the settings, then try again.",
    regenerate: "Regenerate",
    rename: "Rename",
    renameLabel: "Name of the conversation",
    send: "Send",
    sendAgain: "Send again",
    settings: "Settings",
    shorten: "Leave out older messages",
    startsHere: "What is above is no longer sent.",
    stop: "Stop",
    stopped: "Stopped.",
    storageFull: "The browser’s storage is full; the oldest conversation was removed.",
    storageNone: "The browser keeps nothing; this conversation is gone when the page is closed.",
    system: "System message",
    systemHint: "Sent before every conversation.",
    temperature: "Temperature",
    temperatureHint: "0 to 2. Empty: the model’s own.",
    timeline: "Where the time went: preprocess {preprocess} ms, queue {queue} ms, prefill {prefill} ms, decode {decode} ms, flush {flush} ms",
    tooLong: "The conversation is longer than the model can take.",
    tooLongHint: "Leave out older messages, shorten this one, or start a new conversation.",
    tooLongAloneHint: "Shorten the message, then send it again.",
    total: "total",
    tryAgain: "Try again",
    undo: "Undo",
    unreachable: "The server cannot be reached.",
    unreachableHint: "See that it runs and that the network is up, then try again.",
    waiting: "waiting for the first token",
    you: "You",
  },
  zh: {
    answer: "回答",
    answering: "正在回答",
    apiKey: "API 密钥",
    apiKeyHint: "只保存到关闭此标签页为止。",
    busy: "服务器已满，没有接受新的问题。",
    busyHint: "请在约 {seconds} 秒后重试。",
    busyHintSoon: "请稍后重试。",
    broken: "回答尚未完成，连接就中断了。",
    brokenHint: "已收到的内容已保留。请确认服务器正在运行，然后重试。",
    cancel: "取消",
    composer: "消息",
    contextOf: "已用 {used} / {all} 个 token",
    contextAll: "上下文 {all} 个 token",
    conversation: "对话",
    conversations: "对话列表",
    copied: "已复制",
    copy: "复制",
    copyFailed: "未能复制",
    cut: "回答被截断：已达到 token 上限。",
    dark: "深色",
    decode: "解码",
    delete: "删除",
    deleted: "已删除“{title}”。",
    done: "完成",
    edit: "编辑",
    editHint: "重新发送会移除后面的内容。",
    editMessage: "编辑消息",
    emptyHint: "回答由这台服务器计算，对话只保存在此浏览器中。",
    enterKey: "输入密钥",
    failed: "服务器出错了。",
    failedHint: "请重试；详情见服务器日志。",
    firstToken: "首个 token",
    flush: "发送",
    interrupted: "回答尚未完成，页面就被关闭了。",
    keyAgain: "回到输入框",
    keyBreak: "换行",
    keyEdit: "编辑上一条消息",
    keySend: "发送",
    keyStop: "停止回答",
    language: "English",
    latest: "回到末尾",
    light: "浅色",
    maxTokens: "回答的最大 token 数",
    maxTokensHint: "留空：上下文允许的最大长度。",
    menu: "对话列表",
    model: "模型",
    newConversation: "新对话",
    noKey: "服务器需要 API 密钥。",
    noKeyHint: "请输入启动服务器时设定的密钥，然后重试。",
    placeholder: "请输入问题",
    prefill: "预填充",
    preprocess: "预处理",
    queue: "排队",
    refused: "服务器拒绝了这个问题。",
    refusedHint: "请修改问题或设置，然后重试。",
    regenerate: "重新生成",
    rename: "重命名",
    renameLabel: "对话名称",
    send: "发送",
    sendAgain: "重新发送",
    settings: "设置",
    shorten: "略去较早的消息",
    startsHere: "以上内容不再发送。",
    stop: "停止",
    stopped: "已停止。",
    storageFull: "浏览器存储已满，最早的对话已被移除。",
    storageNone: "浏览器无法保存内容，关闭页面后此对话将丢失。",
    system: "系统消息",
    systemHint: "在每次对话之前发送。",
    temperature: "温度",
    temperatureHint: "0 到 2。留空：使用模型的默认值。",
    timeline: "时间分布：预处理 {preprocess} 毫秒，排队 {queue} 毫秒，预填充 {prefill} 毫秒，解码 {decode} 毫秒，发送 {flush} 毫秒",
    tooLong: "对话超出了模型能处理的长度。",
    tooLongHint: "请略去较早的消息、缩短这一条，或开始新对话。",
    tooLongAloneHint: "请缩短这条消息，然后重新发送。",
    total: "总计",
    tryAgain: "重试",
    undo: "撤销",
    unreachable: "无法连接服务器。",
    unreachableHint: "请确认服务器正在运行、网络正常，然后重试。",
    waiting: "等待首个 token",
    you: "你",
  },
};

const TARGETS = {
  text: (node, words) => { node.textContent = words; },
  label: (node, words) => node.setAttribute("aria-label", words),
  title: (node, words) => node.setAttribute("title", words),
  placeholder: (node, words) => node.setAttribute("placeholder", words),
};
const values = new WeakMap();

/** The language of the page now: `en` or `zh`. */
export const language = () => (document.documentElement.lang.startsWith("zh") ? "zh" : "en");

/** The words for `key`, with `{name}` replaced from `filling`. Raises on a key there is none of. */
export function words(key, filling = {}) {
  const found = WORDS[language()][key];
  if (found === undefined) throw new Error(`There are no words for "${key}".`);
  return found.replace(/\{(\w+)\}/g, (_, name) => String(filling[name]));
}

/** Makes a node show words, as its text or as its `label`, `title` or `placeholder`, in whatever language comes. */
export function say(node, key, filling = {}, target = "text") {
  node.dataset[target] = key;
  values.set(node, { ...values.get(node), [target]: filling });
  TARGETS[target](node, words(key, filling));
}

/** Turns the page, or a part of it, to its language. */
export function translate(root = document.documentElement) {
  for (const target of Object.keys(TARGETS)) {
    for (const node of root.querySelectorAll(`[data-${target}]`)) {
      say(node, node.dataset[target], values.get(node)?.[target], target);
    }
  }
}

export function setLanguage(chosen) {
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  translate();
}

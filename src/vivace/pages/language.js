// Words in English and Chinese: those of the parts that pages share stand here, a page adds its own. A node that shows some
// remembers which, so that the language can be changed at any time, in the middle of an answer too.

export const WORDS = {
  en: {
    copied: "Copied",
    copy: "Copy",
    copyFailed: "Not copied",
    dark: "Use dark",
    decode: "decode",
    firstToken: "first token",
    flush: "flush",
    language: "中文",
    light: "Use light",
    partTook: "{name} {ms} ms",
    prefill: "prefill",
    preprocess: "preprocess",
    queue: "queue",
    timeline: "Where the time went: {parts}",
    total: "total",
  },
  zh: {
    copied: "已复制",
    copy: "复制",
    copyFailed: "未能复制",
    dark: "深色",
    decode: "解码",
    firstToken: "首个 token",
    flush: "发送",
    language: "English",
    light: "浅色",
    partTook: "{name} {ms} 毫秒",
    prefill: "预填充",
    preprocess: "预处理",
    queue: "排队",
    timeline: "时间分布：{parts}",
    total: "总计",
  },
};

const TARGETS = {
  text: (node, words) => { node.textContent = words; },
  label: (node, words) => node.setAttribute("aria-label", words),
  title: (node, words) => node.setAttribute("title", words),
  placeholder: (node, words) => node.setAttribute("placeholder", words),
};
const values = new WeakMap();
const all = { en: { ...WORDS.en }, zh: { ...WORDS.zh } };

/** Takes in a page's own words, `{ en: { key: words }, zh: { key: words } }`. */
export function addWords({ en, zh }) {
  Object.assign(all.en, en);
  Object.assign(all.zh, zh);
}

/** The language of the page now: `en` or `zh`. */
export const language = () => (document.documentElement.lang.startsWith("zh") ? "zh" : "en");

/** A value, or what a function gives: words inside of words follow the language too. */
const fill = (value) => String(typeof value === "function" ? value() : value);

/** The words for `key`, with `{name}` replaced from `filling`. Raises on a key there is none of. */
export function words(key, filling = {}) {
  const found = all[language()][key];
  if (found === undefined) throw new Error(`There are no words for "${key}".`);
  return found.replace(/\{(\w+)\}/g, (_, name) => fill(filling[name]));
}

/** The words for a value of some kind, such as a state; the value itself where there are none. */
export function wordsOf(kind, value) {
  const key = `${kind}_${value}`;
  return Object.hasOwn(all.en, key) ? words(key) : String(value ?? "");
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

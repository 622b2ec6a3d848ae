// Draws parsed markdown as nodes, and redraws only what has changed while a text grows.

import { make } from "./dom.js";
import { parseMarkdown } from "./markdown.js";
import { copyButton } from "./copy.js";

/** Keeps `place` showing a text that mostly grows: blocks that have not changed keep their nodes, and a selection in them. */
export function showProse(place) {
  let shown = [];

  return function show(text) {
    const blocks = parseMarkdown(text);
    let same = 0;
    while (same < shown.length && same < blocks.length && shown[same].source === blocks[same].source) same += 1;
    if (same === shown.length - 1 && growCode(place.children[same], shown[same], blocks[same])) same += 1;
    while (place.children.length > same) place.lastElementChild.remove();
    place.append(...blocks.slice(same).map(drawBlock));
    shown = blocks;
  };
}

/** Code that grows keeps its node, and where it is scrolled to. */
function growCode(node, before, now) {
  if (now?.type !== "code" || before.type !== "code" || before.language !== now.language) return false;
  node.querySelector("code").firstChild.data = now.text;
  return true;
}

function drawBlock(block) {
  return DRAW_BLOCK[block.type](block);
}

const DRAW_BLOCK = {
  paragraph: ({ children }) => make("p", {}, ...drawSpans(children)),
  // The page's own headings are h1 and h2.
  heading: ({ level, children }) => make(`h${Math.min(level + 2, 6)}`, {}, ...drawSpans(children)),
  rule: () => make("hr"),
  quote: ({ children }) => make("blockquote", {}, ...children.map(drawBlock)),
  code: drawCode,
  list: drawList,
  table: drawTable,
};

function drawCode({ language, text }) {
  const code = make("code", {}, document.createTextNode(text));
  const head = make("div", { class: "code-head" }, make("span", { class: "quiet" }, language), copyButton(() => code.textContent));
  return make("div", { class: "code" }, head, make("pre", { tabindex: "0" }, code));
}

function drawList({ ordered, start, loose, items }) {
  const attributes = { class: loose ? "loose" : undefined, start: ordered && start !== 1 && String(start) };
  return make(ordered ? "ol" : "ul", attributes, ...items.map(({ checked, children }) => {
    const nodes = children.flatMap((child) =>
      child.type === "paragraph" && !loose ? [make("span", { class: "line" }, ...drawSpans(child.children))] : [drawBlock(child)]);
    if (checked === null) return make("li", {}, ...nodes);
    return make("li", { class: "task" }, make("input", { type: "checkbox", disabled: true, checked }), ...nodes);
  }));
}

function drawTable({ aligns, head, rows }) {
  const drawRow = (tag, cells) => make("tr", {}, ...cells.map((spans, i) =>
    make(tag, { class: aligns[i] ? `to-${aligns[i]}` : undefined, scope: tag === "th" && "col" }, ...drawSpans(spans))));
  const table = make("table", {}, make("thead", {}, drawRow("th", head)),
    make("tbody", {}, ...rows.map((cells) => drawRow("td", cells))));
  return make("div", { class: "table", tabindex: "0" }, table);
}

function drawSpans(spans) {
  return spans.map((span) => (typeof span === "string" ? span : DRAW_SPAN[span.type](span)));
}

const DRAW_SPAN = {
  code: ({ text }) => make("code", {}, text),
  strong: ({ children }) => make("strong", {}, ...drawSpans(children)),
  emphasis: ({ children }) => make("em", {}, ...drawSpans(children)),
  deleted: ({ children }) => make("del", {}, ...drawSpans(children)),
  link: ({ href, children }) =>
    make("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...drawSpans(children)),
};

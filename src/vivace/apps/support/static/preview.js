// An article as its reader sees it. HTML is read as text with its structure: nothing of it becomes markup here.

import { make } from "./dom.js";
import { showProse } from "./prose.js";

const MAX_ROWS = 200;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", mdash: "—", ndash: "–", hellip: "…", euro: "€" };
const BLOCK = /^(?:p|div|section|article|header|footer|main|table|tr|ul|ol|dl|dt|dd|blockquote|pre|br|hr|address|figure|h[1-6]|li)$/;

/** Keeps `place` showing the text of an article in its format. */
export function showPreview(place, format, text) {
  if (format === "csv") {
    place.replaceChildren(drawRows(parseCsv(text)));
    return;
  }
  if (format === "text") {
    place.replaceChildren(...text.split(/\n\s*\n/).filter((part) => part.trim()).map((part) => make("p", {}, part.trim())));
    return;
  }
  place.replaceChildren();
  showProse(place)(format === "html" ? toMarkdown(text) : text);
}

function drawRows([head, ...rows]) {
  const cells = (tag, row) => make("tr", {}, ...row.map((cell) => make(tag, {}, cell)));
  const table = make("table", {}, make("thead", {}, ...(head ? [cells("th", head)] : [])), make("tbody", {}, ...rows.slice(0, MAX_ROWS).map((row) => cells("td", row))));
  return make("div", { class: "table", tabindex: "0" }, table);
}

/** Rows of cells; quoted ones may hold commas, quotes and line ends (RFC 4180). */
export function parseCsv(text) {
  const rows = [[]];
  const pattern = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n|\n|\r|$)/y;
  while (pattern.lastIndex < text.length) {
    const before = pattern.lastIndex;
    const match = pattern.exec(text);
    if (!match) { // a quote in the middle of a cell
      const end = /[,\r\n]|$/g;
      end.lastIndex = before;
      const stop = end.exec(text).index;
      rows.at(-1).push(text.slice(before, stop));
      if (text[stop] !== ",") rows.push([]);
      pattern.lastIndex = stop + 1;
      continue;
    }
    const [, cell, end] = match;
    rows.at(-1).push(cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (end === "") break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((row) => row.some((cell) => cell.trim()));
}

/** The text of HTML with headings, list items and paragraphs; tags, scripts and styles are left out. */
export function toMarkdown(html) {
  const parts = html.replace(/<!--[\s\S]*?(?:-->|$)/g, "").replace(/<(script|style|template)\b[\s\S]*?(?:<\/\1\s*>|$)/gi, "")
    .split(/<(\/?[a-zA-Z][^<>]*)>/);
  let text = "";
  parts.forEach((part, i) => {
    if (i % 2 === 0) {
      text += escapeMarks(decode(part.replace(/\s+/g, " ")));
      return;
    }
    const [, end, name] = /^(\/?)([a-zA-Z][a-zA-Z0-9]*)/.exec(part);
    const tag = name.toLowerCase();
    if (!BLOCK.test(tag)) return;
    if (end) text += tag === "li" ? "\n" : "\n\n";
    else if (/^h[1-6]$/.test(tag)) text += `\n\n${"#".repeat(Number(tag[1]))} `;
    else if (tag === "li") text += "\n- ";
    else text += tag === "br" ? "\n" : "\n\n";
  });
  return text.replace(/ *\n */g, "\n").replace(/\n{3,}/g, "\n\n").trim();
}

const escapeMarks = (text) => text.replace(/[\\`*_[\]#<>|~]/g, "\\$&");

function decode(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z]{2,8}));/gi, (whole, decimal, hex, name) => {
    if (name) return NAMED[name.toLowerCase()] ?? whole;
    const code = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

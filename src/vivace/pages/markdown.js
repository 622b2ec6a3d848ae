// Markdown to a tree of plain objects, in time linear in the text. Knows no page: see prose.js for the nodes.
//
// A block is `{ type, ... }` with `source` at the top level; a span is a string or `{ type, children | text, ... }`.
// What is not understood stays text. HTML is text. Only http and https links are links, and images are links too.

const MAX_DEPTH = 8;
const MAX_SPAN_DEPTH = 24;
const MAX_URL_CHARACTERS = 2000;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** The blocks of a text. Each knows its `source`, so that a reader of growing text can tell which have changed. */
export function parseMarkdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n");
  return parseBlocks(lines, 0, true);
}

function parseBlocks(lines, depth, withSource = false) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = parseBlock(lines, at, depth);
    if (withSource) block.source = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, children: parseSpans(heading[2] ?? "") }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return parseQuote(lines, at, depth);
  const item = depth < MAX_DEPTH && ITEM.exec(line);
  if (item) return parseList(lines, at, item, depth);
  if (startsTable(lines, at)) return parseTable(lines, at);
  return parseParagraph(lines, at, depth);
}

function parseCode(lines, at, [opening, marks, language]) {
  const indent = opening.length - opening.trimStart().length;
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => dedent(line, indent)).join("\n");
  return [{ type: "code", language: language.trim().split(/\s/)[0].slice(0, 40), text }, Math.min(end + 1, lines.length)];
}

function parseQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", children: parseBlocks(inner, depth + 1) }, end];
}

function parseList(lines, at, first, depth) {
  const [, { length: base }, marker] = first;
  const items = [];
  let loose = false;
  let end = at;
  for (let next = at; isSibling(lines, next, base, marker); next = skipBlank(lines, end)) {
    const [, indent, mark, gap, head] = ITEM.exec(lines[next]);
    const inset = indent.length + mark.length + (head ? Math.min(gap.length, 4) : 1);
    loose ||= next > end;
    end = endOfItem(lines, next, base + 2);
    const [, box, said] = /^(\[[ xX]\] +)?(.*)$/.exec(head);
    const inner = [said, ...lines.slice(next + 1, end).map((line) => dedent(line, inset))];
    loose ||= inner.includes("");
    items.push({ checked: box ? box[1] !== " " : null, children: parseBlocks(inner, depth + 1) });
  }
  const ordered = marker.length > 1;
  return [{ type: "list", ordered, start: ordered ? Number.parseInt(marker, 10) : 1, loose, items }, end];
}

function isSibling(lines, at, base, marker) {
  const item = ITEM.exec(lines[at] ?? "");
  return item !== null && item[2].at(-1) === marker.at(-1) && item[1].length < base + 2 && !RULE.test(lines[at]);
}

function skipBlank(lines, at) {
  while (at < lines.length && !lines[at].trim()) at += 1;
  return at;
}

/** Past the item's last line: what is indented under it, and what carries its paragraph on. */
function endOfItem(lines, start, inset) {
  let end = start + 1;
  for (let at = end; at < lines.length; at += 1) {
    if (!lines[at].trim()) continue;
    const carriesOn = at === end && !startsBlock(lines, at);
    if (lines[at].search(/\S/) < inset && !carriesOn) break;
    end = at + 1;
  }
  return end;
}

function startsBlock(lines, at) {
  const line = lines[at];
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line)) || startsTable(lines, at);
}

function startsTable(lines, at) {
  const rule = lines[at + 1];
  return lines[at].includes("|") && rule !== undefined && TABLE_RULE.test(rule) && rule.includes("-")
    && splitRow(lines[at]).length === splitRow(rule).length;
}

function parseTable(lines, at) {
  const aligns = splitRow(lines[at + 1]).map((cell) => alignOf(cell.trim()));
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && (lines[end].includes("|") || !startsBlock(lines, end))) end += 1;
  const readRow = (line) => {
    const cells = splitRow(line);
    return aligns.map((_, i) => parseSpans((cells[i] ?? "").trim()));
  };
  return [{ type: "table", aligns, head: readRow(lines[at]), rows: lines.slice(at + 2, end).map(readRow) }, end];
}

function splitRow(line) {
  const cells = line.trim().replace(/^\|/, "").match(/(?:\\.|[^\\|]|\\$)+|\|/g) ?? [];
  const row = [""];
  for (const cell of cells) {
    if (cell === "|") row.push("");
    else row[row.length - 1] += cell.replaceAll("\\|", "|");
  }
  if (row.length > 1 && !row.at(-1).trim()) row.pop();
  return row;
}

function alignOf(rule) {
  if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "right";
  return null;
}

function parseParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return [{ type: "paragraph", children: parseSpans(text) }, end];
}

function interrupts(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || startsTable(lines, at)) return true;
  return depth < MAX_DEPTH && (QUOTE.test(line) || ITEM.test(line));
}

function dedent(line, indent) {
  return line.slice(Math.min(indent, Math.max(0, line.search(/\S|$/))));
}

// Spans

const BARE_URL = /https?:\/\/[^\s<>"'`\\^{|}\u3000-\u303f\uff00-\uffef]+/iy;
const BRACED_URL = /<(https?:\/\/[^\s<>]+)>/iy;
const TARGET = /\(\s*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/y;
const PLAIN = /[^\\`<*_~[\]!h]+|h(?!ttps?:)[^\\`<*_~[\]!h]*/iy;
const WORD = /[\p{L}\p{N}_]/u;

/** A string's spans. Marks that close nothing are text. */
export function parseSpans(text) {
  const state = { text, at: 0, out: [], open: [], waiting: { "*": 0, _: 0, "~": 0, "[": 0 }, ticks: findTicks(text) };
  while (state.at < text.length) takeSpan(state);
  return join(state.out);
}

function takeSpan(state) {
  const mark = state.text[state.at];
  const plain = matchAt(PLAIN, state);
  if (plain) put(state, plain[0], plain[0].length);
  else if (mark === "\\") takeEscape(state);
  else if (mark === "`") takeCode(state);
  else if (mark === "*" || mark === "_" || mark === "~") takeEmphasis(state, mark);
  else if (mark === "[" || (mark === "!" && state.text[state.at + 1] === "[")) openLink(state, mark === "!" ? 2 : 1);
  else if (mark === "]") closeLink(state);
  else takeUrl(state, matchAt(mark === "<" ? BRACED_URL : BARE_URL, state));
}

function matchAt(pattern, { text, at }) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function put(state, span, length) {
  state.out.push(span);
  state.at += length;
}

function takeEscape(state) {
  const next = state.text[state.at + 1] ?? "";
  if (/[!-/:-@[-`{-~]/.test(next)) put(state, next, 2);
  else put(state, "\\", 1);
}

/** Where each run of backticks stands, by its length: a code span ends at the next run as long as the one it began with. */
function findTicks(text) {
  const runs = new Map();
  for (const { 0: { length }, index } of text.matchAll(/`+/g)) {
    if (!runs.has(length)) runs.set(length, []);
    runs.get(length).push(index);
  }
  for (const places of runs.values()) places.reverse();
  return runs;
}

function takeCode(state) {
  const { length } = /^`+/.exec(state.text.slice(state.at, state.at + 100))[0];
  const places = state.ticks.get(length) ?? [];
  while (places.length > 0 && places.at(-1) <= state.at) places.pop();
  const end = places.at(-1);
  if (end === undefined) return put(state, "`".repeat(length), length);
  const inside = state.text.slice(state.at + length, end).replaceAll("\n", " ");
  const text = /^ .*[^ ].* $/.test(inside) ? inside.slice(1, -1) : inside;
  return put(state, { type: "code", text }, end + length - state.at);
}

function takeUrl(state, found) {
  if (!found) return put(state, state.text[state.at], 1);
  const braced = found[1] !== undefined;
  const url = braced ? found[1] : trimUrl(found[0]);
  const href = safeUrl(url);
  const length = braced ? found[0].length : url.length;
  return put(state, href ? { type: "link", href, children: [url] } : state.text.slice(state.at, state.at + length), length);
}

/** A sentence's own marks, and a bracket that the address did not open, do not belong to it. */
function trimUrl(url) {
  let end = url.length;
  let surplus = [...url].reduce((count, mark) => count + (mark === ")" ? 1 : mark === "(" ? -1 : 0), 0);
  for (; end > 0; end -= 1) {
    const last = url[end - 1];
    if (last === ")" && surplus > 0) surplus -= 1;
    else if (!/[.,:;!?*_~\]]/.test(last)) break;
  }
  return url.slice(0, end);
}

/** The address if it is one that may be followed, or null. */
export function safeUrl(text) {
  if (text.length > MAX_URL_CHARACTERS || !/^https?:\/\//i.test(text)) return null;
  try {
    const url = new URL(text);
    return (url.protocol === "http:" || url.protocol === "https:") && !url.username ? url.href : null;
  } catch {
    return null;
  }
}

function takeEmphasis(state, mark) {
  const { text, at } = state;
  let length = 1;
  while (text[at + length] === mark) length += 1;
  const [before, after] = [text[at - 1] ?? " ", text[at + length] ?? " "];
  const inWord = mark === "_" && WORD.test(before) && WORD.test(after);
  const usable = !inWord && length <= 3 && (mark !== "~" || length === 2);
  let left = length;
  if (usable && /\S/.test(before)) {
    for (let used = closeEmphasis(state, mark, left); used > 0; used = closeEmphasis(state, mark, left)) left -= used;
  }
  if (left > 0 && usable && /\S/.test(after)) openMark(state, mark, left);
  if (left > 0) state.out.push(mark.repeat(left));
  state.at += length;
}

function openMark(state, mark, length) {
  state.open.push({ mark, length, at: state.out.length });
  state.waiting[mark] += 1;
}

/** Wraps what stands since the last mark of this kind, if there is one. Returns how many marks that used up. */
function closeEmphasis(state, mark, length) {
  if (length === 0 || state.waiting[mark] === 0) return 0;
  const last = state.open.findLast((opened) => opened.mark === mark || opened.mark === "[");
  if (last.mark === "[" || last.at === state.out.length - 1) return 0;
  const used = Math.min(length, last.length, 2);
  if (mark === "~" && used < 2) return 0;
  dropMarks(state, last);
  const children = state.out.splice(last.at + 1);
  const type = mark === "~" ? "deleted" : used === 2 ? "strong" : "emphasis";
  const left = last.length - used;
  state.out.pop();
  if (left > 0) {
    openMark(state, mark, left);
    state.out.push(mark.repeat(left));
  }
  state.out.push(nest({ type, children }));
  return used;
}

/** Forgets this mark and those after it, which have closed nothing. */
function dropMarks(state, mark) {
  for (let dropped; dropped !== mark; ) {
    dropped = state.open.pop();
    state.waiting[dropped.mark] -= 1;
  }
}

function openLink(state, length) {
  openMark(state, "[", length);
  put(state, length === 2 ? "![" : "[", length);
}

function closeLink(state) {
  state.at += 1;
  const opened = state.waiting["["] > 0 ? state.open.findLast(({ mark }) => mark === "[") : undefined;
  if (!opened) return state.out.push("]");
  dropMarks(state, opened);
  const found = matchAt(TARGET, state);
  const href = found && safeUrl(found[1] ?? found[2]);
  if (!href) return state.out.push("]");
  const children = state.out.splice(opened.at + 1);
  state.out.pop();
  state.at += found[0].length;
  return state.out.push(nest({ type: "link", href, children: children.length > 0 ? unlink(children) : [href] }));
}

/** Links do not nest. */
function unlink(spans) {
  return spans.flatMap((span) => (span.type === "link" ? span.children : [span]));
}

/** A span that is nested too deep is taken apart. */
function nest(span) {
  span.depth = 1 + span.children.reduce((deepest, child) => Math.max(deepest, child.depth ?? 0), 0);
  if (span.depth > MAX_SPAN_DEPTH) return { ...span, children: [flatten(span)], depth: 1 };
  return { ...span, children: join(span.children) };
}

function flatten(span) {
  return typeof span === "string" ? span : span.text ?? span.children.map(flatten).join("");
}

/** Neighbouring strings as one. */
function join(spans) {
  const joined = [];
  for (const span of spans) {
    if (typeof span === "string" && typeof joined.at(-1) === "string") joined[joined.length - 1] += span;
    else joined.push(span);
  }
  return joined;
}

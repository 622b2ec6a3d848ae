// Where one answer's time went, as a thin bar and a few numerals. A part is `[name, ms]`: the name is a key of words and the
// class of its mark.

import { make } from "./dom.js";
import { say, words } from "./language.js";

const PARTS = ["preprocess", "queue", "prefill", "decode", "flush"];

/** The parts of a server's timing. */
export const partsOf = (timing) => PARTS.map((part) => [part, timing[`${part}_ms`]]);

/** A bar split in proportion to the parts that took any time. */
export function drawBar(parts) {
  return make("div", { class: "bar", "aria-hidden": "true" }, ...parts.filter(([, ms]) => ms > 0).map(([name, ms]) => {
    const piece = make("span", { class: name });
    piece.style.flexGrow = String(ms);
    return piece;
  }));
}

/** A figure and its unit: milliseconds up to a second, then seconds. */
export function drawTime(ms) {
  return ms < 1000 ? drawNumber(ms, "ms") : drawNumber(ms / 1000, "s", ms < 10_000 ? 2 : 1);
}

function drawNumber(value, unit, digits = value < 10 ? 1 : 0) {
  return [make("span", { class: "number" }, value.toFixed(digits)), make("span", { class: "unit" }, `\u2009${unit}`)];
}

/** A figure after its name, a key of words or null. */
export function figure(label, ...figures) {
  const name = make("span", { class: "unit" });
  if (label) say(name, label);
  return make("span", { class: "figure" }, ...(label ? [name, " "] : []), ...figures);
}

/** Time to first token, tokens a second, and the whole. */
export function drawSummary({ timing, completion_tokens: tokens }) {
  const summary = [figure("firstToken", ...drawTime(timing.preprocess_ms + timing.queue_ms + timing.prefill_ms))];
  if (tokens > 1 && timing.decode_ms > 0) {
    summary.push(figure(null, ...drawNumber((tokens - 1) / (timing.decode_ms / 1000), "tokens/s")));
  }
  summary.push(figure("total", ...drawTime(timing.total_ms)));
  return make("div", { class: "summary" }, ...summary);
}

/** What this page saw of an answer whose server has not told its times (yet). */
export function drawSeen(firstTokenMs) {
  return make("div", { class: "summary" }, figure("firstToken", ...drawTime(firstTokenMs)));
}

/** Each part with the bar's own mark beside it. */
export function drawParts(parts) {
  return make("div", { class: "parts", "aria-hidden": "true" }, ...parts.map(([name, ms]) => {
    const piece = figure(name, ...drawTime(ms));
    piece.prepend(make("span", { class: `key ${name}` }));
    return piece;
  }));
}

/** Bar, `summary` and parts in `place`: the parts take the summary's place on hover and focus, and are said to a screen reader. */
export function drawTimeline(place, parts, summary) {
  place.classList.add("whole");
  place.replaceChildren(drawBar(parts), make("div", { class: "figures" }, summary, drawParts(parts)));
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  const spoken = () => parts.map(([name, ms]) => words("partTook", { name: () => words(name), ms: ms.toFixed(1) })).join(", ");
  say(place, "timeline", { parts: spoken }, "label");
}

/** Whether a usage has all the times there are. */
export function isWhole(usage) {
  return usage !== null && [...PARTS, "total"].every((part) => Number.isFinite(usage.timing[`${part}_ms`]));
}

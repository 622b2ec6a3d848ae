// Where one answer's time went, as a thin bar and a few numerals. Knows only a usage; see store.js for its shape.

import { make } from "./dom.js";
import { say } from "./words.js";

export const PARTS = ["preprocess", "queue", "prefill", "decode", "flush"];

/** A bar split in proportion to the parts that took any time. */
export function drawBar(timing) {
  const parts = PARTS.filter((part) => timing[`${part}_ms`] > 0);
  return make("div", { class: "bar", "aria-hidden": "true" }, ...parts.map((part) => {
    const piece = make("span", { class: part });
    piece.style.flexGrow = String(timing[`${part}_ms`]);
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

function figure(label, ...figures) {
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
export function drawParts(timing) {
  return make("div", { class: "parts", "aria-hidden": "true" }, ...PARTS.map((part) => {
    const piece = figure(part, ...drawTime(timing[`${part}_ms`]));
    piece.prepend(make("span", { class: `key ${part}` }));
    return piece;
  }));
}

/** The values of the sentence that a screen reader says in place of the bar. */
export function spokenTimes(timing) {
  return Object.fromEntries(PARTS.map((part) => [part, timing[`${part}_ms`].toFixed(1)]));
}

/** Whether a usage has all the times there are. */
export function isWhole(usage) {
  return usage !== null && [...PARTS, "total"].every((part) => Number.isFinite(usage.timing[`${part}_ms`]));
}

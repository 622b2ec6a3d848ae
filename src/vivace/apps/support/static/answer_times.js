// Where an answer's time went, in the few parts that a reader can tell apart.

import { drawTime, drawTimeline, figure } from "./timing.js";
import { make } from "./dom.js";

const PARTS = {
  understand: ["receive", "redact", "store", "load", "classify", "note"],
  queue: ["wait", "place", "queue"],
  retrieve: ["retrieve"],
  prefill: ["prefill"],
  decode: ["decode", "answer"],
  check: ["check"],
};
const OF = new Map(Object.entries(PARTS).flatMap(([part, names]) => names.map((name) => [name, part])));

/** `[part, ms]` of a message's timeline, in order; stages that are new to this page count as understanding. */
export function groupTimes(timeline) {
  const sums = new Map(Object.keys(PARTS).map((part) => [part, 0]));
  for (const [name, ms] of Object.entries(timeline)) {
    if (name === "total" || !(ms >= 0)) continue;
    const part = OF.get(name) ?? "understand";
    sums.set(part, sums.get(part) + ms);
  }
  return [...sums].filter(([, ms]) => ms > 0);
}

/** The bar and its figures in `place`. */
export function showTimes(place, timeline) {
  drawTimeline(place, groupTimes(timeline), make("div", { class: "summary" }, figure("total", ...drawTime(timeline.total))));
}

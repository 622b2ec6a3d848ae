// Moments and durations in the reader's language, kept up as time goes by.

import { make } from "./dom.js";
import { language } from "./language.js";

const STEPS = [["day", 86_400], ["hour", 3600], ["minute", 60]];
const shown = new Map();

const locale = () => (language() === "zh" ? "zh-CN" : "en-GB");

/** A point in time, to the minute. `at` is in Unix seconds. */
export function showMoment(node, at) {
  keepUp(node, () => new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(at * 1000));
  node.setAttribute("datetime", new Date(at * 1000).toISOString());
}

/** How long ago, with the moment itself as a title. */
export function showAge(node, at) {
  node.setAttribute("datetime", new Date(at * 1000).toISOString());
  keepUp(node, () => {
    node.title = new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium" }).format(at * 1000);
    return describeAge(Date.now() / 1000 - at);
  });
}

/** The same as a node of its own. */
export function age(at) {
  const node = make("time");
  showAge(node, at);
  return node;
}

/** How long it has been going on, as 4:05. */
export function showWait(node, since) {
  keepUp(node, () => describeWait(Date.now() / 1000 - since));
}

export function describeWait(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const rest = String(whole % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function describeAge(seconds) {
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: "auto" });
  const [unit, size] = STEPS.find(([, s]) => seconds >= s) ?? ["second", 1];
  return unit === "second" ? format.format(0, "second") : format.format(-Math.floor(seconds / size), unit);
}

function keepUp(node, describe) {
  shown.set(node, describe);
  node.textContent = describe();
}

setInterval(() => {
  for (const [node, describe] of shown) {
    if (!node.isConnected) shown.delete(node);
    else if (node.textContent !== describe()) node.textContent = describe();
  }
}, 1000);

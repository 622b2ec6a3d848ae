// Plots as inline SVG, drawn at the width they have. They know numbers and words, not what they mean.

import { make } from "./dom.js";
import { language } from "./language.js";

const MIN_TICK_PX = 56;
const NAMESPACE = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** Draws anew whenever the width has changed. `label` is what a screen reader says in place of it. */
function plot(label, height, draw) {
  const svg = shape("svg", { class: "plot", role: "img", height });
  svg.setAttribute("aria-label", label);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (Math.abs(contentRect.width - width) < 1) return;
    width = contentRect.width;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...draw(width));
  }).observe(svg);
  return svg;
}

export function spell(ms) {
  const [value, unit] = ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
  return `${value.toFixed(value < 10 ? 1 : 0)}\u2009${unit}`;
}

/** Rows `[name, { p50, p90?, p99 }]` on one logarithmic axis of time: a filled dot at the median, a hollow one at p99. */
export function drawSpans(rows) {
  const known = rows.filter(([, { p50 }]) => p50 !== null && p50 !== undefined);
  const values = known.flatMap(([, { p50, p99 }]) => [p50, p99]).filter((ms) => ms > 0);
  if (values.length === 0) return null;
  const low = Math.max(0.01, 10 ** Math.floor(Math.log10(Math.min(...values))));
  const high = 10 ** Math.ceil(Math.log10(Math.max(...values) * 1.01));
  const [rowHeight, top] = [28, 28];
  const height = top + rowHeight * known.length + 8;
  const label = known.map(([name, { p50, p99 }]) => `${name}: p50 ${spell(p50)}, p99 ${spell(p99)}`).join("; ");

  return plot(label, height, (width) => {
    const left = Math.min(150, width * 0.32);
    const right = width - 64;
    const x = (ms) => left + (right - left) * Math.log(Math.max(ms, low) / low) / Math.log(high / low);
    const nodes = [];
    const step = Math.ceil(MIN_TICK_PX / (x(10 * low) - x(low))); // decades from one figure to the next
    for (let ms = low, decade = 0; ms <= high * 1.001; ms *= 10, decade += 1) {
      nodes.push(shape("line", { class: "grid", x1: x(ms), x2: x(ms), y1: top - 8, y2: height }));
      if (decade % step === 0) nodes.push(shape("text", { x: x(ms), y: 12, "text-anchor": "middle" }, ms < 1000 ? `${Number(ms.toPrecision(2))}\u2009ms` : `${ms / 1000}\u2009s`));
    }
    known.forEach(([name, { p50, p90, p99 }], i) => {
      const y = top + rowHeight * (i + 0.5);
      nodes.push(shape("text", { class: "strong", x: 0, y: y + 4 }, name), shape("line", { class: "span", x1: x(p50), x2: x(p99), y1: y, y2: y }));
      if (p90 !== undefined && p90 !== null) nodes.push(shape("line", { class: "span", x1: x(p90), x2: x(p90), y1: y - 5, y2: y + 5 }));
      nodes.push(shape("circle", { class: "hollow", cx: x(p99), cy: y, r: 3.5 }), shape("circle", { class: "dot", cx: x(p50), cy: y, r: 4 }),
        shape("text", { x: x(p99) + 10, y: y + 4 }, spell(p99)));
    });
    return nodes;
  });
}

/** A line for each of the (at most three) series `[name, values]` over days, named at its end. */
export function drawDays(days, series) {
  const height = 180;
  const most = Math.max(1, ...series.flatMap(([, values]) => values));
  const top = 12;
  const bottom = height - 24;
  const format = new Intl.DateTimeFormat(language() === "zh" ? "zh-CN" : "en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const spokenDay = (day) => format.format(new Date(`${day}T00:00:00Z`));
  const label = series.map(([name, values]) => `${name}: ${values.join(", ")}`).join("; ");

  return plot(label, height, (width) => {
    const left = 32;
    const right = width - 96;
    const x = (i) => (days.length > 1 ? left + (right - left) * i / (days.length - 1) : (left + right) / 2);
    const y = (value) => bottom - (bottom - top) * value / most;
    const nodes = [0, most].flatMap((value) => [shape("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      shape("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value))]);
    const marks = days.length > 1 ? [0, days.length - 1] : [0];
    nodes.push(...marks.map((i) => shape("text", { x: x(i), y: height - 6, "text-anchor": i === 0 && days.length > 1 ? "start" : "end" }, spokenDay(days[i]))));
    const ends = series.map(([, values], i) => ({ i, y: y(values.at(-1)) })).sort((a, b) => a.y - b.y);
    ends.forEach((end, i) => { if (i > 0) end.y = Math.max(end.y, ends[i - 1].y + 16); });
    const over = Math.max(0, ends.at(-1).y - bottom);
    series.forEach(([name, values], i) => {
      const kind = ["first", "second", "third"][i];
      const points = values.map((value, day) => `${x(day)},${y(value)}`).join(" ");
      nodes.push(values.length > 1 ? shape("polyline", { class: kind, points }) : shape("circle", { class: "dot", cx: x(0), cy: y(values[0]), r: 3.5 }),
        shape("text", { class: "strong", x: right + 8, y: ends.find((end) => end.i === i).y + 4 - over }, name));
    });
    return nodes;
  });
}

/** `[name, count]` as bars of their share, the largest first. */
export function drawShares(entries) {
  const sorted = [...entries].sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...sorted.map(([, count]) => count));
  return make("div", { class: "shares" }, ...sorted.flatMap(([name, count]) => {
    const fill = make("div", { class: "fill", "aria-hidden": "true" });
    fill.style.width = `${100 * count / most}%`;
    return [make("span", {}, name), make("div", {}, fill), make("span", { class: "count" }, String(count))];
  }));
}

// Heads, tables and pages of long lists.

import { make } from "./dom.js";
import { button } from "./hands.js";
import { say, words } from "./language.js";
import { showProblem } from "./problems.js";

/** A section's title, a key of words or a name as it is, with what can be done beside it. */
export function drawHead(key, hands = [], name = null) {
  const title = make("h1", {}, name ?? "");
  if (name === null) say(title, key);
  return make("div", { class: "page-head" }, title, make("div", { class: "row" }, ...hands));
}

/** A part of a section under a title of its own. */
export function drawGroup(key, ...nodes) {
  const title = make("h2");
  say(title, key);
  return make("section", { class: "group" }, title, ...nodes);
}

export function text(key, filling = {}, kind = "quiet") {
  const node = make("p", { class: kind });
  say(node, key, filling);
  return node;
}

/** `columns` is `[key, draw(row), class?]`; on a phone each row stands by itself. Gives `{ element, add(rows) }`. */
export function drawTable(columns) {
  const head = make("tr", {}, ...columns.map(([key, , kind]) => {
    const cell = make("th", { scope: "col", class: kind });
    if (key) say(cell, key);
    return cell;
  }));
  const body = make("tbody");
  const element = make("div", { class: "wide-table stacked" }, make("table", {}, make("thead", {}, head), body));

  function add(rows) {
    body.append(...rows.map((row) => make("tr", {}, ...columns.map(([key, draw, kind]) => {
      const drawn = draw(row);
      const named = key && !kind?.includes("main") && drawn !== null && drawn !== "";
      return make("td", { class: kind, "data-title": named ? words(key) : undefined }, ...(drawn === null ? [] : [drawn].flat()));
    }))));
  }

  return { element, add, clear: () => body.replaceChildren() };
}

/**
 * A list that comes in pages. `load(before)` gives `{ rows, next }`, `add(rows)` shows them; `none` is the key of what stands for
 * nothing. Gives `{ nodes, start }`.
 */
export function pageThrough(load, table, none) {
  const nothing = text(none);
  const problem = make("p", { role: "alert", hidden: true });
  const more = button("loadMore", () => turn());
  let next = null;
  let run = 0;
  nothing.hidden = more.hidden = true;

  async function turn(isFirst = false) {
    run += 1;
    const mine = run;
    problem.hidden = true;
    try {
      const found = await load(isFirst ? null : next);
      if (mine !== run) return;
      if (isFirst) table.clear();
      table.add(found.rows);
      next = found.next;
      more.hidden = !next;
      nothing.hidden = !isFirst || found.rows.length > 0;
      table.element.hidden = !nothing.hidden;
    } catch (error) {
      showProblem(problem, error);
    }
  }

  return { nodes: [table.element, nothing, problem, more], start: () => turn(true) };
}

/** `path` with the parameters that are not empty. */
export function address(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return query.size > 0 ? `${path}?${query}` : path;
}

/** Calls `act` when nothing was typed for a moment. */
export function whenTyped(field, act) {
  let timer = 0;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(act, 200);
  });
}

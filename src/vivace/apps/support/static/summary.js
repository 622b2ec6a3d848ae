// What an agent should know before the first word, and a search of the knowledge base.

import { byId, make } from "./dom.js";
import { button } from "./hands.js";
import { say, wordsOf } from "./language.js";
import { drawPassage } from "./messages.js";
import { showProblem } from "./problems.js";
import { describeWait, showAge } from "./times.js";

export function showSummary({ conversation, summary, orders }) {
  const rows = [
    ["handedOverFor", summary.reason && ((node) => sayOf(node, "why", summary.reason))],
    ["waited", summary.waited_ms !== null && ((node) => { node.textContent = describeWait(summary.waited_ms / 1000); })],
    ["asksFor", summary.question && ((node) => { node.textContent = summary.question; })],
    ["topics", summary.intents.length > 0 && ((node) => { node.textContent = summary.intents.join(", "); })],
    ["mood", summary.sentiment && ((node) => sayOf(node, "mood", summary.sentiment))],
    ["customer", (node) => sayOf(node, "role", conversation.customer.role)],
    ["languageOf", (node) => sayOf(node, "language", conversation.language)],
    ["disliked", countDisliked(summary) > 0 && ((node) => { node.textContent = String(countDisliked(summary)); })],
  ];
  byId("summary").replaceChildren(...rows.filter(([, fill]) => fill).flatMap(([key, fill]) => {
    const [term, about] = [make("dt", { class: "quiet" }), make("dd")];
    say(term, key);
    fill(about);
    return [term, about];
  }));
  byId("orders").replaceChildren(...orders.map(drawOrder));
}

const countDisliked = ({ answers }) => answers.filter(({ feedback }) => feedback === "down").length;

function sayOf(node, kind, value) {
  say(node, "just", { value: () => wordsOf(kind, value) });
}

function drawOrder(order) {
  const when = make("time");
  showAge(when, order.placed_at);
  return make("details", { class: "order" }, make("summary", {}, make("span", {}, order.number), " ", make("span", { class: "quiet" }, order.status)),
    make("p", { class: "quiet" }, when, " · ", order.total), make("ul", {}, ...order.items.map((item) => make("li", {}, item))));
}

/** `use(text)` puts a passage into the reply. */
export function setUpSearch(session, use) {
  const [form, text, hits, problem] = ["search", "search-text", "hits", "search-problem"].map(byId);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    if (!text.value.trim()) {
      hits.replaceChildren();
      return;
    }
    try {
      const found = await session.request("GET", `/api/agent/search?${new URLSearchParams({ q: text.value })}`);
      hits.replaceChildren(...(found.hits.length > 0 ? found.hits.map((hit) => drawHit(hit, use)) : [drawNothing()]));
    } catch (error) {
      showProblem(problem, error);
    }
  });
}

function drawNothing() {
  const told = make("p", { class: "quiet" });
  say(told, "nothingFound");
  return told;
}

function drawHit(hit, use) {
  return make("details", { class: "hit" }, make("summary", {}, hit.title), make("div", { class: "passage" }, ...drawPassage(hit)),
    button("usePassage", () => use(hit.text)));
}

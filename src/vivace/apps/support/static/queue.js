// The list at the side of the desk: who waits, whom this agent has, and all the rest.

import { byId, make } from "./dom.js";
import { follow } from "./follow.js";
import { choice } from "./forms.js";
import { say, translate, words, wordsOf } from "./language.js";
import { showAge, showWait } from "./times.js";

const LATE = 0.75; // of the time after which the assistant takes a conversation back

/** `hands` has `open(id)` and `problem(error)`. Gives `{ mark(id), first() }`. */
export function setUpQueue(session, hands) {
  let now = { waiting: [], mine: [], timeout_s: Infinity };
  let current = null;
  let next = null;
  const filter = byId("filter");
  const states = ["", "bot", "waiting_human", "human", "closed"];
  filter.replaceChildren(...choice("", states.map((state) => [state, state ? `filter_${state}` : "filter_all"]), "").children);
  filter.value = "";

  function take(queue) {
    now = queue;
    for (const name of ["waiting", "mine"]) {
      byId(`${name}-count`).textContent = queue[name].length > 0 ? String(queue[name].length) : "";
      redraw(byId(name), queue[name].map((ticket) => drawTicket(ticket, name === "waiting")));
    }
    byId("nobody").hidden = queue.waiting.length > 0;
    document.title = `${queue.waiting.length > 0 ? `(${queue.waiting.length}) ` : ""}${words("agentDesk")}`;
  }

  /** Keeps the focus on whom it was on. */
  function redraw(list, entries) {
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    list.replaceChildren(...entries);
    if (focused) [...list.querySelectorAll(".entry")].find((entry) => entry.dataset.id === focused)?.focus();
    mark(current);
  }

  function drawTicket(ticket, waits) {
    const name = make("span", { class: "name" }, ticket.customer.name);
    const time = make("span", { class: "quiet time" });
    if (waits) {
      showWait(time, ticket.waiting_since);
      if (Date.now() / 1000 - ticket.waiting_since > LATE * now.timeout_s) time.classList.add("late");
    } else showAge(time, ticket.updated_at);
    const about = make("span", { class: "quiet about" }, ticket.last_text ?? "");
    const marks = make("span", { class: "quiet marks" });
    say(marks, "ticketMarks", { marks: () => describe(ticket, waits) });
    return make("li", {}, make("button", { type: "button", class: "entry ticket", "data-id": ticket.id, onclick: () => hands.open(ticket.id) }, name, time, about, marks));
  }

  function describe(ticket, waits) {
    const parts = [waits ? wordsOf("why", ticket.reason) : wordsOf("filter", ticket.state)];
    if (ticket.sentiment === "negative") parts.push(words("mood_negative"));
    if (waits && Date.now() / 1000 - ticket.waiting_since > LATE * now.timeout_s) parts.push(words("soonBack"));
    return parts.join(" · ");
  }

  function mark(id) {
    current = id;
    for (const entry of document.querySelectorAll("#queue .ticket")) {
      if (entry.dataset.id === id) entry.parentElement.setAttribute("aria-current", "true");
      else entry.parentElement.removeAttribute("aria-current");
    }
  }

  async function listAll(more = false) {
    const query = new URLSearchParams({ ...(filter.value && { state: filter.value }), ...(more && next && { before: next }) });
    try {
      const found = await session.request("GET", `/api/agent/conversations?${query}`);
      next = found.next;
      const drawn = found.conversations.map((ticket) => drawTicket(ticket, false));
      if (more) byId("all").append(...drawn);
      else redraw(byId("all"), drawn);
      byId("more").hidden = !next;
    } catch (error) {
      hands.problem(error);
    }
  }

  filter.addEventListener("change", () => listAll());
  byId("more").addEventListener("click", () => listAll(true));
  follow(session, "/api/agent/events", {
    event: (kind, data) => {
      if (kind !== "queue") return;
      take(data);
      listAll();
    },
    link: (live) => {
      byId("link").hidden = live;
      if (!live) say(byId("link"), "reconnecting");
    },
    lost: hands.problem,
  });
  byId("language").addEventListener("click", () => {
    take(now);
    translate(filter);
  });
  return { mark, first: () => now.waiting[0] ?? null };
}

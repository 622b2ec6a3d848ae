// What was said, as nodes: questions, replies with their sources, and lines about what happened. What their buttons do is the
// caller's affair.

import { showTimes } from "./answer_times.js";
import { copyButton } from "./copy.js";
import { make } from "./dom.js";
import { drawOpinion } from "./opinion.js";
import { button } from "./hands.js";
import { say, words } from "./language.js";
import { describeProblem } from "./problems.js";
import { showProse } from "./prose.js";

/** A question. `name` is its author's, or null for the reader's own. Gives `{ element, settle, fail }`. */
export function drawQuestion(text, name = null) {
  const who = make("h2", { class: "who" }, name ?? "");
  if (name === null) say(who, "you");
  const body = make("div", { class: "text" }, text);
  const note = make("p", { class: "note quiet" });
  const element = make("article", { class: "turn question" }, who, body, note);

  /** As it was kept. */
  function settle(message) {
    body.textContent = message.text;
    element.querySelector(".problem")?.remove();
    note.hidden = message.redacted.length === 0;
    if (!note.hidden) say(note, "redacted", { kinds: () => message.redacted.map((kind) => words(`kind_${kind}`)).join(words("comma")) });
  }

  /** It was not sent; `again` tries once more. */
  function fail(error, again) {
    const head = make("strong");
    say(head, "notSent");
    const told = make("span");
    say(told, ...describeProblem(error));
    element.querySelector(".problem")?.remove();
    element.append(make("div", { class: "problem", role: "alert" }, make("p", {}, head, " ", told),
      make("div", { class: "row" }, button("tryAgain", again, "main"))));
  }

  note.hidden = true;
  return { element, settle, fail };
}

/**
 * A reply, from the moment it is expected. `rate` keeps an opinion (see opinion.js), or is null where the reader gives none.
 * Gives `{ element, draft, settle, rated }`.
 */
export function drawReply({ rate = null } = {}) {
  const who = make("h2", { class: "who" });
  say(who, "assistant");
  const prose = make("div", { class: "prose" });
  const sources = make("div", { class: "sources", hidden: true });
  const timing = make("div", { class: "timing" });
  const actions = make("div", { class: "actions waiting" });
  const foot = make("div", { class: "foot" }, timing, actions);
  const element = make("article", { class: "turn reply", "aria-busy": "true" }, who, prose, sources, foot);
  const showText = showProse(prose);
  let opinion = null;
  showWaiting(timing);

  function draft(text) {
    showText(text);
  }

  function settle(message) {
    element.setAttribute("aria-busy", "false");
    element.classList.toggle("by-agent", message.author === "agent");
    if (message.author === "agent") say(who, "byPerson", { name: message.name ?? "" });
    showText(message.text);
    const openSource = drawSources(sources, message.citations ?? []);
    linkCitations(prose, openSource);
    if (message.timeline) showTimes(timing, message.timeline);
    else timing.replaceChildren();
    timing.hidden = !message.timeline;
    opinion = drawOpinion(rate && ((given) => rate(message, given)));
    actions.replaceChildren(copyButton(() => message.text), ...opinion.buttons);
    actions.classList.remove("waiting");
    foot.after(opinion.form);
    rated(message.feedback);
  }

  const rated = (feedback) => opinion?.show(feedback);
  return { element, draft, settle, rated };
}

function showWaiting(timing) {
  const told = make("span", { class: "unit" });
  say(told, "lookingUp");
  timing.replaceChildren(make("div", { class: "bar" }), make("div", { class: "figures" }, make("div", { class: "summary" }, told)));
}

/** The sources as buttons, and one passage at a time below them. Gives `open(number)`, or null for a number there is not. */
function drawSources(place, citations) {
  place.hidden = citations.length === 0;
  if (place.hidden) return () => null;
  const passage = make("blockquote", { class: "passage", hidden: true, tabindex: "-1" });
  const label = make("span", { class: "quiet" });
  say(label, "sources");
  const buttons = new Map();
  let shown = null;

  function toggle(citation) {
    shown = shown === citation ? null : citation;
    passage.hidden = shown === null;
    for (const [one, node] of buttons) node.setAttribute("aria-expanded", String(one === shown));
    if (shown) passage.replaceChildren(...drawPassage(shown));
  }

  for (const citation of citations) {
    const node = make("button", { type: "button", class: "plain source", "aria-expanded": "false", onclick: () => toggle(citation) },
      make("span", { class: "number" }, String(citation.number)), " ", citation.title);
    buttons.set(citation, node);
  }
  place.replaceChildren(make("div", { class: "row" }, label, ...buttons.values()), passage);
  return (number) => {
    const citation = citations.find((one) => one.number === number);
    return citation ? () => {
      if (shown !== citation) toggle(citation);
      passage.focus();
      passage.scrollIntoView({ block: "nearest" });
    } : null;
  };
}

/** A passage's title, where it stands, and its text as it is written. */
export function drawPassage({ title, heading, text }) {
  const head = make("p", { class: "passage-title" }, make("strong", {}, title));
  if (heading && heading !== title) head.append(" ", make("span", { class: "quiet" }, heading));
  const body = make("div", { class: "prose" });
  showProse(body)(text);
  return [head, body];
}

/** Makes each [1] in the text that is a source a button to it. */
function linkCitations(prose, openSource) {
  const texts = document.createTreeWalker(prose, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) if (/\[\d+\]/.test(texts.currentNode.data) && !texts.currentNode.parentElement.closest("code, a")) found.push(texts.currentNode);
  for (const node of found) {
    node.replaceWith(...node.data.split(/(\[\d+\])/).map((piece) => {
      const number = Number(/^\[(\d+)\]$/.exec(piece)?.[1] ?? Number.NaN);
      const open = openSource(number);
      if (!open) return piece;
      const cite = make("button", { type: "button", class: "cite", onclick: open }, String(number));
      say(cite, "openSource", { number }, "label");
      return cite;
    }));
  }
}

/** A line about what happened, in words of the page's own or as it came. */
export function drawLine(key, filling, text = null) {
  const line = make("p", { class: "event quiet" }, text ?? "");
  if (text === null) say(line, key, filling);
  return line;
}


// A conversation as its events tell it. The same for the customer and for an agent, but for who "you" is.

import { wordsOf } from "./language.js";
import { drawLine, drawQuestion, drawReply } from "./messages.js";

/**
 * Shows events in `place`. `customer` is the customer's name as an agent sees it, null for the customer's own page. `rate(message,
 * opinion)` keeps an opinion, or is null. `announcer` reads new replies out.
 */
export function showTranscript(place, { customer = null, rate = null, announcer }) {
  const questions = new Map(); // by message id
  const pending = new Map(); // by client id
  const replies = new Map(); // by message id
  const drafts = new Map(); // by the question's id: { view, text }
  let state = "bot";
  let quiet = false;

  /** What the customer has just written, before the API has it. */
  function expect(clientId, text) {
    const view = drawQuestion(text, customer);
    pending.set(clientId, view);
    place.append(view.element);
    return view;
  }

  function keep(message) {
    if (message.author === "customer") keepQuestion(message);
    else if (message.author !== "system") keepReply(message);
    else if (customer === null) place.append(drawLine(null, {}, message.text));
  }

  function keepQuestion(message) {
    if (questions.has(message.id)) return;
    const view = pending.get(message.client_id) ?? drawQuestion(message.text, customer);
    pending.delete(message.client_id);
    questions.set(message.id, view);
    view.settle(message);
    if (!view.element.isConnected) place.append(view.element);
    if (state === "bot") beginDraft(message.id);
  }

  function keepReply(message) {
    if (replies.has(message.id)) return;
    const draft = drafts.get(message.reply_to);
    drafts.delete(message.reply_to);
    const view = draft?.view ?? drawReply({ rate });
    if (!view.element.isConnected) place.append(view.element);
    view.settle(message);
    replies.set(message.id, view);
    if (quiet) return;
    if (!draft || !message.text.startsWith(draft.text)) announcer.begin();
    announcer.end(message.text);
  }

  function beginDraft(questionId) {
    const draft = { view: drawReply({ rate }), text: "" };
    drafts.set(questionId, draft);
    const question = questions.get(questionId)?.element;
    if (question) question.after(draft.view.element);
    else place.append(draft.view.element);
    announcer.begin();
    return draft;
  }

  function grow(questionId, text) {
    const draft = drafts.get(questionId) ?? beginDraft(questionId);
    draft.text = text;
    draft.view.draft(text);
    if (!quiet) announcer.hear(text);
  }

  function withdraw(questionId) {
    drafts.get(questionId)?.view.element.remove();
    drafts.delete(questionId);
  }

  function changeState(change) {
    state = change.state;
    if (state !== "bot") [...drafts.keys()].forEach(withdraw);
    const line = drawState(change);
    if (line) {
      place.append(line);
      if (!quiet) announcer.tell(line.textContent);
    }
  }

  /** The system's own message says the rest to the customer; an agent sees every change and why. */
  function drawState({ state: to, reason, agent }) {
    const name = agent?.name ?? "";
    if (customer !== null) return drawLine(`state_${to}`, { name, reason: () => wordsOf("why", reason) });
    if (to === "human") return drawLine("joined", { name });
    return reason === "released" && to === "bot" ? drawLine("releasedToBot", {}) : null;
  }

  const EVENTS = {
    message: keep,
    state: changeState,
    feedback: ({ message_id: id, feedback }) => replies.get(id)?.rated(feedback),
    draft: ({ reply_to: id, text }) => grow(id, text),
    delta: ({ reply_to: id, text }) => grow(id, (drafts.get(id)?.text ?? "") + text),
    withdrawn: ({ reply_to: id }) => withdraw(id),
  };

  return {
    expect,
    keep,
    take: (kind, data) => EVENTS[kind]?.(data),
    /** Of what is old already, nothing is read out. */
    hush: (on) => { quiet = on; },
    isEmpty: () => place.children.length === 0,
  };
}

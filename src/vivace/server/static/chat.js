// The chat page: conversations kept in this browser, answered by this server.

import { announceIn } from "./announcer.js";
import { byId, make } from "./dom.js";
import { button, fitHeight, onKeys } from "./hands.js";
import { language, say, words } from "./language.js";
import { setUpSettings } from "./settings.js";
import { setUpSidebar } from "./sidebar.js";
import { browserStorage } from "./storage.js";
import { newConversation, openStore, readUsage, rename, settleTitle, toMessages } from "./store.js";
import { ChatError, listModels, streamChat } from "./stream.js";
import { drawBoundary, drawQuestion, drawReply } from "./view.js";
import "./words.js";

const SAVE_EVERY_MS = 1000;
const NOTICE_MS = 20_000;
const END_PX = 24;

const [transcript, prompt, form, notice] = ["transcript", "prompt", "form", "notice"].map(byId);
const page = document.scrollingElement;
const storage = browserStorage();
const store = openStore(storage);
const announcer = announceIn(byId("announcer"));
const settings = setUpSettings(showSurroundings);
const sidebar = setUpSidebar({ open: (id) => show(store.find(id) ?? newConversation()), rename: renameTo, remove });

/** Answers under way, by conversation: `{ controller, turn, firstTokenMs, view, drawing }`. */
const runs = new Map();
let current = newConversation();
let views = [];
let models = [];
let modelsAreStale = true; // not asked for yet, or an error since: the server may be another one by now
let leaving = false;

// Showing

function show(conversation, { toEnd = conversation !== current } = {}) {
  current = conversation;
  history.replaceState(null, "", conversation.turns.length > 0 ? `#${conversation.id}` : location.pathname);
  transcript.replaceChildren();
  views = [];
  conversation.turns.forEach(addView);
  showSurroundings();
  if (toEnd) page.scrollTop = page.scrollHeight;
  focusPrompt();
}

/** Where there are keys to press; on a phone it would bring up a keyboard nobody asked for. */
function focusPrompt() {
  if (matchMedia("(hover: hover)").matches) prompt.focus({ preventScroll: true });
}

function addView(turn) {
  const hands = {
    regenerate: () => regenerate(turn),
    canShorten: () => current.turns.length - current.sentFrom > 2,
    shorten: () => shorten(turn),
    edit: editLast,
    enterKey: () => settings.openAt("key"),
  };
  const view = turn.role === "user" ? drawQuestion(turn, (text) => resend(turn, text)) : drawReply(turn, hands);
  const run = runs.get(current.id);
  if (run?.turn === turn) {
    run.view = view;
    view.update(run.firstTokenMs);
  }
  if (current.sentFrom > 0 && current.turns[current.sentFrom] === turn) transcript.append(drawBoundary());
  transcript.append(view.element);
  views.push(view);
}

/** Everything beside the turns themselves. */
function showSurroundings() {
  const running = runs.has(current.id);
  byId("empty").hidden = current.turns.length > 0;
  byId("send").hidden = running;
  byId("stop").hidden = !running;
  document.title = current.title ? `${current.title} · vivace` : "vivace";
  byId("title").textContent = current.title;
  byId("model").hidden = current.turns.length === 0 || models.length > 1;
  sidebar.show(store.list(), current.id, runs);
  showContext();
  showWhetherAtEnd();
}

function showContext() {
  const model = chosenModel();
  byId("model").textContent = byId("empty-model").textContent = model?.id ?? "";
  const place = byId("context");
  const usage = current.turns.findLast((turn) => turn.usage)?.usage;
  place.hidden = !model?.contextLength;
  if (place.hidden) return;
  const figures = new Intl.NumberFormat(language());
  const all = figures.format(model.contextLength);
  if (usage) say(place, "contextOf", { used: figures.format(usage.prompt_tokens + usage.completion_tokens), all });
  else say(place, "contextAll", { all });
}

function distanceToEnd() {
  return page.scrollHeight - page.scrollTop - page.clientHeight;
}

/** Changes the page, and stays at its end if the reader was there. */
function follow(change) {
  const atEnd = distanceToEnd() < END_PX;
  change();
  if (atEnd) page.scrollTop = page.scrollHeight;
  showWhetherAtEnd();
}

function showWhetherAtEnd() {
  byId("latest").hidden = distanceToEnd() < 8 * END_PX;
}

function tell(key, filling = {}, action = null) {
  const text = make("span");
  say(text, key, filling);
  notice.replaceChildren(text, ...(action ? [action] : []));
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => notice.replaceChildren(), NOTICE_MS);
}

// Keeping

function save(conversation) {
  const removed = store.save(conversation);
  if (removed > 0) tell("storageFull");
  if (removed < 0) tell("storageNone");
}

function renameTo(id, title) {
  const conversation = store.find(id);
  if (conversation && title !== conversation.title) {
    rename(conversation, title);
    save(conversation);
  }
  showSurroundings();
}

function remove(id) {
  const conversation = store.find(id);
  stop(id);
  store.remove(id);
  const undo = button("undo", () => {
    save(conversation);
    notice.replaceChildren();
    show(conversation);
  });
  sidebar.close();
  tell("deleted", { title: conversation.title }, undo);
  if (conversation === current) show(newConversation());
  else showSurroundings();
}

// Asking

function ask(text) {
  const conversation = current;
  const reply = { role: "assistant", text: "", model: "", state: "running", problem: null, usage: null };
  const turns = [{ role: "user", text }, reply];
  conversation.turns.push(...turns);
  conversation.updated = Date.now();
  settleTitle(conversation);
  history.replaceState(null, "", `#${conversation.id}`);
  turns.forEach(addView);
  page.scrollTop = page.scrollHeight;
  answer(conversation, reply, views.at(-1));
}

/** Removes the question and what follows it, and asks anew. */
function resend(turn, text) {
  stop(current.id);
  current.turns.length = current.turns.indexOf(turn);
  current.sentFrom = Math.min(current.sentFrom, current.turns.length);
  show(current);
  ask(text);
}

function regenerate(turn) {
  if (runs.has(current.id) || turn !== current.turns.at(-1)) return;
  const view = views.at(-1);
  view.element.style.minHeight = `${view.element.offsetHeight}px`; // nothing jumps up while the old answer makes way
  const before = { ...turn };
  Object.assign(turn, { text: "", model: "", state: "running", problem: null, usage: null });
  answer(current, turn, view, before);
  focusPrompt();
}

/** Leaves the older half of what is sent out from now on, and tries again. */
function shorten(turn) {
  const pairs = (current.turns.length - current.sentFrom) / 2;
  current.sentFrom += 2 * Math.floor(pairs / 2);
  show(current, { toEnd: true });
  regenerate(turn);
}

/** Streams the answer into the turn. With nothing said, what was there `before` stays. */
async function answer(conversation, turn, view, before = null) {
  const run = { controller: new AbortController(), turn, firstTokenMs: null, view, drawing: false };
  runs.set(conversation.id, run);
  announcer.begin();
  const saving = setInterval(() => save(conversation), SAVE_EVERY_MS);
  save(conversation);
  showSurroundings();
  view.update();
  try {
    for await (const event of stream(conversation, run)) take(run, event);
  } catch (error) {
    endEarly(run, error, before);
  }
  clearInterval(saving);
  if (leaving) return;
  if (runs.get(conversation.id) === run) runs.delete(conversation.id);
  if (store.find(conversation.id) !== conversation || !conversation.turns.includes(turn)) return; // removed meanwhile
  save(conversation);
  follow(() => {
    run.view.element.style.minHeight = "";
    run.view.update(run.firstTokenMs);
    showSurroundings();
  });
  announcer.end(turn.text);
}

async function* stream(conversation, { controller: { signal }, turn, view }) {
  const { system, temperature, maxTokens, key } = settings.read();
  const access = { key, language: language(), signal };
  if (modelsAreStale) await askForModels();
  turn.model = chosenModel().id;
  view.update();
  const request = { model: turn.model, messages: toMessages(conversation, system) };
  if (temperature !== null) request.temperature = temperature;
  if (maxTokens !== null) request.max_tokens = maxTokens;
  const sent = performance.now();
  for await (const event of streamChat(request, access)) yield { ...event, afterMs: performance.now() - sent };
}

function take(run, { text, finishReason, usage, afterMs }) {
  const { turn } = run;
  if (text) {
    turn.text += text;
    run.firstTokenMs ??= afterMs;
  }
  if (finishReason) turn.state = finishReason === "length" ? "cut" : "done";
  if (usage) turn.usage = readUsage(usage);
  if (run.drawing) return;
  run.drawing = true;
  requestAnimationFrame(() => {
    run.drawing = false;
    follow(() => run.view.update(run.firstTokenMs));
    if (turn.state === "running") announcer.hear(turn.text);
  });
}

function endEarly({ controller, turn }, error, before) {
  if (leaving) return;
  if (turn.text === "" && before) Object.assign(turn, before, { problem: null });
  if (controller.signal.aborted) {
    turn.state = turn.text === "" || turn.state === "running" ? "stopped" : turn.state;
    announcer.tell(words("stopped"));
    return;
  }
  modelsAreStale = true;
  if (!(error instanceof ChatError)) console.error(error);
  const { kind = "failed", detail = "", retryAfterS = null } = error instanceof ChatError ? error : {};
  Object.assign(turn, { state: "failed", problem: { kind, detail, retryAfterS }, usage: null });
}

function stop(id) {
  runs.get(id)?.controller.abort();
  runs.delete(id);
}

async function askForModels() {
  models = await listModels({ key: settings.read().key, language: language() });
  modelsAreStale = false;
  const choice = byId("choice");
  choice.replaceChildren(...models.map(({ id }) => make("option", { value: id }, id)));
  choice.hidden = models.length < 2;
  showSurroundings();
}

function chosenModel() {
  return models.find(({ id }) => id === byId("choice").value) ?? models[0];
}

// Hands

function send() {
  const text = prompt.value.trim();
  if (!text || runs.has(current.id)) return;
  prompt.value = "";
  fitHeight(prompt);
  notice.replaceChildren();
  ask(text);
}

function startNew() {
  sidebar.close();
  show(newConversation());
}

function editLast() {
  const at = current.turns.findLastIndex((turn) => turn.role === "user");
  views[at]?.edit();
}

onKeys(prompt, { send });
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowUp" || prompt.value !== "" || current.turns.length === 0) return;
  event.preventDefault();
  editLast();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop(current.id);
  const writing = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    prompt.focus();
  }
});
byId("stop").addEventListener("click", () => {
  stop(current.id);
  focusPrompt();
});
byId("new").addEventListener("click", startNew);
byId("new-narrow").addEventListener("click", startNew);
byId("choice").addEventListener("change", showContext);
byId("latest").addEventListener("click", () => {
  page.scrollTop = page.scrollHeight;
  focusPrompt();
});
addEventListener("scroll", showWhetherAtEnd, { passive: true });
addEventListener("resize", showWhetherAtEnd, { passive: true });
addEventListener("pagehide", () => {
  leaving = true; // the browser breaks the streams off now, which is nobody's failure
  for (const id of runs.keys()) save(store.find(id));
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) location.reload(); // as it was left, but for its streams
});
addEventListener("storage", ({ key }) => {
  if (!store.reread(key)) return;
  const other = store.find(current.id);
  if (other && other !== current && !runs.has(current.id)) show(other);
  else showSurroundings();
});
addEventListener("hashchange", () => openFromAddress());

function openFromAddress() {
  const conversation = store.find(location.hash.slice(1)) ?? newConversation();
  if (conversation !== current) show(conversation, { toEnd: true });
}

openFromAddress();
if (storage.forgets) tell("storageNone");
askForModels().catch(() => {}); // asked again with the first question, which tells what is wrong

// The customer's chat: a guest at once, answered as the words come, and followed over reloads and lost connections.

import { setUpAccount } from "./account.js";
import { announceIn } from "./announcer.js";
import { setUpLanguage, setUpTheme } from "./appearance.js";
import { byId } from "./dom.js";
import { follow } from "./follow.js";
import { fitHeight, onKeys } from "./hands.js";
import { language, say, setLanguage } from "./language.js";
import { tellIn } from "./notice.js";
import { describeProblem } from "./problems.js";
import { keepAtEnd } from "./scrolling.js";
import { openSession } from "./session.js";
import { showTranscript } from "./transcript.js";
import "./words.js";

const parameters = new URLSearchParams(location.search);
const tenant = parameters.get("tenant") ?? undefined;
const [transcriptBox, prompt, form, notice] = ["transcript", "prompt", "form", "notice"].map(byId);
const tell = tellIn(notice);
const session = openSession(`customer.${tenant ?? ""}`, () => startAnew("sessionOver"));
const announcer = announceIn(byId("announcer"));
const scrolling = keepAtEnd(document.scrollingElement, byId("latest"));

let shop = null;
let conversation = null; // as the API last told it
let transcript = null;
let stop = () => {};
let live = true;
let sending = Promise.resolve(); // one after the other, in the order they were written

setUpTheme();
setUpLanguage(showSurroundings);
if (["en", "zh"].includes(parameters.get("language"))) setLanguage(parameters.get("language"));
const account = setUpAccount(session, { tenant, changed: showWhoever, gone: () => startAnew("dataDeleted"), open: openConversation, startNew, end, current: () => conversation });

// Showing

function showSurroundings() {
  byId("shop").textContent = document.title = shop?.name ?? "";
  byId("greeting").textContent = shop?.greeting[language()] ?? "";
  byId("empty").hidden = transcript !== null && !transcript.isEmpty();
  const state = conversation?.state ?? "bot";
  const closed = state === "closed";
  const node = byId("state");
  if (!live) say(node, "reconnecting");
  else if (state === "waiting_human") say(node, "waitingAt", { position: conversation.queue_position ?? "–" });
  else if (state === "human") say(node, "withPerson", { name: conversation.agent?.name ?? "" });
  else say(node, closed ? "isClosed" : "withAssistant");
  byId("ask-person").hidden = state !== "bot";
  for (const id of ["prompt", "send"]) byId(id).hidden = closed;
  for (const id of ["closed", "new"]) byId(id).hidden = !closed;
  scrolling.watch();
}

const tellProblem = (error) => tell(...describeProblem(error));

/** Where there are keys to press; on a phone it would bring up a keyboard nobody asked for. */
function focusPrompt() {
  if (matchMedia("(hover: hover)").matches) prompt.focus({ preventScroll: true });
}

// Conversations

/** An empty page; the conversation itself is begun with the first message. */
function startNew() {
  stop();
  stop = () => {};
  live = true;
  conversation = null;
  transcriptBox.replaceChildren();
  transcript = showTranscript(transcriptBox, { rate, announcer });
  history.replaceState(null, "", location.pathname + location.search);
  showSurroundings();
  focusPrompt();
}

/** Somebody else's page, or nobody's. */
function startAnew(key) {
  session.forget();
  startNew();
  account.close();
  tell(key);
}

function take(found) {
  conversation = found;
  history.replaceState(null, "", `${location.search}#${found.id}`);
  stop = follow(session, `/api/conversations/${found.id}/events`, {
    after: 0,
    event: takeEvent,
    link: (up) => {
      live = up;
      showSurroundings();
    },
    lost: (error) => error.code === "not_found" && startNew(),
  });
}

async function openConversation(id) {
  startNew();
  try {
    const { conversation: found } = await session.request("GET", `/api/conversations/${encodeURIComponent(id)}`);
    transcript.hush(found.last_event > 0);
    take(found);
  } catch (error) {
    if (error.code !== "not_found") tellProblem(error);
  }
}

function takeEvent(kind, data, id) {
  const isOld = id !== null && id <= conversation.last_event;
  if (!isOld) transcript.hush(false);
  scrolling.follow(() => {
    if (kind === "queue") conversation.queue_position = data.queue_position;
    if (kind === "state" && !isOld) Object.assign(conversation, data, { queue_position: null });
    transcript.take(kind, data);
    showSurroundings();
  });
  if (id === conversation.last_event) scrolling.toEnd();
}

async function begin() {
  if (!session.account()) {
    await session.begin("/api/guests", { language: language(), ...(tenant && { tenant }) });
    account.show();
  }
  if (conversation) return;
  const started = await session.request("POST", "/api/conversations", { language: language() });
  take(started);
}

/** The one in the address, else the latest that is not closed. */
async function resume() {
  const { conversations } = await session.request("GET", "/api/conversations");
  const named = conversations.find(({ id }) => id === location.hash.slice(1));
  const found = named ?? conversations.find(({ state }) => state !== "closed");
  if (found) await openConversation(found.id);
}

// Hands

function send() {
  const text = prompt.value.trim();
  if (!text) return;
  if ([...text].length > (shop?.max_message_characters ?? Infinity)) {
    tell("tooLongMessage", { most: shop.max_message_characters });
    return;
  }
  prompt.value = "";
  fitHeight(prompt);
  notice.replaceChildren();
  const clientId = makeId();
  const view = transcript.expect(clientId, text);
  showSurroundings();
  scrolling.toEnd();
  const owner = transcript;
  const post = () => {
    sending = sending.then(async () => {
      if (owner !== transcript) return;
      try {
        await begin();
        const kept = await session.request("POST", `/api/conversations/${conversation.id}/messages`, { text, client_id: clientId });
        if (owner === transcript) scrolling.follow(() => transcript.keep(kept));
      } catch (error) {
        if (owner === transcript) scrolling.follow(() => view.fail(error, post));
      }
    });
  };
  post();
}

function makeId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function rate(message, opinion) {
  return session.request("PUT", `/api/messages/${message.id}/feedback`, opinion);
}

async function askPerson() {
  byId("ask-person").disabled = true;
  try {
    await begin();
    await session.request("POST", `/api/conversations/${conversation.id}/handover`, {});
  } catch (error) {
    tellProblem(error);
  }
  byId("ask-person").disabled = false;
}

async function end() {
  try {
    if (conversation) await session.request("POST", `/api/conversations/${conversation.id}/close`, {});
  } catch (error) {
    tellProblem(error);
  }
}

/** After signing in, up or out: another account has other conversations. */
function showWhoever({ keeps }) {
  if (keeps && conversation) return;
  startNew();
  if (session.account()) resume().catch(tellProblem);
}

onKeys(prompt, { send });
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  const writing = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    prompt.focus();
  }
  if (event.key === "Escape" && !event.target.closest("dialog") && framed) leaveFrame();
});
byId("ask-person").addEventListener("click", askPerson);
byId("new").addEventListener("click", startNew);
addEventListener("scroll", scrolling.watch, { passive: true });
addEventListener("resize", scrolling.watch, { passive: true });

const framed = parent !== self;
const leaveFrame = () => parent.postMessage("vivace-support-close", "*"); // it says nothing but that
byId("close-frame").hidden = !framed;
byId("close-frame").addEventListener("click", leaveFrame);

async function open() {
  startNew();
  if (session.forgets) tell("storageNone");
  try {
    shop = await session.request("GET", `/api/shop${tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""}`);
    account.show(shop);
    showSurroundings();
    if (session.account()) await resume();
  } catch (error) {
    tellProblem(error);
  }
}

open().finally(() => document.documentElement.classList.add("ready"));

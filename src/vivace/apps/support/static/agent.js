// The agent desk: who waits, and one conversation at a time.

import { announceIn } from "./announcer.js";
import { setUpLanguage, setUpTheme } from "./appearance.js";
import { byId } from "./dom.js";
import { follow } from "./follow.js";
import { button, fitHeight, onKeys } from "./hands.js";
import { say } from "./language.js";
import { tellIn } from "./notice.js";
import { describeProblem } from "./problems.js";
import { setUpQueue } from "./queue.js";
import { keepAtEnd } from "./scrolling.js";
import { openDoor } from "./staff.js";
import { setUpSearch, showSummary } from "./summary.js";
import { showTranscript } from "./transcript.js";
import "./words.js";

const CONFIRM_MS = 5000;
const REREAD_MS = 250;

setUpTheme();
setUpLanguage(() => {});
openDoor(["agent", "admin"], openDesk);

function openDesk(session) {
  const [transcriptBox, prompt, form, notice] = ["transcript", "prompt", "form", "notice"].map(byId);
  const tell = tellIn(notice);
  const announcer = announceIn(byId("announcer"));
  const scrolling = keepAtEnd(document.scrollingElement, byId("latest"));
  const queue = setUpQueue(session, { open, problem: tellProblem });
  let ticket = null;
  const isMine = () => ticket !== null && ticket.mine && ticket.state === "human"; // who closed one keeps its name on it
  let transcript = null;
  let stop = () => {};
  let rereading = 0;

  byId("who").textContent = session.account().name;
  for (const id of ["summary-box", "search-box"]) byId(id).open = matchMedia("(min-width: 1200px)").matches; // there it takes no room
  setUpSearch(session, (text) => {
    if (!isMine()) return;
    prompt.setRangeText(text, prompt.selectionStart, prompt.selectionEnd, "end");
    fitHeight(prompt);
    prompt.focus();
  });

  // Showing

  function show() {
    document.body.classList.toggle("talking", ticket !== null);
    byId("empty").hidden = ticket !== null;
    byId("aside").hidden = form.hidden = ticket === null;
    byId("title").textContent = ticket?.customer.name ?? "";
    queue.mark(ticket?.id ?? null);
    byId("state").hidden = byId("hands").hidden = ticket === null;
    if (!ticket) return;
    say(byId("state"), `ticket_${ticket.state}`, { name: ticket.agent?.name ?? "" });
    const canTake = ["bot", "waiting_human"].includes(ticket.state);
    for (const id of ["prompt", "send"]) byId(id).hidden = !isMine();
    byId("claim").hidden = !canTake;
    byId("not-mine").hidden = isMine();
    say(byId("not-mine"), canTake ? "claimHint" : ticket.state === "closed" ? "closedHint" : "othersHint", { name: ticket.agent?.name ?? "" });
    byId("hands").replaceChildren(...(isMine() ? drawHands() : []));
    scrolling.watch();
  }

  function drawHands() {
    return [
      button("toQueue", () => change("release", { to: "waiting_human" })),
      button("toAssistant", () => change("release", { to: "bot" })),
      twice("closeConversation", "closeReally", () => change("close", {})),
    ];
  }

  /** A button that asks once more. */
  function twice(key, question, act) {
    let timer = 0;
    const node = button(key, () => {
      if (node.dataset.text === question) {
        act();
        return;
      }
      say(node, question);
      timer = setTimeout(() => say(node, key), CONFIRM_MS);
    });
    node.addEventListener("blur", () => {
      clearTimeout(timer);
      say(node, key);
    });
    return node;
  }

  function tellProblem(error) {
    if (ticket) tell(...describeProblem(error));
    else say(byId("link"), ...describeProblem(error));
  }

  // One conversation

  async function open(id) {
    leave();
    location.hash = id;
    try {
      const found = await read(id);
      transcript = showTranscript(transcriptBox, { customer: found.conversation.customer.name, announcer });
      transcript.hush(true);
      take(found);
      scrolling.toEnd();
      const old = found.conversation.last_event;
      stop = follow(session, `/api/agent/conversations/${id}/events`, {
        after: 0,
        event: (kind, data, number) => takeEvent(kind, data, number, old),
        link: (live) => !live && tell("reconnecting"),
        lost: () => leave(),
      });
      if (isMine() && matchMedia("(hover: hover)").matches) prompt.focus();
    } catch (error) {
      leave();
      tellProblem(error);
    }
  }

  const read = (id) => session.request("GET", `/api/agent/conversations/${encodeURIComponent(id)}`);

  function take(found) {
    ticket = found.conversation;
    showSummary(found);
    show();
  }

  function takeEvent(kind, data, number, old) {
    const isOld = number !== null && number <= old;
    if (!isOld) transcript.hush(false);
    scrolling.follow(() => transcript.take(kind, data));
    if (number === old) scrolling.toEnd();
    if (!isOld && (kind === "message" || kind === "state")) reread();
  }

  /** The summary and the version have changed with what happened. */
  function reread() {
    clearTimeout(rereading);
    const { id } = ticket;
    rereading = setTimeout(async () => {
      try {
        const found = await read(id);
        if (ticket?.id === id) scrolling.follow(() => take(found));
      } catch (error) {
        tellProblem(error);
      }
    }, REREAD_MS);
  }

  function leave() {
    stop();
    stop = () => {};
    clearTimeout(rereading);
    ticket = null;
    transcript = null;
    transcriptBox.replaceChildren();
    notice.replaceChildren();
    history.replaceState(null, "", location.pathname + location.search);
    show();
  }

  async function change(how, body) {
    const { id } = ticket;
    try {
      const changed = await session.request("POST", `/api/agent/conversations/${id}/${how}`, body);
      if (ticket?.id === id) ticket = changed;
      show();
      if (isMine()) prompt.focus();
    } catch (error) {
      tell(error.code === "conflict" ? "wasFaster" : describeProblem(error)[0], describeProblem(error)[1]);
      reread();
    }
  }

  function send() {
    const text = prompt.value.trim();
    if (!text || !isMine()) return;
    const { id } = ticket;
    const clientId = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    prompt.value = "";
    fitHeight(prompt);
    const post = async () => {
      notice.replaceChildren();
      try {
        await session.request("POST", `/api/agent/conversations/${id}/messages`, { text, client_id: clientId });
      } catch (error) {
        if (ticket?.id !== id) return;
        tellProblem(error);
        notice.append(button("tryAgain", post));
      }
    };
    post();
  }

  async function takeNext() {
    const next = queue.first();
    if (!next) return;
    await open(next.id);
    if (ticket) await change("claim", { version: ticket.version });
  }

  onKeys(prompt, { send });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("claim").addEventListener("click", () => change("claim", { version: ticket.version }));
  byId("back").addEventListener("click", leave);
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("input, textarea, select, dialog");
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && isMine()) {
      event.preventDefault();
      prompt.focus();
    } else if (event.key === "n") takeNext();
  });
  addEventListener("scroll", scrolling.watch, { passive: true });
  addEventListener("resize", scrolling.watch, { passive: true });

  const address = location.hash.slice(1);
  show();
  if (address) open(address);
}

// Conversations, kept in the browser: one entry of localStorage each, so that one that is damaged costs no other.
//
// A conversation is `{ id, title, named, updated, sentFrom, turns }`. A turn is `{ role: "user", text }` or
// `{ role: "assistant", text, model, state, problem, usage }`, where `state` is one of STATES.

const PREFIX = "vivace.conversation.";
const MAX_CONVERSATIONS = 100;
const MAX_TURNS = 400;
const MAX_TITLE_CHARACTERS = 80;

/** How an answer stands. `running` in storage means that the page was left before it ended. */
export const STATES = ["running", "done", "stopped", "cut", "failed"];

export function newConversation() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "", named: false, updated: Date.now(), sentFrom: 0, turns: [] };
}

/** Names a conversation after its first question, unless its reader has named it. */
export function settleTitle(conversation) {
  if (!conversation.named) conversation.title = shorten(conversation.turns[0]?.text ?? "");
}

export function rename(conversation, title) {
  conversation.title = shorten(title);
  conversation.named = conversation.title !== "";
  settleTitle(conversation);
}

function shorten(text) {
  const characters = [...text.slice(0, 400).replace(/\s+/g, " ").trim()];
  return characters.length <= MAX_TITLE_CHARACTERS
    ? characters.join("")
    : `${characters.slice(0, MAX_TITLE_CHARACTERS - 1).join("")}…`;
}

/**
 * What is sent to the server. A question that got no answer is left out once another follows it, since chat templates
 * want the two sides to take turns.
 */
export function toMessages(conversation, system) {
  const turns = conversation.turns.slice(conversation.sentFrom);
  const said = turns.filter((turn, i) => {
    if (turn.role === "assistant") return turn.text !== "";
    const reply = turns[i + 1];
    return reply === undefined || reply.text !== "" || i + 2 >= turns.length;
  });
  const messages = said.map(({ role, text }) => ({ role, content: text }));
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

/** Opens what `storage` holds; entries that are damaged, or of another make, are passed over and left alone. */
export function openStore(storage) {
  const kept = new Map();
  for (const key of keysOf(storage)) {
    const conversation = readConversation(storage.getItem(key));
    if (conversation && PREFIX + conversation.id === key) kept.set(conversation.id, interrupt(conversation));
  }

  /** The most recent first. */
  const list = () => [...kept.values()].sort((a, b) => b.updated - a.updated);

  /** Writes it down; returns how many of the oldest had to go for want of room, or -1 if there was none even so. */
  function save(conversation) {
    kept.set(conversation.id, conversation);
    let removed = 0;
    const removeOldest = () => {
      const oldest = list().findLast((other) => other !== conversation);
      if (oldest) remove(oldest.id);
      return oldest !== undefined && ++removed > 0;
    };
    while (kept.size > MAX_CONVERSATIONS && removeOldest());
    const entry = JSON.stringify({ ...conversation, ...lastTurns(conversation) });
    for (;;) {
      try {
        storage.setItem(PREFIX + conversation.id, entry);
        return removed;
      } catch {
        if (!removeOldest()) return -1;
      }
    }
  }

  function remove(id) {
    kept.delete(id);
    storage.removeItem(PREFIX + id);
  }

  /** Takes over what another tab wrote. Returns whether the entry was a conversation. */
  function reread(key) {
    if (!key?.startsWith(PREFIX)) return false;
    const conversation = readConversation(storage.getItem(key));
    if (conversation) kept.set(conversation.id, conversation);
    else kept.delete(key.slice(PREFIX.length));
    return true;
  }

  return { list, save, remove, reread, find: (id) => kept.get(id) };
}

function keysOf(storage) {
  return Array.from({ length: storage.length }, (_, i) => storage.key(i)).filter((key) => key?.startsWith(PREFIX));
}

function lastTurns({ turns, sentFrom }) {
  const dropped = Math.max(0, turns.length - MAX_TURNS);
  return { turns: turns.slice(dropped), sentFrom: Math.max(0, sentFrom - dropped) };
}

function readConversation(entry) {
  let value;
  try {
    value = JSON.parse(entry);
  } catch {
    return null;
  }
  const sound = typeof value?.id === "string" && typeof value.title === "string" && Number.isFinite(value.updated)
    && Array.isArray(value.turns) && value.turns.length > 0 && value.turns.every((turn, i) => isTurn(turn, i));
  if (!sound) return null;
  const { id, title, updated, turns } = value;
  const sentFrom = Number.isInteger(value.sentFrom) && turns[value.sentFrom]?.role === "user" ? value.sentFrom : 0;
  return { id, title: shorten(title), named: value.named === true, updated, sentFrom, turns: turns.map(readTurn) };
}

/** What was running when the page was left runs no more. */
function interrupt(conversation) {
  for (const turn of conversation.turns) {
    if (turn.state === "running") Object.assign(turn, { state: "failed", problem: { kind: "interrupted", detail: "", retryAfterS: null } });
  }
  return conversation;
}

function isTurn(turn, i) {
  const role = i % 2 === 0 ? "user" : "assistant";
  return turn?.role === role && typeof turn.text === "string" && (role === "user" || STATES.includes(turn.state));
}

function readTurn(turn) {
  if (turn.role === "user") return { role: "user", text: turn.text };
  const problem = typeof turn.problem?.kind === "string"
    ? { kind: turn.problem.kind, detail: String(turn.problem.detail ?? ""), retryAfterS: numberOrNull(turn.problem.retryAfterS) }
    : null;
  const model = typeof turn.model === "string" ? turn.model : "";
  return { role: "assistant", text: turn.text, model, state: turn.state, problem, usage: readUsage(turn.usage) };
}

/** Tokens and times of one answer, as the server or an earlier visit told them; null where they make no sense. */
export function readUsage(usage) {
  const timing = Object.entries(usage?.timing ?? {}).filter(([, value]) => numberOrNull(value) !== null);
  return usage && timing.length > 0
    ? {
        prompt_tokens: numberOrNull(usage.prompt_tokens) ?? 0,
        completion_tokens: numberOrNull(usage.completion_tokens) ?? 0,
        timing: Object.fromEntries(timing),
      }
    : null;
}

function numberOrNull(value) {
  return Number.isFinite(value) && value >= 0 ? value : null;
}

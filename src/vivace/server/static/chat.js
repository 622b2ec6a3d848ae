// The chat page: one conversation, streamed from this server's own API. Text is only ever set as text.

const PARTS = ["preprocess", "queue", "prefill", "decode", "flush"];

const at = (id) => document.getElementById(id);
const [conversation, form, prompt] = ["conversation", "form", "prompt"].map(at);
const page = document.scrollingElement;

let messages = [];
let model = "";
let running = null; // the AbortController of the answer under way

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

// Turns

function addTurn(who, kind, text = "") {
  const body = make("div", "text", text);
  const turn = make("article", `turn ${kind}`, make("h2", "", who), body);
  conversation.append(turn);
  at("hint").hidden = true;
  at("clear").hidden = false;
  scrollToEnd();
  return { turn, body };
}

function scrollToEnd() {
  page.scrollTop = page.scrollHeight;
}

function keepingToTheEnd(change) {
  const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 48;
  change();
  if (atEnd) scrollToEnd();
}

function showError(message, question, begun) {
  const { turn } = addTurn("No answer", "error", message);
  const again = make("button", "", "Try again");
  again.type = "button";
  again.addEventListener("click", () => {
    turn.remove();
    begun.remove();
    ask(question);
  });
  turn.setAttribute("role", "alert");
  turn.append(again);
  scrollToEnd();
}

// Timing

function quantity(value, unit) {
  const digits = value < 10 ? 1 : 0;
  return [make("span", "number", value.toFixed(digits)), make("span", "unit", `\u2009${unit}`)];
}

function labelled(label, value, unit) {
  return make("span", "", make("span", "unit", `${label} `), ...quantity(value, unit));
}

function showTiming(place, usage) {
  const timing = usage.timing;
  const part = (name) => timing[`${name}_ms`];
  const bar = make("div", "bar", ...PARTS.filter((name) => part(name) > 0).map((name) => {
    const piece = make("span", name);
    piece.style.flexGrow = part(name);
    return piece;
  }));
  const summary = make("span", "summary",
    labelled("first token", part("preprocess") + part("queue") + part("prefill"), "ms"));
  if (usage.completion_tokens > 1 && part("decode") > 0) {
    const rate = (usage.completion_tokens - 1) / (part("decode") / 1000);
    summary.append(make("span", "", ...quantity(rate, "tokens/s")));
  }
  summary.append(labelled("total", timing.total_ms, "ms"));
  const parts = make("span", "parts", ...PARTS.map((name) => labelled(name, part(name), "ms")));
  const spoken = PARTS.map((name) => `${name} ${part(name).toFixed(1)} ms`).join(", ");
  parts.setAttribute("aria-hidden", "true");
  place.append(bar, make("div", "figures", summary, parts));
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", `Where the time went: ${spoken}`);
}

// The answer

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function openStream(signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response;
}

function explain(error) {
  return error instanceof TypeError
    ? "The server cannot be reached. See that it runs and that the network is up, then try again."
    : error.message;
}

async function ask(question) {
  messages.push({ role: "user", content: question });
  const { turn, body } = addTurn(model, "reply");
  const timing = make("div", "timing");
  timing.setAttribute("aria-live", "off");
  const note = (text) => timing.append(make("span", "quiet", text));
  let text = "";
  let failure = null;
  turn.append(timing);
  running = new AbortController();
  const { signal } = running;
  showRunning();
  try {
    if (!model) await askModel();
    turn.querySelector("h2").textContent = model;
    for await (const event of readEvents(await openStream(signal))) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices[0]?.delta.content ?? "";
      text += piece;
      keepingToTheEnd(() => {
        if (piece) body.append(piece);
        if (event.choices[0]?.finish_reason === "length") note("Cut short: the model's context is full. ");
        if (event.usage) showTiming(timing, event.usage);
      });
    }
  } catch (error) {
    if (signal.aborted) note("Stopped.");
    else failure = explain(error);
  }
  if (signal.reason === "cleared") return;
  running = null;
  body.normalize();
  showRunning();
  if (failure) {
    messages.pop();
    if (!text) turn.remove();
    showError(failure, question, turn);
  } else {
    messages.push({ role: "assistant", content: text });
  }
}

function showRunning() {
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
}

async function askModel() {
  const response = await fetch("/v1/models");
  if (!response.ok) throw new Error("The server does not say which model it has. Reload the page.");
  model = (await response.json()).data[0].id;
  at("model").textContent = model;
}

// Hands

function send() {
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  conversation.querySelector(".turn.error")?.remove();
  addTurn("You", "question", text);
  ask(text);
}

function stop() {
  running?.abort();
  prompt.focus();
}

function clear() {
  running?.abort("cleared");
  running = null;
  messages = [];
  conversation.replaceChildren();
  at("hint").hidden = false;
  at("clear").hidden = true;
  showRunning();
  prompt.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "/" && document.activeElement !== prompt) {
    event.preventDefault();
    prompt.focus();
  }
});

at("stop").addEventListener("click", stop);
at("clear").addEventListener("click", clear);

// Light and dark

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}

function nameTheme() {
  at("theme").textContent = isDark() ? "Use light" : "Use dark";
}

at("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  nameTheme();
});

const kept = localStorage.getItem("theme");
if (kept) document.documentElement.dataset.theme = kept;
prefersDark.addEventListener("change", nameTheme);
nameTheme();
askModel().catch(() => { at("model").textContent = "server not reached"; });

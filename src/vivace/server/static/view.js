// The two sides of a conversation as nodes. Knows what a turn looks like; what its buttons do is the caller's affair.

import { copyButton } from "./copy.js";
import { make } from "./dom.js";
import { button, fitHeight, onKeys } from "./hands.js";
import { showProse } from "./prose.js";
import { drawSeen, drawSummary, drawTimeline, isWhole, partsOf } from "./timing.js";
import { say } from "./language.js";

/** A question. `resend(text)` is called when its reader has edited it. Gives `{ element, edit }`. */
export function drawQuestion(turn, resend) {
  const who = make("h2", { class: "who" });
  say(who, "you");
  const text = make("div", { class: "text" }, turn.text);
  const editing = button("edit", edit);
  const actions = make("div", { class: "actions" }, copyButton(() => turn.text), editing);
  const element = make("article", { class: "turn question" }, who, actions, text);

  function edit() {
    if (element.querySelector("form")) return;
    const form = drawEditor(turn.text, (changed) => {
      close();
      if (changed !== null) resend(changed);
    });
    text.hidden = actions.hidden = true;
    element.append(form);
    const box = form.querySelector("textarea");
    fitHeight(box);
    box.focus();
  }

  function close() {
    element.querySelector("form").remove();
    text.hidden = actions.hidden = false;
    editing.focus();
  }

  return { element, edit };
}

/** Calls `finish` once, with the text or with null if it is to stay as it was. */
function drawEditor(text, finish) {
  const box = make("textarea", { rows: "1" });
  say(box, "editMessage", {}, "label");
  box.value = text;
  const hint = make("span", { class: "quiet" });
  say(hint, "editHint");
  const again = button("sendAgain", undefined, "main");
  again.type = "submit";
  const form = make("form", { class: "editor" }, box,
    make("div", { class: "row" }, again, button("cancel", () => finish(null)), hint));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (box.value.trim()) finish(box.value.trim());
  });
  onKeys(box, { send: () => form.requestSubmit(), leave: () => finish(null) });
  return form;
}

/**
 * An answer, at whatever state. `hands` has `regenerate`, `canShorten`, `shorten`, `edit` and `enterKey`. Gives `{ element, update }`;
 * `update(firstTokenMs)` brings the nodes up to the turn, with the time the page itself saw if there is one.
 */
export function drawReply(turn, hands) {
  const who = make("h2", { class: "who" });
  const prose = make("div", { class: "prose" });
  const note = make("p", { class: "note quiet" });
  const timing = make("div", { class: "timing" });
  const copying = copyButton(() => turn.text);
  const actions = make("div", { class: "actions" }, copying, button("regenerate", hands.regenerate, "plain regenerate"));
  const foot = make("div", { class: "foot" }, timing, actions);
  const element = make("article", { class: "turn reply" }, who, prose, note, foot);
  const showText = showProse(prose);
  let drawn = null;

  function update(firstTokenMs = null) {
    if (turn.model) who.textContent = turn.model;
    else say(who, "answer");
    showText(turn.text);
    element.setAttribute("aria-busy", String(turn.state === "running"));
    actions.classList.toggle("waiting", turn.state === "running");
    copying.hidden = turn.text === "";
    prose.hidden = turn.text === "" && turn.state === "failed";
    const state = `${turn.state} ${firstTokenMs !== null} ${turn.usage !== null}`;
    if (state !== drawn) showState(firstTokenMs);
    drawn = state;
  }

  function showState(firstTokenMs) {
    note.hidden = turn.state !== "stopped" && turn.state !== "cut";
    if (!note.hidden) say(note, turn.state);
    showTiming(timing, turn, firstTokenMs);
    element.querySelector(".problem")?.remove();
    foot.hidden = turn.state === "failed";
    if (turn.problem) note.after(drawProblem(turn.problem, hands, copying.hidden ? [] : [copyButton(() => turn.text)]));
  }

  update();
  return { element, update };
}

function showTiming(place, turn, firstTokenMs) {
  const whole = isWhole(turn.usage);
  place.classList.toggle("whole", whole);
  if (whole) {
    drawTimeline(place, partsOf(turn.usage.timing), drawSummary(turn.usage));
    return;
  }
  const summary = firstTokenMs === null ? make("div", { class: "summary" }, make("span", { class: "unit" })) : drawSeen(firstTokenMs);
  if (firstTokenMs === null && turn.state === "running") say(summary.firstChild, "waiting");
  place.replaceChildren(make("div", { class: "bar" }), make("div", { class: "figures" }, summary));
}

const PROBLEMS = {
  unreachable: ["unreachable", "unreachableHint"],
  unauthorised: ["noKey", "noKeyHint"],
  busy: ["busy", "busyHintSoon"],
  too_long: ["tooLong", "tooLongHint"],
  refused: ["refused", "refusedHint"],
  broken: ["broken", "brokenHint"],
  interrupted: ["interrupted", null],
  failed: ["failed", "failedHint"],
};

/** What happened, what the server said about it, and what can be done. */
function drawProblem(problem, hands, more) {
  const [happened, hint] = PROBLEMS[problem.kind] ?? PROBLEMS.failed;
  const head = make("strong");
  say(head, happened);
  const alone = problem.kind === "too_long" && !hands.canShorten();
  const advice = make("span");
  if (problem.kind === "busy" && problem.retryAfterS > 0) say(advice, "busyHint", { seconds: Math.ceil(problem.retryAfterS) });
  else if (hint) say(advice, alone ? "tooLongAloneHint" : hint);
  const said = problem.detail ? [make("p", { class: "said quiet" }, problem.detail)] : [];
  const remedies = {
    too_long: [alone ? button("edit", hands.edit, "main") : button("shorten", hands.shorten, "main"), button("tryAgain", hands.regenerate)],
    unauthorised: [button("enterKey", hands.enterKey, "main"), button("tryAgain", hands.regenerate)],
  };
  const buttons = remedies[problem.kind] ?? [button("tryAgain", hands.regenerate, "main")];
  return make("div", { class: "problem", role: "alert" }, make("p", {}, head, " ", advice), ...said,
    make("div", { class: "row" }, ...buttons, ...more));
}

/** The line above which nothing is sent any more. */
export function drawBoundary() {
  const line = make("p", { class: "boundary quiet" });
  say(line, "startsHere");
  return line;
}

// What customers ask for: each intent with its examples, and how the classifier sees a sentence.

import { make } from "./dom.js";
import { choice, labelled, makeForm } from "./forms.js";
import { button } from "./hands.js";
import { say, words, wordsOf } from "./language.js";
import { drawHead, drawTable, text } from "./lists.js";
import { showProblem } from "./problems.js";
import { age } from "./times.js";

const ACTIONS = ["answer", "reply", "orders", "handover"];

export async function drawIntents(place, { session }) {
  const { intents, training } = await session.request("GET", "/api/admin/intents");
  const table = drawTable([
    ["intent", ({ label }) => make("a", { href: `#intents/${encodeURIComponent(label)}` }, label), "main"],
    ["action", ({ action }) => wordsOf("action", action), "narrow"],
    ["examples", ({ examples }) => String(examples.length), "number narrow"],
    ["changedAt", ({ updated_at: at }) => age(at), "narrow"],
  ]);
  table.add(intents);
  const state = text(`training_${training.state}`, { message: training.message ?? "" });
  state.setAttribute("role", "status");
  const fresh = make("a", { href: "#intents/new", class: "button main" });
  say(fresh, "newIntent");
  place.append(drawHead("section_intents", [fresh]), state, drawTry(session), intents.length > 0 ? table.element : text("noIntents"));
}

function drawTry(session) {
  const sentence = make("input", { name: "text", maxlength: "2000", required: true });
  const found = make("p", { role: "status" });
  const form = makeForm("tryIt", [labelled("tryIntent", sentence)], async (values) => {
    const seen = await session.request("POST", "/api/admin/intents/try", { text: values.text });
    say(found, "intentFound", {
      intent: () => seen.intent ?? words("intent_unknown"),
      score: seen.score.toFixed(2),
      margin: seen.margin.toFixed(2),
      mood: () => wordsOf("mood", seen.sentiment.label),
      language: () => wordsOf("language", seen.language),
      redacted: seen.redacted,
    });
  });
  form.classList.add("narrow-form");
  return make("section", {}, form, found);
}

/** `new`, or an intent's name. */
export async function drawIntent(place, page, label) {
  const isNew = label === "new";
  const { intents } = await page.session.request("GET", "/api/admin/intents");
  const intent = isNew ? { label: "", action: "answer", replies: {}, examples: [] } : intents.find((one) => one.label === label);
  const back = make("a", { href: "#intents" });
  say(back, "section_intents");
  if (!intent) {
    place.append(drawHead("section_intents", [back]), text("error_not_found", { detail: "" }, ""));
    return;
  }
  const problem = make("p", { role: "alert", hidden: true });
  const remove = button("deleteIntent", async () => {
    if (!confirm(remove.textContent)) return;
    try {
      await page.session.request("DELETE", `/api/admin/intents/${encodeURIComponent(label)}`);
      page.mayLeave = () => true;
      page.go("intents");
    } catch (error) {
      showProblem(problem, error);
    }
  });
  place.append(drawHead("newIntent", isNew ? [back] : [back, remove], isNew ? null : label), problem, drawForm(page, intent, isNew));
}

function drawForm(page, intent, isNew) {
  const name = make("input", { name: "label", required: true, maxlength: "80", pattern: "[A-Za-z0-9_\\-]+", autocapitalize: "off", spellcheck: "false" });
  const action = choice("action", ACTIONS.map((each) => [each, `action_${each}`]), intent.action);
  const replies = ["en", "zh"].map((language) => {
    const box = make("textarea", { name: `reply_${language}`, rows: "2", maxlength: "2000" });
    box.value = intent.replies[language] ?? "";
    return labelled(`reply_${language}`, box, "replyHint", { mark: "{name}" });
  });
  const examples = make("textarea", { name: "examples", rows: "12", class: "source-text" });
  name.value = intent.label;
  examples.value = intent.examples.join("\n");
  const showReplies = () => replies.forEach((field) => { field.hidden = action.value !== "reply"; });
  action.addEventListener("change", showReplies);
  showReplies();

  let changed = false;
  const fields = [...(isNew ? [labelled("intentName", name, "intentNameHint")] : []), labelled("action", action), ...replies, labelled("examples", examples, "examplesHint")];
  const form = makeForm("saveAndTrain", fields, async (values) => {
    const label = isNew ? values.label : intent.label;
    const given = Object.fromEntries(["en", "zh"].map((language) => [language, values[`reply_${language}`].trim()]).filter(([, reply]) => reply));
    const lines = values.examples.split("\n").map((line) => line.trim()).filter(Boolean);
    await page.session.request("PUT", `/api/admin/intents/${encodeURIComponent(label)}`, { action: values.action, replies: given, examples: lines });
    changed = false;
    if (isNew) page.go(`intents/${encodeURIComponent(label)}`);
    return isNew ? null : "savedAndTrained";
  });
  form.classList.add("narrow-form");
  form.addEventListener("input", () => { changed = true; });
  page.mayLeave = () => !changed;
  return form;
}

// Forms: labelled fields, one button, and what went wrong in words below them.

import { make } from "./dom.js";
import { button } from "./hands.js";
import { say } from "./language.js";
import { showProblem } from "./problems.js";

let count = 0;

/** A field under its label, with a hint if there is one. */
export function labelled(key, field, hint = null, filling = {}) {
  count += 1;
  field.id = `field-${count}`;
  const label = make("label", { for: field.id });
  say(label, key);
  if (!hint) return make("div", { class: "field" }, label, field);
  const text = make("p", { class: "quiet", id: `hint-${count}` });
  say(text, hint, filling);
  field.setAttribute("aria-describedby", text.id);
  return make("div", { class: "field" }, label, field, text);
}

/** A box to tick, beside its label. */
export function ticked(key, field, hint = null) {
  const text = make("span");
  say(text, key);
  const label = make("label", { class: "switch" }, field, text);
  if (!hint) return make("div", { class: "field" }, label);
  const told = make("p", { class: "quiet" });
  say(told, hint);
  return make("div", { class: "field" }, label, told);
}

/** A choice; `options` is `[[value, key of words]]`. */
export function choice(name, options, value) {
  const select = make("select", { name });
  for (const [each, key] of options) {
    const option = make("option", { value: each, selected: each === value });
    say(option, key);
    select.append(option);
  }
  return select;
}

/**
 * A form whose button says `key`. `submit(values)` gets the fields by name; while it runs the button is off, and what it throws is
 * shown. `cancel`, if there is one, is called by the other button.
 */
export function makeForm(key, fields, submit, cancel = null) {
  const send = button(key, undefined, "main");
  send.type = "submit";
  const problem = make("p", { class: "problem-line", role: "alert", hidden: true });
  const done = make("span", { class: "quiet", role: "status" });
  const row = make("div", { class: "row" }, send, ...(cancel ? [button("cancel", () => cancel())] : []), done);
  const form = make("form", { class: "fields" }, ...fields, problem, row);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    send.disabled = true;
    done.textContent = "";
    try {
      const told = await submit(Object.fromEntries(new FormData(form)));
      if (typeof told === "string") say(done, told);
    } catch (error) {
      showProblem(problem, error);
    }
    send.disabled = false;
  });
  return form;
}

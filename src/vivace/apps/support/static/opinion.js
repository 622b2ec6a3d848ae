// Thumbs up and down under an answer, and the reason why.

import { drawIcon, make } from "./dom.js";
import { button } from "./hands.js";
import { say, words } from "./language.js";
import { showProblem } from "./problems.js";

const REASONS = ["wrong", "incomplete", "unclear", "slow", "other"];
const MAX_CHARACTERS = 1000;

/**
 * `keep({ rating, reason, text })` gives a promise of what was kept; without it the opinion is only shown.
 * Gives `{ buttons, form, show }`; `show(feedback)` brings them up to what was given.
 */
export function drawOpinion(keep) {
  let given = null;
  const thumbs = ["up", "down"].map((rating) => {
    const node = make("button", { type: "button", class: "tool thumb", "data-rating": rating, "aria-pressed": "false", onclick: () => give(rating) }, drawIcon(`thumb-${rating}`));
    say(node, `thumb_${rating}`, {}, "label");
    say(node, `thumb_${rating}`, {}, "title");
    node.disabled = !keep;
    return node;
  });
  const place = make("div", { class: "opinion", hidden: true });

  async function give(rating) {
    place.hidden = false;
    if (given?.rating !== rating && !(await tryToKeep({ rating }))) return;
    if (rating === "down") ask();
    else thank();
  }

  async function tryToKeep(opinion) {
    try {
      show(await keep(opinion));
      return true;
    } catch (error) {
      const problem = make("p", { role: "alert" });
      showProblem(problem, error);
      place.replaceChildren(problem);
      return false;
    }
  }

  function thank() {
    const thanks = make("p", { class: "quiet", role: "status" });
    say(thanks, "thanks");
    place.replaceChildren(thanks);
  }

  /** The form for a reason. Leaving it is fine: the thumb itself is kept already. */
  function ask() {
    const id = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
    const legend = make("legend");
    say(legend, "whatWasWrong");
    const choices = REASONS.map((reason) => {
      const input = make("input", { type: "radio", name: id, value: reason, checked: given?.reason === reason });
      const text = make("span");
      say(text, `reason_${reason}`);
      return make("label", { class: "choice" }, input, text);
    });
    const box = make("textarea", { rows: "2", maxlength: String(MAX_CHARACTERS) });
    box.value = given?.text ?? "";
    say(box, "tellMore", {}, "label");
    say(box, "tellMore", {}, "placeholder");
    const send = button("sendOpinion", undefined, "main");
    send.type = "submit";
    const leave = button("notNow", () => { place.hidden = true; });
    const form = make("form", {}, make("fieldset", {}, legend, make("div", { class: "choices" }, ...choices)), box, make("div", { class: "row" }, send, leave));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const reason = form.querySelector("input:checked")?.value;
      const text = box.value.trim();
      if (await tryToKeep({ rating: "down", ...(reason && { reason }), ...(text && { text }) })) thank();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      place.hidden = true;
      thumbs[1].focus();
    });
    place.replaceChildren(form);
    form.querySelector("input").focus({ preventScroll: true });
    form.scrollIntoView({ block: "nearest" });
  }

  function show(feedback) {
    given = feedback ?? null;
    for (const node of thumbs) node.setAttribute("aria-pressed", String(given?.rating === node.dataset.rating));
    if (keep || !given) return;
    const told = make("p", { class: "quiet" });
    const parts = () => [words(`thumb_${given.rating}`), given.reason && words(`reason_${given.reason}`), given.text].filter(Boolean).join(" · ");
    say(told, "opinionWas", { opinion: parts });
    place.hidden = false;
    place.replaceChildren(told);
  }

  return { buttons: keep ? thumbs : [], form: place, show };
}

// The shop's settings.

import { byId, make } from "./dom.js";
import { labelled, makeForm, ticked } from "./forms.js";
import { drawHead } from "./lists.js";

const NUMBERS = [["negative_turns", 1, 10], ["thumbs_down", 1, 10], ["queue_timeout_s", 10, 86_400], ["retention_days", 0, 3650]];

export async function drawShopSettings(place, page) {
  const settings = await page.session.request("GET", "/api/admin/settings");
  const lines = (name, value, most) => {
    const box = make("textarea", { name, rows: "2", maxlength: String(most) });
    box.value = value;
    return box;
  };
  const line = (name, value, attributes = {}) => {
    const box = make("input", { name, ...attributes });
    box.value = value;
    return box;
  };
  const tick = (name) => make("input", { type: "checkbox", role: "switch", name, checked: settings[name] });
  const number = ([name, min, max]) => labelled(`set_${name}`, line(name, String(settings[name]), { type: "number", min, max, step: 1, required: true }), `hint_${name}`);
  const form = makeForm("save", [
    labelled("set_name", line("name", settings.name, { required: true, maxlength: "100" })),
    labelled("set_greeting_en", lines("greeting_en", settings.greeting.en, 1000)),
    labelled("set_greeting_zh", lines("greeting_zh", settings.greeting.zh, 1000)),
    labelled("set_instructions", lines("instructions", settings.instructions, 4000), "hint_instructions"),
    ticked("set_personal_replies", tick("personal_replies"), "hint_personal_replies"),
    ticked("set_live_drafts", tick("live_drafts"), "hint_live_drafts"),
    make("div", { class: "pair" }, ...NUMBERS.slice(0, 2).map(number)),
    make("div", { class: "pair" }, ...NUMBERS.slice(2).map(number)),
    labelled("set_phone_region", line("phone_region", settings.phone_region, { pattern: "[A-Z]{2}", maxlength: "2", required: true }), "hint_phone_region"),
  ], async (values) => {
    const saved = await page.session.request("PUT", "/api/admin/settings", {
      ...settings,
      name: values.name.trim(),
      greeting: { en: values.greeting_en, zh: values.greeting_zh },
      instructions: values.instructions,
      personal_replies: values.personal_replies === "on",
      live_drafts: values.live_drafts === "on",
      phone_region: values.phone_region,
      ...Object.fromEntries(NUMBERS.map(([name]) => [name, Number(values[name])])),
    });
    byId("shop").firstChild.textContent = saved.name;
    changed = false;
    return "saved";
  });
  let changed = false;
  form.addEventListener("input", () => { changed = true; });
  page.mayLeave = () => !changed;
  form.classList.add("narrow-form");
  place.append(drawHead("section_settings"), form);
}

// What the reader has set: theme, language, and how the model is asked. The key to the server is forgotten with the tab.

import { setUpLanguage, setUpTheme } from "./appearance.js";
import { byId } from "./dom.js";
import { browserStorage, tryTo } from "./storage.js";

const KEYS = { settings: "vivace.settings", key: "vivace.key" };
const MAX_SYSTEM_CHARACTERS = 20_000;

/** Gives `{ read, openAt }`. `read()` is `{ system, temperature, maxTokens, key }`, the last three null where not set. */
export function setUpSettings(translated) {
  const [kept, forgotten] = [browserStorage("localStorage"), browserStorage("sessionStorage")];
  const dialog = byId("settings");
  const fields = Object.fromEntries(["system", "temperature", "maxTokens", "key"].map((name) => [name, byId(`set-${name}`)]));

  fill(fields, parse(kept.getItem(KEYS.settings)));
  fields.key.value = forgotten.getItem(KEYS.key) ?? "";
  setUpTheme();
  setUpLanguage(translated);

  function read() {
    return {
      system: fields.system.value.trim().slice(0, MAX_SYSTEM_CHARACTERS),
      temperature: numberIn(fields.temperature),
      maxTokens: numberIn(fields.maxTokens),
      key: fields.key.value.trim() || null,
    };
  }

  function keep() {
    const { key, ...settings } = read();
    tryTo(() => kept.setItem(KEYS.settings, JSON.stringify(settings)));
    tryTo(() => (key ? forgotten.setItem(KEYS.key, key) : forgotten.removeItem(KEYS.key)));
  }

  function openAt(name = "system") {
    dialog.showModal();
    fields[name].focus();
  }

  dialog.addEventListener("change", keep);
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep();
    dialog.close();
  });
  byId("open-settings").addEventListener("click", () => openAt());
  return { read, openAt };
}

function fill(fields, { system, temperature, maxTokens }) {
  if (typeof system === "string") fields.system.value = system;
  if (Number.isFinite(temperature)) fields.temperature.value = String(temperature);
  if (Number.isFinite(maxTokens)) fields.maxTokens.value = String(maxTokens);
}

function parse(entry) {
  try {
    return JSON.parse(entry) ?? {};
  } catch {
    return {};
  }
}

function numberIn(field) {
  return field.value !== "" && field.checkValidity() ? field.valueAsNumber : null;
}

// The customer's menu: their conversations, who they are, and what is kept of them.

import { byId, make } from "./dom.js";
import { download } from "./download.js";
import { labelled, makeForm } from "./forms.js";
import { button } from "./hands.js";
import { language, say } from "./language.js";
import { showProblem } from "./problems.js";
import { showAge } from "./times.js";

/**
 * `hands` has `tenant`, `changed({ keeps })` for another account (`keeps`: with the conversations there were), `gone()` once all is
 * deleted, `open(id)`, `startNew()`, `end()` and `current()`. Gives `{ show, close }`.
 */
export function setUpAccount(session, hands) {
  const [menu, place, problem, confirm] = ["menu", "account", "data-problem", "confirm-delete"].map(byId);
  let shop = null;

  function show(found = shop) {
    shop = found;
    const account = session.account();
    const isCustomer = account !== null && account.role !== "guest";
    place.replaceChildren(...(isCustomer ? drawCustomer(account) : drawGuest()));
    byId("data").hidden = account === null;
    confirm.hidden = problem.hidden = true;
    byId("delete").hidden = false;
    byId("end").hidden = !hands.current() || hands.current().state === "closed";
  }

  function drawCustomer(account) {
    const who = make("p", {}, make("strong", {}, account.name), " ", make("span", { class: "quiet" }, account.email));
    const nodes = [who];
    if (shop?.personal_replies) nodes.push(drawSwitch(account));
    const out = button("signOut", async () => {
      await session.end();
      show();
      hands.changed({ keeps: false });
    });
    return [...nodes, make("div", { class: "row" }, out)];
  }

  function drawSwitch(account) {
    const box = make("input", { type: "checkbox", role: "switch", checked: account.personal });
    const text = make("span");
    say(text, "personalReplies");
    const hint = make("p", { class: "quiet" });
    say(hint, "personalHint");
    const failed = make("p", { role: "alert", hidden: true });
    box.addEventListener("change", async () => {
      try {
        await session.change({ personal: box.checked });
        failed.hidden = true;
      } catch (error) {
        box.checked = !box.checked;
        showProblem(failed, error);
      }
    });
    return make("div", {}, make("label", { class: "switch" }, box, text), hint, failed);
  }

  /** A guest, or nobody yet: signing in and up, one at a time. */
  function drawGuest() {
    const hint = make("p", { class: "quiet" });
    say(hint, "guestHint");
    const choices = make("div", { class: "row" }, button("signIn", () => open(drawSignIn), ""), button("signUp", () => open(drawSignUp), ""));
    const open = (draw) => {
      const form = draw();
      choices.hidden = true;
      choices.after(form);
      form.querySelector("input").focus();
    };
    return [hint, choices];
  }

  const fields = (isNew) => [
    ...(isNew ? [labelled("name", make("input", { name: "name", autocomplete: "name", required: true, maxlength: "80" }))] : []),
    labelled("email", make("input", { name: "email", type: "email", autocomplete: "username", required: true, maxlength: "254" })),
    labelled("password", make("input", {
      name: "password", type: "password", required: true, minlength: isNew && "10", maxlength: "256",
      autocomplete: isNew ? "new-password" : "current-password",
    }), isNew ? "passwordHint" : "forgotHint"),
  ];
  const shopOf = () => (hands.tenant ? { tenant: hands.tenant } : {});

  function drawSignIn() {
    return makeForm("signIn", fields(false), async ({ email, password }) => {
      await session.signIn({ email, password, ...shopOf() });
      enter({ keeps: false });
    }, show);
  }

  function drawSignUp() {
    return makeForm("signUp", fields(true), async ({ name, email, password }) => {
      await session.begin("/api/accounts", { name, email, password, language: language(), ...shopOf() });
      enter({ keeps: true });
    }, show);
  }

  function enter(how) {
    show();
    close();
    hands.changed(how);
  }

  async function listConversations() {
    const list = byId("conversations");
    const found = session.account() ? (await session.request("GET", "/api/conversations")).conversations : [];
    byId("no-conversations").hidden = found.length > 0;
    const now = hands.current()?.id;
    list.replaceChildren(...found.map((one) => make("li", { "aria-current": one.id === now && "true" }, drawEntry(one))));
  }

  function drawEntry(one) {
    const state = make("span", { class: "quiet" });
    say(state, `short_${one.state}`);
    const when = make("time", {});
    showAge(when, one.updated_at);
    return make("button", { type: "button", class: "entry", onclick: () => { close(); hands.open(one.id); } }, when, state);
  }

  function open() {
    show();
    menu.showModal();
    listConversations().catch((error) => showProblem(problem, error));
  }

  const close = () => menu.close();

  async function exportData() {
    try {
      download("my-data.json", JSON.stringify(await session.request("GET", "/api/me/export"), null, 1));
    } catch (error) {
      showProblem(problem, error);
    }
  }

  async function deleteData() {
    try {
      await session.request("DELETE", "/api/me", { confirm: true });
      hands.gone();
    } catch (error) {
      showProblem(problem, error);
    }
  }

  byId("open-menu").addEventListener("click", open);
  byId("close-menu").addEventListener("click", close);
  menu.addEventListener("click", ({ target }) => target === menu && close());
  byId("menu-new").addEventListener("click", () => { close(); hands.startNew(); });
  byId("end").addEventListener("click", () => { close(); hands.end(); });
  byId("export").addEventListener("click", exportData);
  byId("delete").addEventListener("click", () => {
    confirm.hidden = false;
    byId("delete").hidden = true;
    byId("keep-data").focus();
  });
  byId("keep-data").addEventListener("click", () => show());
  byId("really-delete").addEventListener("click", deleteData);
  show();
  return { show, close };
}

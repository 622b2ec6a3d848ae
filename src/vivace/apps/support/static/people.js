// Accounts: who may do what, and new staff.

import { copyButton } from "./copy.js";
import { make } from "./dom.js";
import { choice, labelled, makeForm } from "./forms.js";
import { button } from "./hands.js";
import { say, wordsOf } from "./language.js";
import { address, drawGroup, drawHead, drawTable, pageThrough, text } from "./lists.js";
import { showProblem } from "./problems.js";
import { age } from "./times.js";

const ROLES = ["customer", "agent", "admin"];

export async function drawPeople(place, { session }) {
  const role = choice("role", [["", "role_all"], ...["guest", ...ROLES].map((each) => [each, `role_${each}`])], "");
  say(role, "role", {}, "label");
  const problem = make("p", { role: "alert", hidden: true });
  const change = async (id, values) => {
    problem.hidden = true;
    try {
      await session.request("PATCH", `/api/admin/accounts/${encodeURIComponent(id)}`, values);
    } catch (error) {
      showProblem(problem, error);
    }
    list.start();
  };
  const link = make("div", { role: "status" });
  const makeLink = async ({ id, name }) => {
    problem.hidden = true;
    try {
      const { path } = await session.request("POST", `/api/admin/accounts/${encodeURIComponent(id)}/reset`, {});
      const whole = location.origin + path;
      link.replaceChildren(text("resetOnce", { name }, ""), make("div", { class: "row secret" }, make("code", {}, whole), copyButton(() => whole)));
    } catch (error) {
      showProblem(problem, error);
    }
  };
  const own = session.account().id;
  const table = drawTable([
    ["name", ({ name, email }) => [make("div", {}, name), make("div", { class: "quiet" }, email ?? "")], "main"],
    ["role", (account) => (account.role === "guest" || account.id === own ? wordsOf("role", account.role) : drawRole(account, change)), "narrow"],
    ["since", ({ created_at: at }) => age(at), "narrow"],
    ["", (account) => (account.id === own ? null : button(account.disabled ? "enable" : "disable", () => change(account.id, { disabled: !account.disabled }))), "narrow"],
    ["", (account) => (account.role === "guest" || account.disabled ? null : button("resetLink", () => makeLink(account))), "narrow"],
  ]);
  const list = pageThrough(async (before) => {
    const { accounts, next } = await session.request("GET", address("/api/admin/accounts", { role: role.value, before }));
    return { rows: accounts, next };
  }, table, "noPeople");
  role.addEventListener("change", list.start);
  await list.start();
  place.append(drawHead("section_people", [role]), problem, link, ...list.nodes, drawGroup("newPerson", drawNew(session, list.start)));
}

function drawRole(account, change) {
  const select = choice("role", ROLES.map((each) => [each, `role_${each}`]), account.role);
  say(select, "roleOf", { name: account.name }, "label");
  select.addEventListener("change", () => change(account.id, { role: select.value }));
  return select;
}

function drawNew(session, made) {
  const form = makeForm("addPerson", [
    make("div", { class: "pair" },
      labelled("name", make("input", { name: "name", required: true, maxlength: "80", autocomplete: "off" })),
      labelled("role", choice("role", ["agent", "admin", "customer"].map((each) => [each, `role_${each}`]), "agent"))),
    labelled("email", make("input", { name: "email", type: "email", required: true, maxlength: "254", autocomplete: "off" })),
    labelled("password", make("input", { name: "password", type: "password", required: true, minlength: "10", maxlength: "256", autocomplete: "new-password" }), "passwordHint"),
  ], async (values) => {
    await session.request("POST", "/api/admin/accounts", values);
    form.reset();
    made();
    return "personAdded";
  });
  form.classList.add("narrow-form");
  return form;
}

// Who is told of each change of state, and whether it arrived.

import { copyButton } from "./copy.js";
import { make } from "./dom.js";
import { labelled, makeForm } from "./forms.js";
import { button } from "./hands.js";
import { wordsOf } from "./language.js";
import { drawGroup, drawHead, drawTable, pageThrough, text } from "./lists.js";
import { showProblem } from "./problems.js";
import { age } from "./times.js";

export async function drawWebhooks(place, { session }) {
  const problem = make("p", { role: "alert", hidden: true });
  const attempt = async (method, id, values) => {
    problem.hidden = true;
    try {
      await session.request(method, `/api/admin/webhooks/${encodeURIComponent(id)}`, values);
    } catch (error) {
      showProblem(problem, error);
    }
    hooks.start();
  };
  const hookTable = drawTable([
    ["address", ({ url }) => url, "main"],
    ["waitingOf", ({ pending }) => String(pending), "number narrow"],
    ["failedOf", ({ failed }) => String(failed), "number narrow"],
    ["", ({ id, active }) => button(active ? "pause" : "resume", () => attempt("PATCH", id, { active: !active })), "narrow"],
    ["", ({ id, url }) => button("remove", () => confirm(url) && attempt("DELETE", id)), "narrow"],
  ]);
  const hooks = pageThrough(async () => ({ rows: (await session.request("GET", "/api/admin/webhooks")).webhooks, next: null }), hookTable, "noWebhooks");
  const deliveryTable = drawTable([
    ["when", ({ created_at: at }) => age(at), "narrow main"],
    ["state", ({ status }) => wordsOf("delivery", status), "narrow"],
    ["attempts", ({ attempts }) => String(attempts), "number narrow"],
    ["problem", ({ error }) => error ?? ""],
  ]);
  const deliveries = pageThrough(async () => ({ rows: (await session.request("GET", "/api/admin/deliveries")).deliveries, next: null }), deliveryTable, "noDeliveries");
  const secret = make("div", { role: "status" });
  const form = makeForm("addWebhook", [labelled("address", make("input", { name: "url", type: "url", required: true, maxlength: "500", placeholder: "https://" }))], async ({ url }) => {
    const made = await session.request("POST", "/api/admin/webhooks", { url });
    form.reset();
    secret.replaceChildren(text("secretOnce", {}, ""), make("div", { class: "row secret" }, make("code", {}, made.secret), copyButton(() => made.secret)));
    hooks.start();
  });
  form.classList.add("narrow-form");
  await Promise.all([hooks.start(), deliveries.start()]);
  place.append(drawHead("section_webhooks"), text("webhooksHint"), problem, ...hooks.nodes, drawGroup("newWebhook", form, secret), drawGroup("deliveries", ...deliveries.nodes));
}

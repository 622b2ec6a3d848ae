// The door of the staff's pages: who may come in, and who is in.

import { byId, make } from "./dom.js";
import { labelled, makeForm } from "./forms.js";
import { say } from "./language.js";
import { ApiError, openSession } from "./session.js";
import { showProblem } from "./problems.js";

/**
 * Shows the form in `#door` until somebody of these roles has signed in, then `#inside`, and calls `enter(session)`. With `?tenant=`
 * the shop is another than the first.
 */
export function openDoor(roles, enter) {
  const tenant = new URLSearchParams(location.search).get("tenant") ?? undefined;
  const [door, inside] = ["door", "inside"].map(byId);
  const session = openSession(`staff.${tenant ?? ""}`, () => ask(new ApiError("signed_out")));
  let entered = false;

  function ask(why = null) {
    const fields = [
      labelled("email", make("input", { name: "email", type: "email", autocomplete: "username", required: true })),
      labelled("password", make("input", { name: "password", type: "password", autocomplete: "current-password", required: true })),
    ];
    const form = makeForm("signIn", fields, async ({ email, password }) => {
      const account = await session.signIn({ email, password, ...(tenant && { tenant }) });
      if (!roles.includes(account.role)) {
        await session.end();
        throw new ApiError("forbidden");
      }
      if (entered) location.reload(); // as it was, with a session that is good again
      else letIn();
    });
    const title = make("h1");
    say(title, door.dataset.title);
    const told = make("p", { role: "alert", hidden: true });
    if (why) showProblem(told, why);
    door.replaceChildren(title, told, form);
    show(false);
    form.querySelector("input").focus();
  }

  function show(isIn) {
    door.hidden = isIn;
    inside.hidden = !isIn;
  }

  function letIn() {
    door.replaceChildren();
    show(true);
    entered = true;
    enter(session);
  }

  byId("sign-out").addEventListener("click", async () => {
    await session.end();
    location.reload();
  });
  if (roles.includes(session.account()?.role)) letIn();
  else ask();
}

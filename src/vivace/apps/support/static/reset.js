// A new password, with a link that an admin made. The link's token stands behind the #, and goes from the address at once.

import { setUpLanguage, setUpTheme } from "./appearance.js";
import { byId, make } from "./dom.js";
import { labelled, makeForm } from "./forms.js";
import { say, words } from "./language.js";
import { text } from "./lists.js";
import { ApiError, openSession } from "./session.js";
import "./words.js";

const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const name = () => { document.title = words("newPassword"); };
setUpTheme();
setUpLanguage(name);
name();

const place = byId("place");
if (token) ask();
else place.append(text("resetIncomplete"));

function ask() {
  const field = (key, fieldName, hint) => labelled(key, make("input", {
    name: fieldName, type: "password", required: true, minlength: "10", maxlength: "256", autocomplete: "new-password",
  }), hint);
  const fields = [field("newPassword", "password", "passwordHint"), field("passwordAgain", "again")];
  place.append(makeForm("setPassword", fields, async ({ password, again }) => {
    if (password !== again) throw new ApiError("passwords_differ");
    const { page } = await openSession("reset").request("PUT", "/api/password-resets", { token, password });
    const link = make("a", { href: page });
    say(link, "signIn");
    place.replaceChildren(text("passwordSet"), make("p", {}, link));
    link.focus();
  }));
  place.querySelector("input").focus();
}

// One script tag puts the chat on any page: a button in the corner, and the chat in a frame. Touches nothing else there.
//
//   <script src="https://SUPPORT/embed.js" data-tenant="shop" data-label="Help" async></script>
//
// The application has to be started with --embed-origin of that page.

(() => {
  const script = document.currentScript;
  const origin = new URL(script.src).origin;
  const chinese = (script.dataset.language ?? document.documentElement.lang ?? "").startsWith("zh");
  const words = chinese ? { open: "在线客服", close: "关闭" } : { open: "Help", close: "Close" };
  const narrow = matchMedia("(max-width: 480px)");

  const host = document.createElement("div");
  const root = host.attachShadow({ mode: "open" });
  const button = document.createElement("button");
  let frame = null;

  Object.assign(host.style, { position: "fixed", inset: "auto 16px 16px auto", zIndex: "2147483000", colorScheme: "light dark" });
  Object.assign(button.style, {
    minHeight: "48px", padding: "0 20px", border: "0", borderRadius: "24px", font: "500 16px/1.5 system-ui, sans-serif", cursor: "pointer",
    background: "light-dark(#0b62bd, #6cb2ff)", color: "light-dark(#ffffff, #0d1520)",
  });
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => toggle(frame === null || frame.hidden));
  root.append(button);
  label(false);

  function label(open) {
    button.textContent = open ? words.close : (script.dataset.label ?? words.open);
    button.setAttribute("aria-expanded", String(open));
  }

  function makeFrame() {
    const address = new URL("/", origin);
    if (script.dataset.tenant) address.searchParams.set("tenant", script.dataset.tenant);
    if (script.dataset.language) address.searchParams.set("language", script.dataset.language);
    const made = document.createElement("iframe");
    made.src = address.href;
    made.title = script.dataset.label ?? words.open;
    made.allow = "clipboard-write";
    root.prepend(made);
    return made;
  }

  function place() {
    const box = narrow.matches
      ? { inset: "0", width: "100%", height: "100%", borderRadius: "0", borderWidth: "0" }
      : { inset: "auto 16px 80px auto", width: "min(400px, calc(100vw - 32px))", height: "min(640px, calc(100vh - 112px))", borderRadius: "8px", borderWidth: "1px" };
    Object.assign(frame.style, box, { position: "fixed", borderStyle: "solid", borderColor: "light-dark(#dcdddb, #303236)", display: frame.hidden ? "none" : "block" });
  }

  function toggle(open) {
    frame ??= makeFrame();
    frame.hidden = !open;
    place();
    label(open);
    if (open) frame.focus();
    else button.focus();
  }

  narrow.addEventListener("change", () => frame && place());
  addEventListener("message", ({ origin: from, source, data }) => {
    if (frame && from === origin && source === frame.contentWindow && data === "vivace-support-close") toggle(false);
  });
  const put = () => document.body.append(host);
  if (document.body) put();
  else addEventListener("DOMContentLoaded", put);
})();

// A classic script, run before the first paint, so that a chosen theme never flashes the other one.
try {
  const theme = localStorage.getItem("vivace.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the page follows the system.
}

// What the browser keeps for a page, where it keeps anything.

/** localStorage, or a stand-in that forgets when the browser gives none. */
export function browserStorage(name = "localStorage") {
  try {
    const storage = globalThis[name];
    storage.getItem("");
    return storage;
  } catch {
    const entries = new Map();
    return {
      forgets: true,
      get length() { return entries.size; },
      key: (i) => [...entries.keys()][i] ?? null,
      getItem: (key) => entries.get(key) ?? null,
      setItem: (key, value) => entries.set(key, value),
      removeItem: (key) => entries.delete(key),
    };
  }
}

/** Writes to a storage that may be full. */
export function tryTo(write) {
  try {
    write();
  } catch {
    // It costs only that the thing is not remembered.
  }
}

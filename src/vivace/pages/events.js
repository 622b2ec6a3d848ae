// Reads server-sent events from a stream of bytes. Knows no page and no API.

const MAX_EVENT_CHARACTERS = 4_000_000;

/** Each event as `{ kind, id, data }`, whatever its line ends and however it was cut; comments are passed over. */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const held = rest.endsWith("\r") ? "\r" : ""; // its line feed may be on the way
      const events = rest.slice(0, rest.length - held.length).replace(/\r\n?/g, "\n").split("\n\n");
      rest = events.pop() + held;
      if (rest.length > MAX_EVENT_CHARACTERS) throw new RangeError("An event of the stream is too long.");
      for (const event of events) {
        const lines = event.split("\n");
        const data = readFields(lines, "data");
        if (data.length > 0) yield { kind: readFields(lines, "event").at(-1) ?? "message", id: readFields(lines, "id").at(-1) ?? null, data: data.join("\n") };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be closed already
  }
}

function readFields(lines, name) {
  return lines.filter((line) => line.startsWith(`${name}:`))
    .map((line) => line.slice(name.length + (line[name.length + 1] === " " ? 2 : 1)));
}

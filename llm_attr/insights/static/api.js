// The server: questions, and one stream of events for the page. fetch is given, so that tests can replace it.

export class Refused extends Error {
  constructor(status, failure, retry) {
    super(failure.message);
    Object.assign(this, { status, failure, retry });
  }
}

export function api(fetch, session) {
  const headers = { "X-Session": session };
  async function ask(path, options = {}) {
    const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
    if (answer.ok) return answer.json();
    const said = await answer.json().catch(() => ({}));
    const message = said.error?.message ?? sentenceOf(said) ?? `the server answered ${answer.status}`;
    throw new Refused(answer.status, { place: "button", kind: "Refused", ...said.error, message }, Number(answer.headers.get("Retry-After")) || 5);
  }
  return {
    get: (path) => ask(path),
    post: (path, body, more = {}) =>
      ask(path, { method: "POST", body: JSON.stringify(body ?? {}), headers: { "Content-Type": "application/json", ...more } }),
    listen: (hear, online) => listen(fetch, headers, hear, online),
  };
}

function sentenceOf({ detail }) {
  if (typeof detail === "string") return detail;
  return detail?.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("; ");
}

/** Reads the stream for ever; after a break it goes on where it was. */
async function listen(fetch, headers, hear, online) {
  let last = null;
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    try {
      const answer = await fetch("/api/events", { headers: last === null ? headers : { ...headers, "Last-Event-ID": last } });
      if (answer.ok) {
        online(true);
        wait = 250;
        for await (const event of events(answer.body)) {
          last = event.id;
          hear(event);
        }
      }
    } catch {
      // the server is away
    }
    online(false);
    await new Promise((wake) => setTimeout(wake, wait));
  }
}

export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const block of whole) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

export function parsed(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
  return fields.event ? { id: fields.id, type: fields.event, ...JSON.parse(fields.data) } : null;
}

// The states of the page and what leads from one to the next. Pure: reduce(state, event) -> [state, effects]; an event
// that has no place in a state changes nothing.

export const start = () => ({
  phase: "idle", job: null, kind: null, place: 0, of: 0, seconds: null, done: 0, total: 0, retry: 0,
  answer: "", plan: null, result: null, failure: null, offline: false,
});

const begin = (state, event) => [
  { ...state, phase: "asking", kind: event.kind, job: null, failure: null, done: 0, total: 0, seconds: null,
    answer: event.kind === "generate" ? "" : state.answer },
  [["ask", event.kind]],
];
const edited = (state) => [{ ...state, phase: "writing", failure: null }, ["measure"].map((name) => [name])];
const open = (state, event) => [{ ...state, phase: "done", result: event.result, failure: null, job: null }, [["show", event.result]]];
const fail = (state, { failure }) => [{ ...state, phase: "failed", job: null, failure }, []];
const rest = { edited, ask: begin, open };
const going = {
  running: (state) => [{ ...state, phase: state.kind === "generate" ? "generating" : "running" }, []],
  token: (state, { text }) => [{ ...state, phase: "generating", answer: state.kind === "generate" ? state.answer + text : state.answer }, []],
  progress: (state, { done, total, seconds }) => [{ ...state, phase: "running", done, total, seconds }, []],
  result: (state) =>
    [{ ...state, phase: state.kind === "generate" ? "writing" : "done", result: state.kind === "generate" ? state.result : state.job, job: null },
      [state.kind === "generate" ? ["answered", state.job] : ["show", state.job]]],
  failed: fail,
  cancelled: (state) => [{ ...state, phase: "writing", job: null }, []],
  queued: (state, { place, of, seconds }) => [{ ...state, phase: "queued", place, of, seconds }, []],
};

export const TABLE = {
  idle: rest,
  writing: rest,
  asking: {
    accepted: (state, { job }) => [{ ...state, phase: "queued", job, place: 0, of: 0 }, []],
    full: (state, { retry }) => [{ ...state, phase: "busy", retry }, [["retry", retry]]],
    failed: fail,
  },
  busy: { retry: (state) => [{ ...state, phase: "asking" }, [["ask", state.kind]]], cancelled: (state) => [{ ...state, phase: "writing" }, []] },
  queued: going,
  generating: going,
  running: going,
  done: rest,
  failed: rest,
};

const ANYWHERE = {
  offline: (state) => [{ ...state, offline: true }, []],
  online: (state) => [{ ...state, offline: false }, []],
  planned: (state, { plan }) => [{ ...state, plan }, []],
};

export function reduce(state, event) {
  const of = ANYWHERE[event.type] ?? TABLE[state.phase][event.type];
  const stray = event.about !== undefined && event.about !== state.job;
  return of && !stray ? of(state, event) : [state, []];
}

/** What a screen reader hears of a state, and the top of the page shows. */
export function words({ phase, place, of, seconds, done, total, retry }) {
  if (phase === "queued") return place > 1 ? `${place} of ${of} in the queue, about ${seconds} s` : "Next in the queue";
  if (phase === "running") return total ? `Explaining, ${Math.floor((4 * done) / total) * 25}%` : "Explaining";
  if (phase === "busy") return `The server is full; trying again in ${retry} s`;
  return { idle: "Ready", writing: "", asking: "Sending", generating: "Generating", done: "Done", failed: "" }[phase];
}

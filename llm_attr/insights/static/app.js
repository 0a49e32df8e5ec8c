// Boot: the store, what its effects do, and what listens.

import { api, Refused } from "./api.js";
import { controls, priceOf } from "./controls.js";
import { without } from "./edit.js";
import { EXAMPLES } from "./examples.js";
import { asCommand, asPython, save } from "./export.js";
import { history } from "./history.js";
import { inspect } from "./inspector.js";
import { KEYS, meaning } from "./keys.js";
import * as link from "./link.js";
import { compareAnswers } from "./rerun.js";
import { paint } from "./shell.js";
import { stage } from "./stage.js";
import { reduce, start } from "./store.js";
import { button, editor, element, grow } from "./text.js";
import { ranked } from "../viz/numbers.js";

const FIELDS = "textarea, select, input:not([type=checkbox]):not([type=file])"; // where a letter is text
const $ = (id) => document.getElementById(id);
const server = api(fetch.bind(window), session());
const known = new Map();
const page = { state: start(), about: null, pinned: null, held: null, tokens: null, letters: true, aside: null, timer: 0, turn: 0 };

function session() {
  const made = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (!localStorage.llmAttrSession) localStorage.llmAttrSession = made();
  return localStorage.llmAttrSession;
}

function send(event) {
  const [state, effects] = reduce(page.state, event);
  page.state = state;
  for (const [name, argument] of effects) EFFECTS[name](argument);
  paint(page.state, { limited: page.controls.is(), price: priceOf(state.plan), answers: $("answer").value !== "", aside: page.aside !== null });
  if (state.phase === "generating" && !page.aside) fill(state.answer);
  page.editor.lock(["asking", "queued", "generating", "running", "busy"].includes(state.phase));
}

const EFFECTS = {
  ask: (kind) => ask(kind),
  measure: () => measure(),
  retry: (seconds) => (page.timer = setTimeout(() => send({ type: "retry" }), 1000 * (seconds + Math.random()))),
  answered: (id) => answered(id),
  show: (id) => show(id),
};

function fill(text) {
  $("answer").value = text;
  grow($("answer"));
}

const asked = () => ({ ...page.editor.value(), ...page.controls.value(), ...($("answer").value ? { target: $("answer").value } : {}) });

function request(kind) {
  if (page.aside) return page.aside.request;
  const { target, method, scalar, options, ...input } = asked();
  return kind === "generate" ? input : { ...input, method, scalar, options, ...(target ? { target } : {}) };
}

async function ask(kind) {
  const turn = (page.turn += 1);
  try {
    const parent = page.aside?.parent ?? page.state.result;
    const more = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${turn}`, ...(parent && !/^0{24}/.test(parent) ? { "X-Parent": parent } : {}) };
    const { job } = await server.post(`/api/${kind}`, request(kind), more);
    send({ type: "accepted", job });
    for (const event of early.splice(0)) hear(event);
  } catch (error) {
    refused(error);
  }
}

function refused(error) {
  if (!(error instanceof Refused)) return send({ type: "failed", failure: { place: "button", message: "The server cannot be reached." } });
  if (error.status === 429 || error.status === 503) return send({ type: "full", retry: error.retry });
  page.aside = null;
  send({ type: "failed", failure: error.failure });
}

const early = []; // events of a job that were heard before the page knew its id

function hear({ type, job, id, ...data }) {
  if (page.state.phase === "asking") return void early.push({ type, job, id, ...data });
  const failure = type === "failed" ? { failure: data } : {};
  send({ type, about: job, ...data, ...failure });
}

function measure() {
  clearTimeout(page.measuring);
  page.measuring = setTimeout(async () => {
    const now = asked();
    const { target, method, scalar, options, ...input } = now;
    try {
      const units = await server.post("/api/units", input);
      $("count").textContent = `${units.units.length} ${units.unit}${units.units.length === 1 ? "" : "s"} · ${units.tokens} tokens`;
      send({ type: "planned", plan: await server.post("/api/plan", now) });
    } catch {
      $("count").textContent = "";
      send({ type: "planned", plan: null });
    }
  }, 250);
}

async function answered(id) {
  const found = await result(id);
  if (page.aside) {
    const { before, unit } = page.aside;
    page.aside = null;
    compareAnswers($("rerun"), before, unit, found.text);
    $("reading").hidden = false;
    return send({ type: "open", result: before.id });
  }
  fill(found.text);
  send({ type: "edited" });
}

async function result(id) {
  if (!known.has(id)) known.set(id, { id, ...(await server.get(`/api/results/${id}`)) });
  return known.get(id);
}

async function show(id) {
  try {
    const found = await result(id);
    page.chosen = page.wanted ?? { tokens: null, unit: null };
    page.wanted = null;
    page.held = page.tokens = null;
    if ($("rerun").dataset.of !== id) $("rerun").hidden = true;
    page.stage.show(page.pinned && page.pinned !== id ? [await result(page.pinned), found] : [found]);
    $("as-html").href = `/api/results/${id}/page`;
    page.history.add(id, found);
    page.history.mark(id);
    inspect($("inspector"), found, null);
    page.stage.choose(page.chosen);
    for (const name of ["edit", "as-python", "as-cli"]) $(name).disabled = !found.asked;
    $("pin").setAttribute("aria-pressed", page.pinned === id);
    remember();
  } catch (error) {
    refused(error);
  }
}

function chosen({ result: found, unit, tokens }) {
  page.held = unit;
  page.tokens = tokens;
  inspect($("inspector"), found, unit, () => drop());
  remember();
}

function remember() {
  window.history.replaceState(null, "", `#${link.written({ result: page.state.result, tokens: page.tokens, unit: page.held })}`);
}

async function drop() {
  if (page.held === null || page.state.phase !== "done") return;
  const before = await result(page.state.result);
  const { target, method, scalar, foil, region, options, ...input } = before.asked;
  const rest = without(input, before.document.input_tokens, page.held);
  if (!rest) {
    $("rerun").hidden = false;
    $("rerun").textContent = "This unit is not in the prompt as it was written, so it cannot be left out here.";
    return;
  }
  const clean = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
  page.aside = { before, unit: page.held, request: clean, parent: before.id };
  send({ type: "ask", kind: "generate" });
}

function edit() {
  const found = known.get(page.state.result);
  if (!found?.asked) return;
  load(found.asked, found.document.output_text);
}

function load(given, answer = "") {
  page.editor.show({ ...(given.messages ? { messages: given.messages } : { prompt: given.prompt, ...(given.documents ? { documents: given.documents } : {}) }) });
  page.controls.show(given);
  fill(answer);
  modes();
  send({ type: "edited" });
  page.editor.focus();
}

function modes() {
  for (const it of document.querySelectorAll("[data-mode]")) it.setAttribute("aria-pressed", it.dataset.mode === page.editor.mode);
}

const ACTS = {
  primary: () => send({ type: "ask", kind: $("answer").value ? "explain" : "generate" }),
  drop,
  edit,
  whole: () => page.stage.whole(),
  pin() {
    page.pinned = page.pinned === page.state.result ? null : page.state.result;
    $("pin").setAttribute("aria-pressed", page.pinned === page.state.result);
  },
  help: () => $("keys").showModal(),
  drawer() {
    const open = $("history").classList.toggle("app-open");
    $("drawer").setAttribute("aria-expanded", open);
  },
  earlier: () => step(-1),
  later: () => step(1),
  next: () => stronger(1),
  previous: () => stronger(-1),
};

function step(by) {
  const id = page.history.beside(page.state.result, by);
  if (id) send({ type: "open", result: id });
}

function stronger(by) {
  const values = known.get(page.state.result)?.document.seq_attr;
  if (!values || page.state.phase !== "done") return;
  const order = ranked(values);
  const at = page.held === null ? (by > 0 ? -1 : order.length) : order.indexOf(page.held);
  page.stage.choose({ tokens: null, unit: order[(at + by + order.length) % order.length] });
}

function listen() {
  for (const id of ["generate", "explain"]) $(id).addEventListener("click", () => send({ type: "ask", kind: id }));
  $("cancel").addEventListener("click", () => {
    clearTimeout(page.timer);
    page.aside = null;
    page.state.job ? server.post(`/api/jobs/${page.state.job}/cancel`).catch(refused) : send({ type: "cancelled" });
  });
  $("enough").addEventListener("click", () => server.post(`/api/jobs/${page.state.job}/enough`).catch(refused));
  $("answer").addEventListener("input", () => (grow($("answer")), send({ type: "edited" })));
  for (const [id, act] of [["edit", "edit"], ["pin", "pin"], ["help", "help"], ["drawer", "drawer"]]) $(id).addEventListener("click", ACTS[act]);
  for (const it of document.querySelectorAll("[data-mode]")) {
    it.addEventListener("click", () => (page.editor.switchTo(it.dataset.mode), modes(), send({ type: "edited" })));
  }
  $("as-json").addEventListener("click", async () => save("explanation.json", JSON.stringify((await result(page.state.result)).document, null, 1), "application/json"));
  $("as-python").addEventListener("click", () => copy($("as-python"), asPython(known.get(page.state.result).asked, page.about.model)));
  $("as-cli").addEventListener("click", () => copy($("as-cli"), asCommand(known.get(page.state.result).asked, page.about.model)));
  $("theme").addEventListener("click", theme);
  $("letters").addEventListener("change", ({ target }) => (page.letters = target.checked));
  document.addEventListener("keydown", (event) => {
    const writes = event.target.matches(FIELDS) || $("keys").open;
    const act = meaning(event, { writes, letters: page.letters });
    if (!act) return;
    event.preventDefault();
    ACTS[act]();
  });
}

async function copy(it, text) {
  const words = it.textContent;
  await navigator.clipboard.writeText(text).then(() => (it.textContent = "Copied"), () => (it.textContent = "Not allowed"));
  setTimeout(() => (it.textContent = words), 1500);
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  $("theme").textContent = dark ? "Dark" : "Light";
}

async function boot() {
  page.about = await server.get("/api/about");
  $("model").textContent = page.about.model;
  document.querySelector('[data-mode="chat"]').disabled = !page.about.chat;
  if (matchMedia("(prefers-color-scheme: dark)").matches) $("theme").textContent = "Light";
  page.controls = controls($("sentence"), page.about, () => send({ type: "edited" }));
  page.editor = editor($("fields"), $("add"), () => send({ type: "edited" }));
  page.history = history($("history"), (id) => send({ type: "open", result: id }));
  page.stage = stage($("panels"), chosen);
  for (const [words, given] of EXAMPLES) {
    if (given.messages && !page.about.chat) continue;
    const item = element("li");
    item.append(button(words, () => load(given)));
    $("examples").querySelector("ul").append(item);
  }
  for (const { keys, words } of KEYS) {
    const row = $("keys").querySelector("tbody").insertRow();
    row.insertCell().append(...keys.map((key) => element("kbd", { textContent: key })));
    row.insertCell().textContent = words;
  }
  listen();
  send({ type: "planned", plan: null });
  server.listen(hear, (online) => send({ type: online ? "online" : "offline" }));
  const wanted = link.read(location.hash);
  page.wanted = wanted;
  if (wanted.result) send({ type: "open", result: wanted.result });
  await past();
  document.body.dataset.ready = "";
}

async function past() {
  const saved = await server.get("/api/saved");
  const own = (await server.get("/api/history")).filter(({ kind, state }) => kind === "explain" && state === "done").slice(-40);
  for (const { id } of [...saved, ...own]) page.history.add(id, await result(id));
  page.history.mark(page.state.result);
}

boot();

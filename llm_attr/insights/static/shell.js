// What the state of the store shows and hides around the explanations.

import { words } from "./store.js";

const $ = (id) => document.getElementById(id);
const PLACES = ["prompt", "answer", "controls", "button"];
const BUSY = ["asking", "queued", "generating", "running", "busy"];

export function paint(state, { limited, price, answers, aside }) {
  const busy = BUSY.includes(state.phase);
  const reads = state.phase === "done" || (aside && busy);
  document.body.dataset.phase = state.phase;
  say(words(state));
  $("offline").hidden = !state.offline;
  $("writing").hidden = reads;
  $("ask").hidden = state.phase === "done";
  $("sentence").hidden = $("generate").hidden = $("explain").hidden = reads;
  $("reading").hidden = !reads;
  $("examples").hidden = state.phase !== "idle";
  if (!reads) $("inspector").hidden = true;
  for (const id of ["generate", "explain"]) $(id).disabled = busy;
  for (const it of document.querySelectorAll("[data-mode]")) it.classList.toggle("app-busy", busy);
  $("answer").readOnly = busy;
  $("generate").classList.toggle("app-main", !answers);
  $("explain").classList.toggle("app-main", answers);
  $("cancel").hidden = !busy || state.phase === "asking";
  $("enough").hidden = !(state.phase === "generating" || (state.phase === "running" && limited));
  $("enough").textContent = state.phase === "generating" ? "Stop" : "Enough";
  $("bar").hidden = state.phase !== "running";
  $("bar").value = state.total ? state.done / state.total : 0;
  $("price").textContent = busy ? left(state) : price;
  for (const place of PLACES) fail($(`at-${place}`), state.failure && (PLACES.includes(state.failure.place) ? state.failure.place : "button") === place ? state.failure.message : "");
}

function left({ phase, seconds }) {
  return phase === "running" && seconds ? `${Math.max(1, Math.round(seconds))} s left` : "";
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function fail(element, text) {
  element.hidden = !text;
  if (element.textContent !== text) element.textContent = text;
}

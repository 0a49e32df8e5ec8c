// The fields in which a prompt is written: one text, messages, or documents with a question.

export function editor(fields, add, changed) {
  const page = { mode: "text", fields, add, changed };
  fields.addEventListener("input", ({ target }) => {
    grow(target);
    changed();
  });
  build(page, { prompt: "" });
  return {
    get mode() { return page.mode; },
    value: () => valueOf(page),
    show: (asked) => build(page, asked),
    switchTo: (mode) => build(page, converted(valueOf(page), mode)),
    lock: (locked) => { for (const it of fields.querySelectorAll("textarea, input, select")) it.disabled = locked; },
    focus: () => fields.querySelector("textarea")?.focus(),
  };
}

export function modeOf(asked) {
  return asked.messages ? "chat" : asked.documents ? "documents" : "text";
}

/** The same texts as another kind of prompt. */
export function converted(asked, mode) {
  const texts = [...Object.values(asked.documents ?? {}), ...(asked.messages ?? []).map(({ content }) => content), asked.prompt];
  const all = texts.filter(Boolean).join("\n\n");
  if (mode === modeOf(asked)) return asked;
  if (mode === "chat") return { messages: [{ role: "user", content: all }] };
  return mode === "documents" ? { documents: { "1": "" }, prompt: all } : { prompt: all };
}

function build(page, asked) {
  page.mode = modeOf(asked);
  const rows = { text: textRows, chat: chatRows, documents: documentRows }[page.mode](asked, page);
  page.fields.replaceChildren(...rows);
  const adding = { chat: ["Add message", () => ({ messages: [...valueOf(page).messages, { role: "user", content: "" }] })],
    documents: ["Add document", () => added(valueOf(page))] }[page.mode];
  page.add.replaceChildren(...(adding ? [button(adding[0], () => (build(page, adding[1]()), page.changed()))] : []));
  for (const it of page.fields.querySelectorAll("textarea")) grow(it);
}

function added(asked) {
  let number = Object.keys(asked.documents).length + 1;
  while (`${number}` in asked.documents) number += 1;
  return { ...asked, documents: { ...asked.documents, [number]: "" } };
}

const textRows = ({ prompt }) => [area("Prompt", prompt ?? "", "Write a prompt: some facts, and a question about them.", 6)];

function chatRows({ messages }, page) {
  return messages.map(({ role, content }, place) => {
    const roles = element("select", { "aria-label": `Role of message ${place + 1}` });
    for (const name of new Set(["system", "user", "assistant", role])) roles.append(element("option", { value: name, textContent: name }));
    roles.value = role;
    const row = element("div", { className: "app-field" });
    const head = element("div", { className: "app-row" });
    head.append(roles, ...(messages.length > 1 ? [remover(row, `Remove message ${place + 1}`, page)] : []));
    row.append(head, area(`Message ${place + 1}`, content, "", 2));
    return row;
  });
}

function documentRows({ documents, prompt }, page) {
  const rows = Object.entries(documents).map(([name, text], place) => {
    const row = element("div", { className: "app-field" });
    const head = element("div", { className: "app-row" });
    head.append(element("input", { value: name, "aria-label": `Name of document ${place + 1}`, maxLength: 64 }));
    if (Object.keys(documents).length > 1) head.append(remover(row, `Remove document ${place + 1}`, page));
    row.append(head, area(`Document ${place + 1}`, text, "", 3));
    return row;
  });
  const question = element("div", { className: "app-field app-question" });
  question.append(area("Question", prompt ?? "", "The question about them.", 2));
  return [...rows, question];
}

function valueOf({ mode, fields }) {
  if (mode === "text") return { prompt: fields.querySelector("textarea").value };
  const rows = [...fields.querySelectorAll(".app-field:not(.app-question)")];
  if (mode === "chat") {
    return { messages: rows.map((row) => ({ role: row.querySelector("select").value, content: row.querySelector("textarea").value })) };
  }
  const documents = {};
  for (const row of rows) {
    let name = row.querySelector("input").value || "document";
    while (name in documents) name += "'";
    documents[name] = row.querySelector("textarea").value;
  }
  return { documents, prompt: fields.querySelector(".app-question textarea").value };
}

function remover(row, label, page) {
  return button("Remove", () => {
    row.remove();
    build(page, valueOf(page));
    page.changed();
  }, label);
}

function area(label, value, placeholder, rows) {
  return element("textarea", { "aria-label": label, value, placeholder, rows, spellcheck: false });
}

export function grow(area) {
  if (area.localName !== "textarea") return;
  area.style.setProperty("height", "auto");
  area.style.setProperty("height", `${area.scrollHeight + 2}px`);
}

export function button(words, act, label = words) {
  const made = element("button", { type: "button", textContent: words, "aria-label": label });
  made.addEventListener("click", act);
  return made;
}

export function element(name, given = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) key.startsWith("aria-") ? made.setAttribute(key, value) : (made[key] = value);
  return made;
}

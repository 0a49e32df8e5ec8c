// The same explanation elsewhere: as a line of Python, as a command, as JSON. Pure but for `save`.

const python = (value) => {
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
};

const answerOf = (asked) => asked.target != null ? { target: asked.target } : { gen_args: { max_new_tokens: asked.max_new_tokens ?? 25, do_sample: false } };

function chosen(asked) {
  const { method = "feature_ablation", scalar = "log_prob", foil = null, region = null, options = {} } = asked;
  const set = Object.entries(options).filter(([, value]) => value !== null);
  return { method, scalar, ...(foil ? { foil } : {}), ...(region ? { region } : {}), ...Object.fromEntries(set) };
}

export function asPython(asked, model) {
  const how = { ...(asked.unit ? { unit: asked.unit } : {}), absence: asked.absence ?? "delete" };
  const named = (given) => Object.entries(given).map(([name, value]) => `${name}=${python(value)}`).join(", ");
  const prompt = asked.documents
    ? `Prompt.from_documents(${python(asked.prompt)}, ${python(asked.documents)}, ${named(how)})`
    : `Prompt(${python(asked.messages ?? asked.prompt)}, ${named(how)})`;
  return [
    "import llm_attr", "from llm_attr import Prompt", "",
    `lm = llm_attr.load_model(${python(model)})`,
    `result = llm_attr.explain(lm, ${prompt}, ${named({ ...answerOf(asked), ...chosen(asked) })})`,
  ].join("\n");
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

export function asCommand(asked, model) {
  const { method, scalar, foil, region, ...options } = chosen(asked);
  const words = ["llm-attr explain", `--model ${quoted(model)}`];
  const input = asked.messages ? JSON.stringify(asked.messages) : asked.prompt;
  const files = asked.messages ? "--messages -" : "--prompt-file -";
  words.push(files, ...(asked.documents ? ["--documents documents.jsonl --chat"] : []));
  if (asked.unit) words.push(`--unit ${asked.unit}`);
  words.push(`--absence ${asked.absence ?? "delete"}`, `--method ${method}`, `--scalar ${scalar}`);
  if (asked.target != null) words.push(`--target ${quoted(asked.target)}`);
  if (foil) words.push(`--foil ${quoted(foil)}`);
  if (region) words.push(`--region ${quoted(region)}`);
  for (const [name, value] of Object.entries(options)) words.push(["until", "budget"].includes(name) ? `--${name} ${quoted(value)}` : `--option ${quoted(`${name}=${value}`)}`);
  const documents = Object.entries(asked.documents ?? {}).map(([id, text]) => JSON.stringify({ id, text }));
  const before = documents.length ? `printf '%s\\n' ${documents.map(quoted).join(" ")} > documents.jsonl\n` : "";
  return `${before}printf %s ${quoted(input)} | ${words.join(" ")}`;
}

export function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

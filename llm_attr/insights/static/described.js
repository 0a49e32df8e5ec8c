// The page of the API, from its OpenAPI description.

import { element } from "./text.js";

const { paths, components } = await (await fetch("/openapi.json")).json();

for (const [path, methods] of Object.entries(paths)) {
  for (const [method, { requestBody }] of Object.entries(methods)) {
    const section = element("section");
    section.append(element("h2", { textContent: `${method.toUpperCase()} ${path}` }));
    const name = requestBody?.content["application/json"].schema.$ref?.split("/").at(-1);
    if (name) section.append(fields(components.schemas[name]));
    document.getElementById("routes").append(section);
  }
}

function fields({ description, properties, required = [] }) {
  const list = element("ul");
  for (const [name, it] of Object.entries(properties)) {
    const kinds = (it.anyOf ?? [it]).map(({ type, $ref, const: only, enum: some }) => only ?? some?.join(" | ") ?? type ?? $ref?.split("/").at(-1) ?? "any");
    const more = required.includes(name) ? "required" : it.default != null ? `default ${JSON.stringify(it.default)}` : "";
    list.append(element("li", { textContent: [name, kinds.filter((kind) => kind !== "null").join(" or "), more].filter(Boolean).join(" · ") }));
  }
  const box = element("div");
  box.append(element("p", { className: "app-soft", textContent: description ?? "" }), list);
  return box;
}
